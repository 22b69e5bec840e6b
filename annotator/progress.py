"""How the work goes on: votes per day and person, what remains, pace, forecast, who is at it now.

Pages about months must not read millions of judgments, so `DailyWork` holds one small row per
person and day. Nothing is added to it while people vote; whoever looks at the page counts what
has come since, and each judgment is read once, ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from statistics import fmean, stdev
from typing import Any, NamedTuple

from django.core.cache import cache
from django.db import transaction
from django.db.models import Count, F, Max, Q, QuerySet, Sum
from django.utils import timezone

from annotator.models import (
    COUNTED,
    Assignment,
    AssignmentState,
    DailyWork,
    Judgment,
    Membership,
    Project,
    Purpose,
    User,
)

DAYS_SHOWN = 28
COUNTED_AT_ONCE = 20_000  # judgments read by one call
# A judgment gets its number a moment before others can see it, so the newest are left for later.
SETTLED = timedelta(minutes=2)
LONGEST_PAUSE = 300.0  # seconds; a page that was open for longer was not looked at all the time

WORTH_KEEPING = 0.2  # seconds; what is counted faster is counted anew for each page

FORECAST_DAYS = 7  # whole weeks: weekends are part of the rate
FEWEST_DAYS = 3
FEWEST_VOTES = 30
LONGEST_FORECAST = 3650  # days
# Quantiles of Student's t that leave 10 % above, for 3 to 7 days: with so few, the spread between them
# is known badly as well.
T_90 = (1.886, 1.638, 1.533, 1.476, 1.440)


# --- counting -----------------------------------------------------------------------------------
def count_work(project: Project, now: datetime | None = None) -> bool:
    """Add to `DailyWork` what has been judged since the last call; False if some is still to count.

    Votes that were taken back by now count as time, not as votes, and so do skips, repeats and
    verdicts on known answers: none of them is waited for.
    Known choices that were imported took nobody any time, and do not count at all.
    """
    settled = Judgment.objects.filter(created__lt=(now or timezone.now()) - SETTLED)
    newest = settled.order_by("-pk").values_list("pk", flat=True).first()
    counted = project.work_counted
    if newest is None or newest <= counted:
        return True
    columns = (
        "pk", "annotator", "created", "seconds", "verdict", "voided", "is_repeat",
        "comparison__purpose",
    )  # fmt: skip
    new = Judgment.objects.filter(project=project, pk__gt=counted, pk__lte=newest)
    rows = list(new.order_by("pk").values_list(*columns)[:COUNTED_AT_ONCE])
    is_all = len(rows) < COUNTED_AT_ONCE
    with transaction.atomic():
        project.work_counted = newest if is_all else rows[-1][0]
        # Of two who have read the same judgments, the first adds them.
        mine = Project.objects.filter(pk=project.pk, work_counted=counted)
        if mine.update(work_counted=project.work_counted) != 1:
            return False
        _add(project, _per_day(project, rows))
    return is_all


def _per_day(
    project: Project, rows: Sequence[tuple[Any, ...]]
) -> dict[tuple[int, date], DailyWork]:
    work: dict[tuple[int, date], DailyWork] = {}
    for _, annotator, created, seconds, verdict, voided, is_repeat, purpose in rows:
        if seconds is None:
            continue
        day = timezone.localdate(created)
        row = work.setdefault(
            (annotator, day), DailyWork(project=project, annotator_id=annotator, day=day)
        )
        is_extra = is_repeat or purpose == Purpose.GOLD
        row.n_judgments += verdict in COUNTED and voided is None and not is_extra
        row.seconds += min(seconds, LONGEST_PAUSE)
    return work


def _add(project: Project, work: dict[tuple[int, date], DailyWork]) -> None:
    days = {day for _, day in work}
    known = {
        (row.annotator_id, row.day): row
        for row in DailyWork.objects.filter(project=project, day__in=days)
    }
    grown = [known[key] for key in known.keys() & work.keys()]
    for row in grown:
        more = work[row.annotator_id, row.day]
        row.n_judgments += more.n_judgments
        row.seconds += more.seconds
    DailyWork.objects.bulk_create(row for key, row in work.items() if key not in known)
    DailyWork.objects.bulk_update(grown, ["n_judgments", "seconds"], batch_size=500)


# --- per day and per person ---------------------------------------------------------------------
class Day(NamedTuple):
    day: date
    votes: int
    seconds: float


def days_of(
    project: Project,
    today: date,
    *,
    annotator: User | None = None,
    still_here: bool = False,
    n_days: int = DAYS_SHOWN,
) -> list[Day]:
    """Each of the last days, today the last; of everybody, of one, or of who still judges here."""
    first = today - timedelta(days=n_days - 1)
    work = DailyWork.objects.filter(project=project, day__range=(first, today))
    if annotator is not None:
        work = work.filter(annotator=annotator)
    if still_here:
        members = Membership.objects.filter(project=project, is_qualified=True)
        work = work.filter(annotator__in=members.values("user"))
    sums = work.order_by().values_list("day").annotate(Sum("n_judgments"), Sum("seconds"))
    found = {day: Day(day, votes, seconds) for day, votes, seconds in sums}
    days = (first + timedelta(days=n) for n in range(n_days))
    return [found.get(day, Day(day, 0, 0.0)) for day in days]


class Person(NamedTuple):
    pk: int
    name: str
    votes: int
    n_days: int  # on which they were at it
    per_hour: float | None
    last_day: date


def people_of(project: Project, today: date, *, limit: int) -> list[Person]:
    """Those who did most in the last days first."""
    first = today - timedelta(days=DAYS_SHOWN - 1)
    work = DailyWork.objects.filter(project=project, day__range=(first, today))
    rows = (
        work.order_by()
        .values("annotator", "annotator__username")
        .annotate(
            votes=Sum("n_judgments"), time=Sum("seconds"), n_days=Count("pk"), last=Max("day")
        )
        .order_by("-votes", "annotator__username")
    )
    return [
        Person(
            row["annotator"],
            row["annotator__username"],
            row["votes"],
            row["n_days"],
            per_hour(row["votes"], row["time"]),
            row["last"],
        )
        for row in rows[:limit]
    ]


def per_hour(votes: int, seconds: float) -> float | None:
    """Votes per hour of work; None if nobody has worked."""
    return votes * 3600 / seconds if seconds else None


# --- what remains -----------------------------------------------------------------------------------
class Remaining(NamedTuple):
    """What is asked in one round for one purpose. `votes` + `left` + `held` are all places."""

    round_number: int
    purpose: str
    comparisons: int
    votes: int  # given, or on somebody's screen
    left: int
    held: int  # places of comparisons that are held back

    @property
    def purpose_label(self) -> str:
        return str(Purpose(self.purpose).label)


def remaining(project: Project) -> list[Remaining]:
    """The newest round first.

    One pass over the project's comparisons: a counter, or an index on `taken`, would cost every
    vote something. A pass that takes a while is not repeated before a hundred times that while.
    """
    key = f"annotator.remaining.{project.pk}"
    known: list[Remaining] | None = cache.get(key)
    if known is not None:
        return known
    start = time.monotonic()
    is_held = ~Q(hold="")
    groups = (
        project.comparisons.exclude(purpose=Purpose.GOLD)  # they are never done
        .order_by()
        .values("round_number", "purpose")
        .annotate(
            n=Count("pk"),
            n_taken=Sum("taken"),
            n_left=Sum(F("overlap") - F("taken"), filter=~is_held, default=0),
            n_held=Sum(F("overlap") - F("taken"), filter=is_held, default=0),
        )
        .order_by("-round_number", "purpose")
    )
    found = [
        Remaining(
            row["round_number"], row["purpose"], row["n"], row["n_taken"], row["n_left"],
            row["n_held"],
        )
        for row in groups
    ]  # fmt: skip
    if (seconds := time.monotonic() - start) > WORTH_KEEPING:
        cache.set(key, found, timeout=int(100 * seconds))
    return found


# --- the forecast ---------------------------------------------------------------------------------------
class Forecast(NamedTuple):
    """In how many days all is done. Eight times in ten it is between `low` and `high`, if the
    days to come are like those behind."""

    per_day: float
    days: float
    low: float
    high: float | None  # None: more than ten years


def history(days: Sequence[Day]) -> list[int]:
    """Votes of the whole days to forecast from: since the first vote, today left out."""
    votes = [day.votes for day in days[:-1]][-FORECAST_DAYS:]
    while votes and not votes[0]:
        votes.pop(0)
    return votes


def forecast(left: int, votes: Sequence[int]) -> Forecast | None:
    """From the votes of whole days; None if these are too few to say anything.

    The mean of the d days to come differs from that of the n days behind by t · s · √(1/n + 1/d),
    with s the standard deviation between days: the prediction interval of a mean.
    """
    if len(votes) < FEWEST_DAYS or sum(votes) < FEWEST_VOTES:
        return None
    mean = fmean(votes)
    days = left / mean
    spread = T_90[len(votes) - FEWEST_DAYS] * stdev(votes)
    half = spread * math.sqrt(1 / len(votes) + 1 / max(days, 1))
    slowest = mean - half
    is_endless = slowest <= 0 or left / slowest > LONGEST_FORECAST
    return Forecast(mean, days, left / (mean + half), None if is_endless else left / slowest)


# --- who is at it now ---------------------------------------------------------------------------------
def live(project: Project) -> QuerySet[Assignment]:
    """What is on people's screens, who got it first first: at most one row per person."""
    return (
        Assignment.objects.filter(
            project=project, state=AssignmentState.LIVE, lease_until__gt=timezone.now()
        )
        .select_related("annotator", "comparison__prompt")
        .order_by("created", "pk")
    )
