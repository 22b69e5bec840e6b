"""What a project's runs took, and what that cost: hours, tokens and money by month and kind of run.

    money = hours · price of an hour + tokens of models here · their price + what endpoints were paid

Counted are all runs whose process has begun and ended, however they ended, with all their starts. Tokens of models
here are known of runs that have succeeded, and of PPO, RLOO, GRPO and conversations as far as they came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.utils import timezone

from annotator.models import Project
from rlhf.models import EndpointUse, ModelVersion, Run, RunKind
from rlhf.price_models import ModelPrice, Price

TRIED = "Endpoints tried by hand"


class Cost(NamedTuple):
    """Of one month and kind, or a sum of such."""

    month: str  # "2026-11"
    kind: str
    runs: int = 0
    hours: float = 0.0
    tokens: int = 0  # read and written by endpoints
    spent: float = 0.0  # on endpoints
    charged: float = 0.0  # for tokens of models here that have a price
    money: float = 0.0  # all of it, with the hours
    written: int = 0  # tokens, by models here
    learned: int = 0  # tokens, by models here, as often as they were shown


class Bill(NamedTuple):
    currency: str
    per_hour: float
    rows: list[Cost]
    total: Cost


def bill_of(project: Project) -> Bill:
    price = price_of(project)
    rows = costs_of(project, price)
    return Bill(price.currency, price.per_hour, rows, total(rows))


def price_of(project: Project) -> Price:
    """The one that is set, or one that counts nothing."""
    return Price.objects.filter(project=project).first() or Price(project=project)


def costs_of(project: Project, price: Price) -> list[Cost]:
    """By month, the newest first, and by kind within it."""
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for cost in [*_of_runs(project, price), *_of_endpoints(project)]:
        found[cost.month, cost.kind].append(cost)
    rows = [total(costs, *key) for key, costs in found.items()]
    return sorted(sorted(rows, key=lambda row: row.kind), key=lambda row: row.month, reverse=True)


def total(costs: Iterable[Cost], month: str = "", kind: str = "") -> Cost:
    numbers = [cost[2:] for cost in costs]
    return (
        Cost(month, kind, *map(sum, zip(*numbers, strict=True))) if numbers else Cost(month, kind)
    )


def _of_runs(project: Project, price: Price) -> Iterable[Cost]:
    per_million = _token_prices(project)
    fields = ("kind", "started", "finished", "result__tokens", "result__earlier_seconds")
    versions = ("policy_id", "rival_id", "base_id")
    rows = Run.objects.filter(project=project, started__isnull=False, finished__isnull=False)
    for kind, started, finished, tokens, earlier, *pks in rows.values_list(*fields, *versions):
        seconds = max((finished - started).total_seconds(), 0.0) + (earlier or 0.0)
        written, learned = _counted(tokens)
        policy, rival, base = (per_million.get(pk, 0.0) for pk in pks)
        learner = (policy or rival) if pks[-1] is None else base
        charged = (written * (policy or rival) + learned * learner) / 1e6
        yield Cost(
            f"{timezone.localtime(started):%Y-%m}",
            RunKind(kind).label,
            runs=1,
            hours=seconds / 3600,
            charged=charged,
            money=price.of_seconds(seconds) + charged,
            written=written,
            learned=learned,
        )


def _counted(tokens: Mapping[str, Any] | None) -> tuple[int, int]:
    """Written and learned from, as a run's result has them."""
    tokens = tokens or {}
    return tokens.get("written", 0), tokens.get("learned", 0)


def seconds_of(run: Run) -> float | None:
    """Of all its starts; None of one that has not ended, or was resumed before that was kept."""
    earlier = run.result.get("earlier_seconds", None if run.attempts else 0.0)
    if run.started is None or run.finished is None or earlier is None:
        return None
    return max((run.finished - run.started).total_seconds(), 0.0) + earlier


def charged_to(run: Run) -> float:
    """For what its models wrote, and what the policy, or the base of a reward model, learned from."""
    written, learned = _counted(run.result.get("tokens"))

    def of_writers(tokens: float) -> float:
        return charged_for(run.policy, tokens) or charged_for(run.rival, tokens)

    learner = of_writers(learned) if run.base is None else charged_for(run.base, learned)
    return of_writers(written) + learner


def _token_prices(project: Project) -> dict[int, float]:
    """By version: that of the imported model which it comes from, if that has one."""
    set_ = ModelPrice.objects.filter(version__project=project, per_million__gt=0)
    of_root = dict(set_.values_list("version", "per_million"))
    if not of_root:
        return {}
    parents = dict(project.model_versions.values_list("pk", "parent"))
    prices = {}
    for version in parents:
        root = version
        while (parent := parents.get(root)) is not None:
            root = parent
        if root in of_root:
            prices[version] = of_root[root]
    return prices


def charged_for(version: ModelVersion | None, tokens: float) -> float:
    """What tokens of a version cost by the price of the imported model; 0 for none."""
    if version is None or not version.is_asked_here:
        return 0.0
    price = ModelPrice.objects.filter(version=version.writer.root()).first()
    return price.of_tokens(tokens) if price else 0.0


def _of_endpoints(project: Project) -> Iterable[Cost]:
    uses = EndpointUse.objects.filter(endpoint__version__project=project)
    fields = ("run__kind", "created", "prompt_tokens", "completion_tokens", "spent")
    for kind, created, prompts, completions, spent in uses.values_list(*fields):
        yield Cost(
            f"{timezone.localtime(created):%Y-%m}",
            RunKind(kind).label if kind else TRIED,
            tokens=prompts + completions,
            spent=spent,
            money=spent,
        )
