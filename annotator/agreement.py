"""How far annotators agree: with one another as a group, and each of them with the others.

The two figures that rounds and simulations ask for at once, without intervals; `quality` has all
the others, and takes its time.

Rankings are taken apart into pairs, so that comparisons of any size count alike: of each two
completions a ranking says -1, 0 or 1 (worse, tie, better). All-bad verdicts and skips rank
nothing and are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, groupby
from statistics import fmean
from typing import Any, NamedTuple

from django.db.models import QuerySet

from annotator.models import Judgment, Project, Purpose, User, Verdict
from annotator.protocols import is_pick
from annotator.rankings import outcomes_of

OUTCOMES = [-1, 0, 1]


class Agreement(NamedTuple):
    """Krippendorff's alpha: 1 is perfect, 0 what chance gives; or None and a reason."""

    value: float | None
    reason: str = ""


class AnnotatorStatistics(NamedTuple):
    """One annotator's judgments beside those of the others."""

    user: User
    n_judgments: int
    agreement: float | None  # mean over shared pairs: 1 the same, 1/2 a tie against a preference
    n_shared: int  # comparisons that somebody else has ranked as well


class _Vote(NamedTuple):
    comparison: int
    round_number: int
    annotator: int
    verdict: str
    ranking: list[list[int]]
    protocol: dict[str, Any]

    @property
    def outcomes(self) -> dict[tuple[int, int], int]:
        picked = is_pick(self.protocol, sum(map(len, self.ranking)))
        return outcomes_of(self.ranking, is_pick=picked)


# --- all together -----------------------------------------------------------------------------
def alpha(
    project: Project,
    purpose: str | None = None,
    origin: str | None = None,
) -> Agreement:
    """Ordinal alpha of the rankings in force, of one purpose or origin or of all."""
    judgments = _counted(project)
    if purpose is not None:
        judgments = judgments.filter(comparison__purpose=purpose)
    if origin is not None:
        judgments = judgments.filter(comparison__origin=origin)
    return _alpha(_ballots(judgments))


def alpha_by_round(project: Project, *, newest: int) -> dict[int, Agreement]:
    """Alpha of the training comparisons of each round, among the newest so many judgments."""
    judgments = _counted(project, newest).filter(comparison__purpose=Purpose.TRAINING)
    ballots: dict[int, list[dict[int, _Vote]]] = defaultdict(list)
    for votes in _ballots(judgments):
        ballots[next(iter(votes.values())).round_number].append(votes)
    return {number: _alpha(of_round) for number, of_round in ballots.items()}


def _alpha(ballots: Iterable[Mapping[int, _Vote]]) -> Agreement:
    units = [unit for votes in ballots for unit in _outcome_counts(votes)]
    if not units:
        return Agreement(None, "No comparison has been ranked by two people yet.")
    if all(unit == [0, sum(unit), 0] for unit in units):
        return Agreement(
            None, "All rankings are ties, so nothing could tell agreement from chance."
        )
    # Imported late: numpy takes a tenth of a second, and every process imports this module.
    import krippendorff  # noqa: PLC0415

    return Agreement(
        float(
            krippendorff.alpha(
                value_counts=units, value_domain=OUTCOMES, level_of_measurement="ordinal"
            )
        )
    )


def _outcome_counts(votes: Mapping[int, _Vote]) -> Iterator[list[int]]:
    """How many said -1, 0 and 1 of each pair, seen from both sides.

    Which completion of a pair comes first is arbitrary; counted from one side only, the result
    would depend on it.
    """
    for outcomes in _pair_outcomes(votes):
        counts = [list(outcomes.values()).count(outcome) for outcome in OUTCOMES]
        yield counts
        yield counts[::-1]


# --- one against the others -------------------------------------------------------------------
def annotator_statistics(project: Project) -> list[AnnotatorStatistics]:
    """All who have judged something, least agreement with the others first."""
    judgments = _counted(project)
    agreements: dict[int, list[float]] = defaultdict(list)
    for votes in _ballots(judgments):
        for annotator, share in _agreement_with_others(votes).items():
            agreements[annotator].append(share)
    of_annotator: dict[int, list[_Vote]] = defaultdict(list)
    for vote in _votes(judgments):
        of_annotator[vote.annotator].append(vote)
    users = User.objects.in_bulk(of_annotator)
    statistics = [
        AnnotatorStatistics(
            user=users[annotator],
            n_judgments=len(votes),
            agreement=fmean(agreements[annotator]) if agreements[annotator] else None,
            n_shared=len(agreements[annotator]),
        )
        for annotator, votes in of_annotator.items()
    ]
    return sorted(statistics, key=_least_agreement_first)


def _least_agreement_first(row: AnnotatorStatistics) -> tuple[bool, float, str]:
    return row.agreement is None, row.agreement or 0.0, row.user.username


def _agreement_with_others(votes: Mapping[int, _Vote]) -> dict[int, float]:
    """Of one comparison: the mean agreement of each annotator with each other one, over pairs."""
    shares: dict[int, list[float]] = defaultdict(list)
    for outcomes in _pair_outcomes(votes):
        for one, other in combinations(outcomes, 2):
            share = 1 - abs(outcomes[one] - outcomes[other]) / 2
            shares[one].append(share)
            shares[other].append(share)
    return {annotator: fmean(of_annotator) for annotator, of_annotator in shares.items()}


# --- judgments to pairs -----------------------------------------------------------------------
def _counted(project: Project, newest: int | None = None) -> QuerySet[Judgment]:
    """Known answers say how well people judge, and are left out of how far they agree."""
    counted = Judgment.objects.counted().filter(project=project)
    counted = counted.exclude(comparison__purpose=Purpose.GOLD)
    if newest is None:
        return counted
    among = Judgment.objects.filter(project=project).order_by("-pk").values("pk")[:newest]
    return counted.filter(pk__in=among)


def _votes(judgments: QuerySet[Judgment]) -> Iterator[_Vote]:
    rows = judgments.order_by("comparison_id", "pk").values_list(
        "comparison_id",
        "comparison__round_number",
        "annotator_id",
        "verdict",
        "ranking",
        "assignment__protocol",
    )
    return map(_Vote._make, rows.iterator())


def _ballots(judgments: QuerySet[Judgment]) -> Iterator[dict[int, _Vote]]:
    """By annotator, the rankings of each comparison that two or more people have ranked."""
    rankings = _votes(judgments.filter(verdict=Verdict.RANKING))
    for _, of_comparison in groupby(rankings, lambda vote: vote.comparison):
        votes = {vote.annotator: vote for vote in of_comparison}
        if len(votes) > 1:
            yield votes


def _pair_outcomes(votes: Mapping[int, _Vote]) -> Iterator[dict[int, int]]:
    """By annotator, what they say of each pair: -1, 0 or 1. Who said nothing of it is not there."""
    says = {annotator: vote.outcomes for annotator, vote in votes.items()}
    for pair in sorted(set().union(*says.values())):
        yield {annotator: of[pair] for annotator, of in says.items() if pair in of}
