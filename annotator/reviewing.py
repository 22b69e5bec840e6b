"""What reviewers add to a comparison: rulings, comments, worked examples, proposals.

None of it changes a vote. A ruling is a row of its own; an example is a ruling that is shown below
the guidelines, so its comparison is held out of the queue: who has read the answer cannot be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from annotator.assignment.showing import lock_comparisons
from annotator.audit import Action, record
from annotator.models import (
    Comparison,
    ComparisonCompletion,
    GuidelineProposal,
    Project,
    ProposalState,
    Ruling,
    User,
    Verdict,
)
from annotator.rendering import LETTERS, split_conversation

EXAMPLE_HOLD = "Shown below the guidelines as a worked example."


# --- rulings ----------------------------------------------------------------------------------
def ruling_on(comparison: Comparison) -> Ruling | None:
    """The ruling in force. There is at most one."""
    return comparison.rulings.filter(voided=None).select_related("reviewer").first()


def rule(
    comparison: Comparison,
    reviewer: User,
    verdict: Verdict,
    ranking: Sequence[Sequence[int]] = (),
    *,
    explanation: str = "",
    is_example: bool = False,
) -> Ruling:
    """Write down what the reviewer decides. It takes the place of an earlier ruling, which stays."""
    with transaction.atomic():
        Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)
        _void(comparison.rulings.all())
        ruling = Ruling.objects.create(
            comparison=comparison,
            project_id=comparison.project_id,
            reviewer=reviewer,
            verdict=verdict,
            ranking=[list(group) for group in ranking],
            explanation=explanation,
            is_example=is_example,
        )
        if is_example:
            # Also where it is held for another reason, which might end before the example does.
            Comparison.objects.filter(pk=comparison.pk).update(hold=EXAMPLE_HOLD, held_until=None)
        said = {"verdict": verdict, "is_example": is_example}
        record(reviewer, Action.RULED, comparison, project=comparison.project, **said)
    return ruling


def take_back_ruling(comparison: Comparison, user: User | None = None) -> None:
    with transaction.atomic():
        if _void(comparison.rulings.all()):
            record(user, Action.TOOK_BACK, comparison, project=comparison.project)


def take_back_rulings(project: Project, reviewer: User) -> int:
    """How many there were."""
    with transaction.atomic():
        return _void(Ruling.objects.filter(project=project, reviewer=reviewer))


def _void(rulings: QuerySet[Ruling]) -> int:
    """Those of them in force, and how many these were. What was held as an example may be asked again."""
    in_force = rulings.filter(voided=None)
    # Before the rulings, as in `rule`.
    lock_comparisons(*in_force.values_list("comparison_id", flat=True))
    ended = list(in_force.values_list("pk", "comparison_id"))
    Ruling.objects.filter(pk__in=[pk for pk, _ in ended]).update(voided=timezone.now())
    Comparison.objects.filter(
        pk__in=[comparison for _, comparison in ended], hold=EXAMPLE_HOLD
    ).update(hold="")
    return len(ended)


def in_letters(verdict: str, ranking: Sequence[Sequence[int]], letters: dict[int, str]) -> str:
    """Example: [[7], [8, 9]] -> "A > B = C"."""
    if verdict != Verdict.RANKING:
        return Verdict(verdict).label
    return " > ".join(" = ".join(sorted(letters[pk] for pk in group)) for group in ranking)


# --- worked examples ---------------------------------------------------------------------------
def examples_of(project: Project) -> QuerySet[Ruling]:
    """The newest first."""
    examples = Ruling.objects.filter(project=project, voided=None, is_example=True)
    return examples.select_related("comparison__prompt").order_by("-pk")


def worked(examples: Sequence[Ruling]) -> list[dict[str, Any]]:
    """What a page shows of each: nothing that tells where its answers are from."""
    entries = ComparisonCompletion.objects.filter(
        comparison__in=[example.comparison_id for example in examples]
    )
    shown: dict[int, list[ComparisonCompletion]] = {}
    for entry in entries.select_related("completion").order_by("comparison_id", "position"):
        shown.setdefault(entry.comparison_id, []).append(entry)
    return [_worked(example, shown[example.comparison_id]) for example in examples]


def _worked(example: Ruling, entries: Sequence[ComparisonCompletion]) -> dict[str, Any]:
    letters = {entry.completion_id: letter for letter, entry in zip(LETTERS, entries, strict=False)}
    return {
        "ruling": example,
        "conversation": split_conversation(example.comparison.prompt.messages),
        "answers": [(letters[entry.completion_id], entry.completion) for entry in entries],
        "words": in_letters(example.verdict, example.ranking, letters),
    }


# --- proposals ----------------------------------------------------------------------------------
def with_proposal(guidelines: str, proposal: GuidelineProposal) -> str:
    """The text that the settings open with: the proposal at the end, for the admin to work in."""
    return f"{guidelines.rstrip()}\n\n{proposal.text.strip()}\n".lstrip()


def decide(
    proposal: GuidelineProposal,
    user: User,
    state: ProposalState,
    *,
    reason: str = "",
    guideline_version: int | None = None,
) -> bool:
    """Accept or decline; False if somebody else has decided already."""
    still_open = GuidelineProposal.objects.filter(pk=proposal.pk, state=ProposalState.OPEN)
    decided = still_open.update(
        state=state,
        decided_by=user,
        decided=timezone.now(),
        reason=reason,
        guideline_version=guideline_version,
    )
    return decided == 1
