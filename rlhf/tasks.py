"""What the queue calls."""

from __future__ import annotations

from rlhf import runs


def supervise(run_pk: int) -> None:
    runs.see_through(run_pk)


def tend() -> None:
    runs.tend()
