"""The queue: who is handed which comparison, and what becomes of the verdict.

A comparison has `overlap` places. A live assignment holds one, a judgment that counts keeps it, a
skip, an expired lease or a release gives it back. `Comparison.taken` counts the places in use; it
moves only here, in the same transaction as the row that explains it, and the database refuses to
let it pass `overlap`. Known answers and repetitions take no place.

The same code runs on SQLite, where transactions that write exclude one another, and on PostgreSQL,
where locked rows are skipped.
"""

from __future__ import annotations

import enum
import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Exists, F, Max, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.utils import timezone

from annotator.ballots import Entered, entered_by, keep
from annotator.compiled import Changes, compiled, compiled_update, insert
from annotator.gold import find_gold, has_failed, is_qualifying, settle_qualification
from annotator.models import (
    COUNTED,
    HANDLED,
    IN_HAND,
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Judgment,
    Membership,
    Message,
    Project,
    Purpose,
    QueueOrder,
    User,
    Verdict,
    canonical_key,
)
from annotator.protocols import (
    Protocol,
    Said,
    check,
    check_spans,
    picks_best,
    protocol_of,
    protocol_shown,
)
from annotator.webhooks.outbox import tell_judgment

ATTEMPTS = 5  # of a claim that loses races, each of them to another tab of the same person
COUNT_LIMIT = 1000  # nobody needs to know exactly how many more there are
COUNT_EVERY = 10  # verdicts: others may have taken some of them meanwhile
TOTAL = re.compile(r"([0-9]{1,9})(\+?)")
SWEEP_LIMIT = 50  # expired leases given back, and holds ended, at once
REPEAT_AFTER = 20  # judgments at least between a verdict and its repetition
REPEAT_AMONG = 100  # judgments before those of which one is repeated
VOID_BATCH = 500  # judgments voided in one transaction: others must not wait long for the locks
UNDO_LIMIT = 20  # verdicts taken back one after the other; older ones are changed in the history


class NotRecorded(Exception):
    """The verdict could not be counted. The message is a sentence for the annotator."""


class NotHandedOut(Exception):
    """The comparison has no place for the annotator any more. The message is a sentence."""


class NotUndone(Exception):
    """The last verdict could not be taken back. The message is a sentence for the annotator."""


class NotMoved(Exception):
    """The comparison stays with whom it is. The message is a sentence for the admin."""


class _QuotaReached(Exception):
    """Takes back what a claim has begun."""


# --- handing out ------------------------------------------------------------------------------
def claim(project: Project, annotator: User, *, has_judged: bool = False) -> Assignment | None:
    """The comparison the annotator holds in this project, or the next one for them, or None.

    The lease of what comes back is fresh. None means that there is nothing for them right now;
    `queue_state` says why. Who `has_judged` what they held is not expected to hold anything.
    """
    membership = membership_of(project, annotator)
    if not _may_judge(project, annotator, membership):
        return None
    is_practice = is_qualifying(project, membership)
    for attempt in range(ATTEMPTS):
        try:
            is_looked_for = attempt > 0 or not has_judged
            if is_looked_for and (held := _in_hand(project, annotator)):
                if _take_up(held):
                    return held
                continue  # it has just been answered, given back or taken up in another tab
            if project.paused:
                return None
            found = None
            if not is_practice:
                # Without a lock in hand, because whoever is done looks through the whole queue.
                found = _find_next(project, annotator)
                if found is None:
                    if release_expired(project) + end_holds(project):
                        continue
                    return None
            with transaction.atomic():
                if found and attempt > 0:
                    # Others were faster: now one that nobody can take away. Not in the transaction
                    # that came too late, which may still hold a lock on what it did not get.
                    found = _lock_next(project, annotator)
                    if found is None:
                        continue
                assignment = _hand_out_next(project, annotator, membership, found)
            if assignment or is_practice:
                return assignment
        except IntegrityError:
            continue  # the same person claimed in another tab, or clicked twice: it is held now
        except _QuotaReached:
            return None
    return None


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
    return _may_judge(project, annotator, membership_of(project, annotator))


def _may_judge(project: Project, annotator: User, membership: Membership | None) -> bool:
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


