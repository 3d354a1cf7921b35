"""A service program, `TestService`, that sends each message back to where it came from."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from absl import app, logging
from grpc import ServicerContext

from fleetspeak.pb import common
from fleetspeak.server_connector import connector

SERVICE_NAME = "TestService"


class Loopback:
    """Answers each message once, however often it comes."""

    def __init__(self, client: connector.InsecureGRPCServiceClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._seen: set[bytes] = set()

    def __call__(self, message: common.Message, context: ServicerContext | None) -> None:
        """Send it back; if that fails, the message comes again, and is answered then."""
        with self._lock:
            if message.message_id in self._seen:
                return
            self._seen.add(message.message_id)
        answer = common.Message()
        answer.CopyFrom(message)
        answer.destination.CopyFrom(message.source)
        for field in ("message_id", "source_message_id", "source"):
            answer.ClearField(field)
        logging.info("sending message %s back", message.message_id.hex())
        try:
            self._client.Send(answer)
        except Exception:
            with self._lock:
                self._seen.discard(message.message_id)
            raise


def main(argv: Sequence[str]) -> None:
    """Run until interrupted; the addresses come from the flags of the connector."""
    del argv
    client = connector.InsecureGRPCServiceClient(SERVICE_NAME)
    client.Listen(Loopback(client))
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        client.Stop()


if __name__ == "__main__":
    app.run(main)
