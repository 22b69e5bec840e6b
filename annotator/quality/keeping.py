"""The figures of a project as they were computed last: asking for new ones, reading what is kept.

They are computed by the worker: they take seconds, and libraries that would make every web process
three times as large. This module imports none of them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone
from django_q.tasks import async_task

from annotator.models import Comparison, Judgment, Project, QualityReport, Webhook
from annotator.webhooks.outbox import tell_agreement

PATIENCE = timedelta(minutes=10)  # the worker's time limit; after that a task was lost
FORMAT = 2  # of the figures; those of an older one lack what a page would show
LOOK_EVERY = timedelta(hours=1)
JUDGMENTS_LOOKED_AT = 20_000  # for those taken back since


def ask(project: Project) -> None:
    """Have the figures computed, unless they are being computed already."""
    QualityReport.objects.get_or_create(project=project)
    now = timezone.now()
    idle = Q(asked=None) | Q(asked__lt=now - PATIENCE)
    if QualityReport.objects.filter(idle, project=project).update(asked=now):
        transaction.on_commit(lambda: async_task("annotator.tasks.compute_quality", project.pk))


def compute_and_keep(project: Project) -> None:
    """What the worker does. A failure is kept as a sentence, and raised for the log."""
    # Imported late: numpy, scipy, pandas and scikit-learn, which only this function needs.
    from annotator.quality.report import compute  # noqa: PLC0415

    kept = QualityReport.objects.filter(project=project)
    as_of, newest = timezone.now(), newest_judgment(project)
    try:
        report = compute(project)
    except Exception:
        kept.update(
            asked=None, error="The figures could not be computed: see the log of the worker."
        )
        raise
    with transaction.atomic():
        kept.update(
            asked=None,
            error="",
            as_of=as_of,
            newest_judgment=newest,
            figures=report.figures,
            consensus={_key(pk): found for pk, found in report.consensus.items()},
        )
        tell_agreement(project, report.figures)


def look_after_agreement() -> None:
    """Have the figures computed where somebody wants to be told if agreement falls: hourly, and only
    if there is something new. Pages ask by themselves when somebody looks at them."""
    watching = Webhook.objects.active().exclude(agreement_below=None)
    an_hour_ago = timezone.now() - LOOK_EVERY
    for project in Project.objects.filter(pk__in=watching.values("project")):
        report = report_of(project)
        if report and report.as_of and report.as_of > an_hour_ago:
            continue
        if is_stale(report):
            ask(project)


def newest_judgment(project: Project) -> int:
    """0 if there is none."""
    return project.judgments.aggregate(newest=Max("pk"))["newest"] or 0


def is_stale(report: QualityReport | None) -> bool:
    """Whether something was said or taken back since the figures were computed, or there are more
    figures now."""
    if report is None or report.as_of is None or report.figures.get("format") != FORMAT:
        return True
    if newest_judgment(report.project) != report.newest_judgment:
        return True
    judgments = Judgment.objects.filter(project=report.project_id)
    among = judgments.order_by("-pk").values("pk")[:JUDGMENTS_LOOKED_AT]
    return judgments.filter(pk__in=among, voided__gte=report.as_of).exists()


def report_of(project: Project) -> QualityReport | None:
    """Without the consensus, which is large."""
    reports = QualityReport.objects.select_related("project").defer("consensus")
    return reports.filter(project=project).first()


def consensus_of(comparison: Comparison) -> dict[str, Any] | None:
    """What the votes on a comparison come to; None if fewer than two had judged it by then."""
    kept = QualityReport.objects.filter(project=comparison.project_id)
    return kept.values_list(f"consensus__{_key(comparison.pk)}", flat=True).first()


def _key(comparison_pk: int) -> str:
    """No bare number: in a path through JSON that would be a place in a list."""
    return f"comparison_{comparison_pk}"