def _in_hand(project: Project, annotator: User) -> Assignment | None:
    """What is live, or else what waits for the annotator; while the project is paused only the former."""
    mine = Assignment.objects.filter(IN_HAND, project=project, annotator=annotator)
    found = mine.order_by("state", "pk").first()  # "live" before "waiting"
    if found:
        found.project, found.annotator = project, annotator
    is_new = found is not None and found.state == AssignmentState.WAITING
    return None if is_new and project.paused else found


def _take_up(assignment: Assignment) -> bool:
    """Start the lease of what is live, or of what waits; False if it is neither any more."""
    if assignment.state == AssignmentState.LIVE:
        return renew(assignment)
    now, lease_until = timezone.now(), _lease_end(assignment.project)
    waiting = Assignment.objects.filter(pk=assignment.pk, state=AssignmentState.WAITING)
    with transaction.atomic():  # it fails if something else has become live meanwhile
        if not waiting.update(state=AssignmentState.LIVE, created=now, lease_until=lease_until):
            return False
    assignment.refresh_from_db(fields=["state", "created", "lease_until"])
    return True


def _hand_out_next(
    project: Project, annotator: User, membership: Membership | None, found: Comparison | None
) -> Assignment | None:
    """In a transaction. Raises _QuotaReached if the annotator may judge no more."""
    comparison, is_repeat = _choose(project, annotator, found)
    if comparison is None:
        return None
    assignment = _hand_out(comparison, annotator, is_repeat)
    if assignment is None:
        return None
    # Asked last: the new row has waited for whatever this person was doing in another tab.
    if membership is not None and quota_reached(membership):
        raise _QuotaReached
    return assignment


def _choose(
    project: Project, annotator: User, found: Comparison | None
) -> tuple[Comparison | None, bool]:
    """What to ask next, and whether it is a repetition: a known answer or something they have
    judged before in the shares that the project says, if there is any, else what was `found` open.
    Nothing is looked for where somebody qualifies."""
    if found is None:
        return find_gold(project, annotator), False
    extra = project.gold_percent + project.repeat_percent
    lot = random.random() * 100 if extra else 100.0
    if lot < project.gold_percent and (known := find_gold(project, annotator)):
        return known, False
    if project.gold_percent <= lot < extra and (old := _find_old(project, annotator)):
        return old, True
    return found, False


def _find_old(project: Project, annotator: User) -> Comparison | None:
    """One that this person judged a while ago, and has not been asked again."""
    again = Assignment.objects.filter(
        HANDLED, comparison=OuterRef("comparison"), annotator=annotator, is_repeat=True
    )
    mine = Judgment.objects.filter(project=project, annotator=annotator, is_repeat=False)
    rows = (
        mine.filter(voided=None)
        .order_by("-created")
        .values_list("comparison_id", "verdict", "comparison__purpose", "comparison__hold")
        .annotate(is_again=Exists(again))
    )
    # What suits is chosen here: a condition in the query would look through all they ever judged.
    pks = [
        pk
        for pk, verdict, purpose, hold, is_again in rows[REPEAT_AFTER : REPEAT_AFTER + REPEAT_AMONG]
        if verdict in COUNTED and purpose != Purpose.GOLD and not hold and not is_again
    ]
    if not pks:
        return None
    return Comparison.objects.select_related("prompt", "project").get(pk=random.choice(pks))


def _open_for(project: Project | int, annotator: User | int) -> QuerySet[Comparison]:
    """In the order of the partial index, without which SQLite would read the closed ones too; from
    its end, which people who are asked in an order handle last."""
    queue = Comparison.objects.open().filter(project=project)
    return queue.order_by("priority", "-place", "-draw").not_handled_by(annotator)


def _has_open(project: Project, annotator: User) -> bool:
    return bool(_open_for(project, annotator).values_list("pk")[:1])


def _lock_next(project: Project, annotator: User) -> Comparison | None:
    """The next comparison for the annotator, locked until the transaction ends. Rows that others hold
    locked are passed over."""
    comparison = _find_next(project, annotator, Lock.FREE_ONES)
    if comparison is None and connection.features.has_select_for_update_skip_locked:
        # What is left may be locked for a moment by people who take one of several places each:
        # wait for them before saying that there is nothing.
        comparison = _find_next(project, annotator, Lock.ALL)
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


