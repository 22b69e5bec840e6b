"""The queue: who is handed which comparison, and what becomes of the verdict.

A comparison has `overlap` places. A live assignment holds one, a judgment that counts keeps it, a
skip, an expired lease or a release gives it back. `Comparison.taken` counts the places in use; it
moves only here, in the same transaction as the row that explains it, and the database refuses to
let it pass `overlap`.

The same code runs on SQLite, where transactions that write exclude one another, and on PostgreSQL,
where locked rows are skipped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Min, Q, QuerySet
from django.utils import timezone

from annotator.ballots import Entered, entered_by, keep
from annotator.models import (
    COUNTED,
    Assignment,
    AssignmentState,
    Comparison,
    Completion,
    Judgment,
    Membership,
    Message,
    Project,
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

ATTEMPTS = 5  # of a claim that loses races, each of them to another tab of the same person
COUNT_LIMIT = 1000  # nobody needs to know exactly how many more there are
SWEEP_LIMIT = 50  # expired leases given back per claim
VOID_BATCH = 500  # judgments voided in one transaction: others must not wait long for the locks
UNDO_LIMIT = 20  # verdicts taken back one after the other; older ones are changed in the history


class NotRecorded(Exception):
    """The verdict could not be counted. The message is a sentence for the annotator."""


class NotHandedOut(Exception):
    """The comparison has no place for the annotator any more. The message is a sentence."""


class NotUndone(Exception):
    """The last verdict could not be taken back. The message is a sentence for the annotator."""


# --- handing out ------------------------------------------------------------------------------
def claim(project: Project, annotator: User) -> Assignment | None:
    """The comparison the annotator holds in this project, or the next one for them, or None.

    The lease of what comes back is fresh. None means that there is nothing for them right now;
    `queue_state` says why.
    """
    if not is_qualified(project, annotator):
        return None
    for _ in range(ATTEMPTS):
        if (held := held_by(project, annotator)) and renew(held):
            return held
        release_expired(project)
        if not _has_open(project, annotator):
            return None  # whoever is done looks through the whole queue: not with a lock in hand
        try:
            with transaction.atomic():
                comparison = _lock_next(project, annotator)
                return _hand_out(comparison, annotator) if comparison else None
        except IntegrityError:
            continue  # the same person claimed in another tab: it is held now
    return None


def is_qualified(project: Project, annotator: User, *, lock: bool = False) -> bool:
    """May this person judge here? Superusers may, unless a membership of theirs says otherwise.

    With `lock`, within a transaction: and nobody says otherwise until it ends.
    """
    memberships = Membership.objects.filter(project=project, user=annotator)
    if lock:
        memberships = memberships.select_for_update(no_key=True)
    membership = memberships.first()
    return membership.is_qualified if membership else annotator.is_superuser


def held_by(project: Project, annotator: User) -> Assignment | None:
    """The annotator's live assignment in the project. There is at most one."""
    return (
        Assignment.objects.select_related("comparison__prompt", "project")
        .filter(project=project, annotator=annotator, state=AssignmentState.LIVE)
        .first()
    )


def _open_for(project: Project, annotator: User) -> QuerySet[Comparison]:
    """In the order of the partial index, without which SQLite would read the closed ones too; from
    its end, which people who are asked in an order handle last."""
    queue = Comparison.objects.open().filter(project=project)
    return queue.order_by("priority", "-place", "-draw").not_handled_by(annotator)


def _has_open(project: Project, annotator: User) -> bool:
    return bool(_open_for(project, annotator).values_list("pk")[:1])


def _lock_next(project: Project, annotator: User) -> Comparison | None:
    """The next comparison for the annotator, locked until the transaction ends."""
    comparison = _find_next(project, annotator, wait=False)
    if comparison is None and connection.features.has_select_for_update_skip_locked:
        # What is left may be locked for a moment by people who take one of several places each:
        # wait for them before saying that there is nothing.
        comparison = _find_next(project, annotator, wait=True)
    return comparison


def _find_next(project: Project, annotator: User, *, wait: bool) -> Comparison | None:
    """Goes through the priorities from the highest. Within one, comparisons are drawn: it starts
    at a random place of the index and wraps around, so that annotators rarely meet. Those that
    have a place in the order of questions follow, or come before the drawn ones, from where the
    annotator is. All are ranges of the index, so the cost does not grow with the queue. Rows that others
    hold locked are passed over, unless `wait`.
    """
    candidates = (
        _open_for(project, annotator)
        .select_related("prompt", "project")
        .select_for_update(skip_locked=not wait, of=("self",), no_key=True)
    )
    start = random.random()
    drawn = [Q(place=None, draw__gte=start), Q(place=None, draw__lt=start)]
    last = _last_place(project, annotator)
    ordered = [Q(place__isnull=False)] if last is None else [Q(place__gt=last), Q(place__lte=last)]
    parts = ordered + drawn if _asks_in_order(project) else drawn + ordered
    priority = _highest_priority(project, below=None)
    while priority is not None:
        for part in parts:
            level = candidates.filter(part, priority=priority)
            if comparison := level.order_by("place", "draw").first():
                return comparison
        priority = _highest_priority(project, below=priority)
    return None


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


