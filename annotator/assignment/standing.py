"""Where an annotator stands: how much is done, what is left, and why there is nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, Max, Min, Q, QuerySet, Value
from django.utils import timezone

from annotator.assignment.finding import has_open, open_for
from annotator.assignment.showing import held_by, in_hand, may_judge, membership_of
from annotator.compiled import compiled
from annotator.gold import find_gold, has_failed, is_qualifying
from annotator.models import (
    COUNTED,
    Assignment,
    AssignmentState,
    Comparison,
    Judgment,
    Membership,
    Project,
    Purpose,
    User,
)

COUNT_LIMIT = 1000  # nobody needs to know exactly how many more there are
COUNT_EVERY = 10  # verdicts: others may have taken some of them meanwhile
TOTAL = re.compile(r"([0-9]{1,9})(\+?)")


class Progress(NamedTuple):
    """`done` of `total` for this annotator; `is_capped` if there are more than were counted."""

    done: int
    total: int
    is_capped: bool
    last_judgment: int | None  # the one that an undo takes back


def progress(
    project: Project, annotator: User, held: Assignment | None, *, known_total: str = ""
) -> Progress:
    """Of what they are handed: with known answers and repetitions, which are to look like the rest.

    `held` is what they hold now, and `known_total` the total that they were shown last, such as "160"
    or "1012+": it stays for some verdicts, because counting takes as long as finding the next.
    """
    [(done, last)] = _done_and_last(project.pk, annotator.pk)
    known = TOTAL.fullmatch(known_total)
    if known and done < int(known[1]) and held and done % COUNT_EVERY:
        return Progress(done, int(known[1]), known[2] == "+", last)
    left = open_for(project, annotator)[:COUNT_LIMIT].count()
    return Progress(done, done + left + (held is not None), left == COUNT_LIMIT, last)


@compiled
def _done_and_last(project: int, annotator: int) -> QuerySet[Judgment, tuple[int, int | None]]:
    in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    all_of_them = in_force.annotate(all=Value(1)).values(
        "all"
    )  # one group, and a row if it is empty
    counted = all_of_them.annotate(done=Count("pk", filter=Q(verdict__in=COUNTED)), last=Max("pk"))
    return counted.values_list("done", "last")


def _done(project_id: int, annotator_id: int) -> QuerySet[Judgment]:
    return Judgment.objects.filter(
        project=project_id, annotator=annotator_id, voided=None, verdict__in=COUNTED
    )


class QueueState(NamedTuple):
    """Why there is, or is not, a comparison for the annotator."""

    # available, not_qualified, qualification_failed, qualification_lacks_answers, paused,
    # quota_reached, daily_quota_reached, nothing_imported, held_by_others or all_done
    reason: str
    until: datetime | None = None  # when there may be something again, if that is known


def quota_reached(membership: Membership) -> QueueState | None:
    """Which quota leaves room for no more verdict; None if there is none. A day begins at midnight
    in the installation's time zone."""
    if not membership.has_quota:
        return None
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    done = _done(membership.project_id, membership.user_id)
    if membership.quota_total is not None and done.count() >= membership.quota_total:
        return QueueState("quota_reached")
    today = done.filter(created__gte=midnight)
    if membership.quota_per_day is not None and today.count() >= membership.quota_per_day:
        return QueueState("daily_quota_reached", midnight + timedelta(days=1))
    return None


def may_begin_real_work(project: Project, annotator: User) -> bool:
    """Whether they may be handed something new that is no known answer, if there is any."""
    membership = membership_of(project, annotator)
    return (
        may_judge(project, annotator, membership)
        and not is_qualifying(project, membership)
        and not project.paused
        and (membership is None or quota_reached(membership) is None)
    )


def queue_state(project: Project, annotator: User) -> QueueState:
    membership = membership_of(project, annotator)
    if has_failed(project, membership):
        return QueueState("qualification_failed")
    if not may_judge(project, annotator, membership):
        return QueueState("not_qualified")
    if held_by(project, annotator):
        return QueueState("available")
    if project.paused:
        return QueueState("paused")
    if membership is not None and (reached := quota_reached(membership)):
        return reached
    if is_qualifying(project, membership):
        lacks = find_gold(project, annotator) is None
        return QueueState("qualification_lacks_answers" if lacks else "available")
    if in_hand(project, annotator) or has_open(project, annotator):
        return QueueState("available")
    if not project.comparisons.exclude(purpose=Purpose.GOLD).exists():
        return QueueState("nothing_imported")
    others = Assignment.objects.filter(
        project=project,
        state=AssignmentState.LIVE,
        is_repeat=False,
        comparison__in=Comparison.objects.not_handled_by(annotator)
        .filter(hold="")
        .exclude(purpose=Purpose.GOLD),
    )
    until = others.aggregate(until=Min("lease_until"))["until"]
    return QueueState("held_by_others", until) if until else QueueState("all_done")
