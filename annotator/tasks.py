"""What the queue calls."""

from __future__ import annotations

from annotator.models import Project
from annotator.quality import keeping


def compute_quality(project_pk: int) -> None:
    project = Project.objects.filter(pk=project_pk).first()
    if project is not None:
        keeping.compute_and_keep(project)
