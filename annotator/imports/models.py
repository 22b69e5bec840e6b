"""A file that somebody wants to import, and what came of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from annotator.formats.reading import Row

KEPT = timedelta(days=7)  # the file; the row stays
PATIENCE = timedelta(seconds=15)  # the worker takes up what it is asked within a second


class State(models.TextChoices):
    OPENING = "opening", "Being opened"  # the worker reads the first rows
    READY = "ready", "Not imported yet"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    CHECKED = "checked", "Checked"  # nothing was imported, and nothing stands in the way
    FINISHED = "finished", "Imported"
    REFUSED = "refused", "Refused"  # something is wrong with the file
    CANCELLED = "cancelled", "Cancelled"
    FAILED = "failed", "Failed"  # something is wrong here


ACTIVE = [State.OPENING, State.QUEUED, State.RUNNING]
# From these an import can be begun, or begun anew, as long as there is a file.
STARTABLE = [State.READY, State.CHECKED, State.REFUSED, State.CANCELLED, State.FAILED]


BADGES = {  # the colours that the states of a run have
    State.OPENING: "running",
    State.QUEUED: "queued",
    State.RUNNING: "running",
    State.FINISHED: "succeeded",
    State.REFUSED: "failed",
    State.CANCELLED: "stopped",
    State.FAILED: "failed",
}


class Progress(NamedTuple):
    """How far the worker is. `total` 0: nobody knows."""

    phase: str = ""
    done: int = 0
    total: int = 0
    unit: str = "rows"


class Import(models.Model):
    """One file for one project. Only `jobs` moves its state, by conditional updates.

    How far it is, and whether it is to end, stand in files beside it: rows that the worker writes
    in its transaction are seen by nobody, and SQLite would let nobody else write meanwhile.
    """

    project = models.ForeignKey("annotator.Project", models.CASCADE, related_name="imports")
    created_by = models.ForeignKey(
        "annotator.User", models.SET_NULL, null=True, related_name="imports"
    )
    created = models.DateTimeField(default=timezone.now, editable=False)
    name = models.CharField(max_length=200, help_text="Of the file as it was sent.")
    hub_id = models.CharField(max_length=200, blank=True, help_text="OWNER/NAME; empty: a file.")
    size = models.PositiveBigIntegerField(default=0, help_text="Bytes.")
    # What its first rows say.
    format = models.CharField(max_length=40, blank=True)
    columns = models.JSONField(default=list)
    columns_key = models.CharField(max_length=64, blank=True, editable=False)
    # What somebody chose.
    mapping = models.JSONField(default=dict, blank=True)
    overlap = models.PositiveSmallIntegerField(null=True)
    skip_bad_rows = models.BooleanField(default=False)
    judge = models.CharField(max_length=150, blank=True, help_text="Whose votes choices become.")
    is_check = models.BooleanField(default=False, help_text="Nothing is to be imported.")
    # What became of it.
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPENING)
    attempts = models.PositiveSmallIntegerField(default=0)
    queued = models.DateTimeField(default=timezone.now, editable=False)
    started = models.DateTimeField(null=True)
    finished = models.DateTimeField(null=True)
    started_by = models.ForeignKey("annotator.User", models.SET_NULL, null=True, related_name="+")
    report = models.JSONField(default=dict)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["project", "columns_key", "-id"], name="imports_of_columns"),
            models.Index(fields=["state", "queued"], name="imports_by_state"),
        ]

    def __str__(self) -> str:
        return f"import of {self.name}"

    def get_absolute_url(self) -> str:
        return reverse("annotator:one_import", args=[self.project.slug, self.pk])

    @property
    def folder(self) -> Path:
        return Path(settings.DATA_DIR) / "imports" / str(self.pk)

    @property
    def file(self) -> Path:
        return self.folder / "file"

    @property
    def skipped_file(self) -> Path:
        return self.folder / "skipped.csv"

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def is_chosen(self) -> bool:
        """Whether somebody has said how it is to be imported, perhaps before it was open."""
        return self.started_by_id is not None

    @property
    def badge(self) -> str:
        return BADGES.get(State(self.state), "")

    @property
    def has_files(self) -> bool:
        """Whether there is still something to read."""
        return self.folder.is_dir() and (bool(self.hub_id) or self.file.is_file())

    @property
    def is_startable(self) -> bool:
        has_sample = (self.folder / "sample.json").is_file()
        return self.state in STARTABLE and has_sample and self.has_files

    @property
    def kept_until(self) -> datetime:
        return self.created + KEPT

    @property
    def is_overdue(self) -> bool:
        """It has waited for longer than a worker that is running and free would let it."""
        waits = self.state in (State.OPENING, State.QUEUED)
        return waits and self.queued < timezone.now() - PATIENCE

    @property
    def outcome(self) -> str:
        """For a list. Example: "24 comparisons, 24 prompts, 24 votes, 2 bad rows"."""
        counts = self.report.get("counts", {})
        nouns = {"comparisons": "comparison", "prompts": "prompt", "judgments": "vote"}
        parts = [counted(counts[name], noun) for name, noun in nouns.items() if counts.get(name)]
        if counts and not parts:
            parts = ["nothing new"]
        if n_bad := self.report.get("n_bad"):
            parts.append(counted(n_bad, "bad row"))
        return ", ".join(parts) or self.error

    @property
    def what_remains(self) -> str:
        """Of one that did not come to its end: what of it is in the project, as a sentence."""
        stays: str = self.report.get("stays", "")
        return stays or "Nothing was imported."

    # --- the files beside it ----------------------------------------------------------------------
    @property
    def sample(self) -> list[Row]:
        """The first rows: what a preview is made of without opening the file."""
        return [_from_json(*kept) for kept in _read_json(self.folder / "sample.json") or []]

    def keep_sample(self, rows: Sequence[Row]) -> None:
        _write_json(self.folder / "sample.json", [_as_json(row) for row in rows])

    @property
    def progress(self) -> Progress:
        return Progress(*(_read_json(self.folder / "progress.json") or []))

    def show_progress(self, progress: Progress) -> None:
        _write_json(self.folder / "progress.json", progress)

    @property
    def is_cancelling(self) -> bool:
        return (self.folder / "cancel").exists()

    def ask_to_cancel(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "cancel").touch()

    def forget_last_time(self) -> None:
        """What an earlier attempt has left behind."""
        for name in ("cancel", "progress.json", "skipped.csv"):
            (self.folder / name).unlink(missing_ok=True)

    def delete_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class StoredBatch(models.Model):
    """What one batch of an import that has not come to its end has written: by this it is taken back."""

    project = models.ForeignKey("annotator.Project", models.CASCADE, related_name="+")
    storing = models.UUIDField(db_index=True, help_text="The same for all batches of an import.")
    written = models.JSONField(help_text="Primary keys, by what they are of.")

    def __str__(self) -> str:
        return f"batch {self.pk} of an import into {self.project_id}"


def counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _as_json(row: Row) -> list[Any]:
    """Tables may hold dates and the like, of which nothing here is made."""
    if isinstance(row.record, ValueError):
        return [row.place, row.number, None, str(row.record)]
    return [row.place, row.number, json.loads(json.dumps(row.record, default=str)), ""]


def _from_json(place: str, number: int, record: dict[str, Any] | None, problem: str) -> Row:
    return Row(place, number, ValueError(problem) if record is None else record)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _write_json(path: Path, value: Any) -> None:
    """Whole or not at all, whoever reads it meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)
