"""All figures of a project, as the pages and the command show them.

`compute` is the one function that does; what it gives is JSON. Every figure is
{"value", "low", "high", "n", "reason"}: an `Estimate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from django.utils import timezone

from annotator.models import Project, User
from annotator.quality.coefficients import (
    Meetings,
    alpha,
    alpha_nominal,
    cohen,
    fleiss,
    kendall,
    meetings,
)
from annotator.quality.consensus import (
    consensus,
    dawid_skene,
    disagreement,
    noisy_scores,
    shared_ballots,
)
from annotator.quality.leaderboard import battles_of, leaderboard
from annotator.quality.people import (
    Evidence,
    PersonFigures,
    everybody,
    evidence_by_annotator,
    figures_of,
    signals,
)
from annotator.quality.votes import JUDGMENTS_READ, Ballot, PairVotes, Votes, pair_votes, read_votes

MOST_GROUPS = 20  # criteria, sources, guideline versions: those with most votes
MOST_PERIODS = 26  # the newest
MOST_PEOPLE_IN_MATRIX = 12
MOST_DISAGREEMENTS = 500
WEEKS_FROM_DAYS = 21  # votes of fewer days are shown by day


class Report(NamedTuple):
    figures: dict[str, Any]
    consensus: dict[int, dict[str, Any]]  # by comparison


def compute(project: Project, newest: int = JUDGMENTS_READ) -> Report:
    """From the newest judgments, in a handful of queries."""
    votes = read_votes(project, newest)
    table = pair_votes(votes.counted)
    met = meetings(table)
    probabilities = dawid_skene(table)
    noisy = noisy_scores(table, votes.counted)
    evidence = evidence_by_annotator(
        votes.counted, votes.known, votes.repeats, table, met, probabilities
    )
    everyone = figures_of(0, everybody(evidence.values()), votes.answers)
    names = dict(User.objects.filter(pk__in=evidence).values_list("pk", "username"))
    figures = {
        "project": project.slug,
        "n_votes": len(votes.counted),
        "n_known": len(votes.known),
        "n_repeats": len(votes.repeats),
        "n_comparisons": len({ballot.comparison for ballot in votes.counted}),
        "n_annotators": len(evidence),
        "newest": newest if votes.is_cut else None,
        "agreement": {
            "alpha_ordinal": alpha(table)._asdict(),
            "alpha_nominal": alpha(table, alpha_nominal)._asdict(),
            "fleiss_kappa": fleiss(table)._asdict(),
            "kendall_tau": kendall(met)._asdict(),
            "self_agreement": everyone.self_agreement._asdict(),
            "known_answers": everyone.known_answers._asdict(),
        },
        "over_time": over_time(votes.counted, table),
        "by_guideline_version": by_guideline_version(votes.counted, table),
        "by_criterion": by_criterion(votes.counted),
        "by_source": by_source(votes, table),
        "cohens_kappa": matrix_of_kappas(votes.counted, met, names),
        "everybody": everyone.as_json(),
        "annotators": people(evidence, everyone, votes, names),
        "leaderboard": leaderboard(battles_of(table, votes.answers)),
        "disagreements": disagreements(votes.counted),
    }
    return Report(figures, consensus(votes.counted, table, probabilities, noisy.scores))


# --- alpha of parts -------------------------------------------------------------------------------
def _part(name: str, table: PairVotes) -> dict[str, Any]:
    n_votes = len(np.unique(table.ballot))
    return {"name": name, "n_votes": n_votes, "alpha": alpha(table)._asdict()}


def _by_ballot(
    table: PairVotes, labels: Sequence[Any], shown: Iterable[Any]
) -> list[dict[str, Any]]:
    """Alpha among the votes of each label in `shown`; `labels` has one for each ballot."""
    of_row = np.array(labels)[table.ballot]
    return [_part(str(label), table.where(of_row == label)) for label in shown]


def over_time(ballots: Sequence[Ballot], table: PairVotes) -> list[dict[str, Any]]:
    """By week or, of fewer than three weeks, by day; a comparison belongs to its last vote's."""
    if not ballots:
        return []
    days = [timezone.localdate(ballot.created) for ballot in ballots]
    last: dict[int, date] = {}
    for ballot, day in zip(ballots, days, strict=True):
        last[ballot.comparison] = max(day, last.get(ballot.comparison, day))
    is_long = (max(days) - min(days)).days >= WEEKS_FROM_DAYS
    labels = [
        f"week of {_monday(last[ballot.comparison])}" if is_long else str(last[ballot.comparison])
        for ballot in ballots
    ]
    return _by_ballot(table, labels, sorted(set(labels))[-MOST_PERIODS:])


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def by_guideline_version(ballots: Sequence[Ballot], table: PairVotes) -> list[dict[str, Any]]:
    """Among votes that were given with the same version before one's eyes."""
    versions = [ballot.guideline_version for ballot in ballots]
    return _by_ballot(table, versions, sorted(set(versions))[-MOST_GROUPS:])