def _find_next(project: Project, annotator: User, lock: Lock = Lock.NONE) -> Comparison | None:
    """Goes through the priorities from the highest. Within one, comparisons are drawn: it starts
    at a random place of the index and wraps around, so that annotators rarely meet. Those that
    have a place in the order of questions follow, or come before the drawn ones, from where the
    annotator is. All are ranges of the index, so the cost does not grow with the queue.
    """
    start = random.random()
    drawn = [(Part.DRAWN_FROM, start), (Part.DRAWN_BEFORE, start)]
    last = _last_place(project, annotator)
    ordered = [(Part.PLACED, 0.0)]
    if last is not None:
        ordered = [(Part.PLACED_AFTER, last), (Part.PLACED_UP_TO, last)]
    parts = ordered + drawn if _asks_in_order(project) else drawn + ordered
    found = _first_of(project, annotator, parts, lock)
    if found is not None:
        found.project = project
    return found


def _first_of(
    project: Project, annotator: User, parts: Sequence[tuple[Part, float]], lock: Lock
) -> Comparison | None:
    # Nearly all claims need no other priority than the highest.
    for part, edge in parts:
        if part == Part.PLACED:
            found = _placed_of_highest(project.pk, annotator.pk, lock=lock)
        else:
            found = _part_of_highest(project.pk, annotator.pk, edge, part=part, lock=lock)
        if found:
            return found[0]
    for priority in _lower_priorities(project):
        for part, edge in parts:
            level = _part(project.pk, annotator.pk, edge, part, lock)
            if comparison := level.filter(priority=priority).first():
                return comparison
    return None


@compiled
def _part_of_highest(
    project: int, annotator: int, edge: float, *, part: Part, lock: Lock
) -> QuerySet[Comparison]:
    level = _part(project, annotator, edge, part, lock)
    return level.filter(priority=Subquery(_open_priorities(project)[:1]))[:1]


@compiled
def _placed_of_highest(project: int, annotator: int, *, lock: Lock) -> QuerySet[Comparison]:
    level = _part(project, annotator, 0.0, Part.PLACED, lock)
    return level.filter(priority=Subquery(_open_priorities(project)[:1]))[:1]


