"""Telling a project's webhooks that a run has ended."""

from __future__ import annotations

from annotator.webhooks.models import Event
from annotator.webhooks.outbox import tell
from rlhf.models import ENDED, Run


def tell_if_ended(run_pk: int) -> None:
    """In the transaction that has moved the run's status. A run that is resumed ends again."""
    run = Run.objects.select_related("project").filter(pk=run_pk, status__in=ENDED).first()
    if run is None:
        return
    about = {
        "run": run.pk,
        "kind": run.kind,
        "round": run.round_number,
        "status": run.status,
        "error": run.error,
        "attempts": run.attempts,
        "model_version": run.result.get("model_version"),
        "started": run.started and run.started.isoformat(),
        "finished": run.finished and run.finished.isoformat(),
    }
    tell(run.project, Event.RUN_FINISHED, about)
