"""All figures of a project, as the pages and the command show them.

`compute` is the one function that does; what it gives is JSON. Every figure is
{"value", "low", "high", "n", "reason"}: an `Estimate`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from annotator.models import Project, User
from annotator.quality.coefficients import (
    Estimate,
    Meetings,
    alpha,
    alpha_nominal,
    cohen,
    fleiss,
    kendall,
    meetings,
    pairwise_cohen,
)
from annotator.quality.consensus import (
    consensus,
    dawid_skene,
    disagreement,
    noisy_scores,
    shared_ballots,
)
from annotator.quality.keeping import FORMAT
from annotator.quality.leaderboard import battles_of, leaderboard
from annotator.quality.people import (
    Evidence,
    PersonFigures,
    everybody,
    evidence_by_annotator,
    figures_of,
    known_answers_of_all,
    said_twice,
    self_agreement,
    signals,
)
from annotator.quality.votes import JUDGMENTS_READ, Answer, Ballot, Votes, pair_votes, read_votes

MOST_GROUPS = 20  # criteria, sources, guideline versions: those with most votes
MOST_PERIODS = 26  # the newest
MOST_PEOPLE_IN_MATRIX = 12
MOST_DISAGREEMENTS = 500
KNOWN_OF_THE_WHOLE = "Answers are known of the whole, not of one criterion."
DAYS_FOR_WEEKS = 21  # votes of fewer days are shown by day


class Said(NamedTuple):
    """What agreement is computed from: of a project, or of a part of it."""

    counted: list[Ballot]
    known: list[Ballot]
    again: list[tuple[Ballot, Ballot]]  # what was said before, and when asked a second time


class Parts(NamedTuple):
    """Figures of parts of a project, as JSON; of very many parts there are those of some."""

    rows: list[dict[str, Any]]
    n_left_out: int


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
    said = Said(
        votes.counted, votes.known, said_twice([*votes.counted, *votes.known], votes.repeats)
    )
    evidence = evidence_by_annotator(*said, table, met, probabilities)
    everyone = figures_of(0, everybody(evidence.values()), votes.answers)
    names = dict(User.objects.filter(pk__in=evidence).values_list("pk", "username"))
    lists = {
        "over_time": over_time(said),
        "by_guideline_version": by_guideline_version(said),
        "by_criterion": by_criterion(said),
        "by_source": by_source(said, votes.answers),
        "disagreements": disagreements(votes.counted),
    }
    figures = {
        "format": FORMAT,
        "project": project.slug,
        "n_votes": len(votes.counted),
        "n_unrankable": votes.n_unrankable,
        "n_known": len(votes.known),
        "n_repeats": len(votes.repeats),
        "n_comparisons": len({ballot.comparison for ballot in votes.counted}),
        "n_annotators": len(evidence),
        "newest": newest if votes.is_cut else None,
        "agreement": measures(said),
        **{name: parts.rows for name, parts in lists.items()},
        "left_out": {name: parts.n_left_out for name, parts in lists.items()},
        "cohens_kappa": matrix_of_kappas(votes.counted, met, names),
        "everybody": everyone.as_json(),
        "annotators": people(evidence, everyone, votes, names),
        "leaderboard": leaderboard(battles_of(table, votes.answers)),
    }
    return Report(figures, consensus(votes.counted, table, probabilities, noisy.scores))


# --- the whole, and parts ---------------------------------------------------------------------
def measures(said: Said) -> dict[str, Any]:
    table = pair_votes(said.counted)
    met = meetings(table)
    figures = {
        "alpha_ordinal": alpha(table),
        "alpha_nominal": alpha(table, alpha_nominal),
        "cohens_kappa": pairwise_cohen(met),
        "fleiss_kappa": fleiss(table),
        "kendall_tau": kendall(met),
        "self_agreement": self_agreement(said.again),
        "known_answers": known_answers_of_all(said.known),
    }
    return {name: figure._asdict() for name, figure in figures.items()}


def _part(name: str, said: Said) -> dict[str, Any]:
    return {"name": name, "n_votes": len(said.counted), **measures(said)}


def _labelled(
    said: Said, label: Callable[[Ballot], Any], label_of_one: Callable[[Ballot], Any] | None = None
) -> dict[Any, Said]:
    """By label, what was said there; repeats belong to the time and place of the second time.

    `label_of_one`, if it is another, is that of votes which are not compared with those of others.
    """
    label_of_one = label_of_one or label
    parts: dict[Any, Said] = defaultdict(lambda: Said([], [], []))
    for ballot in said.counted:
        parts[label(ballot)].counted.append(ballot)
    for ballot in said.known:
        parts[label_of_one(ballot)].known.append(ballot)
    for before, again in said.again:
        parts[label_of_one(again)].again.append((before, again))
    return parts


def over_time(said: Said) -> Parts:
    """By week or, of fewer than three weeks, by day; a comparison belongs to its last vote's, known answers
    and repeats to their own."""
    last: dict[int, date] = {}
    for ballot in said.counted:
        day = timezone.localdate(ballot.created)
        last[ballot.comparison] = max(day, last.get(ballot.comparison, day))
    days = last.values()
    is_long = bool(days) and (max(days) - min(days)).days >= DAYS_FOR_WEEKS

    def label(day: date) -> str:
        return f"week of {day - timedelta(days=day.weekday())}" if is_long else str(day)

    parts = _labelled(
        said,
        lambda ballot: label(last[ballot.comparison]),
        lambda ballot: label(timezone.localdate(ballot.created)),
    )
    return _newest(parts, MOST_PERIODS)


def by_guideline_version(said: Said) -> Parts:
    """Among votes that were given with the same version before one's eyes."""
    parts = _labelled(said, lambda ballot: ballot.guideline_version)
    return _newest(parts, MOST_GROUPS)