def _highest_priority(project: Project, below: int | None) -> int | None:
    queue = Comparison.objects.open().filter(project=project).order_by("-priority")
    if below is not None:
        queue = queue.filter(priority__lt=below)
    return queue.values_list("priority", flat=True).first()


def _hand_out(comparison: Comparison, annotator: User) -> Assignment:
    """Take a place of the locked comparison and write down what is shown."""
    order = list(comparison.entries.values_list("completion_id", flat=True))
    random.shuffle(order)
    Comparison.objects.filter(pk=comparison.pk).update(taken=F("taken") + 1)
    draft: dict[str, Any] = {}
    if has_draft(protocol_of(comparison.project), len(order)):
        order, draft = _begun(comparison, annotator) or (order, {})
    return _show(comparison, annotator, order, draft)


def _begun(comparison: Comparison, annotator: User) -> tuple[list[int], dict[str, Any]] | None:
    """Order and draft of an earlier showing to the same person, whose lease ran out: moved."""
    earlier = Assignment.objects.filter(comparison=comparison, annotator=annotator)
    begun = earlier.exclude(draft={}).order_by("-pk").first()
    if begun is None:
        return None
    Assignment.objects.filter(pk=begun.pk).update(draft={})
    return begun.order, begun.draft


def _show(
    comparison: Comparison, annotator: User, order: list[int], draft: dict[str, Any]
) -> Assignment:
    project = comparison.project
    return Assignment.objects.create(
        comparison=comparison,
        project=project,
        annotator=annotator,
        order=order,
        payload_hash=payload_hash(comparison, order),
        protocol=project.protocol,
        draft=draft,
        guideline_version=project.guideline_version,
        lease_until=_lease_end(project),
    )


@transaction.atomic
def hand_out(comparison: Comparison, annotator: User) -> Assignment:
    """Put this very comparison before this person; what they hold goes back to the queue.

    Raises NotHandedOut, and changes nothing, if it is full or they have handled it.
    """
    if held := held_by(comparison.project, annotator):
        _lock_both(held.comparison_id, comparison.pk)
        release(held)
    free = Comparison.objects.open().not_handled_by(annotator)
    locked = free.select_for_update(of=("self",), no_key=True).filter(pk=comparison.pk).first()
    if locked is None:
        raise NotHandedOut("Others have answered this comparison meanwhile.")
    return _hand_out(locked, annotator)


def _take_place(comparison_id: int) -> bool:
    """Take one of the free places; False if there is none."""
    free = Comparison.objects.open().filter(pk=comparison_id)
    return free.update(taken=F("taken") + 1) == 1


def _give_place_back(comparison_id: int) -> None:
    Comparison.objects.filter(pk=comparison_id).update(taken=F("taken") - 1)


def _lease_end(project: Project) -> datetime:
    return timezone.now() + timedelta(minutes=project.lease_minutes)


# --- what is shown ----------------------------------------------------------------------------
def shown(assignment: Assignment) -> list[Completion]:
    """The completions from left to right, as this annotator sees them."""
    found = Completion.objects.in_bulk(assignment.order)
    return [found[pk] for pk in assignment.order]


def payload_hash(comparison: Comparison, order: Sequence[int]) -> str:
    """Hash of the conversation and the answers in the order shown: what the verdict is about."""
    texts = dict(Completion.objects.filter(pk__in=order).values_list("pk", "text"))
    return hash_shown(comparison.prompt.messages, [(pk, texts[pk]) for pk in order])


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
    """Give the comparison back unanswered; False if the assignment was no longer live."""
    return _end(assignment.pk, assignment.comparison_id, AssignmentState.RELEASED)


def release_expired(project: Project) -> int:
    """Give back the places of leases that have run out. How many were given back."""
    expired = Assignment.objects.filter(
        project=project, state=AssignmentState.LIVE, lease_until__lt=timezone.now()
    ).order_by("lease_until")
    rows = list(expired.values_list("pk", "comparison_id")[:SWEEP_LIMIT])
    return sum(_end(*row, AssignmentState.EXPIRED) for row in rows)


