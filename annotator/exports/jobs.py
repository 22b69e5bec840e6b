"""Asking the worker to freeze, to make files and to compare, and what it then does.

The web process freezes what is small by itself, so that the export is there at once; pyarrow and the
reading of large files are left to the worker.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django_q.tasks import async_task

from annotator.export_jobs import LOST, ExportJob, JobKind
from annotator.exporting import NotExported, create_export, preview
from annotator.exports.comparing import kept_comparison
from annotator.exports.derived import NotDerived, derive, names
from annotator.exports.filters import Filters
from annotator.hashes import FileChanged
from annotator.models import Export, Project, User

AT_ONCE = 5000  # judgments that a request freezes, or pairs that it compares; more is the worker's
OTHER_UNDER_WAY = (
    "Another export is being frozen, by other conditions: wait until it is done, then ask again."
)

logger = logging.getLogger(__name__)


# --- at once, or by the worker --------------------------------------------------------------------
def freeze(
    project: Project,
    user: User | None,
    filters: Filters,
    *,
    use_rulings: bool = False,
    licence: str = "",
) -> Export | ExportJob:
    """The export, where there are few votes; else the worker's job. Raises NotExported."""
    options: dict[str, Any] = {"use_rulings": use_rulings, "licence": licence}
    if preview(project)["judgments"] > AT_ONCE:
        return ask_to_freeze(project, user, filters, **options)
    return create_export(project, user, filters=filters, **options)


def compare(before: Export, after: Export, user: User | None) -> dict[str, Any] | ExportJob:
    """What differs, where the two are small or it is known; else the worker's job, which may have gone
    wrong. Raises FileNotFoundError, FileChanged, and ValueError if they are of different projects."""
    is_small = before.n_rows + after.n_rows <= AT_ONCE
    found = kept_comparison(before, after, make=is_small)
    if found is not None:
        return found
    asked = after.jobs.filter(kind=JobKind.COMPARE, name=f"{before.pk}-{after.pk}").first()
    if asked and (asked.error or not (asked.finished or asked.is_lost)):
        return asked
    return ask_to_compare(before, after, user)


# --- asking the worker ----------------------------------------------------------------------------
def ask_to_freeze(
    project: Project,
    user: User | None,
    filters: Filters,
    *,
    use_rulings: bool = False,
    licence: str = "",
) -> ExportJob:
    """Have the worker do what `create_export` does; the job that is under way if it was asked the same.

    Raises NotExported if it was asked something else.
    """
    options = {"filters": filters.to_json(), "use_rulings": use_rulings, "licence": licence}
    job = _ask(project, user, JobKind.FREEZE, options=options)
    if job.options != options:
        raise NotExported(OTHER_UNDER_WAY)
    return job


def ask_for_file(export: Export, user: User | None, name: str) -> ExportJob:
    """Have a file of `derived.names()` made. Raises KeyError for another name."""
    names()[name]
    return _ask(export.project, user, JobKind.FILE, f"{export.pk}/{name}", export=export)


def ask_to_compare(before: Export, after: Export, user: User | None) -> ExportJob:
    name = f"{before.pk}-{after.pk}"
    return _ask(after.project, user, JobKind.COMPARE, name, export=after)


def _ask(
    project: Project, user: User | None, kind: JobKind, name: str = "", **fields: Any
) -> ExportJob:
    """A new job, or the one of this name that is under way: two clicks are one job."""
    under_way = ExportJob.objects.filter(project=project, kind=kind, name=name, finished=None)
    for job in under_way:
        if not job.is_lost:
            return job
        _finish(job, error=LOST)
    try:
        with transaction.atomic():
            job = ExportJob.objects.create(
                project=project, created_by=user, kind=kind, name=name, **fields
            )
    except IntegrityError:  # somebody else has asked at the same moment
        return under_way.get()
    transaction.on_commit(lambda: async_task("annotator.tasks.work_off_export_job", job.pk))
    return job


# --- what the worker does -------------------------------------------------------------------------
def work_off(pk: int) -> None:
    """What the worker does. Nothing, if the job is gone or somebody is at it already."""
    if not ExportJob.objects.filter(pk=pk, started=None).update(started=timezone.now()):
        return
    job = ExportJob.objects.select_related("project", "export", "created_by").get(pk=pk)
    try:
        _do(job)
    except (NotExported, NotDerived, FileChanged) as error:
        _finish(job, error=str(error))
    except OSError as error:
        _finish(job, error=f"The file could not be written: {error.strerror}.")
    except Exception:
        _finish(job, error="This did not work: see the log of the worker.")
        raise
    else:
        _finish(job)


def _do(job: ExportJob) -> None:
    if job.kind == JobKind.FREEZE:
        options = job.options | {"filters": Filters.from_json(job.options["filters"])}
        job.export = create_export(job.project, job.created_by, **options)
        return
    assert job.export is not None
    if job.kind == JobKind.FILE:
        derive(job.export, *names()[job.name.partition("/")[2]])
    else:
        before = job.project.exports.get(pk=job.name.partition("-")[0])
        kept_comparison(before, job.export)


def _finish(job: ExportJob, error: str = "") -> None:
    job.finished, job.error = timezone.now(), error
    job.save(update_fields=["finished", "error", "export"])
