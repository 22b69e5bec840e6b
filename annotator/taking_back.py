"""A long import that does not come to its end takes back what it has put in.

Its rows are stored some hundreds at a time, and are there for everybody from then on: who compares
need not wait for the end of a long file, and nothing is written twice. What each batch writes is noted
in a file, the *journal*, before the batch is committed. Whatever ends the import before its last batch,
a user, an error or a kill, the journal tells what is to be deleted: at once, or, after a kill, by the
worker within a minute or by the next import. What somebody has worked on by then stays.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef

from annotator.models import (
    Assignment,
    Comment,
    Comparison,
    ComparisonCompletion,
    Completion,
    Judgment,
    Membership,
    Project,
    Prompt,
    QualityReport,
    Ruling,
    Split,
    User,
)
from annotator.storing import Written


# --- the journal ----------------------------------------------------------------------------------
class Journal:
    """What an import into this project has written so far, on the disk."""

    def __init__(self, project: Project) -> None:
        self.path = _folder() / f"{project.pk}-{uuid.uuid4().hex[:12]}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("w")

    def note(self, written: Written, *, is_last: bool) -> None:
        """Within the batch's transaction, at its end: what is noted may turn out not to be there."""
        self.file.write(json.dumps({**asdict(written), "is_last": is_last}) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """All is in, and stays; or nothing is."""
        self.file.close()
        self.path.unlink(missing_ok=True)


def journals(project: Project | None = None) -> list[Path]:
    """All that were left on this machine's disk, or those of this project. One that is in use is among them."""
    return sorted(_folder().glob(f"{project.pk}-*.jsonl" if project else "*.jsonl"))


def project_of(journal: Path) -> Project | None:
    """None if it is gone, with all that was in it."""
    return Project.objects.filter(pk=int(journal.name.partition("-")[0])).first()


def _folder() -> Path:
    return Path(settings.DATA_DIR) / "imports-under-way"


# --- taking back ----------------------------------------------------------------------------------
def take_back(journal: Path, project: Project) -> int:
    """Delete what the import has put in, unless its last batch is in, too; how many comparisons stay because
    somebody has worked on them. It can be called again after it was interrupted."""
    batches = list(_batches(journal))
    n_kept = 0
    if not (batches and batches[-1].pop("is_last") and _is_there(Written(**batches[-1]))):
        for batch in reversed(batches):
            batch.pop("is_last", None)
            with transaction.atomic():
                n_kept += _take_back(Written(**batch), project)
        QualityReport.objects.filter(project=project).update(newest_judgment=0)
    journal.unlink(missing_ok=True)
    return n_kept


def _batches(journal: Path) -> Iterator[dict[str, Any]]:
    """A line that was cut off is that of a batch that was never committed."""
    for line in journal.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _is_there(written: Written) -> bool:
    """Whether the batch was committed. One that wrote nothing has nothing to be missing."""
    noted = {
        Prompt: written.prompts, Completion: written.completions,
        Comparison: written.comparisons, Judgment: written.judgments,
    }  # fmt: skip
    return not any(noted.values()) or any(
        model._default_manager.filter(pk__in=keys).exists() for model, keys in noted.items() if keys
    )


def _take_back(written: Written, project: Project) -> int:
    there = Comparison.objects.filter(pk__in=written.comparisons)
    handed_out = Assignment.objects.filter(comparison=OuterRef("pk"))
    busy = there.filter(
        Exists(handed_out.exclude(pk__in=written.assignments))
        | Exists(Comment.objects.filter(comparison=OuterRef("pk")))
        | Exists(Ruling.objects.filter(comparison=OuterRef("pk")))
    )
    kept = set(busy.values_list("pk", flat=True))
    votes = Judgment.objects.filter(pk__in=written.judgments).exclude(comparison__in=kept)
    gone = Counter(votes.values_list("comparison_id", flat=True))
    votes.delete()
    assignments = Assignment.objects.filter(pk__in=written.assignments)
    assignments.exclude(comparison__in=kept).delete()
    there.exclude(pk__in=kept).delete()
    shown = ComparisonCompletion.objects.filter(completion=OuterRef("pk"))
    Completion.objects.filter(~Exists(shown), pk__in=written.completions).delete()
    asked = Comparison.objects.filter(prompt=OuterRef("pk"))
    answered = Completion.objects.filter(prompt=OuterRef("pk"))
    Prompt.objects.filter(~Exists(asked), ~Exists(answered), pk__in=written.prompts).delete()
    Prompt.objects.filter(pk__in=written.no_longer_gold).update(split=Split.GOLD)
    for pk, (n_places, overlap) in written.places.items():
        if gone[int(pk)]:
            _give_places_back(int(pk), n_places, overlap)
    _dismiss(written, project)
    return len(kept)


def _give_places_back(comparison: int, n_places: int, overlap: int) -> None:
    found = Comparison.objects.filter(pk=comparison)
    found.update(taken=F("taken") - n_places)
    found.filter(taken__lte=overlap).update(overlap=overlap)


def _dismiss(written: Written, project: Project) -> None:
    """Whoever has no vote left is no member, and nobody at all if the import has made them up."""
    in_project = Assignment.objects.filter(annotator=OuterRef("user"), project=project)
    members = Membership.objects.filter(project=project, user__in=written.members)
    members.filter(~Exists(in_project)).delete()
    elsewhere = Membership.objects.filter(user=OuterRef("pk"))
    assigned = Assignment.objects.filter(annotator=OuterRef("pk"))
    User.objects.filter(~Exists(elsewhere), ~Exists(assigned), pk__in=written.people).delete()
