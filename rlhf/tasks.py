"""What the queue calls."""

from __future__ import annotations

from annotator.assignment import end_holds, release_expired
from annotator.imports import jobs as imports
from annotator.quality import keeping
from annotator.webhooks import outbox
from rlhf import runs


def supervise(run_pk: int) -> None:
    runs.see_through(run_pk)


def tend() -> None:
    """What the worker does every minute."""
    while release_expired() + end_holds():
        pass
    imports.tend()
    runs.tend()
    keeping.look_after_agreement()
    outbox.tidy()
