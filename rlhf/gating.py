"""The gate: a version becomes current only through a blind sequential test against the present one.

`open_gate` launches the run that writes the answers; when it has ended, people are asked in their normal
queue. The worker calls `tend` every minute: it looks whether the votes have decided, records that
once, and withdraws the pairs that nobody need judge any more. What decides is in sequential.py.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from annotator.assignment import who_may_vote, with_room
from annotator.audit import Action, record
from annotator.models import (
    Comparison,
    ComparisonQuerySet,
    Judgment,
    Project,
    Prompt,
    Role,
    Split,
    User,
)
from annotator.webhooks.models import Event
from annotator.webhooks.outbox import tell
from rlhf import evaluation, sequential
from rlhf.current import (
    CurrentMoved,
    current_policy,
    keep_current,
    lock_current,
    make_current,
    newest_promotion,
)
from rlhf.gate_models import OPEN, Decision, Gate, GateState, Promotion
from rlhf.gate_pairs import answers_per_prompt
from rlhf.inputs import Order, version_kinds, why_not_answering
from rlhf.models import GeneratedCompletion, ModelVersion, RunKind
from rlhf.runs import launch, request_stop
from rlhf.sequential import Point, Rule

# What writes answers: a policy, one with something around its prompts, or one elsewhere.
CANDIDATES = version_kinds(RunKind.EVALUATE, "policy")
FEWEST_PAIRS = 10
MOST_ANSWERS = 9  # to one prompt
SILENT_DAYS = 3
SPEED_DAYS = 7  # over which the forecast takes the speed of voting
TIDIED_FOR = timedelta(days=1)  # after a decision, in case whoever made it was killed
VALUES = {evaluation.WIN: sequential.WIN, evaluation.LOSS: sequential.LOSS}  # others: a tie


class GateRefused(Exception):
    """Something cannot be done with a gate. The message is a sentence for the admin."""


# --- opening ----------------------------------------------------------------------------------
def open_gate(
    project: Project,
    candidate: ModelVersion,
    user: User | None,
    *,
    rule: Rule,
    budget: int,
    votes_per_pair: int,
    same_share: float,
    sampling: dict[str, Any],
    round_number: int,
    token: uuid.UUID | None = None,
) -> Gate:
    """Launch the run, and the gate with it. The same token again gives back the same gate.

    `sampling` are settings of the run *evaluate*. Raises GateRefused, or RunRefused by the run.
    """
    token = token or uuid.uuid4()
    if known := project.gates.filter(run__token=token).first():
        return known
    incumbent = _check(project, candidate)
    gate = Gate(
        project=project, candidate=candidate, incumbent=incumbent, alpha=rule.alpha,
        margin=rule.margin, budget=budget, votes_per_pair=votes_per_pair,
        same_share=same_share, created_by=user,
    )  # fmt: skip
    asked = _run_of(gate, sampling, round_number)
    try:
        with transaction.atomic():
            lock_current(project)
            if current_policy(project) != incumbent:
                raise GateRefused("Another policy has just become current: look again.")
            keep_current(project)
            gate.run = launch(
                project,
                asked.kind,
                asked.settings,
                round_number=round_number,
                user=user,
                token=token,
                policy=asked.policy,
                rival=asked.rival,
                max_prompts=asked.max_prompts,
            )
            gate.save()
            about = {"candidate": str(candidate), "incumbent": str(incumbent), "budget": budget}
            record(user, Action.CREATED, gate, project=project, **about)
    except IntegrityError as error:
        if known := project.gates.filter(run__token=token).first():
            return known
        _refuse_second(project)
        raise GateRefused("This gate has just been opened by somebody else.") from error
    return gate


def run_of(
    project: Project,
    candidate: ModelVersion,
    *,
    budget: int,
    votes_per_pair: int,
    same_share: float,
    sampling: dict[str, Any],
    round_number: int,
    **_: Any,
) -> Order:
    """The run that such a gate would begin with; of the arguments of `open_gate` what it depends on.
    Raises GateRefused."""
    gate = Gate(
        project=project, candidate=candidate, incumbent=_check(project, candidate), budget=budget,
        votes_per_pair=votes_per_pair, same_share=same_share,
    )  # fmt: skip
    return _run_of(gate, sampling, round_number)


def _run_of(gate: Gate, sampling: dict[str, Any], round_number: int) -> Order:
    settings = {
        # Drawn: answers of an earlier evaluation, which people have seen, do not come again.
        "seed": random.randrange(2**20),
        **sampling,
        "completions_per_prompt": _answers_per_prompt(gate),
    }
    return Order(
        gate.project,
        RunKind.EVALUATE,
        round_number,
        settings,
        policy=gate.candidate,
        rival=gate.incumbent,
        max_prompts=gate.n_pairs + gate.n_same,
    )


def _check(project: Project, candidate: ModelVersion) -> ModelVersion:
    """The policy that it is tested against."""
    incumbent = current_policy(project)
    if incumbent is None:
        raise GateRefused("This project has no current policy yet: import a model first.")
    if candidate.project_id != project.pk or candidate.kind not in CANDIDATES:
        raise GateRefused(f"{candidate} is nothing of this project that writes answers.")
    if candidate == incumbent:
        raise GateRefused(f"{candidate} is the current policy: choose another one to test.")
    _refuse_second(project)
    return incumbent


def _refuse_second(project: Project) -> None:
    if other := open_gate_of(project):
        raise GateRefused(
            f"Gate {other.pk} is testing {other.candidate} already: wait until it decides, or stop it."
        )


def _answers_per_prompt(gate: Gate) -> int:
    if gate.n_pairs < FEWEST_PAIRS:
        raise GateRefused(
            f"{gate.budget} votes are {gate.n_pairs} pairs, with which nothing can be shown: "
            f"allow {FEWEST_PAIRS * gate.votes_per_pair} at least, better 200."
        )
    held_out = Prompt.objects.filter(project=gate.project, split=Split.TEST).count()
    if 0 < held_out < FEWEST_PAIRS:
        raise GateRefused(
            f"Each held-out prompt counts once, and with {held_out} nothing can be shown: import more "
            f"prompts until {FEWEST_PAIRS} at least are held out, better 200."
        )
    needed = answers_per_prompt(gate.n_pairs, gate.n_same, held_out)
    if held_out and needed > MOST_ANSWERS:
        most = most_votes(held_out, gate.same_share) * gate.votes_per_pair
        raise GateRefused(
            f"{held_out} held-out prompts are enough for about {most} votes, not for {gate.budget}: "
            "lower the budget, or import more prompts."
        )
    return min(needed, MOST_ANSWERS)


def most_votes(held_out: int, same_share: float) -> int:
    """How many pairs of both policies so many prompts are enough for, at a vote each."""
    return int((MOST_ANSWERS * held_out - 1) / (1 + 2 * same_share))  # - 1: as n_same is rounded


def open_gate_of(project: Project) -> Gate | None:
    open_gates = project.gates.filter(state__in=OPEN).select_related(
        "project", "candidate", "incumbent", "run__project"
    )
    return open_gates.first()


# --- what the votes say -----------------------------------------------------------------------
class Same(NamedTuple):
    """What people say of pairs of the incumbent with itself: all of it is noise or habit."""

    votes: int
    ties: int
    first_wins: int  # of the answer that happens to be stored first: half of them, but for noise
    left_wins: int  # of the answer that was shown on the left: half of them, but for habit

    @property
    def decided(self) -> int:
        return self.votes - self.ties


class Standing(NamedTuple):
    # One per prompt whose pairs have all their votes, in the order in which they got the last one.
    outcomes: list[float]
    decision: sequential.Decision | None  # what these say
    votes: int  # on pairs of both policies
    full: int  # pairs of both policies that have all their votes
    askable: int  # those, and what can be asked; others are held back
    prompts: int  # that these are of
    first_votes: datetime | None
    last_vote: datetime | None
    recent_votes: int  # in the last SPEED_DAYS days
    same: Same

    @property
    def counted(self) -> list[float]:
        """The outcomes that the decision rests on; all of them, while there is none."""
        return self.outcomes[: self.decision.n] if self.decision else self.outcomes

    @property
    def unit(self) -> str:
        """What an outcome is of."""
        return "prompt" if self.prompts < self.askable else "pair"


def standing_of(gate: Gate, now: datetime | None = None) -> Standing:
    """As of now. Three queries, whatever the number of votes."""
    now = now or timezone.now()
    new = set(
        GeneratedCompletion.objects.filter(run=gate.run, model_version=gate.candidate).values_list(
            "completion_id", flat=True
        )
    )
    rows = list(
        Judgment.objects.counted()
        .filter(project=gate.project_id, comparison__origin__in=[gate.run.origin, gate.same_origin])
        .order_by("created", "pk")
        .values_list(
            "comparison_id",
            "comparison__origin",
            "verdict",
            "ranking",
            "assignment__order",
            "created",
        )
    )
    of_both = [row for row in rows if row[1] == gate.run.origin]
    values = [
        (pk, VALUES.get(evaluation.ballot(verdict, ranking, new), sequential.TIE))
        for pk, _, verdict, ranking, _, _ in of_both
    ]
    # What was withdrawn was askable: that it ended changes nothing about what the gate has counted.
    can_be_asked = Q(hold="") | Q(taken__gte=F("overlap")) | Q(hold=_withdrawn(gate))
    askable = dict(
        Comparison.objects.filter(
            can_be_asked, project=gate.project_id, origin=gate.run.origin
        ).values_list("pk", "prompt_id")
    )
    outcomes, n_full = outcomes_of(values, gate.votes_per_pair, askable)
    n_prompts = len(set(askable.values()))
    times = [row[-1] for row in of_both]
    return Standing(
        outcomes=outcomes,
        decision=sequential.decide(outcomes, gate.rule, n_prompts),
        votes=len(of_both),
        full=n_full,
        askable=len(askable),
        prompts=n_prompts,
        first_votes=times[0] if times else None,
        last_vote=rows[-1][-1] if rows else None,
        recent_votes=sum(time > now - timedelta(days=SPEED_DAYS) for time in times),
        same=same_of(row[2:5] for row in rows if row[1] == gate.same_origin),
    )


def outcomes_of(
    votes: Iterable[tuple[int, float]], per_pair: int, prompts: Mapping[int, int]
) -> tuple[list[float], int]:
    """The mean vote on each prompt, in the order in which their pairs were full, and how many pairs are.

    `prompts` has the prompt of each pair. A prompt is one outcome, because what is said of its pairs is
    about nearly the same.

    Example: [(7, 1), (8, 0), (8, ½), (7, 1), (9, 1)], 2, {7: 1, 8: 2, 9: 3} -> [¼, 1], 2; if pairs
    7 and 9 are of one prompt, [¼], 2.
    """
    missing = Counter(prompts.values())  # pairs, by prompt
    of_pair: dict[int, list[float]] = defaultdict(list)
    of_prompt: dict[int, list[float]] = defaultdict(list)
    outcomes, n_full = [], 0
    for pk, value in votes:
        of_pair[pk].append(value)
        if pk not in prompts or len(of_pair[pk]) != per_pair:
            continue
        n_full += 1
        prompt = prompts[pk]
        of_prompt[prompt].append(sum(of_pair[pk]) / per_pair)
        missing[prompt] -= 1
        if not missing[prompt]:
            outcomes.append(sum(of_prompt[prompt]) / len(of_prompt[prompt]))
    return outcomes, n_full


def same_of(votes: Iterable[tuple[str, list[list[int]], list[int]]]) -> Same:
    """Of verdict, ranking, and completions as shown; that stored first has the lower number."""
    counts: Counter[str] = Counter()
    for verdict, ranking, order in votes:
        counts["votes"] += 1
        if verdict != "ranking" or len(ranking) == 1:
            counts["ties"] += 1
            continue
        best = ranking[0][0]
        counts["first"] += best == min(order)
        counts["left"] += best == order[0]
    return Same(counts["votes"], counts["ties"], counts["first"], counts["left"])


# --- deciding ---------------------------------------------------------------------------------
def settle(gate: Gate) -> bool:
    """Record what the votes have decided, if they have: once, whoever looks at the same time."""
    if gate.state != GateState.VOTING:
        return False
    standing = standing_of(gate)
    if standing.decision is None:
        _withdrawn_pairs(gate).ask_all_the_same()  # a vote that it waited with may be taken back
        return False
    if why_waiting(gate, standing):
        withdraw_pairs(gate)
        return False
    try:
        is_recorded = _record_decision(gate, standing, standing.decision.verdict)
    except CurrentMoved:
        is_recorded = False  # looked at again in a minute
    if is_recorded:
        withdraw_pairs(gate)
    else:
        gate.refresh_from_db()
    return is_recorded


def why_waiting(gate: Gate, standing: Standing) -> str:
    """Why a candidate that people prefer does not become current yet: nobody could ask it. Empty if it does."""
    if standing.decision is None or standing.decision.verdict != Decision.PROMOTE:
        return ""
    if not (problem := why_not_answering(gate.candidate)):
        return ""
    return (
        f"People prefer {gate.candidate}, but nobody can ask it: {problem} The gate waits, asks nobody any more, "
        "and promotes it within a minute after that is put right; or stop the gate, and nothing changes."
    )


def _record_decision(gate: Gate, standing: Standing, verdict: str) -> bool:
    """False if somebody else has decided or stopped it."""
    found = found_of(gate, standing)
    with transaction.atomic():
        lock_current(gate.project)
        voting = Gate.objects.filter(pk=gate.pk, state=GateState.VOTING)
        if not voting.update(
            state=GateState.DECIDED, decision=verdict, decided=timezone.now(), found=found,
            reason=in_words(gate, standing),
        ):  # fmt: skip
            return False
        gate.refresh_from_db()
        record(None, Action.RULED, gate, project=gate.project, decision=verdict, **found)
        if verdict == Decision.PROMOTE:
            make_current(gate.project, gate.candidate, user=None, reason=gate.reason, gate=gate)
        tell_decided(gate)
    return True


def found_of(gate: Gate, standing: Standing) -> dict[str, Any]:
    """What the decision rests on, as numbers."""
    point = point_of(gate, standing)
    numbers = {"mean": point.mean, "low": point.low, "high": point.high} if point else {}
    n = len(standing.counted)
    return {"n": n, "n_votes": standing.votes, **{k: round(v, 4) for k, v in numbers.items()}}


def point_of(gate: Gate, standing: Standing) -> Point | None:
    counted = standing.counted
    return sequential.standing(Counter(counted), gate.rule) if counted else None


def in_words(gate: Gate, standing: Standing) -> str:
    """Why the votes have decided as they have."""
    point = point_of(gate, standing)
    if point is None:
        return (
            "There was no pair to ask: both policies gave the same answers, or they are held back."
        )
    low, mean, high = (f"{100 * value:.1f}" for value in (point.low, point.mean, point.high))
    share = f"{mean} % ({low} to {high} %)"
    unit = f"{standing.unit}{'' if point.n == 1 else 's'}"
    verdict = standing.decision.verdict if standing.decision else None
    if verdict == sequential.PROMOTE:
        return f"After {point.n} {unit} the win probability is {share}: above one half."
    wanted = f"{100 * (sequential.EVEN + gate.margin):g} %"
    if verdict == sequential.REJECT:
        return f"After {point.n} {unit} the win probability is {share}: below the {wanted} that were asked for."
    return f"After all {point.n} {unit} the win probability is {share}: that proves neither, so nothing changes."


def tell_decided(gate: Gate) -> None:
    about = {
        "gate": gate.pk,
        "candidate": gate.candidate_id,
        "incumbent": gate.incumbent_id,
        "decision": gate.decision,
        "by": gate.decided_by.username if gate.decided_by else "",
        "reason": gate.reason,
        "found": gate.found,
        "decided": gate.decided and gate.decided.isoformat(),
    }
    tell(gate.project, Event.GATE_DECIDED, about)


def withdraw_pairs(gate: Gate) -> int:
    """Nobody is asked any more what is still open; what is on a screen may still be answered."""
    return _pairs_of(gate).open().hold_back(_withdrawn(gate))


def _withdrawn_pairs(gate: Gate) -> ComparisonQuerySet:
    return _pairs_of(gate).filter(hold=_withdrawn(gate))


def _pairs_of(gate: Gate) -> ComparisonQuerySet:
    return Comparison.objects.filter(
        project=gate.project_id, origin__in=[gate.run.origin, gate.same_origin]
    )


def _withdrawn(gate: Gate) -> str:
    return f"Not needed any more: gate {gate.pk} has ended."


def tend() -> None:
    """What the worker does every minute."""
    voting = Gate.objects.filter(state=GateState.VOTING)
    for gate in voting.select_related("project", "candidate", "incumbent", "run"):
        settle(gate)
    ended = Gate.objects.exclude(state__in=OPEN).filter(decided__gt=timezone.now() - TIDIED_FOR)
    for gate in ended.select_related("run"):
        withdraw_pairs(gate)


# --- by people --------------------------------------------------------------------------------
def stop(gate: Gate, user: User | None, reason: str = "") -> None:
    """End it without a decision: what is current stays. Does nothing to one that has ended."""
    with transaction.atomic():
        stopped = Gate.objects.filter(pk=gate.pk, state__in=OPEN).update(
            state=GateState.STOPPED, decided=timezone.now(), decided_by=user, reason=reason
        )
        if not stopped:
            return
        record(user, Action.STOPPED, gate, project=gate.project, reason=reason)
    _end_asking(gate)


def _end_asking(gate: Gate) -> None:
    if gate.run.is_active:
        request_stop(gate.run)
    withdraw_pairs(gate)


def overrule(
    gate: Gate, decision: str, user: User | None, reason: str, *,
    was: str = "", after: int | None = None,
) -> None:  # fmt: skip
    """Decide in the votes' stead, or against them, and say why. Raises GateRefused; also if neither of
    both policies is current any more, because then it would change nothing.

    `was` is the gate's status, and `after` the newest promotion, that whoever asks has seen; without
    them, what is found now.
    """
    if decision not in (Decision.PROMOTE, Decision.REJECT):
        raise GateRefused("Choose whether it is promoted or rejected.")
    if decision == gate.decision:
        raise GateRefused(f"It is {gate.get_decision_display().lower()} already.")
    if not reason.strip():
        raise GateRefused("Say why: the reason is kept, and others will ask.")
    if was and was != gate.status:
        raise GateRefused(
            f"This gate has changed since you looked: it {_ending(gate)}. Look again before you overrule it."
        )
    if after is None:
        after = newest_number(gate.project)
    try:
        with transaction.atomic():
            lock_current(gate.project)
            _overrule(gate, decision, user, reason.strip(), after)
    except CurrentMoved as error:
        raise GateRefused(str(error)) from error
    _end_asking(gate)


def _overrule(gate: Gate, decision: str, user: User | None, reason: str, after: int) -> None:
    if newest_number(gate.project) != after:
        raise CurrentMoved
    if (other := open_gate_of(gate.project)) and other != gate:
        raise GateRefused(f"Gate {other.pk} is open: wait until it decides, or stop it first.")
    current = _current_of_both(gate)
    wanted = gate.candidate if decision == Decision.PROMOTE else gate.incumbent
    if current != wanted:
        _refuse_unanswering(wanted)
    states = OPEN if gate.is_open else [gate.state]
    as_seen = Gate.objects.filter(pk=gate.pk, state__in=states, decision=gate.decision)
    if not as_seen.update(
        state=GateState.DECIDED, decision=decision, decided=timezone.now(), decided_by=user,
        reason=reason,
    ):  # fmt: skip
        raise GateRefused("This gate has just been decided: look again before you overrule it.")
    before = gate.get_decision_display() if gate.decision else gate.get_state_display()
    gate.refresh_from_db()
    moved = {"from": before, "to": gate.get_decision_display()}
    record(user, Action.RULED, gate, project=gate.project, decision=moved, reason=reason)
    if current != wanted:
        make_current(gate.project, wanted, user=user, reason=reason, gate=gate, after=after)
    tell_decided(gate)


def _refuse_unanswering(version: ModelVersion) -> None:
    """What is current must be there to be asked."""
    if problem := why_not_answering(version):
        raise GateRefused(problem)


def newest_number(project: Project) -> int:
    newest = newest_promotion(project)
    return newest.number if newest else 0


def _ending(gate: Gate) -> str:
    """Example: "was promoted by ada"."""
    label = gate.get_decision_display() if gate.decision else gate.get_state_display()
    left = "left " if gate.decision == Decision.UNDECIDED else ""
    by = f" by {gate.decided_by.username}" if gate.decided_by else ""
    return f"was {left}{label.lower()}{by}"


def _current_of_both(gate: Gate) -> ModelVersion | None:
    current = current_policy(gate.project)
    if current not in (gate.candidate, gate.incumbent):
        raise GateRefused(
            f"{current} is the current policy by now, and this gate has tested neither it nor against it: "
            f"test {gate.candidate} against it, or roll back on the page of the current policy."
        )
    return current


def roll_back(
    project: Project, to: Promotion, user: User | None, *, after: int, reason: str = ""
) -> Promotion | None:
    """Make current what was current once. A gate that is open is stopped: it tests against another one.

    `after` is the newest promotion that whoever asks has seen. Raises GateRefused.
    """
    try:
        with transaction.atomic():
            lock_current(project)
            if newest_number(project) == after:
                _refuse_unanswering(to.version)
            made = make_current(
                project, to.version, user=user, reason=reason or "Rolled back.", after=after
            )
            if made and (gate := open_gate_of(project)):
                stop(gate, user, f"The current policy was changed to {to.version}.")
            return made
    except CurrentMoved as error:
        raise GateRefused(str(error)) from error


# --- in words ---------------------------------------------------------------------------------
def note_on(gate: Gate, standing: Standing) -> str:
    """Why it does not go on, and what to do. Empty if all is well."""
    return problem_of(gate, standing) or silence(gate, standing)


def problem_of(gate: Gate, standing: Standing) -> str:
    """Why its candidate could not become current: a sentence with what to do. Empty if it could."""
    if gate.state != GateState.VOTING:
        return ""
    if standing.decision:
        return why_waiting(gate, standing)
    if problem := why_not_answering(gate.candidate):
        return (
            f"People are being asked, but {gate.candidate} could not become current now: {problem}"
        )
    return ""


def silence(gate: Gate, standing: Standing, now: datetime | None = None) -> str:
    """Why no votes come in, if none do: a sentence with what to do. Empty if all is well."""
    if gate.state != GateState.VOTING or standing.decision:
        return ""
    if gate.project.paused:
        return "The project is paused, so nobody is asked: resume it under Settings."
    if nobody := _nobody_to_ask(gate, standing):
        return nobody
    since = standing.last_vote or gate.opened or gate.created
    days = ((now or timezone.now()) - since).days
    if days < SILENT_DAYS:
        return ""
    return (
        f"Nobody has voted for {days} days: invite annotators, or raise the quotas of those who are here. "
        "The gate waits for as long as it takes; stop it if it is not needed any more."
    )


def _nobody_to_ask(gate: Gate, standing: Standing) -> str:
    """Why none of the members can be asked what is left, and what to do. Empty if one can."""
    left = Comparison.objects.open().filter(project=gate.project_id, origin=gate.run.origin)
    voters = who_may_vote(gate.project)
    have_room = with_room(voters)
    can_be_asked = have_room.filter(Exists(left.not_handled_by(OuterRef(OuterRef("user")))))
    if can_be_asked.filter(role=Role.ANNOTATOR).exists() or not left.exists():
        return ""  # or all that is left is on somebody's screen
    if not voters.exists():
        return (
            "Nobody can be asked: no member of this project may vote. Invite annotators, or see to those who "
            "are not qualified."
        )
    if not have_room.exists():
        return (
            "Nobody can be asked: all members who may vote have reached their quotas. Raise these, or invite "
            "other annotators."
        )
    if not can_be_asked.exists():
        return (
            "Nobody can be asked: the members who may vote have handled all pairs that are left, each of which "
            f"takes {gate.votes_per_pair} of different people. Invite other annotators, or stop the gate."
        )
    if standing.last_vote is None:
        return (
            "Only reviewers and admins can be asked, and they see on this page how it stands: invite "
            "annotators, who vote blind."
        )
    return ""


def _votes_on(gate: Gate, standing: Standing, n_outcomes: int) -> int:
    """With as many pairs as prompts have on average."""
    return round(n_outcomes * gate.votes_per_pair * standing.askable / standing.prompts)


class Forecast(NamedTuple):
    votes: int  # about so many more until it decides
    most: int  # at most so many more, by budget
    days: float | None  # at the speed of the last week; None: nobody has voted


def forecast(gate: Gate, standing: Standing, now: datetime | None = None) -> Forecast | None:
    """None when it is decided. If the votes do not tell yet, all of the budget."""
    if standing.decision:
        return None
    most = (standing.askable - standing.full) * gate.votes_per_pair
    to_go = sequential.outcomes_to_go(standing.outcomes, gate.rule)
    votes = most if to_go is None else min(most, _votes_on(gate, standing, to_go))
    if not standing.recent_votes or standing.first_votes is None:
        return Forecast(votes, most, None)
    since = (now or timezone.now()) - standing.first_votes
    days = min(SPEED_DAYS, max(since.total_seconds() / 86_400, 1 / 24))
    return Forecast(votes, most, votes * days / standing.recent_votes)
