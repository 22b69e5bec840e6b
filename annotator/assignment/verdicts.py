"""What becomes of verdicts: recorded once, taken back, corrected, voided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.utils import timezone

from annotator.assignment.leases import release
from annotator.assignment.showing import (
    give_place_back,
    has_draft,
    held_by,
    lease_end,
    lock_comparisons,
    may_judge,
    membership_of,
    payload_hash,
    possible,
    shown,
    take_place,
    written_once,
)
from annotator.assignment.standing import quota_reached, undoable
from annotator.ballots import entered_by, keep
from annotator.compiled import Changes, compiled_update, insert
from annotator.gold import is_qualifying, settle_qualification
from annotator.models import (
    ANSWERED,
    COUNTED,
    HANDLED,
    Assignment,
    AssignmentState,
    Comparison,
    Judgment,
    Membership,
    Project,
    Purpose,
    User,
    Verdict,
)
from annotator.protocols import (
    Said,
    check,
    check_spans,
    picks_best,
    protocol_of,
    protocol_shown,
)
from annotator.version import code_version
from annotator.webhooks.outbox import tell_judgment

VOID_BATCH = 500  # judgments voided in one transaction: others must not wait long for the locks
SHOWN_AGAIN = "You were handed this comparison a second time; answer it there."
LEFT_TO_OTHERS = "Others have answered the comparison that you left to them."
# Until a reviewer has looked at it, or somebody of them thinks better of it.
UNRANKABLE_HOLD = "As many people as were to judge this say that it cannot be ranked."
UNDO_LIMIT = 20  # verdicts taken back one after the other; older ones are changed in the history


class NotRecorded(Exception):
    """The verdict could not be counted. The message is a sentence for the annotator."""


class _NotLive(Exception):
    """Takes back what a verdict has begun."""


class NotUndone(Exception):
    """The last verdict could not be taken back. The message is a sentence for the annotator."""


def record(
    assignment: Assignment,
    verdict: Verdict,
    ranking: Sequence[Sequence[int]] = (),
    *,
    payload_hash: str,
    seconds: float | None = None,
    first_interaction_ms: int | None = None,
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
    rest is as in `Judgment`, and must be what the protocol of this showing asks for; `seconds` is how long it
    was read, None if nobody knows. `first_interaction_ms`
    is as in `Assignment`, and not kept if it cannot be.
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
    first = possible(first_interaction_ms, assignment)
    try:
        return _record(assignment, said, seconds, first)
    except _NotLive:
        # Once more from the beginning: the showing may be locked now, and its comparison is not.
        return _record(assignment, said, seconds, first, is_late=True)


@transaction.atomic
def _record(
    assignment: Assignment,
    said: Said,
    seconds: float | None,
    first: int | None,
    *,
    is_late: bool = False,
) -> Judgment:
    """Raises _NotLive if it is not what is on the screen, unless it `is_late`, which takes a query more."""
    skipped = said["verdict"] == Verdict.SKIPPED
    gives_back = said["verdict"] not in COUNTED
    measured = [] if first is None else [first]
    # Locked: a verdict that is on its way is recorded before a withdrawal begins, or not at all.
    # And first of all, so that two tabs of one person do not wait for each other.
    membership = membership_of(assignment.project, assignment.annotator, lock=True)
    # The comparison before its showing, as everywhere.
    if is_late:
        lock_comparisons(assignment.comparison_id)
        locked = Assignment.objects.select_for_update(no_key=True).filter(pk=assignment.pk)
        assignment.state = locked.values_list("state", flat=True).get()
        if assignment.state in (AssignmentState.JUDGED, AssignmentState.SKIPPED):
            return assignment.judgments.get(voided=None)
    else:
        if gives_back:
            give_place_back(assignment)
        if not _end_showing(assignment.pk, *measured, skipped=skipped, live_only=True):
            raise _NotLive
    if not may_judge(assignment.project, assignment.annotator, membership):
        raise NotRecorded(f"You no longer judge comparisons in {assignment.project}.")
    if is_late:
        _revive(assignment, membership)
        _end_late_showing(assignment.pk, *measured, skipped=skipped)
        if gives_back:
            give_place_back(assignment)
    if assignment.first_interaction_ms is None:
        assignment.first_interaction_ms = first
    judgment = Judgment(
        assignment=assignment,
        comparison_id=assignment.comparison_id,
        is_repeat=assignment.is_repeat,
        project_id=assignment.project_id,
        annotator_id=assignment.annotator_id,
        **said,
        strength_of=_strength_of(assignment, said),
        seconds=seconds,
        guideline_version=assignment.guideline_version,
    )
    insert(judgment)
    if said["verdict"] == Verdict.UNRANKABLE:
        _hold_if_unrankable(assignment)
    tell_judgment(judgment, assignment)
    if assignment.is_qualification and membership is not None:
        if is_qualifying(assignment.project, membership) and said["verdict"] in ANSWERED:
            settle_qualification(assignment.project, membership)
        if assignment.annotator.seen_membership is not None:
            assignment.annotator.seen_membership = membership  # it may have changed
    return judgment


def _hold_if_unrankable(assignment: Assignment) -> None:
    """After as many as were to judge it, nobody else is asked: a reviewer looks at it instead.

    In a transaction that has the comparison's row locked.
    """
    if not assignment.takes_place:
        return
    said = Judgment.objects.filter(
        comparison=OuterRef("pk"), voided=None, verdict=Verdict.UNRANKABLE, is_repeat=False
    )
    how_many = said.values("comparison").annotate(n=Count("pk")).values("n")
    comparison = Comparison.objects.filter(pk=assignment.comparison_id, hold="")
    comparison.filter(overlap__lte=Subquery(how_many)).update(hold=UNRANKABLE_HOLD)


def _end_unrankable_holds(comparisons: Sequence[int]) -> None:
    """Somebody's “unrankable” is taken back: they are asked on."""
    held = Comparison.objects.filter(pk__in=comparisons, hold=UNRANKABLE_HOLD)
    held.update(hold="")


