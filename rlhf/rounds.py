"""The rounds of a project: side by side in a table, and the start of the next one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.db.models import Count, Max

from annotator.agreement import Agreement, alpha_by_round
from annotator.models import Judgment, Project, Purpose, User
from rlhf.current import current_policy, has_decided_gate, note_on_training, policy_to_train
from rlhf.evaluation import WinRate, win_rates
from rlhf.gating import open_gate_of
from rlhf.inputs import takes
from rlhf.models import MAKE_POLICIES, ONLINE, ModelKind, ModelVersion, Round, Run, RunKind, Status
from rlhf.runs import RunRefused, next_round
from rlhf.training.reward_rules import format_lines

ROUNDS_SHOWN = 20
# The newest ones; what is older is neither counted nor compared to draw a page.
VOTES_COUNTED = 20_000
VOTES_COMPARED = 5_000
OF_THE_BASELINE = (  # settings of a run with rewards that its baseline shares
    "reward_weight", "ensemble", "uncertainty_coefficient", "missing_eos", "missing_eos_penalty",
    "missing_eos_ramp", "temperature", "max_new_tokens", "max_prompt_tokens",
)  # fmt: skip


class RoundRow(NamedTuple):
    """What one turn of the loop came to; None where it has not come so far."""

    number: int
    policy: ModelVersion
    votes: int | None  # None: so long ago that they are not counted
    is_vote_count_cut: bool  # there are more of them, among those not counted
    agreement: Agreement | None
    reward_model: Run | None
    ppo: Run | None
    new_policy: ModelVersion | None
    evaluate: Run | None
    win_rate: WinRate | None


def current_round(project: Project) -> Round | None:
    return project.rounds.select_related("policy").order_by("-number").first()


def current_number(project: Project) -> int:
    """The number of the current round; 1 before the first has a policy to start from."""
    current = current_round(project)
    return current.number if current else 1


def rounds_of(project: Project) -> list[RoundRow]:
    """The newest rounds, newest first."""
    newest = project.rounds.select_related("policy").order_by("-number")
    return rows_of(project, newest[:ROUNDS_SHOWN])


def rows_of(project: Project, rounds: Iterable[Round]) -> list[RoundRow]:
    """What these rounds came to. The number of queries does not depend on how many."""
    rounds = list(rounds)
    votes, oldest = _votes_by_round(project)
    agreements = alpha_by_round(project, newest=VOTES_COMPARED)
    runs = _succeeded_runs(project, [each.number for each in rounds])
    rates = win_rates([run for (_, kind), run in runs.items() if kind == RunKind.EVALUATE])
    rows = []
    for each in rounds:
        ppo = runs.get((each.number, RunKind.PPO))
        evaluate = runs.get((each.number, RunKind.EVALUATE))
        row = RoundRow(
            number=each.number,
            policy=each.policy,
            votes=votes.get(each.number, 0 if each.number >= oldest else None),
            is_vote_count_cut=each.number == oldest,
            agreement=agreements.get(each.number),
            reward_model=runs.get((each.number, RunKind.REWARD_MODEL)),
            ppo=ppo,
            new_policy=next(iter(ppo.outputs.all()), None) if ppo else None,
            evaluate=evaluate,
            win_rate=rates[evaluate.pk] if evaluate else None,
        )
        rows.append(row)
    return rows


def _votes_by_round(project: Project) -> tuple[dict[int, int], int]:
    """Counted training votes by round, among the newest; the oldest round among them.

    That round is 0 if nothing was left out, so that every count is whole.
    """
    of_training = Judgment.objects.counted().filter(
        project=project, comparison__purpose=Purpose.TRAINING
    )
    newest = of_training.order_by("-pk").values("pk")[:VOTES_COUNTED]
    counted = (
        Judgment.objects.filter(pk__in=newest)
        .order_by()
        .values_list("comparison__round_number")
        .annotate(n=Count("pk"))
    )
    votes = dict(counted)
    is_whole = sum(votes.values()) < VOTES_COUNTED
    return votes, 0 if is_whole else min(votes)


def _succeeded_runs(project: Project, numbers: Iterable[int]) -> dict[tuple[int, str], Run]:
    """The latest success of each kind, by round and kind; searches by the kind that they try."""
    numbers = list(numbers)
    newest = (
        project.runs.without_best_of()
        .without_gates()
        .filter(round_number__in=numbers, status=Status.SUCCEEDED)
        .exclude(kind=RunKind.SEARCH)
        .order_by()
        .values("round_number", "kind")
        .annotate(newest=Max("pk"))
    )
    runs = project.runs.filter(pk__in=newest.values("newest"))
    searches = project.runs.promoted().filter(round_number__in=numbers)
    both = (runs | searches).prefetch_related("outputs").order_by("pk")
    return {(run.round_number, run.makes): run for run in both}


def start_next_round(project: Project, user: User | None, *, after: int) -> None:
    """Begin the round after this one from the newest policy that was made from votes in it, untested; once
    a gate has decided, from the current policy instead, however that was made.

    Does nothing if that round has begun: a button pressed twice starts one. Raises RunRefused.
    """
    if current_number(project) != after:
        return
    made = project.model_versions.filter(
        kind=ModelKind.POLICY,
        run__in=project.runs.that_made(MAKE_POLICIES).filter(round_number=after),
    )
    new_policy = made.order_by("-pk").first()
    if new_policy is None and promoted_policy(current_round(project)) is None:
        raise RunRefused(
            f"Round {after} has made no new policy yet: run PPO first, or let a gate make another policy "
            "the current one."
        )
    if gate := open_gate_of(project):
        raise RunRefused(
            f"Gate {gate.pk} has not decided yet whether {gate.candidate} becomes current: wait for it, "
            "or stop it."
        )
    start = current_policy(project) if has_decided_gate(project) else new_policy
    assert start is not None
    next_round(project, user, start)


def promoted_policy(current: Round | None) -> ModelVersion | None:
    """What gates have left current while this round, the project's newest, goes from another policy: another
    round can start from it, whatever made it. None if it is the round's own, or no gate has decided."""
    if current is None or not has_decided_gate(current.project):
        return None
    version = current_policy(current.project)
    return None if version == current.policy else version


