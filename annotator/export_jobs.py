"""What the worker is asked to do about exports: to freeze a large one, to make a file, to compare."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import Q
from django.utils import timezone

PATIENCE = timedelta(minutes=10)  # the worker's time limit; after that a task was lost
LOST = (
    "The worker was stopped, or needed more than ten minutes. Ask again, or use "
    "manage.py export_judgments, which may take as long as it needs."
)


class JobKind(models.TextChoices):
    FREEZE = "freeze", "Freezing the votes"
    FILE = "file", "Making a file"
    COMPARE = "compare", "Comparing two exports"


class ExportJob(models.Model):
    """One thing asked of the worker. At the end it has an export or a file, or an error."""

    project = models.ForeignKey("annotator.Project", models.CASCADE, related_name="export_jobs")
    # What the job is about, or what it has made.
    export = models.ForeignKey("annotator.Export", models.CASCADE, null=True, related_name="jobs")
    kind = models.CharField(max_length=7, choices=JobKind.choices)
    name = models.CharField(
        max_length=60, blank=True, help_text="What is made: 3/kto.parquet, or 3-5 for a comparison."
    )
    options = models.JSONField(default=dict, help_text="Of an export that is to be frozen.")
    created_by = models.ForeignKey("annotator.User", models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(default=timezone.now)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)
    error = models.TextField(blank=True, help_text="A sentence; empty if all went well.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "kind", "name"],
                condition=Q(finished=None),
                name="one_export_job_under_way",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.name}".strip()

    @property
    def is_lost(self) -> bool:
        """Whether it was begun so long ago that nobody can be at it any more."""
        if self.finished or self.started is None:
            return False
        return self.started < timezone.now() - PATIENCE