def _part(
    project: int, annotator: int, edge: float, part: Part, lock: Lock
) -> QuerySet[Comparison]:
    rows = _open_for(project, annotator).select_related("prompt").order_by("place", "draw")
    if lock != Lock.NONE:
        is_skipping = lock == Lock.FREE_ONES
        rows = rows.select_for_update(skip_locked=is_skipping, of=("self",), no_key=True)
    return rows.filter(
        {
            Part.DRAWN_FROM: Q(place=None, draw__gte=edge),
            Part.DRAWN_BEFORE: Q(place=None, draw__lt=edge),
            Part.PLACED: Q(place__isnull=False),
            Part.PLACED_AFTER: Q(place__gt=edge),
            Part.PLACED_UP_TO: Q(place__lte=edge),
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


def _last_place(project: Project, annotator: User) -> float | None:
    """Where this person is in the order. They have handled what comes before, but for the little that
    others have given back meanwhile: with `overlap` places each, all of it may still be open, and
    looking through it again at each claim would take longer and longer.
    """
    if project.queue_order == QueueOrder.DRAWN or project.ordered is None:
        return None
    asked = Judgment.objects.filter(
        project=project,
        annotator=annotator,
        # Not by the vote's own time: what was on somebody's screen when the order was made has its
        # place in the one before.
        assignment__created__gte=project.ordered,
        comparison__place__isnull=False,
    )
    return asked.order_by("-created").values_list("comparison__place", flat=True).first()


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


def _hand_out(
    comparison: Comparison, annotator: User, is_repeat: bool = False
) -> Assignment | None:
    """Take a place of the comparison, if it is one that is taken, and write down what is shown; None if
    others took the last."""
    showing = _drawn_showing(comparison, annotator)
    showing.is_repeat = is_repeat
    if showing.takes_place and _take_open_place(comparison.pk) != 1:
        return None
    if has_draft(protocol_of(comparison.project), len(showing.order)):
        _go_on_with_draft(showing)
    insert(showing)
    return showing


@compiled_update
def _take_open_place(comparison: int) -> tuple[QuerySet[Comparison], Changes]:
    return Comparison.objects.open().filter(pk=comparison), {"taken": F("taken") + 1}


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


def _drawn_showing(comparison: Comparison, annotator: User) -> Assignment:
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
        lease_until=_lease_end(comparison.project),
    )


@transaction.atomic
def hand_out(comparison: Comparison, annotator: User) -> Assignment:
    """Put this very comparison before this person; what they hold goes back to the queue.

    Raises NotHandedOut, and changes nothing, if it is full or held back, if they have handled it, or
    if they are handed nothing new: paused, not qualified, quota reached.
    """
    if not may_begin_real_work(comparison.project, annotator):
        raise NotHandedOut("You are handed nothing new at the moment: “Compare” says why.")
    if held := held_by(comparison.project, annotator):
        _lock_both(held.comparison_id, comparison.pk)
        release(held)
    free = Comparison.objects.open().not_handled_by(annotator)
    locked = free.select_for_update(of=("self",), no_key=True).filter(pk=comparison.pk).first()
    handed_out = _hand_out(locked, annotator) if locked else None
    if handed_out is None:
        raise NotHandedOut(
            "This comparison is kept for you no longer: others have answered it, or it is held back."
        )
    # Again, now that the new row has waited for whatever this person was doing in another tab.
    membership = membership_of(comparison.project, annotator)
    if membership is not None and quota_reached(membership):
        raise NotHandedOut("You have judged as many as you were asked for.")
    return handed_out


def _take_place(assignment: Assignment) -> bool:
    """Take one of the free places, if it needs one; False if there is none."""
    if not assignment.takes_place:
        return True
    comparison = Comparison.objects.filter(pk=assignment.comparison_id)
    return comparison.filter(taken__lt=F("overlap")).update(taken=F("taken") + 1) == 1


def _give_place_back(assignment: Assignment) -> None:
    if assignment.takes_place:
        Comparison.objects.filter(pk=assignment.comparison_id).update(taken=F("taken") - 1)


def _lease_end(project: Project) -> datetime:
    return timezone.now() + timedelta(minutes=project.lease_minutes)


# --- what is shown ----------------------------------------------------------------------------
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


# --- leases -----------------------------------------------------------------------------------
def renew(assignment: Assignment) -> bool:
    """Start the lease anew; False if the assignment is no longer live."""
    assignment.lease_until = _lease_end(assignment.project)
    live = Assignment.objects.filter(pk=assignment.pk, state=AssignmentState.LIVE)
    return live.update(lease_until=assignment.lease_until) == 1


def release(assignment: Assignment) -> bool:
    """Give the comparison back unanswered; False if the assignment was no longer in hand."""
    return _end(assignment, AssignmentState.RELEASED)


def release_all(project: Project, annotator: User) -> int:
    """Give back what is on the annotator's screen, and what waits for them."""
    in_hand = Assignment.objects.filter(IN_HAND, project=project, annotator=annotator)
    return sum(release(assignment) for assignment in in_hand.select_related("comparison"))


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
        in_hand = Assignment.objects.filter(IN_HAND, pk=assignment.pk)
        if in_hand.update(state=state) != 1:
            return False
        _give_place_back(assignment)
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


# --- to somebody else ---------------------------------------------------------------------------
WAITING_DAYS = 7  # that what was moved to somebody is kept for them


def move(assignment: Assignment, to: User) -> Assignment:
    """Take what is in somebody's hand, and keep it for `to`, who is handed it next. Raises NotMoved.

    The place goes along, so nobody else can take it in between.
    """
    project, comparison = assignment.project, assignment.comparison
    if to == assignment.annotator:
        raise NotMoved(f"{to} has it already.")
    if not assignment.takes_place:
        raise NotMoved("It was to be asked of this person only: it can be given back, not moved.")
    membership = membership_of(project, to)
    if not _may_judge(project, to, membership) or is_qualifying(project, membership):
        raise NotMoved(f"{to} is not handed comparisons here.")
    waiting = _drawn_showing(comparison, to)
    waiting.state = AssignmentState.WAITING
    waiting.lease_until = timezone.now() + timedelta(days=WAITING_DAYS)
    try:
        with transaction.atomic():
            in_hand = Assignment.objects.filter(IN_HAND, pk=assignment.pk)
            if in_hand.update(state=AssignmentState.RELEASED) != 1:
                raise NotMoved(f"{assignment.annotator} no longer has it: it was answered or left.")
            waiting.save()
    except IntegrityError:
        raise NotMoved(f"{to} has it already, or has answered or skipped it.") from None
    return waiting


# --- verdicts ---------------------------------------------------------------------------------
def record(
    assignment: Assignment,
    verdict: Verdict,
    ranking: Sequence[Sequence[int]] = (),
    *,
    payload_hash: str,
    seconds: float | None = None,
    strength: int | None = None,
    criteria: dict[str, dict[str, Any]] | None = None,
    rationale: str = "",
    reasons: Sequence[str] = (),
    flags: dict[str, list[str]] | None = None,
    spans: Sequence[dict[str, Any]] = (),
    rewrite: str = "",
) -> Judgment:
    """Write the annotator's verdict down, exactly once.

    `ranking` lists tie groups of completion ids, best first; it is empty for other verdicts. The
    rest is as in `Judgment`, and must be what the protocol of this showing asks for.
    Sending a verdict again, by a double click or from a second tab, gives back the judgment that
    stands. A lease that ran out is no harm as long as nobody took the place. Raises NotRecorded.
    """
    said = Said(
        verdict=verdict,
        ranking=[list(group) for group in ranking],
        strength=strength,
        criteria=criteria or {},
        rationale=rationale,
        reasons=list(reasons),
        flags=flags or {},
        spans=list(spans),
        rewrite=rewrite,
    )
    _check(assignment, said, payload_hash)
    skipped = verdict == Verdict.SKIPPED
    with transaction.atomic():
        # Locked: a verdict that is on its way is recorded before a withdrawal begins, or not at all.
        # And first of all, so that two tabs of one person do not wait for each other.
        membership = membership_of(assignment.project, assignment.annotator, lock=True)
        was_live = _end_showing(assignment.pk, skipped=skipped, live_only=True) == 1
        if not was_live:
            locked = Assignment.objects.select_for_update(no_key=True).filter(pk=assignment.pk)
            assignment.state = locked.values_list("state", flat=True).get()
            if assignment.state in (AssignmentState.JUDGED, AssignmentState.SKIPPED):
                return assignment.judgments.get(voided=None)
        if not _may_judge(assignment.project, assignment.annotator, membership):
            raise NotRecorded(f"You no longer judge comparisons in {assignment.project}.")
        if not was_live:
            _revive(assignment, membership)
            _end_showing(assignment.pk, skipped=skipped, live_only=False)
        if skipped:
            _give_place_back(assignment)
        elapsed = (timezone.now() - assignment.created).total_seconds()
        judgment = Judgment(
            assignment_id=assignment.pk,
            comparison_id=assignment.comparison_id,
            is_repeat=assignment.is_repeat,
            project_id=assignment.project_id,
            annotator_id=assignment.annotator_id,
            **said,
            strength_of=_strength_of(assignment, said),
            seconds=elapsed if seconds is None else seconds,
            guideline_version=assignment.guideline_version,
        )
        insert(judgment)
        tell_judgment(judgment, assignment)
        if assignment.comparison.purpose == Purpose.GOLD:
            settle_qualification(assignment.project, assignment.annotator)
            assignment.annotator.seen_membership = None  # it may have changed
        return judgment


@compiled_update
def _end_showing(
    pk: int, *, skipped: bool, live_only: bool
) -> tuple[QuerySet[Assignment], Changes]:
    """What had been entered before a skip stays: an undo brings it back."""
    showing = Assignment.objects.filter(pk=pk)
    if live_only:
        showing = showing.filter(state=AssignmentState.LIVE)
    if skipped:
        return showing, {"state": AssignmentState.SKIPPED}
    return showing, {"state": AssignmentState.JUDGED, "draft": {}}


def _check(assignment: Assignment, said: Said, payload: str) -> None:
    if payload != assignment.payload_hash:
        raise NotRecorded("This verdict is about another text than the one you were shown.")
    ranking = said["ranking"]
    if said["verdict"] != Verdict.RANKING and ranking:
        raise NotRecorded("Only a ranking ranks the answers.")
    if said["verdict"] == Verdict.RANKING:
        ranked = sorted(pk for group in ranking for pk in group)
        if ranked != sorted(assignment.order) or not all(ranking):
            raise NotRecorded("Every answer must be ranked exactly once.")
    try:
        check(protocol_shown(assignment), assignment.order, said)
        if said["spans"]:
            lengths = {completion.pk: len(completion.text) for completion in shown(assignment)}
            check_spans(said["spans"], lengths)
    except ValueError as error:
        raise NotRecorded(str(error)) from error


def _revive(assignment: Assignment, membership: Membership | None) -> None:
    """Take a place for an assignment that gave its own back. Raises NotRecorded if none is free."""
    if assignment.state == AssignmentState.WITHDRAWN:
        raise NotRecorded("You took this verdict back; the comparison was handed to you anew.")
    handled = Assignment.objects.filter(
        HANDLED,
        comparison=assignment.comparison_id,
        annotator=assignment.annotator_id,
        is_repeat=assignment.is_repeat,
    )
    if handled.exists():
        raise NotRecorded("You were handed this comparison a second time; answer it there.")
    if not _take_place(assignment):
        raise NotRecorded(
            "This comparison was no longer kept for you, and others have answered it meanwhile."
        )
    # In this order, as in a claim: first the place, then what is live. Else two could wait for each
    # other.
    if membership is not None and membership.has_quota:
        _check_quota_of_late(assignment, membership)


def _check_quota_of_late(assignment: Assignment, membership: Membership) -> None:
    """It must be what is on the screen, like any other: as there is only one such at a time, no
    claim in another tab can use up the last of a quota together with this."""
    try:
        with transaction.atomic():
            Assignment.objects.filter(pk=assignment.pk).update(state=AssignmentState.LIVE)
    except IntegrityError:
        raise NotRecorded(
            "This comparison was no longer kept for you, and you were handed another one."
        ) from None
    if quota_reached(membership):
        raise NotRecorded("This comparison was no longer kept for you, and your quota is reached.")


def last_judgment(project: Project, annotator: User) -> Judgment | None:
    """The annotator's last verdict, or skip, in force: the one that an undo takes back."""
    return _in_force(project, annotator).first()


def _in_force(project: Project, annotator: User) -> QuerySet[Judgment]:
    """The last one first."""
    in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    return in_force.order_by("-created", "-pk")


def undo_last(
    project: Project, annotator: User, *, judgment_id: int | None = None
) -> Assignment | None:
    """Take back the annotator's last verdict, or skip, and hand them that comparison again.

    They see it as before, in the same order; what they hold now goes back to the queue. None if
    there is nothing to undo, or if the last one is not `judgment_id`: a request that comes twice
    takes back one verdict. Raises NotUndone, and changes nothing, if a skipped comparison has no
    place left, or if the last UNDO_LIMIT are taken back already.
    """
    membership = membership_of(project, annotator)
    if not _may_judge(project, annotator, membership):
        return None
    with transaction.atomic():
        last = (
            _in_force(project, annotator)
            .select_for_update(of=("self",), no_key=True)
            .select_related("assignment__comparison__prompt", "assignment__comparison__project")
            .first()
        )
        if last is None or judgment_id not in (None, last.pk):
            return None
        if _taken_back_since(last) >= UNDO_LIMIT:
            raise NotUndone(
                f"{UNDO_LIMIT} verdicts are taken back: no more at once. "
                "Answer these first; older ones can be changed under My votes."
            )
        comparison = last.assignment.comparison
        if is_of_qualification(last, membership):
            raise NotUndone("The verdicts of a qualification cannot be taken back.")
        if held := held_by(project, annotator):
            _lock_both(held.comparison_id, comparison.pk)
            release(held)
        if last.verdict not in COUNTED and not _take_place(last.assignment):
            raise NotUndone("Others have answered the comparison that you skipped.")
        Judgment.objects.filter(pk=last.pk).update(voided=timezone.now())
        Assignment.objects.filter(pk=last.assignment_id).update(state=AssignmentState.WITHDRAWN)
        return _show_again(last.assignment, _said_again(last))


def _show_again(assignment: Assignment, draft: dict[str, list[str]]) -> Assignment:
    """The same answers in the same order, as a new showing."""
    comparison, project = assignment.comparison, assignment.comparison.project
    return Assignment.objects.create(
        comparison=comparison,
        project=project,
        annotator_id=assignment.annotator_id,
        order=assignment.order,
        payload_hash=payload_hash(comparison, assignment.order),
        is_repeat=assignment.is_repeat,
        protocol=project.protocol,
        draft=draft,
        guideline_version=project.guideline_version,
        lease_until=_lease_end(project),
    )


def is_of_qualification(judgment: Judgment, membership: Membership | None) -> bool:
    """Given before it was decided: what was right may have been shown."""
    if membership is None or judgment.comparison.purpose != Purpose.GOLD:
        return False
    is_before = judgment.created <= membership.qualification_changed
    return is_before or is_qualifying(judgment.project, membership)


def _said_again(judgment: Judgment) -> dict[str, list[str]]:
    """The draft that says the same, as far as the project still asks for it; of a skip, what had been
    entered before it."""
    protocol, order = protocol_of(judgment.comparison.project), judgment.assignment.order
    if not has_draft(protocol, len(order)):
        return {}
    if judgment.verdict == Verdict.SKIPPED:
        return keep(judgment.assignment.draft, protocol, len(order))
    draft = entered_by(judgment, protocol, order)
    if picks_best(judgment.assignment):  # whoever picked one has not ranked the others
        draft = {name: said for name, said in draft.items() if not name.startswith("rank-")}
    return draft


def _taken_back_since(last: Judgment) -> int:
    """On how many comparisons later verdicts than `last`, now the last one in force, are void."""
    later = Judgment.objects.filter(
        project_id=last.project_id, annotator_id=last.annotator_id, created__gt=last.created
    )
    return later.values("comparison").distinct().count()


def correct(
    judgment: Judgment, said: Said, *, payload_hash: str, seconds: float | None = None
) -> Judgment:
    """Put something else in the place of `judgment`, which stays on record, voided: what comes back
    supersedes it.

    Sent twice, it gives back the correction that stands. Exports that are frozen keep the old one.
    Raises NotRecorded, and changes nothing, if the verdict has been taken back or changed to
    something else meanwhile, or if what was skipped has no place left.
    """
    assignment = judgment.assignment
    _check(assignment, said, payload_hash)
    with transaction.atomic():
        # First of all, as in `record`: two tabs of one person do not wait for each other.
        membership = membership_of(judgment.project, judgment.annotator, lock=True)
        judgment = (
            Judgment.objects.select_for_update(of=("self",), no_key=True)
            .select_related("project", "annotator")
            .get(pk=judgment.pk)
        )
        if judgment.voided:
            return _same_correction(judgment, said)
        if not _may_judge(judgment.project, judgment.annotator, membership):
            raise NotRecorded(f"You no longer judge comparisons in {judgment.project}.")
        counts_more = judgment.verdict not in COUNTED and said["verdict"] in COUNTED
        if counts_more and membership is not None and quota_reached(membership):
            raise NotRecorded("You have judged as many as you were asked for: this stays a skip.")
        if is_of_qualification(judgment, membership):
            raise NotRecorded("The verdicts of a qualification cannot be changed.")
        _move_place(judgment, said["verdict"])
        skipped = said["verdict"] == Verdict.SKIPPED
        state = AssignmentState.SKIPPED if skipped else AssignmentState.JUDGED
        Assignment.objects.filter(pk=assignment.pk).update(state=state, draft={})
        Judgment.objects.filter(pk=judgment.pk).update(voided=timezone.now())
        correction = Judgment.objects.create(
            assignment=assignment,
            comparison_id=judgment.comparison_id,
            project_id=judgment.project_id,
            annotator_id=judgment.annotator_id,
            is_repeat=judgment.is_repeat,
            supersedes=judgment,
            **said,
            strength_of=_strength_of(assignment, said),
            seconds=seconds,
            guideline_version=judgment.project.guideline_version,  # it is said under these
        )
        tell_judgment(correction, assignment)
        return correction


def _same_correction(judgment: Judgment, said: Said) -> Judgment:
    """The one that stands in the place of `judgment` and says this. Raises NotRecorded."""
    correction = Judgment.objects.filter(supersedes=judgment, voided=None).first()
    if correction and said == {name: getattr(correction, name) for name in said}:
        return correction
    raise NotRecorded("You have changed this verdict or taken it back meanwhile.")


def _strength_of(assignment: Assignment, said: Said) -> int | None:
    return None if said["strength"] is None else len(protocol_shown(assignment).strengths)


def _move_place(judgment: Judgment, verdict: Verdict) -> None:
    """A skip that becomes a verdict takes a place, and the other way round. Raises NotRecorded."""
    had_place, needs_place = judgment.verdict in COUNTED, verdict in COUNTED
    if had_place == needs_place:
        return
    if had_place:
        _give_place_back(judgment.assignment)
    elif not _take_place(judgment.assignment):
        raise NotRecorded("Others have answered the comparison that you skipped.")


def _lock_both(*comparison_ids: int) -> None:
    """In one order for everybody: two people who undo at once must not wait for each other."""
    both = Comparison.objects.filter(pk__in=comparison_ids).order_by("pk")
    list(both.select_for_update(no_key=True).values_list("pk"))


# --- drafts -------------------------------------------------------------------------------------
def has_draft(protocol: Protocol, n: int) -> bool:
    """Whether there is anything to enter before the verdict is sent."""
    return protocol.asks_more or (n > 2 and protocol.many == "ranking")


def save_draft(assignment: Assignment, entered: Entered) -> bool:
    """Keep what was entered until it is sent, also if the lease has run out; False if a verdict has
    been given. Of two devices the last one to write wins.
    """
    draft = keep(entered, protocol_shown(assignment), len(assignment.order))
    unsent = [AssignmentState.LIVE, AssignmentState.EXPIRED, AssignmentState.RELEASED]
    row = Assignment.objects.filter(pk=assignment.pk, state__in=unsent)
    return row.update(draft=draft) == 1


# --- where the annotator stands -----------------------------------------------------------------
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
    left = _open_for(project, annotator)[:COUNT_LIMIT].count()
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
        _may_judge(project, annotator, membership)
        and not is_qualifying(project, membership)
        and not project.paused
        and (membership is None or quota_reached(membership) is None)
    )


