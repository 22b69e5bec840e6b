"""Where an annotator stands: how much is done, what is left, and why there is nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

from django.db.models import (
    Count,
    F,
    IntegerField,
    Max,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
)
from django.utils import timezone

from annotator.assignment.finding import has_open, open_for
from annotator.assignment.showing import held_by, in_hand, may_judge, membership_of
from annotator.compiled import compiled
from annotator.gold import find_gold, find_gold_again, has_failed, is_qualifying
from annotator.models import (
    ANSWERED,
    COUNTED,
    IN_HAND,
    Assignment,
    Comparison,
    Judgment,
    Membership,
    Project,
    Purpose,
    Qualification,
    Role,
    User,
)

COUNT_LIMIT = 1000  # nobody needs to know exactly how many more there are
LOOKED_BACK = 100  # judgments, skips included, of which the last COUNT_EVERY verdicts are some
COUNT_EVERY = 10  # verdicts: others may have taken some of them meanwhile
SHOWN = re.compile(r"([0-9]{1,9})/([0-9]{1,9})(\+?)")  # how a form brings back what it showed


class Progress(NamedTuple):
    """`done` of `total` for this annotator; `is_capped` if there are more than were counted."""

    done: int
    total: int
    is_capped: bool
    last_judgment: int | None  # the one that an undo takes back
    is_due: bool = False  # to be counted anew, when nobody waits for it

    @property
    def shown(self) -> str:
        """Such as "12/160" or "12/1012+": the page sends it with the verdict."""
        return f"{self.done}/{self.total}{'+' if self.is_capped else ''}"


def progress(
    project: Project,
    annotator: User,
    held: Assignment | None,
    *,
    judged: Judgment | None = None,
    shown_before: str = "",
) -> Progress:
    """Of what they are handed: with known answers and repetitions, which are to look like the rest.

    `held` is what they hold now, `judged` what they have just said, and `shown_before` what they
    were shown with it (`Progress.shown`): that and this verdict are the progress now. Counting takes
    as long as finding the next, so that it is due only once in a while, and not now.
    Neither number tells which of them were known answers and repetitions.
    """
    known = SHOWN.fullmatch(shown_before)
    if judged and known and held:
        done, total = int(known[1]) + (judged.verdict in ANSWERED), int(known[2])
        is_due = done >= total or done % COUNT_EVERY == 0
        return Progress(done, max(total, done + 1), known[3] == "+", judged.pk, is_due)
    [(done, last, last_counted, left)] = _done_last_and_left(
        project.pk, annotator.pk, limit=COUNT_LIMIT
    )
    if last != last_counted:  # a skip, whose place others may have taken
        last = undoable(project, annotator).values_list("pk", flat=True).first()
    is_capped = left == COUNT_LIMIT
    at_least = done + (held is not None)
    total = at_least + left
    if not is_capped and _asks_extra(project):
        # With what they have just said the last COUNT_EVERY are full: since then there is nothing.
        is_full = judged is not None and judged.verdict in ANSWERED and done % COUNT_EVERY == 0
        total = done - (0 if is_full else _n_extra(project, annotator, done)) + left
        total = max(total + (held is not None and held.takes_place), at_least)
    return _within_quota(Progress(done, total, is_capped, last), membership_of(project, annotator))


def _within_quota(progress: Progress, membership: Membership | None) -> Progress:
    """Whoever has a quota is asked for no more than that, however much there is."""
    quota = membership.quota_total if membership else None
    if quota is None or quota > progress.total:
        return progress
    return progress._replace(total=max(quota, progress.done), is_capped=False)


def _asks_extra(project: Project) -> bool:
    return project.gold_percent + project.repeat_percent > 0


def _n_extra(project: Project, annotator: User, done: int) -> int:
    """Known answers and repetitions handled since the last full COUNT_EVERY verdicts.

    They are in `done`, and were never among those left. Counted as if they had been, nobody sees by
    the total, however often they load the page, which ones they were: it moves at every COUNT_EVERY
    verdicts, by what came in all of them.
    """
    # By showing: a verdict that is changed stays where it was. Skips are seen by the total too.
    handled = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    newest = handled.order_by("-created").select_related("comparison")[:LOOKED_BACK]
    n_extra, n_counted = 0, done % COUNT_EVERY
    for judgment in sorted(newest, key=attrgetter("assignment_id"), reverse=True):
        is_counted = judgment.verdict in ANSWERED
        if is_counted and n_counted == 0:
            break
        n_counted -= is_counted
        n_extra += judgment.is_repeat or judgment.comparison.purpose == Purpose.GOLD
    return n_extra


class _CountOf(Subquery):
    """How many rows a query has, within another."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) AS counted)"
    output_field = IntegerField()


@compiled
def _done_last_and_left(
    project: int, annotator: int, *, limit: int
) -> QuerySet[Judgment, tuple[int, int | None, int | None, int]]:
    in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    all_of_them = in_force.annotate(all=Value(1)).values(
        "all"
    )  # one group, and a row if it is empty
    counted = all_of_them.annotate(
        done=Count("pk", filter=Q(verdict__in=ANSWERED)),
        last=Max("pk"),
        last_counted=Max("pk", filter=Q(verdict__in=COUNTED)),
        left=_CountOf(open_for(project, annotator).values("pk")[:limit]),
    )
    return counted.values_list("done", "last", "last_counted", "left")