def policy_in_training(project: Project) -> ModelVersion | None:
    """What the next run should start from: the current policy once a gate has decided, and the policy of
    the newest round before that, whether it is current or not."""
    if has_decided_gate(project):
        return current_policy(project)
    newest = current_round(project)
    return newest.policy if newest else None


def suggestions(project: Project, kind: RunKind) -> dict[str, ModelVersion]:
    """Which models the next run of a kind should use, as far as the rounds tell."""
    reward_model = (
        project.model_versions.filter(kind=ModelKind.REWARD).select_related("parent").first()
    )
    policy = policy_in_training(project)
    if policy is not None and not takes(kind, "policy", policy):
        policy = policy_to_train(policy)
    chosen: dict[str, ModelVersion | None] = {"policy": policy}
    if kind in ONLINE and reward_model:
        chosen = {"policy": reward_model.parent, "reward_model": reward_model}
    if kind == RunKind.EVALUATE:
        newest = project.model_versions.filter(kind=ModelKind.POLICY).exclude(parent=None)
        trained = newest.select_related("parent").first()
        chosen = {
            "policy": trained,
            "rival": trained.parent if trained else None,
            "reward_model": reward_model,
        }
    if kind == RunKind.SUITE:
        newest = project.model_versions.filter(kind=ModelKind.POLICY).select_related("parent")
        policy = newest.first()
        chosen = {
            "policy": policy,
            "rival": policy.root() if policy and policy.parent else None,
            "reward_model": reward_model,
        }
    return {name: version for name, version in chosen.items() if version is not None}


def note_on_policy(project: Project, kind: RunKind, suggested: ModelVersion | None) -> str:
    """Why the form of such a run suggests this policy instead of the current one; empty if it does not."""
    current = policy_in_training(project)
    if current is None or takes(kind, "policy", current) or suggested != policy_to_train(current):
        return ""
    return note_on_training(current)


def best_of_n(project: Project, n: int, reward_model: int | None = None) -> dict[str, Any]:
    """How to find out what a reward model (the newest, if none is named) is worth: the best of n
    answers by it, against single ones, of the policy that it was trained on."""
    versions = project.model_versions.filter(kind=ModelKind.REWARD).select_related("parent")
    if reward_model is not None:
        versions = versions.filter(pk=reward_model)
    judge = versions.first()
    if judge is None:
        return {"best_of": n}
    return {"policy": judge.parent, "rival": judge.parent, "reward_model": judge, "best_of": n}


def baseline_of(run: Run, n: int) -> dict[str, Any]:
    """What a run that learnt from its own answers is to be measured by: the best of n answers of the
    policy that it started from, chosen by the run's own rewards and sampled as there."""
    return {
        **{name: run.config[name] for name in OF_THE_BASELINE if name in run.config},
        "rewards": format_lines(run.rewards),
        "policy": run.policy,
        "rival": run.policy,
        "reward_model": run.reward_model,
        "best_of": n,
    }


def ancestors_of(version: ModelVersion) -> list[ModelVersion]:
    """Its parent, the parent's parent and so on: one query for the whole project."""
    by_pk = {each.pk: each for each in ModelVersion.objects.filter(project=version.project_id)}
    chain = []
    parent = version.parent_id
    while parent is not None:
        chain.append(by_pk[parent])
        parent = by_pk[parent].parent_id
    return chain
