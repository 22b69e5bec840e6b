"""A long import that does not come to its end takes back what it has put in.

Its rows are stored some hundreds at a time, and are there for everybody from then on: who compares
need not wait for the end of a long file, and nothing is written twice. Each batch leaves a row that says what it
has written (`StoredBatch`), in the same transaction; the last one deletes these rows. So whatever ends the import
before that, a user, an error or a kill, what they say is deleted: at once, or, after a kill, by the
worker within a minute or by the next import. What somebody has worked on by then stays.

Until then it is unsettled: nothing is exported, and whoever finds a row there already that may go again
does not rely on it (`Unsettled`).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Greatest

from annotator.models import (
    COUNTED,
    Assignment,
    Comment,
    Comparison,
    ComparisonCompletion,
    Completion,
    ExportAnnotator,
    Judgment,
    Membership,
    Project,
    Prompt,
    Purpose,
    QualityReport,
    Ruling,
    Split,
    StoredBatch,
    User,
    Withdrawal,
)
from annotator.storing import Written

UNSETTLED = (
    "An import into this project is at work, and what it has put in may still go again: "
    "try again when it has ended."
)


class Unsettled(Exception):
    """What was asked for is there by an import that has not come to its end. The message is a sentence."""

    def __init__(self) -> None:
        super().__init__(UNSETTLED)


class TakenBack(Exception):
    """Another process took this import for dead, and deleted what it had put in."""

    def __init__(self) -> None:
        super().__init__(
            "What it had put in was deleted again by another import: the data folders of two machines, or their "
            "locks, are not the same. Share one data folder, and begin it anew."
        )


# --- what batches leave ---------------------------------------------------------------------------
class Journal:
    """The batches of one import so far."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.storing = uuid.uuid4()
        self.n_noted = 0

    def note(self, written: Written) -> None:
        """In the batch's transaction. Raises TakenBack."""
        if StoredBatch.objects.filter(storing=self.storing).count() != self.n_noted:
            raise TakenBack
        self.n_noted += 1
        StoredBatch.objects.create(
            project=self.project,
            storing=self.storing,
            written=_packed(written),
        )

    def close(self) -> None:
        """In the transaction of the last batch: from then on all of it stays."""
        StoredBatch.objects.filter(storing=self.storing).delete()


def unfinished(project: Project | None = None) -> list[tuple[int, uuid.UUID]]:
    """Projects, and the imports into them that have not come to their end: killed, or at work."""
    batches = StoredBatch.objects.all() if project is None else _batches_into(project)
    return list(batches.order_by("project", "storing").values_list("project", "storing").distinct())


def is_unsettled(project: Project) -> bool:
    """Whether an import into it has not come to its end."""
    return _batches_into(project).exists()


def check_settled(row: Prompt | Completion | Comparison, project: Project) -> None:
    """Raises Unsettled if this row, which was found there, may go again or has just gone."""
    with transaction.atomic():
        lock(project)
        is_there = type(row)._default_manager.filter(pk=row.pk).exists()
        if is_unsettled(project) or not is_there:
            raise Unsettled


def lock(project: Project) -> None:
    """Until the transaction ends nobody else stores a batch here, or takes one back."""
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)


def _batches_into(project: Project) -> QuerySet[StoredBatch]:
    return StoredBatch.objects.filter(project=project)


def _packed(written: Written) -> dict[str, Any]:
    return {
        name: _runs(keys) if isinstance(keys, list) else keys
        for name, keys in asdict(written).items()
        if name != "n_met"
    }


def _unpacked(packed: Mapping[str, Any]) -> Written:
    keys: dict[str, Any] = {
        name: [key for first, n in runs for key in range(first, first + n)]
        for name, runs in packed.items()
        if name != "overlaps"
    }
    return Written(**keys, overlaps={int(pk): n for pk, n in packed["overlaps"].items()})


def _runs(keys: Sequence[int]) -> list[list[int]]:
    """Keys that follow each other, as most of a batch do. Example: [4, 5, 6, 9] -> [[4, 3], [9, 1]]."""
    runs: list[list[int]] = []
    for key in keys:
        if runs and key == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([key, 1])
    return runs