def queue_state(project: Project, annotator: User) -> QueueState:
    membership = membership_of(project, annotator)
    if has_failed(project, membership):
        return QueueState("qualification_failed")
    if not _may_judge(project, annotator, membership):
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
    if _in_hand(project, annotator) or _has_open(project, annotator):
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


# --- withdrawing somebody ---------------------------------------------------------------------
def void_some(project: Project, annotator: User) -> int:
    """Void up to VOID_BATCH of this person's judgments in force, and give their places back.

    How many were voided; 0 when none is left. The rows stay, and so does what they say. Skips and
    repeats are voided as well, but hold no place. What is on the person's screen is not touched.
    """
    with transaction.atomic():
        in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
        # In the order of the index of those in force: of many thousands, nothing is sorted.
        batch = list(in_force.order_by("verdict").select_for_update(no_key=True)[:VOID_BATCH])
        # At most one of them per comparison: `one_judgment_in_force`.
        holding = [
            judgment.comparison_id
            for judgment in batch
            if judgment.verdict in COUNTED and not judgment.is_repeat
        ]
        # In the order in which an undo locks two of them: neither waits for the other.
        comparisons = Comparison.objects.filter(pk__in=holding).exclude(purpose=Purpose.GOLD)
        list(comparisons.order_by("pk").select_for_update(no_key=True).values_list("pk"))
        comparisons.update(taken=F("taken") - 1)
        Judgment.objects.filter(pk__in=[row.pk for row in batch]).update(voided=timezone.now())
        Assignment.objects.filter(pk__in=[row.assignment_id for row in batch]).update(
            state=AssignmentState.WITHDRAWN
        )
    return len(batch)