@compiled_update
def _end_showing(
    pk: int, *first_interaction_ms: int, skipped: bool, live_only: bool
) -> tuple[QuerySet[Assignment], Changes]:
    """What had been entered before a skip stays: an undo brings it back."""
    showing = Assignment.objects.filter(pk=pk)
    if live_only:
        showing = showing.filter(state=AssignmentState.LIVE)
    changes: Changes = {"state": AssignmentState.SKIPPED}
    if not skipped:
        changes = {"state": AssignmentState.JUDGED, "draft": {}}
    if first_interaction_ms:
        changes["first_interaction_ms"] = written_once(*first_interaction_ms)
    return showing, changes


def _end_late_showing(pk: int, *first_interaction_ms: int, skipped: bool) -> None:
    """Raises NotRecorded if a claim in another tab has shown them the comparison again meanwhile."""
    try:
        with transaction.atomic():
            _end_showing(pk, *first_interaction_ms, skipped=skipped, live_only=False)
    except IntegrityError:
        raise NotRecorded(SHOWN_AGAIN) from None


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
        raise NotRecorded(SHOWN_AGAIN)
    if not take_place(assignment):
        raise NotRecorded(
            "This comparison was no longer kept for you, and others have answered it meanwhile."
        )
    # In this order, as in a claim: first the place, then what is live. Else two could wait for each
    # other.
    if membership is not None and membership.has_quota:
        if not _becomes_live(assignment):
            raise NotRecorded(
                "This comparison was no longer kept for you, and you were handed another one."
            )
        if quota_reached(membership):
            raise NotRecorded(
                "This comparison was no longer kept for you, and your quota is reached."
            )


def _becomes_live(assignment: Assignment) -> bool:
    """Whether it is what is on the screen now, like any other: as there is only one such at a time, no
    claim in another tab can use up the last of a quota together with this. False if there is another."""
    try:
        with transaction.atomic():
            Assignment.objects.filter(pk=assignment.pk).update(state=AssignmentState.LIVE)
    except IntegrityError:
        return False
    return True


def undo_last(
    project: Project, annotator: User, *, judgment_id: int | None = None
) -> Assignment | None:
    """Take back the annotator's last verdict, or skip, and hand them that comparison again.

    They see it as before, in the same order; what they hold now goes back to the queue. What they
    left to others, and these have answered, is stepped over (`undoable`). None if there is nothing to
    undo, or if the last one is not `judgment_id`: a request that comes twice takes back one verdict.
    Raises NotUndone, and changes nothing, if `judgment_id` is what others have answered, if the last
    UNDO_LIMIT are taken back already, or if another tab is handed something at the same time.
    """
    if not may_judge(project, annotator, membership_of(project, annotator)):
        return None
    try:
        return _take_back_last(project, annotator, judgment_id)
    except IntegrityError:  # there is one live showing a person
        raise NotUndone(
            "You were handed a comparison in another tab meanwhile. Take it back once more."
        ) from None


@transaction.atomic
def _take_back_last(
    project: Project, annotator: User, judgment_id: int | None
) -> Assignment | None:
    last = (
        undoable(project, annotator)
        .select_for_update(of=("self",), no_key=True)
        .select_related("assignment__comparison__prompt", "assignment__comparison__project")
        .first()
    )
    if last is None or judgment_id not in (None, last.pk):
        _check_not_left_to_others(project, annotator, judgment_id, last)
        return None
    if _taken_back_since(last) >= UNDO_LIMIT:
        raise NotUndone(
            f"{UNDO_LIMIT} verdicts are taken back: no more at once. "
            "Answer these first; older ones can be changed under My votes."
        )
    comparison = last.assignment.comparison
    if last.assignment.is_qualification:
        raise NotUndone("The verdicts of a qualification cannot be taken back.")
    held = held_by(project, annotator)
    lock_comparisons(comparison.pk, *([held.comparison_id] if held else []))
    if held:
        release(held)
    if last.verdict not in COUNTED and not take_place(last.assignment):
        raise NotUndone(LEFT_TO_OTHERS)
    if last.verdict == Verdict.UNRANKABLE:
        _end_unrankable_holds([comparison.pk])
    Judgment.objects.filter(pk=last.pk).update(voided=timezone.now())
    Assignment.objects.filter(pk=last.assignment_id).update(state=AssignmentState.WITHDRAWN)
    return _show_again(last.assignment, _said_again(last))


