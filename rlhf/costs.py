"""What a project's runs took, and what that cost: hours, tokens and money by month and kind of run.

    money = hours · price of an hour + what endpoints were paid

Counted are all runs whose process has begun and ended, however they ended. Of a run that was resumed only the
time since its last start is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from django.utils import timezone

from annotator.models import Project
from rlhf.models import EndpointUse, Run, RunKind
from rlhf.price_models import Price

TRIED = "Endpoints tried by hand"


class Cost(NamedTuple):
    """Of one month and kind, or a sum of such."""

    month: str  # "2026-11"
    kind: str
    runs: int = 0
    hours: float = 0.0
    tokens: int = 0  # read and written by endpoints
    spent: float = 0.0  # on endpoints
    money: float = 0.0  # with the hours


def price_of(project: Project) -> Price:
    """The one that is set, or one that counts nothing."""
    return Price.objects.filter(project=project).first() or Price(project=project)


def costs_of(project: Project) -> list[Cost]:
    """By month, the newest first, and by kind within it."""
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for cost in [*_of_runs(project), *_of_endpoints(project)]:
        found[cost.month, cost.kind].append(cost)
    rows = [total(costs, *key) for key, costs in found.items()]
    return sorted(sorted(rows, key=lambda row: row.kind), key=lambda row: row.month, reverse=True)


def total(costs: Iterable[Cost], month: str = "", kind: str = "") -> Cost:
    numbers = [cost[2:] for cost in costs]
    return (
        Cost(month, kind, *map(sum, zip(*numbers, strict=True))) if numbers else Cost(month, kind)
    )


def _of_runs(project: Project) -> Iterable[Cost]:
    price = price_of(project)
    times = Run.objects.filter(project=project).values_list("kind", "started", "finished")
    for kind, started, finished in times:
        if started is None or finished is None:
            continue
        seconds = max((finished - started).total_seconds(), 0.0)
        yield Cost(
            f"{timezone.localtime(started):%Y-%m}",
            RunKind(kind).label,
            runs=1,
            hours=seconds / 3600,
            money=price.of_seconds(seconds),
        )


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
