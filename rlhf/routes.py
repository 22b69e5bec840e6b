"""The routes from the same votes to a policy, side by side: PPO, RLOO, GRPO, DPO, KTO, best of n.

A policy comes from an export if its run learnt from it, or by a reward model that did. All of one export and
one start are compared with that start: what people say of them, blind, and what each has cost. Best of n
trains nothing; its row is the evaluation itself.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

from django.db.models import F, Q, QuerySet

from annotator.models import Export, Project, User
from rlhf.evaluation import WinRate, win_rates
from rlhf.models import (
    ACTIVE,
    MAKE_POLICIES,
    ModelKind,
    ModelVersion,
    Run,
    RunKind,
    Status,
)
from rlhf.runs import RunRefused, launch
from rlhf.training.reward_rules import FIRST_NAME

SORTS = {
    "rate": "Win rate",
    "reward": "Reward",
    "kl": "KL",
    "length": "Length",
    "minutes": "Minutes",
    "memory_mib": "Memory",
}
HIGHEST_FIRST = ("rate", "reward")


class Route(NamedTuple):
    """One way from the votes to answers. None where something has not been measured."""

    label: str
    run: Run  # that made the policy; of best of n, its evaluation
    version: ModelVersion | None  # None: nothing was trained
    evaluation: Run | None  # the newest against the start, with people or still under way
    win_rate: WinRate | None
    reward: float | None  # mean score less that of the start, in deviations of the reward model
    reward_by: ModelVersion | None  # that gave it
    kl: float | None  # nats per answer, from the start
    kl_se: float | None  # its standard error; None: not known, or no estimate from answers
    length: float | None  # tokens per answer
    minutes: float | None  # None: not in one go; 0: nothing was trained
    answer_seconds: float | None  # to write an answer, and to choose it among n
    reward_minutes: float | None  # of the reward model that it needs
    memory_mib: int | None

    @property
    def rate(self) -> float | None:
        return self.win_rate.rate if self.win_rate else None


class Start(NamedTuple):
    """A policy, and what was made of it by the export's votes."""

    policy: ModelVersion
    routes: list[Route]

    @property
    def has_several_judges(self) -> bool:
        """Whether rewards are by different reward models, so that they are not of one scale."""
        return len({route.reward_by for route in self.routes if route.reward_by}) > 1


def exports_with_routes(project: Project) -> list[Export]:
    """Those that a policy was learnt from, or may be: with a reward model. Newest first."""
    learnt = project.runs.that_made([RunKind.REWARD_MODEL, *MAKE_POLICIES]).exclude(export=None)
    return list(project.exports.filter(pk__in=learnt.values("export")).order_by("-pk"))


def starts_of(export: Export, sort: str = "rate") -> list[Start]:
    """By the policy that was started from, the newest first. The number of queries does not depend on
    how many routes there are."""
    made = [run for run in _runs_from(export) if run.policy_id]
    outputs: dict[Run, list[ModelVersion]] = {run: list(run.outputs.all()) for run in made}
    evaluations = _evaluations(export.project, chain.from_iterable(outputs.values()))
    best_of = list(_best_of_runs(export))
    rates = win_rates(
        [*best_of, *(e for e in evaluations.values() if e.status == Status.SUCCEEDED)]
    )
    routes: dict[ModelVersion, list[Route]] = defaultdict(list)
    for run, versions in outputs.items():
        assert run.policy is not None
        found = [_trained(run, each, evaluations.get(each.pk), rates) for each in versions]
        routes[run.policy] += found or [_trained(run, None, None, rates)]
    for run in best_of:
        assert run.policy is not None
        routes[run.policy].append(_chosen(run, rates[run.pk]))
    starts = sorted(routes.items(), key=lambda item: -item[0].pk)
    return [Start(policy, in_order(found, sort)) for policy, found in starts]


def in_order(routes: Iterable[Route], sort: str) -> list[Route]:
    """The best of what is sorted by first; what is not known last, and the newest first among equals."""
    sign = -1 if sort in HIGHEST_FIRST else 1

    def key(route: Route) -> tuple[bool, float, int]:
        value = getattr(route, sort)
        return value is None, sign * (value or 0.0), -route.run.pk

    return sorted(routes, key=key)


def _runs_from(export: Export) -> QuerySet[Run]:
    made = export.project.runs.that_made(MAKE_POLICIES)
    return (
        made.filter(Q(export=export) | Q(reward_model__in=_reward_models_of(export)))
        .select_related("project", "policy", "reward_model__run")
        .prefetch_related("outputs")
    )


def _reward_models_of(export: Export) -> QuerySet[ModelVersion]:
    return ModelVersion.objects.filter(run__in=export.runs.that_made([RunKind.REWARD_MODEL]))


def _best_of_runs(export: Export) -> QuerySet[Run]:
    """Only those against the same policy: they say what choosing alone is worth."""
    chosen = export.project.runs.filter(
        kind=RunKind.EVALUATE,
        status=Status.SUCCEEDED,
        reward_model__in=_reward_models_of(export),
    ).select_related("project", "policy", "rival", "reward_model__run")
    return chosen.filter(config__best_of__gt=1, policy=F("rival"))


