"""What the queue calls."""

from __future__ import annotations

from annotator import importing
from annotator.exports import jobs as export_jobs
from annotator.imports import jobs
from annotator.models import Import, Project
from annotator.quality import keeping


def compute_quality(project_pk: int) -> None:
    project = Project.objects.filter(pk=project_pk).first()
    if project is not None:
        keeping.compute_and_keep(project)


def open_import(import_pk: int) -> None:
    import_ = Import.objects.filter(pk=import_pk).first()
    if import_ is not None:
        jobs.open_import(import_)


def work_on_imports() -> None:
    jobs.work()


def tidy_imports() -> None:
    importing.tidy_all()


def work_off_export_job(pk: int) -> None:
    export_jobs.work_off(pk)
