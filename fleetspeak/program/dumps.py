"""What a process can tell of itself when something is wrong with it: its stacks, and what fills its memory.

All of this may be called in any thread, also while the reactor is wedged.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

MODE = 0o600
"""Upstream makes them readable by everybody; what a process does is nobody else's business."""

_TOP = 50
"""Lines of each table of a heap profile."""


def stacks() -> str:
    """The stack of every thread, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames: dict[int, FrameType] = sys._current_frames()
    main = threading.main_thread().ident
    parts = [f"process {os.getpid()}, {len(frames)} threads, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n"]
    for ident in sorted(frames, key=lambda ident: (ident != main, ident)):
        parts.append(f"\nthread {ident} ({names.get(ident, 'unknown')}):\n")
        parts.extend(traceback.format_stack(frames[ident]))
    return "".join(parts)


def pending_calls(reactor: Any) -> str:
    """What the reactor has still to do, soonest first; best effort, for it may be changing meanwhile."""
    try:
        now = reactor.seconds()
        calls = sorted(reactor.getDelayedCalls(), key=lambda call: call.getTime())
        lines = [f"  in {call.getTime() - now:8.1f} s: {getattr(call, 'func', call)!r}\n" for call in calls[:_TOP]]
    except Exception as error:
        return f"\nthe reactor's delayed calls cannot be told: {error!r}\n"
    return f"\n{len(calls)} delayed calls of the reactor:\n" + "".join(lines)


def heap() -> str:
    """How much memory the process has, and which objects are in it; by place of allocation, too, with tracemalloc.

    Takes the interpreter for some tenths of a second.
    """
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in _objects():
        kind = f"{type(one).__module__}.{type(one).__qualname__}"
        counts[kind] += 1
        sizes[kind] += _size_of(one)
    lines = [f"process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}", *_resident(), ""]
    lines.append(f"{sum(counts.values())} objects, {sum(sizes.values())} bytes without what C libraries hold")
    lines.append(f"collector: {gc.get_count()} of {gc.get_threshold()}, {len(gc.garbage)} uncollectable")
    lines += ["", f"{'bytes':>12} {'count':>10}  type"]
    lines += [f"{size:12} {counts[kind]:10}  {kind}" for kind, size in sizes.most_common(_TOP)]
    lines += ["", *_allocations(), ""]
    return "\n".join(lines)


def dump(folder: Path, kind: str, text: str) -> Path:
    """Write a file named as upstream names its dumps.

    @param kind: ``heap`` or ``goroutine``; the latter has the stacks of threads here.
    @raise OSError
    """
    now = time.time()
    stamp = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(now)) + f".{int(now % 1 * 1000):03}"
    path = folder / f"fleetspeakd-{kind}-pprof-{os.getpid()}-{stamp}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "w") as file:
        file.write(text)
    return path


def dump_temporary(prefix: str, text: str) -> Path:
    """Write a new file of that prefix into the temporary folder, readable by its owner only.  Raises OSError."""
    descriptor, path = tempfile.mkstemp(prefix=prefix)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return Path(path)


def complain(text: str) -> None:
    """Say it on standard error at once, past the log, which may be what hangs."""
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        return  # there is nobody to tell


def _objects() -> list[object]:
    """What the collector knows, and the texts, bytes and numbers that those refer to, each once."""
    containers = gc.get_objects()
    seen = {id(one) for one in containers}
    seen.add(id(containers))
    found: list[object] = list(containers)
    for container in containers:
        for one in gc.get_referents(container):
            if id(one) not in seen:
                seen.add(id(one))
                found.append(one)
    return found


def _size_of(one: object) -> int:
    try:
        return sys.getsizeof(one, 0)
    except Exception:
        return 0  # an object whose own method for it fails


def _resident() -> list[str]:
    try:
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return []
    return [line for line in status if line.startswith(("VmRSS", "VmHWM", "VmSize", "Threads", "FDSize"))]


def _allocations() -> list[str]:
    if not tracemalloc.is_tracing():
        return ["Start with the environment variable PYTHONTRACEMALLOC=10 to see where memory was allocated."]
    statistics = tracemalloc.take_snapshot().statistics("lineno")
    return [f"{one.size:12} {one.count:10}  {one.traceback}" for one in statistics[:_TOP]]