def _done(project_id: int, annotator_id: int) -> QuerySet[Judgment]:
    return Judgment.objects.filter(
        project=project_id, annotator=annotator_id, voided=None, verdict__in=ANSWERED
    )


def last_judgment(project: Project, annotator: User) -> Judgment | None:
    """The annotator's last verdict, or skip, that an undo takes back."""
    return undoable(project, annotator).select_related("assignment").first()


def undoable(project: Project, annotator: User) -> QuerySet[Judgment]:
    """What they said, and is in force, the last one first; without what they left to others, and
    these have answered."""
    in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    has_place = Q(verdict__in=COUNTED) | Q(comparison__taken__lt=F("comparison__overlap"))
    needs_none = Q(is_repeat=True) | Q(comparison__purpose=Purpose.GOLD)
    return in_force.filter(has_place | needs_none).order_by("-created", "-pk")


class QueueState(NamedTuple):
    """Why there is, or is not, a comparison for the annotator."""

    # available, not_qualified, qualification_failed, qualification_lacks_answers, paused,
    # quota_reached, daily_quota_reached, nothing_imported, held_by_others, held_back
    # or all_done
    reason: str
    until: datetime | None = None  # when there may be something again, if that is known


def quota_reached(membership: Membership, *, n_live: int = 0) -> QueueState | None:
    """Which quota leaves room for no more verdict, besides `n_live`; None if there is none. A day begins
    at midnight in the installation's time zone."""
    if not membership.has_quota:
        return None
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    done = _done(membership.project_id, membership.user_id)
    counts = {"all": Count("pk")}
    if membership.quota_per_day is not None:
        counts["today"] = Count("pk", filter=Q(created__gte=midnight))
    if membership.quota_total is None:
        done = done.filter(created__gte=midnight)  # of many thousands, no others are read
    n = done.aggregate(**counts)
    if membership.quota_total is not None and n["all"] + n_live >= membership.quota_total:
        return QueueState("quota_reached")
    if membership.quota_per_day is not None and n["today"] + n_live >= membership.quota_per_day:
        return QueueState("daily_quota_reached", midnight + timedelta(days=1))
    return None


def has_room(membership: Membership) -> bool:
    """Whether their quota, if they have one, has room for more than what they have in hand."""
    if membership.quota_total is None:
        return True
    mine = Assignment.objects.filter(
        IN_HAND, project=membership.project_id, annotator=membership.user_id
    )
    done = _done(membership.project_id, membership.user_id)
    return done.count() + mine.count() < membership.quota_total


def may_begin_real_work(project: Project, annotator: User) -> bool:
    """Whether they may be handed something new that is no known answer, if there is any."""
    membership = membership_of(project, annotator)
    return (
        may_judge(project, annotator, membership)
        and not is_qualifying(project, membership)
        and not project.paused
        and (membership is None or quota_reached(membership) is None)
    )


def who_may_vote(project: Project) -> QuerySet[Membership]:
    """The members who may be handed real work, if their quotas have room for it."""
    members = Membership.objects.filter(project=project, is_qualified=True, user__is_active=True)
    if project.qualification_items:
        members = members.filter(~Q(role=Role.ANNOTATOR) | Q(qualification=Qualification.PASSED))
    return members


def with_room(members: QuerySet[Membership]) -> QuerySet[Membership]:
    """Those who have not judged yet as many as they were asked for in all. A day's quota ends by itself."""
    done = Judgment.objects.filter(
        project=OuterRef("project"), annotator=OuterRef("user"), voided=None, verdict__in=ANSWERED
    )
    return members.filter(Q(quota_total=None) | Q(quota_total__gt=_CountOf(done.values("pk"))))


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
        lacks = not (find_gold(project, annotator) or find_gold_again(project, annotator))
        return QueueState("qualification_lacks_answers" if lacks else "available")
    if in_hand(project, annotator) or has_open(project, annotator):
        return QueueState("available")
    if not project.comparisons.exclude(purpose=Purpose.GOLD).exists():
        return QueueState("nothing_imported")
    others = Assignment.objects.filter(
        IN_HAND,
        project=project,
        is_repeat=False,
        comparison__in=Comparison.objects.not_handled_by(annotator)
        .filter(hold="")
        .exclude(purpose=Purpose.GOLD),
    )
    until = others.aggregate(until=Min("lease_until"))["until"]
    if until:
        return QueueState("held_by_others", until)
    until = _hold_ends(project, annotator)
    return QueueState("held_back", until) if until else QueueState("all_done")


def why_nothing(project: Project, annotator: User) -> QueueState:
    """The state of somebody to whom `claim` has just given nothing. What is available now came free
    since, or others were faster each time: it may be theirs when they look again."""
    state = queue_state(project, annotator)
    return QueueState("held_by_others") if state.reason == "available" else state


def _hold_ends(project: Project, annotator: User) -> datetime | None:
    """When the first of what is held back for a time may be asked of them."""
    held = Comparison.objects.held().filter(project=project, held_until__isnull=False)
    still_open = held.filter(taken__lt=F("overlap")).not_handled_by(annotator)
    return still_open.order_by("held_until").values_list("held_until", flat=True).first()
