"""What a daemon runs: the program, and what its process finds when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fleetspeak.client.process.child import GRACE
from fleetspeak.client.process.stdoutput import STDERR, STDOUT, FlushRules
from fleetspeak.client.process.supervisor import SupervisionRules
from fleetspeak.ids import ClientId, show
from fleetspeak.wire.channelreader import READ_LIMIT

CHILD_READS = 3
CHILD_WRITES = 4
"""The channel's file descriptors in the child (as in the Go client)."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is run, and how."""

    service: str
    argv: tuple[str, ...]
    inactivity_timeout: float | None = None
    """Seconds, or None for no limit."""
    output_to: str = ""
    """The server service that gets the standard output; empty: none does."""
    flush_rules: FlushRules = field(default=FlushRules(1, 1.0))
    std_forward: bool = False
    """Use the client's own standard input and output, instead of all that."""
    read_limit: float = READ_LIMIT
    """Seconds until what is due on the channel must have come."""
    grace: float = GRACE
    """Seconds for each step of being ended."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What its environment has to have beside its own."""
    supervision: SupervisionRules = field(default=SupervisionRules())

    def environment(self, inherited: Mapping[str, str], client_id: ClientId) -> dict[str, str]:
        """The variables of its process: what it inherits, and how to talk to the client."""
        return {
            **inherited,
            **self.variables,
            "FLEETSPEAK_CLIENT_ID": show(client_id),
            "FLEETSPEAK_COMMS_CHANNEL_INFD": str(CHILD_READS),
            "FLEETSPEAK_COMMS_CHANNEL_OUTFD": str(CHILD_WRITES),
        }

    def descriptors(self, null: int) -> Mapping[int, int | str]:
        """What its process has at each number, as `fleetspeak.client.process.spawn.spawn` wants it.

        @param null: a descriptor of ours, of /dev/null.
        """
        standard: dict[int, int | str]
        if self.std_forward:
            standard = {0: 0, STDOUT: 1, STDERR: 2}
        elif self.output_to:
            standard = {0: null, STDOUT: "r", STDERR: "r"}
        else:
            standard = {0: null, STDOUT: null, STDERR: null}
        return {**standard, CHILD_READS: "w", CHILD_WRITES: "r"}
