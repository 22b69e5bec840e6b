"""How often somebody has asked, counted for all web processes together: one small file a token.

The file is a ring of the times of the last N requests, where N is the limit, behind the place of the
oldest. A request is within the limit if that one is longer ago than the period. This takes a lock, two
short reads and two short writes, however high the limit; no query, and nothing that processes have in
memory each.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACE, TIME = struct.Struct("<q"), struct.Struct("<d")


def seconds_to_wait(path: Path, limit: int, period: float, now: float) -> float:
    """0 if there were fewer than `limit` requests in the last `period` seconds: then this one is counted."""
    with _locked(path) as file:
        (place,) = PLACE.unpack(_read(file, 0))
        slot = PLACE.size + TIME.size * place
        (oldest,) = TIME.unpack(_read(file, slot))
        wait: float = oldest + period - now
        if oldest and 0 < wait <= period:  # more than that: the clock was set back
            return wait
        os.pwrite(file, TIME.pack(now), slot)
        os.pwrite(file, PLACE.pack((place + 1) % limit), 0)
        return 0.0


def _read(file: int, start: int) -> bytes:
    """Eight bytes; zeros of what was not written yet."""
    return os.pread(file, 8, start).ljust(8, b"\0")


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)  # and with it the lock
