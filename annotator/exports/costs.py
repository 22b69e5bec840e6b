"""What an export would be made from, and what each of its filters leaves out, before it is made."""

from __future__ import annotations

from typing import NamedTuple

from django.db.models import Count, Q

from annotator.exports.filters import Filters, all_conditions, conditions, keeps
from annotator.exports.records import comparisons_with, judgments_of, records_of
from annotator.models import COUNTED, Project

SAMPLED = 1000  # comparisons that the cost of agreement is estimated from

TITLES = {
    "rounds": "Rounds",
    "dates": "Dates",
    "annotators": "Annotators",
    "guideline_versions": "Versions of the guidelines",
    "sources": "Sources",
    "criteria": "Criteria",
    "rankings": "Rankings and agreement",
}


class Cost(NamedTuple):
    """What one filter would leave out if it were the only one."""

    title: str
    n_votes: int
    n_comparisons: int
    is_estimate: bool = False


class Costs(NamedTuple):
    n_votes: int  # of the project's training comparisons
    n_comparisons: int
    costs: list[Cost]
    kept_votes: int  # by all filters together
    kept_comparisons: int
    is_estimate: bool


def costs_of(project: Project, filters: Filters) -> Costs:
    """Counted by the database in one pass; agreement is estimated from SAMPLED comparisons drawn
    at random if there are more."""
    votes = judgments_of(project).filter(verdict__in=COUNTED)
    single = conditions(filters)
    parts = {"all": Q(pk__isnull=False), **single, "kept": all_conditions(filters)}
    counts = {}
    for name, condition in parts.items():
        condition = condition or Q(pk__isnull=False)
        counts[f"{name}_votes"] = Count("pk", filter=condition)
        counts[f"{name}_comparisons"] = Count("comparison", filter=condition, distinct=True)
    n = votes.aggregate(**counts)

    def left_out(name: str) -> Cost:
        return Cost(
            TITLES[name],
            n["all_votes"] - n[f"{name}_votes"],
            n["all_comparisons"] - n[f"{name}_comparisons"],
        )

    costs = [left_out(name) for name in single]
    kept = n["kept_votes"], n["kept_comparisons"]
    is_estimate = False
    if filters.looks_at_rankings:
        alone, is_estimate = _kept_share(project, _of_rankings(filters), *_all(n))
        costs.append(
            Cost(
                TITLES["rankings"],
                n["all_votes"] - alone[0],
                n["all_comparisons"] - alone[1],
                is_estimate,
            )
        )
        kept, is_estimate = _kept_share(project, filters, *kept)
    return Costs(*_all(n), costs, *kept, is_estimate)


def _all(n: dict[str, int]) -> tuple[int, int]:
    return n["all_votes"], n["all_comparisons"]


def _of_rankings(filters: Filters) -> Filters:
    return Filters(min_rankings=filters.min_rankings, min_agreement=filters.min_agreement)


def _kept_share(
    project: Project, filters: Filters, n_votes: int, n_comparisons: int
) -> tuple[tuple[int, int], bool]:
    """How many of so many votes and comparisons, which the other filters keep, the rankings keep;
    and whether that was estimated."""
    condition = all_conditions(filters) & Q(verdict__in=COUNTED)
    with_votes = comparisons_with(project, condition)
    is_sample = n_comparisons > SAMPLED
    if is_sample:
        # Each comparison has a number that was drawn when it was made.
        with_votes = with_votes.filter(draw__lt=SAMPLED / n_comparisons)
    pks = list(with_votes.order_by("pk").values_list("pk", flat=True)[: 2 * SAMPLED])
    seen = sum_votes = kept_comparisons = kept_votes = 0
    for record in records_of(pks, condition):
        n = len(record["judgments"])
        seen, sum_votes = seen + 1, sum_votes + n
        if keeps(record, filters):
            kept_comparisons, kept_votes = kept_comparisons + 1, kept_votes + n
    if not is_sample:
        return (kept_votes, kept_comparisons), False
    votes_share = kept_votes / sum_votes if sum_votes else 0
    comparisons_share = kept_comparisons / seen if seen else 0
    return (round(n_votes * votes_share), round(n_comparisons * comparisons_share)), True