# --- taking back ----------------------------------------------------------------------------------
def take_back(storing: uuid.UUID, project: Project) -> int:
    """Delete what this import has put in, the newest batch first; how many comparisons stay because
    somebody has worked on them. It can be called again after it was interrupted."""
    batches = StoredBatch.objects.filter(storing=storing).order_by("-pk")
    n_kept = 0
    while True:
        with transaction.atomic():
            # A batch that is still being committed is waited for.
            lock(project)
            batch = batches.first()
            if batch is None:
                break
            n_kept += _take_back(_unpacked(batch.written), project)
            batch.delete()
    QualityReport.objects.filter(project=project).update(newest_judgment=0)
    return n_kept


def _take_back(written: Written, project: Project) -> int:
    # Whoever is handed one, or changes a vote, is waited for, or waits: locked in the queue's order.
    votes = Judgment.objects.filter(pk__in=written.judgments)
    list(votes.select_for_update().order_by("pk").values_list("pk"))
    touched = Comparison.objects.filter(pk__in=[*written.comparisons, *written.overlaps])
    list(touched.select_for_update().order_by("pk").values_list("pk"))
    there = Comparison.objects.filter(pk__in=written.comparisons)
    handed_out = Assignment.objects.filter(comparison=OuterRef("pk"))
    said = Judgment.objects.filter(comparison=OuterRef("pk"))
    busy = there.filter(
        Exists(handed_out.exclude(pk__in=written.assignments))
        | Exists(said.exclude(pk__in=written.judgments))  # a vote was corrected
        | Exists(Comment.objects.filter(comparison=OuterRef("pk")))
        | Exists(Ruling.objects.filter(comparison=OuterRef("pk")))
    )
    kept = set(busy.values_list("pk", flat=True))
    votes = votes.exclude(comparison__in=kept).filter(superseded_by=None)
    counted = votes.filter(verdict__in=COUNTED, voided=None)  # the others hold no place
    gone = Counter(counted.values_list("comparison_id", flat=True))
    votes.delete()
    of_showing = Judgment.objects.filter(assignment=OuterRef("pk"))
    assignments = Assignment.objects.filter(~Exists(of_showing), pk__in=written.assignments)
    assignments.exclude(comparison__in=kept).delete()
    there.exclude(pk__in=kept).delete()
    shown = ComparisonCompletion.objects.filter(completion=OuterRef("pk"))
    Completion.objects.filter(~Exists(shown), pk__in=written.completions).delete()
    asked = Comparison.objects.filter(prompt=OuterRef("pk"))
    answered = Completion.objects.filter(prompt=OuterRef("pk"))
    Prompt.objects.filter(~Exists(asked), ~Exists(answered), pk__in=written.prompts).delete()
    trained = asked.exclude(purpose=Purpose.GOLD)
    no_longer_gold = Prompt.objects.filter(~Exists(trained), pk__in=written.no_longer_gold)
    no_longer_gold.update(split=Split.GOLD)
    for pk, overlap in written.overlaps.items():
        if n := gone[pk]:
            _give_places_back(pk, n, overlap)
    _dismiss(written, project)
    return len(kept)


def _give_places_back(comparison: int, n: int, overlap: int) -> None:
    found = Comparison.objects.filter(pk=comparison)
    found.update(taken=Greatest(F("taken") - n, 0))
    found.filter(taken__lte=overlap).update(overlap=overlap)


def _dismiss(written: Written, project: Project) -> None:
    """Whoever has no vote left is no member, and nobody at all if the import has made them up."""
    in_project = Assignment.objects.filter(annotator=OuterRef("user"), project=project)
    members = Membership.objects.filter(project=project, user__in=written.members)
    members.filter(~Exists(in_project)).delete()
    elsewhere = Membership.objects.filter(user=OuterRef("pk"))
    assigned = Assignment.objects.filter(annotator=OuterRef("pk"))
    withdrawn = Withdrawal.objects.filter(annotator=OuterRef("pk"))
    exported = ExportAnnotator.objects.filter(annotator=OuterRef("pk"))
    made_up = User.objects.filter(pk__in=written.people).exclude(Exists(exported))
    made_up.filter(~Exists(elsewhere), ~Exists(assigned), ~Exists(withdrawn)).delete()
