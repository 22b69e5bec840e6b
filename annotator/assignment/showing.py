"""Places of comparisons, and what is shown to whom."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import F, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from annotator.compiled import Changes, compiled, compiled_update
from annotator.gold import has_failed
from annotator.models import (
    IN_HAND,
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Membership,
    Message,
    Project,
    User,
    canonical_key,
)
from annotator.protocols import (
    Protocol,
)
from annotator.version import code_version


def membership_of(project: Project, annotator: User, *, lock: bool = False) -> Membership | None:
    """With `lock`, within a transaction: and nobody changes it until that ends."""
    if not lock:
        return annotator.membership_in(project)
    return next(iter(_locked_membership(project.pk, annotator.pk)), None)


@compiled
def _locked_membership(project: int, annotator: int) -> QuerySet[Membership]:
    own = Membership.objects.filter(project=project, user=annotator)
    return own.select_for_update(no_key=True)


def is_qualified(project: Project, annotator: User) -> bool:
    """May this person judge here? Superusers may, unless a membership of theirs says otherwise."""
    return may_judge(project, annotator, membership_of(project, annotator))


def may_judge(project: Project, annotator: User, membership: Membership | None) -> bool:
    if membership is None:
        return annotator.is_superuser
    return membership.is_qualified and not has_failed(project, membership)


def held_by(project: Project, annotator: User) -> Assignment | None:
    """The annotator's live assignment in the project. There is at most one."""
    return (
        Assignment.objects.select_related("comparison__prompt", "project")
        .filter(project=project, annotator=annotator, state=AssignmentState.LIVE)
        .first()
    )


def in_hand(project: Project, annotator: User) -> Assignment | None:
    """What is live, or else what waits for the annotator; while the project is paused only the former."""
    rows = Assignment.objects.select_related("comparison__prompt")
    mine = rows.filter(IN_HAND, project=project, annotator=annotator)
    found = mine.order_by("state", "pk").first()  # "live" before "waiting"
    if found:
        found.project, found.annotator = project, annotator
    is_new = found is not None and found.state == AssignmentState.WAITING
    return None if is_new and project.paused else found


@compiled_update
def take_open_place(comparison: int) -> tuple[QuerySet[Comparison], Changes]:
    return Comparison.objects.open().filter(pk=comparison), {"taken": F("taken") + 1}


def drawn_showing(comparison: Comparison, annotator: User) -> Assignment:
    """Not saved: the answers in an order drawn for this annotator."""
    order = list(comparison.completions_by_id)
    random.shuffle(order)
    return Assignment(
        comparison=comparison,
        project=comparison.project,
        annotator=annotator,
        order=order,
        payload_hash=payload_hash(comparison, order),
        protocol=comparison.project.protocol,
        guideline_version=comparison.project.guideline_version,
        ui_version=code_version(),
        lease_until=lease_end(comparison.project),
    )


def possible(first_interaction_ms: int | None, assignment: Assignment) -> int | None:
    """None if nothing had been shown yet, so long ago: then the browser's clock does not tell when."""
    if first_interaction_ms is None:
        return None
    elapsed = timezone.now() - assignment.created
    return first_interaction_ms if timedelta(milliseconds=first_interaction_ms) <= elapsed else None


def written_once(first_interaction_ms: int) -> Coalesce:
    """A draft may have brought it, from another device: that was the first."""
    return Coalesce(F("first_interaction_ms"), Value(first_interaction_ms))


def take_place(assignment: Assignment) -> bool:
    """Take one of the free places, if it needs one; False if there is none."""
    if not assignment.takes_place:
        return True
    comparison = Comparison.objects.filter(pk=assignment.comparison_id)
    return comparison.filter(taken__lt=F("overlap")).update(taken=F("taken") + 1) == 1


def give_place_back(assignment: Assignment) -> bool:
    """False if it had none."""
    if not assignment.takes_place:
        return False
    comparison = Comparison.objects.filter(pk=assignment.comparison_id)
    return comparison.filter(taken__gt=0).update(taken=F("taken") - 1) == 1


def lease_end(project: Project) -> datetime:
    return timezone.now() + timedelta(minutes=project.lease_minutes)


def was_taken_back(assignment: Assignment) -> bool:
    """Whether this person had judged or skipped the comparison before, and this shows it again."""
    earlier = Assignment.objects.filter(
        comparison=assignment.comparison_id, annotator=assignment.annotator_id,
        is_repeat=assignment.is_repeat, state=AssignmentState.WITHDRAWN, pk__lt=assignment.pk,
    )  # fmt: skip
    return earlier.exists()


def shown(assignment: Assignment) -> list[Completion]:
    """The completions from left to right, as this annotator sees them."""
    return [assignment.comparison.completions_by_id[pk] for pk in assignment.order]


def payload_hash(comparison: Comparison, order: Sequence[int]) -> str:
    """Hash of the conversation and the answers in the order shown: what the verdict is about."""
    texts = [(pk, comparison.completions_by_id[pk].text) for pk in order]
    return hash_shown(comparison.prompt.messages, texts)


def hash_shown(messages: list[Message], completions: Sequence[tuple[int, str]]) -> str:
    """The same for a prompt and (id, text) pairs that are at hand."""
    return canonical_key([messages, completions])


def lock_comparisons(*comparison_ids: int) -> None:
    """In one order for everybody, and before their showings: two people who undo at once, or an undo and
    a look for expired leases, must not wait for each other."""
    rows = Comparison.objects.filter(pk__in=comparison_ids).order_by("pk")
    list(rows.select_for_update(no_key=True).values_list("pk"))


def has_draft(protocol: Protocol, n: int) -> bool:
    """Whether there is anything to enter before the verdict is sent."""
    return protocol.asks_more or (n > 2 and protocol.many == "ranking")
