"""Handing comparisons out: the next one, a certain one, or one moved from somebody else."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import NamedTuple

from django.db import IntegrityError, transaction
from django.db.models import Subquery
from django.utils import timezone

from annotator.assignment.finding import (
    find_extra,
    find_next,
    known_answer,
    lock_next,
    something_old,
)
from annotator.assignment.leases import (
    end_holds,
    release,
    release_expired,
    release_waiting,
    renew,
)
from annotator.assignment.showing import (
    drawn_showing,
    has_draft,
    held_by,
    in_hand,
    lease_end,
    lock_comparisons,
    may_judge,
    membership_of,
    payload_hash,
    possible,
    take_open_place,
    written_once,
)
from annotator.assignment.standing import has_room, may_begin_real_work, quota_reached
from annotator.ballots import Entered, keep
from annotator.compiled import Changes, insert
from annotator.gold import find_gold, find_gold_again, is_qualifying
from annotator.models import (
    IN_HAND,
    Assignment,
    AssignmentState,
    Comparison,
    Membership,
    Project,
    Purpose,
    User,
)
from annotator.protocols import (
    protocol_of,
    protocol_shown,
)
from annotator.version import code_version

ATTEMPTS = 5  # of a claim that loses races, each of them to another tab of the same person
WAITING_DAYS = 7  # that what was moved to somebody is kept for them


class NotHandedOut(Exception):
    """The comparison has no place for the annotator any more. The message is a sentence."""


class NotMoved(Exception):
    """The comparison stays with whom it is. The message is a sentence for the admin."""


class _QuotaReached(Exception):
    """Takes back what a claim has begun."""

    def __init__(self, is_for_today: bool) -> None:
        self.is_for_today = is_for_today


class _Next(NamedTuple):
    """What is to be asked."""

    comparison: Comparison
    is_repeat: bool = False
    is_qualification: bool = False

    @property
    def is_of_queue(self) -> bool:
        return not self.is_repeat and self.comparison.purpose != Purpose.GOLD


def claim(project: Project, annotator: User, *, has_judged: bool = False) -> Assignment | None:
    """The comparison the annotator holds in this project, or the next one for them, or None.

    The lease of what comes back is fresh. None means that there is nothing for them right now;
    `queue_state` says why. Who `has_judged` what they held is not expected to hold anything; what has
    been moved to them meanwhile is found with the next one, in the same query.
    """
    membership = membership_of(project, annotator)
    if not may_judge(project, annotator, membership):
        return None
    is_practice = is_qualifying(project, membership)
    has_swept = False
    for attempt in range(ATTEMPTS):
        try:
            is_looked_for = attempt > 0 or not has_judged
            if is_looked_for and (held := in_hand(project, annotator)):
                if _take_up(held, membership):
                    return held
                continue  # it has just been answered, given back or taken up in another tab
            if project.paused:
                return None
            chosen = _practice(project, annotator) if is_practice else None
            if chosen is None and is_practice:
                return None
            if chosen is None:
                extra = _drawn_extra(project, annotator)
                # Without a lock in hand, because whoever is done looks through the whole queue.
                found = find_next(project, annotator, extra=extra)
                if found is None:
                    if has_swept:
                        return None
                    # Then once more in any case: what had run out may have been given back by
                    # somebody else after the look, and something may have been moved here.
                    has_swept = release_expired(project) + end_holds(project) == 0
                    continue
                if found.is_waited_for and not is_looked_for:
                    continue  # what has been moved to them comes first
                chosen = _next(found, annotator)
            with transaction.atomic():
                if chosen.is_of_queue and attempt > 0:
                    # Others were faster: now one that nobody can take away. Not in the transaction
                    # that came too late, which may still hold a lock on what it did not get.
                    found = lock_next(project, annotator)
                    if found is None:
                        continue
                    chosen = _Next(found)
                assignment = _hand_out_next(chosen, annotator, membership)
            if assignment:
                return assignment
        except IntegrityError:
            continue  # the same person claimed in another tab, or clicked twice: it is held now
        except _QuotaReached as reached:
            if not reached.is_for_today:
                release_waiting(project, annotator)  # for somebody who has room for it
            return None
    return None


def _take_up(assignment: Assignment, membership: Membership | None) -> bool:
    """Start the lease of what is live, or of what waits; False if it is neither any more. Raises
    _QuotaReached, and what waits goes on waiting."""
    if assignment.state == AssignmentState.LIVE:
        assignment.was_shown = True
        return show_anew(assignment)
    waiting = Assignment.objects.filter(pk=assignment.pk, state=AssignmentState.WAITING)
    taken_up = {
        "state": AssignmentState.LIVE, "created": timezone.now(),
        "lease_until": lease_end(assignment.project), **_shown_with(assignment.project),
    }  # fmt: skip
    with transaction.atomic():  # it fails if something else has become live meanwhile
        if not waiting.update(**taken_up):
            return False
        _check_quota(membership)
    for name, value in taken_up.items():
        setattr(assignment, name, value)
    return True


def show_anew(assignment: Assignment) -> bool:
    """Start the lease of what is live, and note what it is shown with now; False if it is live no more."""
    return renew(assignment, **_shown_with(assignment.project))


def _shown_with(project: Project) -> Changes:
    return {"ui_version": code_version(), "guideline_version": project.guideline_version}


def _hand_out_next(
    chosen: _Next, annotator: User, membership: Membership | None
) -> Assignment | None:
    """In a transaction. Raises _QuotaReached if the annotator may judge no more."""
    assignment = _hand_out(chosen, annotator)
    if assignment is None:
        return None
    # Asked last: the new row has waited for whatever this person was doing in another tab.
    _check_quota(membership)
    return assignment


def _check_quota(membership: Membership | None) -> None:
    """Raises _QuotaReached."""
    if membership is not None and (reached := quota_reached(membership)):
        raise _QuotaReached(is_for_today=reached.until is not None)


def _practice(project: Project, annotator: User) -> _Next | None:
    """For somebody who qualifies: a known answer; one they were asked before, if there is no other."""
    if known := find_gold(project, annotator):
        return _Next(known, is_qualification=True)
    again = find_gold_again(project, annotator)
    return _Next(again, is_repeat=True, is_qualification=True) if again else None


def _drawn_extra(project: Project, annotator: User) -> Subquery | None:
    """A known answer or something they have judged before, in the shares that the project says. None
    where it is the turn of what is open."""
    extra = project.gold_percent + project.repeat_percent
    lot = random.random() * 100 if extra else 100.0
    if lot < project.gold_percent:
        return known_answer(project, annotator)
    return something_old(project, annotator) if lot < extra else None


def _next(found: Comparison, annotator: User) -> _Next:
    """What was to be asked in its place, if there is any; else what was found."""
    extra = find_extra(found, annotator)
    if extra is None:
        return _Next(found)
    return _Next(extra, is_repeat=extra.purpose != Purpose.GOLD)


def _hand_out(chosen: _Next, annotator: User) -> Assignment | None:
    """Take a place of the comparison, if it is one that is taken, and write down what is shown; None if
    others took the last."""
    comparison = chosen.comparison
    showing = drawn_showing(comparison, annotator)
    showing.is_repeat, showing.is_qualification = chosen.is_repeat, chosen.is_qualification
    if showing.takes_place and take_open_place(comparison.pk) != 1:
        return None
    if comparison.has_begun and has_draft(protocol_of(comparison.project), len(showing.order)):
        _go_on_with_draft(showing)
    insert(showing)
    return showing


def _go_on_with_draft(showing: Assignment) -> None:
    """With order and draft of an earlier showing to the same person, whose lease ran out: moved."""
    earlier = Assignment.objects.filter(
        comparison=showing.comparison, annotator=showing.annotator, is_repeat=showing.is_repeat
    )
    begun = earlier.exclude(draft={}).order_by("-pk").first()
    if begun is None:
        return
    Assignment.objects.filter(pk=begun.pk).update(draft={})
    showing.order, showing.draft = begun.order, begun.draft
    showing.payload_hash = payload_hash(showing.comparison, begun.order)


def hand_out(comparison: Comparison, annotator: User) -> Assignment:
    """Put this very comparison before this person; what they hold goes back to the queue.

    Raises NotHandedOut, and changes nothing, if it is full or held back, if they have handled it,
    if they are handed nothing new (paused, not qualified, quota reached), or if another tab of
    theirs is handed something at the same time.
    """
    try:
        return _put_before(comparison, annotator)
    except IntegrityError:  # there is one live showing a person
        raise NotHandedOut("You were handed another comparison in another tab meanwhile.") from None


@transaction.atomic
def _put_before(comparison: Comparison, annotator: User) -> Assignment:
    if not may_begin_real_work(comparison.project, annotator):
        raise NotHandedOut("You are handed nothing new at the moment: “Compare” says why.")
    if held := held_by(comparison.project, annotator):
        lock_comparisons(held.comparison_id, comparison.pk)
        release(held)
    free = Comparison.objects.open().not_handled_by(annotator)
    locked = free.select_for_update(of=("self",), no_key=True).filter(pk=comparison.pk).first()
    handed_out = _hand_out(_Next(locked), annotator) if locked else None
    if handed_out is None:
        raise NotHandedOut(
            "This comparison is kept for you no longer: others have answered it, or it is held back."
        )
    # Again, now that the new row has waited for whatever this person was doing in another tab.
    membership = membership_of(comparison.project, annotator)
    if membership is not None and quota_reached(membership):
        raise NotHandedOut("You have judged as many as you were asked for.")
    return handed_out


def move(assignment: Assignment, to: User) -> Assignment:
    """Take what is in somebody's hand, and keep it for `to`, who is handed it next, tomorrow if they have
    judged as many as they were asked for today. Raises NotMoved.

    The place goes along, so nobody else can take it in between.
    """
    project, comparison = assignment.project, assignment.comparison
    if to == assignment.annotator:
        raise NotMoved(f"{to} has it already.")
    if not assignment.takes_place:
        raise NotMoved("It was to be asked of this person only: it can be given back, not moved.")
    membership = membership_of(project, to)
    if not may_judge(project, to, membership) or is_qualifying(project, membership):
        raise NotMoved(f"{to} is not handed comparisons here.")
    if membership is not None and not has_room(membership):
        raise NotMoved(f"{to} has judged, or has in hand, as many as they were asked for.")
    waiting = drawn_showing(comparison, to)
    waiting.state = AssignmentState.WAITING
    waiting.lease_until = timezone.now() + timedelta(days=WAITING_DAYS)
    try:
        with transaction.atomic():
            lock_comparisons(comparison.pk)
            in_hand = Assignment.objects.filter(IN_HAND, pk=assignment.pk)
            if in_hand.update(state=AssignmentState.RELEASED) != 1:
                raise NotMoved(f"{assignment.annotator} no longer has it: it was answered or left.")
            waiting.save()
    except IntegrityError:
        raise NotMoved(f"{to} has it already, or has answered or skipped it.") from None
    return waiting


def save_draft(
    assignment: Assignment, entered: Entered, first_interaction_ms: int | None = None
) -> bool:
    """Keep what was entered until it is sent, also if the lease has run out; False if a verdict has
    been given. Of two devices the last one to write wins, and the first one to say when its annotator
    first did something.
    """
    draft = keep(entered, protocol_shown(assignment), len(assignment.order))
    unsent = [AssignmentState.LIVE, AssignmentState.EXPIRED, AssignmentState.RELEASED]
    if draft == assignment.draft:
        return assignment.state in unsent
    assignment.draft = draft
    changes: Changes = {"draft": draft}
    if (first := possible(first_interaction_ms, assignment)) is not None:
        changes["first_interaction_ms"] = written_once(first)
    row = Assignment.objects.filter(pk=assignment.pk, state__in=unsent)
    return row.update(**changes) == 1