def _check_not_left_to_others(
    project: Project, annotator: User, judgment_id: int | None, last: Judgment | None
) -> None:
    """Raises NotUndone if what is asked for is in force, and newer than the last one to take back."""
    asked = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
    if judgment_id is not None:
        asked = asked.filter(pk=judgment_id)
    if last is not None:
        asked = asked.filter(created__gt=last.created)
    if asked.exists():
        before = "" if last is None else " Undo once more for what you said before it."
        raise NotUndone(LEFT_TO_OTHERS + before)


def _show_again(assignment: Assignment, draft: dict[str, list[str]]) -> Assignment:
    """The same answers in the same order, as a new showing."""
    comparison, project = assignment.comparison, assignment.comparison.project
    again = Assignment.objects.create(
        comparison=comparison,
        project=project,
        annotator_id=assignment.annotator_id,
        order=assignment.order,
        payload_hash=payload_hash(comparison, assignment.order),
        is_repeat=assignment.is_repeat,
        protocol=project.protocol,
        draft=draft,
        guideline_version=project.guideline_version,
        ui_version=code_version(),
        lease_until=lease_end(project),
    )
    again.was_shown = True
    return again


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
    """On how many comparisons later verdicts than `last`, now the last one to undo, are void."""
    later = Judgment.objects.filter(
        project_id=last.project_id,
        annotator_id=last.annotator_id,
        created__gt=last.created,
        voided__isnull=False,
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
        if not may_judge(judgment.project, judgment.annotator, membership):
            raise NotRecorded(f"You no longer judge comparisons in {judgment.project}.")
        if assignment.is_qualification:
            raise NotRecorded("The verdicts of a qualification cannot be changed.")
        lock_comparisons(judgment.comparison_id)
        _move_place(judgment, said["verdict"])
        if judgment.verdict not in ANSWERED and said["verdict"] in ANSWERED:
            _check_quota_of_correction(assignment, membership)
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
        if said["verdict"] == Verdict.UNRANKABLE:
            _hold_if_unrankable(assignment)
        tell_judgment(correction, assignment)
        return correction


def _check_quota_of_correction(assignment: Assignment, membership: Membership | None) -> None:
    """With what is on the screen, which may be answered however many there are by then. After the place
    is taken, as in a claim. Raises NotRecorded."""
    if membership is None or not membership.has_quota:
        return
    n_live = 0 if _becomes_live(assignment) else 1
    if quota_reached(membership, n_live=n_live):
        raise NotRecorded(
            "You have judged, or have in hand, as many as you were asked for: this stays a skip."
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
    if judgment.verdict == Verdict.UNRANKABLE:
        _end_unrankable_holds([judgment.comparison_id])
    had_place, needs_place = judgment.verdict in COUNTED, verdict in COUNTED
    if had_place == needs_place:
        return
    if had_place:
        give_place_back(judgment.assignment)
    elif not take_place(judgment.assignment):
        raise NotRecorded(LEFT_TO_OTHERS)


def void_some(project: Project, annotator: User) -> int:
    """Void up to VOID_BATCH of this person's judgments in force, and give their places back.

    How many were voided; 0 when none is left. The rows stay, and so does what they say. Skips,
    “unrankable” and repeats are voided as well, but hold no place. What is on the person's screen is not touched.
    """
    with transaction.atomic():
        in_force = Judgment.objects.filter(project=project, annotator=annotator, voided=None)
        # In the order of the index of those in force: of many thousands, nothing is sorted.
        pks = list(in_force.order_by("verdict").values_list("pk", flat=True)[:VOID_BATCH])
        batch = list(in_force.filter(pk__in=pks).order_by("pk").select_for_update(no_key=True))
        # At most one of them per comparison: `one_judgment_in_force`.
        holding = [
            judgment.comparison_id
            for judgment in batch
            if judgment.verdict in COUNTED and not judgment.is_repeat
        ]
        unrankable = [row.comparison_id for row in batch if row.verdict == Verdict.UNRANKABLE]
        lock_comparisons(*holding, *unrankable)
        comparisons = Comparison.objects.filter(pk__in=holding).exclude(purpose=Purpose.GOLD)
        comparisons.update(taken=F("taken") - 1)
        _end_unrankable_holds(unrankable)
        Judgment.objects.filter(pk__in=[row.pk for row in batch]).update(voided=timezone.now())
        Assignment.objects.filter(pk__in=[row.assignment_id for row in batch]).update(
            state=AssignmentState.WITHDRAWN
        )
    return len(batch)