def _evaluations(project: Project, versions: Iterable[ModelVersion]) -> dict[int, Run]:
    """By version: the newest evaluation against its parent that has succeeded or is under way."""
    found = (
        project.runs.evaluations()
        .filter(
            status__in=[Status.SUCCEEDED, *ACTIVE],
            policy__in=list(versions),
            rival=F("policy__parent"),
        )
        .select_related("project", "policy", "rival", "reward_model")
    )
    return {run.policy_id: run for run in found.order_by("pk") if run.policy_id}


def _trained(
    run: Run, version: ModelVersion | None, evaluation: Run | None, rates: dict[int, WinRate]
) -> Route:
    judged = evaluation.result if evaluation else {}
    trained = version.outcome if version else run.result
    reward, reward_by = _reward_of_evaluation(evaluation) if evaluation else (None, None)
    if reward is None:
        reward, reward_by = _reward_of_training(run, version, trained), run.reward_model
    return Route(
        label=_label(run, version),
        run=run,
        version=version,
        evaluation=evaluation,
        win_rate=rates.get(evaluation.pk) if evaluation else None,
        reward=reward,
        reward_by=None if reward is None else reward_by,
        kl=trained.get("kl"),
        kl_se=trained.get("kl_se"),
        length=judged.get("length_new", trained.get("length_last")),
        minutes=minutes_of(run, version),
        answer_seconds=judged.get("seconds_per_answer"),
        reward_minutes=_reward_minutes(run),
        memory_mib=run.result.get("peak_mib"),
    )


def _chosen(run: Run, rate: WinRate) -> Route:
    return Route(
        label=f"Best of {run.best_of}",
        run=run,
        version=None,
        evaluation=run,
        win_rate=rate,
        reward=_in_own_unit(
            run,
            run.config,
            _difference(run.result, "score_best", "score_first"),
            _of_reward_model(run.result, "new", "old"),
        ),
        reward_by=run.reward_model,
        kl=run.result.get("kl"),
        kl_se=None,
        length=run.result.get("length_new"),
        minutes=0.0,
        answer_seconds=run.result.get("seconds_per_answer"),
        reward_minutes=_reward_minutes(run),
        memory_mib=run.result.get("peak_mib"),
    )


def _label(run: Run, version: ModelVersion | None) -> str:
    """Example: "DPO", or "DPO, trial 2 of search run 7\"."""
    if run.kind != RunKind.SEARCH or version is None:
        return run.makes.label
    return f"{run.makes.label}, trial {version.details['trial'] + 1} of {str(run).lower()}"


def _reward_minutes(run: Run) -> float | None:
    model = run.reward_model
    return minutes_of(model.run, model) if model and model.run else None


def minutes_of(run: Run, version: ModelVersion | None = None) -> float | None:
    """Of what was promoted from a search, those of its trial. None if the run was resumed: what it took
    before is not known."""
    if run.kind == RunKind.SEARCH:
        seconds = version.details.get("seconds") if version else None
        return None if seconds is None else seconds / 60
    if run.started is None or run.finished is None or run.attempts:
        return None
    return (run.finished - run.started).total_seconds() / 60


def _reward_of_evaluation(run: Run) -> tuple[float | None, ModelVersion | None]:
    found = run.result
    apart = _of_reward_model(found, "new", "old")
    return _in_own_unit(run, run.config, found.get("reward_margin"), apart), run.reward_model


def _reward_of_training(
    run: Run, version: ModelVersion | None, found: dict[str, Any]
) -> float | None:
    gain = _difference(found, "score_last", "score_first")
    settings = version.settings if version else run.config
    return _in_own_unit(run, settings, gain, _of_reward_model(found, "last", "first"))


def _in_own_unit(
    run: Run, settings: dict[str, Any], total: float | None, apart: float | None
) -> float | None:
    """What the reward model alone says: the sum of all sources where that is its score and nothing else, or
    what was counted apart."""
    if run.reward_model is None:
        return None
    is_alone = (
        not settings.get("rewards")
        and settings.get("reward_weight", 1) == 1
        and not settings.get("missing_eos_penalty")
    )
    return total if is_alone else apart


def _of_reward_model(result: dict[str, Any], last: str, first: str) -> float | None:
    return _difference(result.get("by_source", {}).get(FIRST_NAME, {}), last, first)


def _difference(result: dict[str, Any], last: str, first: str) -> float | None:
    after, before = result.get(last), result.get(first)
    return None if after is None or before is None else after - before


# --- the missing evaluation -----------------------------------------------------------------------
def evaluate(
    version: ModelVersion, user: User | None, round_number: int, token: uuid.UUID | None = None
) -> Run:
    """Have people compare a version with the policy it was made from.

    Answers are sampled as in the newest evaluation of the project, so that routes are judged alike, and
    the newest reward model gives its opinion, alone. Raises RunRefused.
    """
    if version.parent is None:
        raise RunRefused(f"{version} was imported: there is no policy that it was made from.")
    project = version.project
    before = project.runs.evaluations().filter(status=Status.SUCCEEDED).first()
    left_out = (
        "model", "rival", "reward_model", "prompts",
        "rewards", "reward_weight", "missing_eos", "missing_eos_penalty",
    )  # fmt: skip
    settings = before.config if before else {}
    return launch(
        project,
        RunKind.EVALUATE,
        {name: value for name, value in settings.items() if name not in left_out},
        round_number=round_number,
        user=user,
        token=token,
        policy=version,
        rival=version.parent,
        reward_model=project.model_versions.filter(kind=ModelKind.REWARD).first(),
    )