def _newest(parts: Mapping[Any, Said], most: int) -> Parts:
    shown = sorted(parts)[-most:]
    return Parts([_part(str(name), parts[name]) for name in shown], len(parts) - len(shown))


def by_criterion(said: Said) -> Parts:
    """Of what was said of each criterion by itself."""
    n_votes = Counter(name for ballot in said.counted for name in ballot.criteria)
    parts = _most_voted(n_votes, lambda name: _of_criterion(said, name))
    for row in parts.rows:
        row["known_answers"] = Estimate(None, reason=KNOWN_OF_THE_WHOLE)._asdict()
    return parts


def _most_voted(n_votes: Counter[str], said_of: Callable[[str], Said]) -> Parts:
    shown = [name for name, _ in n_votes.most_common(MOST_GROUPS)]
    return Parts([_part(name, said_of(name)) for name in shown], len(n_votes) - len(shown))


def _of_criterion(said: Said, name: str) -> Said:
    """Rankings by one criterion in the place of the whole."""

    def turned(ballot: Ballot) -> Ballot:
        # Of three answers and more, a criterion asks for the best one alone.
        return ballot._replace(ranking=ballot.criteria[name], is_pick=len(ballot.order) > 2)

    return Said(
        [turned(ballot) for ballot in said.counted if name in ballot.criteria],
        [],
        [
            (turned(before), turned(again))
            for before, again in said.again
            if name in before.criteria and name in again.criteria
        ],
    )


def by_source(said: Said, answers: Mapping[int, Answer]) -> Parts:
    """Of comparisons with an answer of each source."""

    def sources(ballot: Ballot) -> set[str]:
        return {answers[pk].source for pk in ballot.order}

    def said_of(name: str) -> Said:
        return Said(
            [ballot for ballot in said.counted if name in sources(ballot)],
            [ballot for ballot in said.known if name in sources(ballot)],
            [votes for votes in said.again if name in sources(votes[1])],
        )

    n_votes = Counter(source for ballot in said.counted for source in sources(ballot))
    return _most_voted(n_votes, said_of)


# --- people -----------------------------------------------------------------------------------
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
    """Those first about whom several figures say something; then by agreement with the others."""
    rows = []
    for annotator, of_person in evidence.items():
        figures = figures_of(annotator, of_person, votes.answers)
        signs = signals(figures, everyone)
        rows.append({"name": names[annotator], "signals": signs, **figures.as_json()})
    return sorted(rows, key=_order_of_people)


def _order_of_people(row: dict[str, Any]) -> tuple[int, bool, float, str]:
    agreement = row["agreement"]["value"]
    return -len(row["signals"]), agreement is None, agreement or 0.0, row["name"]


# --- comparisons ------------------------------------------------------------------------------
def disagreements(ballots: Sequence[Ballot]) -> Parts:
    """The most split first; of equally split ones those with more votes."""
    rows = [
        {"comparison": comparison, "split": disagreement(votes), "n_votes": len(votes)}
        for comparison, votes in shared_ballots(ballots).items()
    ]
    split = [row for row in rows if row["split"] > 0]
    split.sort(key=lambda row: (-row["split"], -row["n_votes"], -row["comparison"]))
    return Parts(split[:MOST_DISAGREEMENTS], max(len(split) - MOST_DISAGREEMENTS, 0))