def _end(assignment_id: int, comparison_id: int, state: AssignmentState) -> bool:
    """Leave the live state and give the place back: both, once, whoever else tries."""
    with transaction.atomic():
        live = Assignment.objects.filter(pk=assignment_id, state=AssignmentState.LIVE)
        if live.update(state=state) != 1:
            return False
        _give_place_back(comparison_id)
    return True


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
    with transaction.atomic():
        assignment = (
            Assignment.objects.select_for_update(of=("self",), no_key=True)
            .select_related("comparison", "project", "annotator")
            .get(pk=assignment.pk)
        )
        if assignment.state in (AssignmentState.JUDGED, AssignmentState.SKIPPED):
            return assignment.judgments.get(voided=None)
        # Locked: a verdict that is on its way is recorded before a withdrawal begins, or not at all.
        if not is_qualified(assignment.project, assignment.annotator, lock=True):
            raise NotRecorded(f"You no longer judge comparisons in {assignment.project}.")
        if assignment.state != AssignmentState.LIVE:
            _revive(assignment)
        skipped = verdict == Verdict.SKIPPED
        assignment.state = AssignmentState.SKIPPED if skipped else AssignmentState.JUDGED
        if not skipped:
            assignment.draft = {}
        assignment.save(update_fields=["state", "draft"])
        if skipped:
            _give_place_back(assignment.comparison_id)
        elapsed = (timezone.now() - assignment.created).total_seconds()
        return Judgment.objects.create(
            assignment=assignment,
            comparison=assignment.comparison,
            project_id=assignment.project_id,
            annotator_id=assignment.annotator_id,
            **said,
            strength_of=_strength_of(assignment, said),
            seconds=elapsed if seconds is None else seconds,
            guideline_version=assignment.guideline_version,
        )


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


def _revive(assignment: Assignment) -> None:
    """Take a place for an assignment that gave its own back. Raises NotRecorded if none is free."""
    if assignment.state == AssignmentState.WITHDRAWN:
        raise NotRecorded("You took this verdict back; the comparison was handed to you anew.")
    comparison = Comparison.objects.filter(pk=assignment.comparison_id)
    if not comparison.not_handled_by(assignment.annotator).exists():
        raise NotRecorded("You were handed this comparison a second time; answer it there.")
    if not _take_place(assignment.comparison_id):
        raise NotRecorded(
            "This comparison was no longer kept for you, and others have answered it meanwhile."
        )


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
    if not is_qualified(project, annotator):
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
        if held := held_by(project, annotator):
            _lock_both(held.comparison_id, comparison.pk)
            release(held)
        if last.verdict not in COUNTED and not _take_place(comparison.pk):
            raise NotUndone("Others have answered the comparison that you skipped.")
        Judgment.objects.filter(pk=last.pk).update(voided=timezone.now())
        Assignment.objects.filter(pk=last.assignment_id).update(state=AssignmentState.WITHDRAWN)
        return _show(comparison, annotator, last.assignment.order, _said_again(last))


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
        judgment = (
            Judgment.objects.select_for_update(of=("self",), no_key=True)
            .select_related("project", "annotator")
            .get(pk=judgment.pk)
        )
        if judgment.voided:
            return _same_correction(judgment, said)
        if not is_qualified(judgment.project, judgment.annotator):
            raise NotRecorded(f"You no longer judge comparisons in {judgment.project}.")
        _move_place(judgment, said["verdict"])
        skipped = said["verdict"] == Verdict.SKIPPED
        state = AssignmentState.SKIPPED if skipped else AssignmentState.JUDGED
        Assignment.objects.filter(pk=assignment.pk).update(state=state, draft={})
        Judgment.objects.filter(pk=judgment.pk).update(voided=timezone.now())
        return Judgment.objects.create(
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
    if judgment.is_repeat or had_place == needs_place:
        return
    if had_place:
        _give_place_back(judgment.comparison_id)
    elif not _take_place(judgment.comparison_id):
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


def progress(project: Project, annotator: User) -> Progress:
    mine = Judgment.objects.counted().filter(project=project, annotator=annotator)
    held = held_by(project, annotator)
    left = _open_for(project, annotator)[:COUNT_LIMIT].count()
    done = mine.count()
    return Progress(done, done + left + (held is not None), left == COUNT_LIMIT)


class QueueState(NamedTuple):
    """Why there is, or is not, a comparison for the annotator."""

    reason: str  # available, not_qualified, nothing_imported, held_by_others or all_done
    until: datetime | None = None  # when the first comparison that others hold may come free


def queue_state(project: Project, annotator: User) -> QueueState:
    if not is_qualified(project, annotator):
        return QueueState("not_qualified")
    if held_by(project, annotator) or _has_open(project, annotator):
        return QueueState("available")
    if not project.comparisons.exists():
        return QueueState("nothing_imported")
    others = Assignment.objects.filter(
        project=project,
        state=AssignmentState.LIVE,
        comparison__in=Comparison.objects.not_handled_by(annotator),
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
        comparisons = Comparison.objects.filter(pk__in=holding)
        list(comparisons.order_by("pk").select_for_update(no_key=True).values_list("pk"))
        comparisons.update(taken=F("taken") - 1)
        Judgment.objects.filter(pk__in=[row.pk for row in batch]).update(voided=timezone.now())
        Assignment.objects.filter(pk__in=[row.assignment_id for row in batch]).update(
            state=AssignmentState.WITHDRAWN
        )
    return len(batch)