def by_criterion(ballots: Sequence[Ballot]) -> list[dict[str, Any]]:
    n_votes = Counter(name for ballot in ballots for name in ballot.criteria)
    return [_part(name, pair_votes(ballots, name)) for name, _ in n_votes.most_common(MOST_GROUPS)]


def by_source(votes: Votes, table: PairVotes) -> list[dict[str, Any]]:
    """Of pairs with an answer of each source."""
    sources = np.array(
        [
            [votes.answers[pk].source for pk in pair]
            for pair in zip(table.first.tolist(), table.second.tolist(), strict=True)
        ]
    ).reshape(-1, 2)
    n_votes = Counter(source for pair in sources.tolist() for source in set(pair))
    return [
        _part(source, table.where((sources == source).any(1)))
        for source, _ in n_votes.most_common(MOST_GROUPS)
    ]


# --- people ---------------------------------------------------------------------------------------
def matrix_of_kappas(
    ballots: Sequence[Ballot], met: Meetings, names: dict[int, str]
) -> dict[str, Any]:
    """Cohen's kappa of each two of those who voted most."""
    n_votes = Counter(ballot.annotator for ballot in ballots)
    shown = sorted(pk for pk, _ in n_votes.most_common(MOST_PEOPLE_IN_MATRIX))
    kappas = {
        (one, other): cohen(met.where((met.one == one) & (met.other == other)))._asdict()
        for place, one in enumerate(shown)
        for other in shown[place + 1 :]
    }
    rows = [[kappas.get((min(one, other), max(one, other))) for other in shown] for one in shown]
    return {
        "names": [names[pk] for pk in shown],
        "rows": rows,
        "n_left_out": len(n_votes) - len(shown),
    }


def people(
    evidence: dict[int, Evidence], everyone: PersonFigures, votes: Votes, names: dict[int, str]
) -> list[dict[str, Any]]:
    """Those about whom several figures say something first; then least agreement with the others."""
    rows = []
    for annotator, of_person in evidence.items():
        figures = figures_of(annotator, of_person, votes.answers)
        signs = signals(figures, everyone)
        rows.append({"name": names[annotator], "signals": signs, **figures.as_json()})
    return sorted(rows, key=_order_of_people)


def _order_of_people(row: dict[str, Any]) -> tuple[int, bool, float, str]:
    agreement = row["agreement"]["value"]
    return -len(row["signals"]), agreement is None, agreement or 0.0, row["name"]


# --- comparisons ----------------------------------------------------------------------------------
def disagreements(ballots: Sequence[Ballot]) -> list[dict[str, Any]]:
    """The most split first; of equally split ones those with more votes."""
    rows = [
        {"comparison": comparison, "split": disagreement(votes), "n_votes": len(votes)}
        for comparison, votes in shared_ballots(ballots).items()
    ]
    split = [row for row in rows if row["split"] > 0]
    split.sort(key=lambda row: (-row["split"], -row["n_votes"], -row["comparison"]))
    return split[:MOST_DISAGREEMENTS]
