"""Whether a client's state is likely to be a copy that runs in two places, from what was noted where it ran before."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace

LABEL = "clone-suspected"
"""What a client calls itself as long as that is so."""


@dataclass(frozen=True, slots=True)
class Note:
    """Where an identity runs.  An empty text means that it is not known."""

    client_id: str = ""
    """In hexadecimal digits."""
    machine: str = ""
    """Tells installations of a system apart."""
    hardware: str = ""
    """Tells machines, also virtual ones, apart."""
    hostname: str = ""
    path: str = ""
    """Of the state file."""

    def dump(self) -> bytes:
        """As text for a file."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def parse(data: bytes) -> Note:
    """Read what `Note.dump` wrote; an empty note for anything else."""
    try:
        found = json.loads(data)
        return Note(**{field.name: str(found[field.name]) for field in fields(Note)})
    except (ValueError, KeyError, TypeError, RecursionError):
        return Note()


def suspicion(noted: Note, here: Note, *, is_still_there: bool) -> str:
    """Why this looks like a copy; empty if it does not.

    A machine that got another name is none, nor is a state that was moved, nor one whose identity is another by now.

    @param is_still_there: whether the same identity is also at the noted path, in another file than ours.
    """
    if noted.client_id != here.client_id:
        return ""
    for one, other in ((noted.machine, here.machine), (noted.hardware, here.hardware)):
        if one and other and one != other:
            return f"it was used before on another machine, {noted.hostname or 'of unknown name'}"
    if is_still_there and noted.path != here.path:
        return f"the same identity is in {noted.path}"
    return ""


def updated(noted: Note, here: Note) -> Note:
    """What to note now that there is no suspicion: what is not known here, but was, stays."""
    if noted.client_id != here.client_id:
        return here
    return replace(here, machine=here.machine or noted.machine, hardware=here.hardware or noted.hardware)
