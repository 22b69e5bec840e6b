"""How long what is handed out is kept for somebody, and giving it back."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from annotator.assignment.showing import give_place_back, lease_end, lock_comparisons
from annotator.models import (
    IN_HAND,
    Assignment,
    AssignmentState,
    Comparison,
    Project,
    User,
)

SWEEP_LIMIT = 50  # expired leases given back, and holds ended, at once


def renew(assignment: Assignment, **shown_with: Any) -> bool:
    """Start the lease anew, and note what it is `shown_with` if it is shown anew; False if the assignment
    is no longer live."""
    changes = {"lease_until": lease_end(assignment.project), **shown_with}
    for name, value in changes.items():
        setattr(assignment, name, value)
    live = Assignment.objects.filter(pk=assignment.pk, state=AssignmentState.LIVE)
    return live.update(**changes) == 1


def release(assignment: Assignment) -> bool:
    """Give the comparison back unanswered; False if the assignment was no longer in hand."""
    return _end(assignment, AssignmentState.RELEASED)


@transaction.atomic
def release_all(project: Project, annotator: User) -> int:
    """Give back what is on the annotator's screen, and what waits for them."""
    in_hand = Assignment.objects.filter(IN_HAND, project=project, annotator=annotator)
    rows = list(in_hand.select_related("comparison"))
    lock_comparisons(*(row.comparison_id for row in rows))
    return sum(release(row) for row in rows)


def release_waiting(project: Project, annotator: User) -> None:
    """Give back what has been moved to the annotator, but for what is on the screen already."""
    mine = Assignment.objects.filter(IN_HAND, project=project, annotator=annotator)
    waiting = mine.filter(state=AssignmentState.WAITING).select_related("comparison")
    for assignment in waiting:
        release(assignment)


def release_expired(project: Project | None = None) -> int:
    """Give back the places of leases that have run out, the oldest SWEEP_LIMIT of them in this
    project or in all. How many there were; others may have given them back at the same time.
    """
    expired = Assignment.objects.filter(IN_HAND, lease_until__lt=timezone.now())
    if project:
        expired = expired.filter(project=project)
    rows = list(expired.order_by("lease_until").select_related("comparison")[:SWEEP_LIMIT])
    for row in rows:
        _end(row, AssignmentState.EXPIRED)
    return len(rows)


def _end(assignment: Assignment, state: AssignmentState) -> bool:
    """Leave the state of being in hand and give the place back: both, once, whoever else tries."""
    with transaction.atomic():
        if assignment.takes_place:
            lock_comparisons(assignment.comparison_id)
        in_hand = Assignment.objects.filter(IN_HAND, pk=assignment.pk)
        if state == AssignmentState.EXPIRED:  # a page may have renewed it meanwhile
            in_hand = in_hand.filter(lease_until__lt=timezone.now())
        if in_hand.update(state=state) != 1:
            return False
        give_place_back(assignment)
    return True


def end_holds(project: Project | None = None) -> int:
    """Put comparisons whose hold has run out back into the queue, SWEEP_LIMIT of them in this project
    or in all. How many there were."""
    now = timezone.now()
    over = Comparison.objects.held().filter(held_until__lte=now)
    if project:
        over = over.filter(project=project)
    pks = list(over.order_by("held_until").values_list("pk", flat=True)[:SWEEP_LIMIT])
    for pk in pks:
        Comparison.objects.filter(pk=pk, held_until__lte=now).update(hold="", held_until=None)
    return len(pks)
