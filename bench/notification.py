"""How long a message takes from its insertion at one server to a stream at another one.

    .venv/bin/python bench/notification.py [--messages 300] [--notifier redis:unix:/run/redis.sock]

Two whole servers on a private MariaDB (which does not wait for its disk), one client by hand.  Reported: milliseconds
from before InsertMessage to the moment at which the stream has the message, one message after the other.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fleetspeak.testing.wireclient import Identity
from tests.mariadb import the_server
from tests.sharing import Sharing, message_for, next_text


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--notifier", help="in place of HTTP")
    options = parser.parse_args()
    sharing = Sharing(the_server().new_database())
    try:
        for server in sharing.servers:
            if options.notifier:
                server.process.options = [f"--notifier={options.notifier}"]
                server.process.reconfigure(lambda config: config.ClearField("notification_listen_address"))
            server.process.start()
        for name, (inserter, holder) in {
            "at the same server": (sharing.servers[0], sharing.servers[0]),
            "at another server": (sharing.servers[0], sharing.servers[1]),
        }.items():
            identity = Identity.make()
            with holder.stream(identity) as stream:
                took = []
                stub = inserter.admin()
                for number in range(options.messages + 20):
                    message = message_for(identity, str(number))
                    begun = time.perf_counter()
                    stub.InsertMessage(message, timeout=30)
                    if next_text(stream, 10) != str(number):
                        raise SystemExit("a notification was lost")
                    took.append((time.perf_counter() - begun) * 1e3)
            took = sorted(took[20:])  # without those that connect
            median = took[len(took) // 2]
            print(f"{name}: {len(took)} messages, median {median:.1f} ms, {took[0]:.1f} to {took[-1]:.1f}")
    finally:
        sharing.clean_up()


if __name__ == "__main__":
    main()
