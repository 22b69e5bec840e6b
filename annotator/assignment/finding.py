"""Which open comparison comes next for an annotator. Nothing is taken here."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator, Sequence

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Abs, Coalesce

from annotator.compiled import compiled
from annotator.gold import known_answers_for
from annotator.models import (
    COUNTED,
    HANDLED,
    Assignment,
    Comparison,
    ComparisonQuerySet,
    Judgment,
    Project,
    Purpose,
    QueueOrder,
    User,
)

REPEAT_AFTER = 20  # judgments at least between a verdict and its repetition
REPEAT_AMONG = 100  # judgments before those of which one is repeated
BEFORE_ALL = -1e300  # a place that is lower than any


def known_answer(project: Project, annotator: User) -> Subquery:
    """The number of a known answer for this person."""
    return Subquery(known_answers_for(project, annotator).values("pk")[:1])


def something_old(project: Project, annotator: User) -> Subquery:
    """The number of a comparison that this person judged a while ago, and has not been asked again: the
    nearest to a random point."""
    mine = Judgment.objects.filter(
        project=project, annotator=annotator, is_repeat=False, voided=None
    )
    # The rest is asked of these alone: else it would look through all they ever judged.
    a_while_ago = mine.order_by("-created").values("pk")[REPEAT_AFTER : REPEAT_AFTER + REPEAT_AMONG]
    again = Assignment.objects.filter(
        HANDLED, comparison=OuterRef("comparison"), annotator=annotator, is_repeat=True
    )
    suits = Judgment.objects.filter(
        ~Exists(again), pk__in=a_while_ago, verdict__in=COUNTED, comparison__hold=""
    ).exclude(comparison__purpose=Purpose.GOLD)
    from_there = Abs(F("comparison__draw") - random.random())
    return Subquery(suits.order_by(from_there).values("comparison")[:1])


def find_extra(found: Comparison, annotator: User) -> Comparison | None:
    """What was looked for beside this one; None if there was no such thing."""
    if found.extra is None:
        return None
    rows = Comparison.objects.filter(pk=found.extra).select_related("prompt", "project")
    return rows.with_begun(annotator).first()


def open_for(project: Project | int, annotator: User | int) -> ComparisonQuerySet:
    """In the order of the partial index, without which SQLite would read the closed ones too; from
    its end, which people who are asked in an order handle last."""
    queue = Comparison.objects.open().filter(project=project)
    return queue.order_by("priority", "-place", "-draw").not_handled_by(annotator)


def has_open(project: Project, annotator: User) -> bool:
    return bool(open_for(project, annotator).values_list("pk")[:1])


def lock_next(project: Project, annotator: User) -> Comparison | None:
    """The next comparison for the annotator, locked until the transaction ends. Rows that others hold
    locked are passed over."""
    comparison = find_next(project, annotator, Lock.FREE_ONES)
    if comparison is None and connection.features.has_select_for_update_skip_locked:
        # What is left may be locked for a moment by people who take one of several places each:
        # wait for them before saying that there is nothing.
        comparison = find_next(project, annotator, Lock.ALL)
    return comparison


class Lock(enum.Enum):
    NONE = enum.auto()
    FREE_ONES = enum.auto()  # rows that others hold locked are passed over
    ALL = enum.auto()  # and those are waited for


class Part(enum.Enum):
    """Of what is open at one priority: ranges of the index, before or after an edge."""

    DRAWN_FROM = enum.auto()
    DRAWN_BEFORE = enum.auto()
    PLACED = enum.auto()
    PLACED_AFTER = enum.auto()
    PLACED_UP_TO = enum.auto()


def find_next(
    project: Project,
    annotator: User,
    lock: Lock = Lock.NONE,
    *,
    extra: Subquery | None = None,
) -> Comparison | None:
    """Goes through the priorities from the highest. Within one, comparisons are drawn: it starts
    at a random place of the index and wraps around, so that annotators rarely meet. Those that
    have a place in the order of questions follow, or come before the drawn ones, from where the
    annotator is. All are ranges of the index, so the cost does not grow with the queue.

    What may be asked in its place, `extra`, is looked for in the same query: in vain it costs none.
    """
    start = random.random()
    drawn = [Part.DRAWN_FROM, Part.DRAWN_BEFORE]
    placed = [Part.PLACED]
    if project.queue_order != QueueOrder.DRAWN and project.ordered is not None:
        placed = [Part.PLACED_AFTER, Part.PLACED_UP_TO]
    parts = placed + drawn if _asks_in_order(project) else drawn + placed
    found = _first_of(project, annotator, parts, start, lock, extra)
    if found is not None:
        found.project = project
    return found


def _first_of(
    project: Project,
    annotator: User,
    parts: Sequence[Part],
    start: float,
    lock: Lock,
    extra: Subquery | None,
) -> Comparison | None:
    # Nearly all claims need no other priority than the highest.
    for part in parts:
        if extra is not None:
            level = _part(project.pk, annotator.pk, start, part, lock)
            found = list(_of_highest(project.pk, level.with_extra(extra)))
        elif part in (Part.DRAWN_FROM, Part.DRAWN_BEFORE):
            found = _drawn_of_highest(project.pk, annotator.pk, start, part=part, lock=lock)
        else:
            found = _placed_of_highest(project.pk, annotator.pk, part=part, lock=lock)
        if found:
            return found[0]
    for priority in _lower_priorities(project):
        for part in parts:
            level = _part(project.pk, annotator.pk, start, part, lock).with_extra(extra)
            if comparison := level.filter(priority=priority).first():
                return comparison
    return None


@compiled
def _drawn_of_highest(
    project: int, annotator: int, start: float, *, part: Part, lock: Lock
) -> QuerySet[Comparison]:
    return _of_highest(project, _part(project, annotator, start, part, lock))


@compiled
def _placed_of_highest(
    project: int, annotator: int, *, part: Part, lock: Lock
) -> QuerySet[Comparison]:
    return _of_highest(project, _part(project, annotator, 0.0, part, lock))


def _of_highest(project: int, level: QuerySet[Comparison]) -> QuerySet[Comparison]:
    return level.filter(priority=Subquery(_open_priorities(project)[:1]))[:1]


def _part(project: int, annotator: int, start: float, part: Part, lock: Lock) -> ComparisonQuerySet:
    rows = open_for(project, annotator).with_begun(annotator).with_waited_for(annotator)
    rows = rows.select_related("prompt").order_by("place", "draw")
    if lock != Lock.NONE:
        is_skipping = lock == Lock.FREE_ONES
        rows = rows.select_for_update(skip_locked=is_skipping, of=("self",), no_key=True)
    return rows.filter(
        {
            Part.DRAWN_FROM: Q(place=None, draw__gte=start),
            Part.DRAWN_BEFORE: Q(place=None, draw__lt=start),
            Part.PLACED: Q(place__isnull=False),
            Part.PLACED_AFTER: Q(place__gt=_last_place(project, annotator)),
            Part.PLACED_UP_TO: Q(place__lte=_last_place(project, annotator)),
        }[part]
    )


def _open_priorities(project: int) -> QuerySet[Comparison, int]:
    queue = Comparison.objects.open().filter(project=project).order_by("-priority")
    return queue.values_list("priority", flat=True)


def _lower_priorities(project: Project) -> Iterator[int]:
    """Of what is open, from the second on."""
    priorities = _open_priorities(project.pk)
    lower = priorities.first()
    while lower is not None:
        lower = priorities.filter(priority__lt=lower).first()
        if lower is not None:
            yield lower


def _asks_in_order(project: Project) -> bool:
    """Whether this claim looks into the active arm first: all but the random arm's share do."""
    if project.queue_order == QueueOrder.DRAWN:
        return False
    return random.random() * 100 >= project.random_percent


def _last_place(project: int, annotator: int) -> Coalesce:
    """Where this person is in the order, for a query. They have handled what comes before, but for the little that
    others have given back meanwhile: with `overlap` places each, all of it may still be open, and
    looking through it again at each claim would take longer and longer.
    """
    asked = Judgment.objects.filter(
        project=project,
        annotator=annotator,
        # Not by the vote's own time: what was on somebody's screen when the order was made has its
        # place in the one before.
        assignment__created__gte=F("project__ordered"),
        comparison__place__isnull=False,
    )
    last = asked.order_by("-created").values("comparison__place")[:1]
    return Coalesce(Subquery(last), Value(BEFORE_ALL))


@transaction.atomic
def forget_order(project: Project) -> None:
    """All comparisons are drawn again. What has been asked in the active arm stays there, for the
    report; what has not is in no arm any more, because it will not be asked in that order."""
    project.ordered = None
    project.save(update_fields=["ordered"])
    placed = project.comparisons.filter(place__isnull=False)
    # Locked in the order in which an undo locks two of them: neither waits for the other.
    list(placed.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    placed.filter(taken=0).update(arm="")
    placed.update(place=None)
