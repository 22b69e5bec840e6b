"""What the queue calls."""

from __future__ import annotations

from annotator import withdrawing
from annotator.assignment import end_holds, release_expired
from annotator.imports import jobs as imports
from annotator.quality import keeping
from annotator.webhooks import outbox
from rlhf import gating, integrity, lineage, runs
from rlhf.models import FileCheck


def supervise(run_pk: int) -> None:
    runs.see_through(run_pk)


def tend() -> None:
    """What the worker does every minute."""
    while release_expired() + end_holds():
        pass
    withdrawing.go_on()
    imports.tend()
    runs.tend()
    gating.tend()
    keeping.look_after_agreement()
    outbox.tidy()


def check_files(check_pk: int) -> None:
    check = FileCheck.objects.select_related("project").filter(pk=check_pk).first()
    if check is None or check.finished is not None:
        return
    found = lineage.find(check.project, *check.key.split("-"))
    if found is not None:
        integrity.carry_out(check, found.whole)
