"""Votes and answers as tables, read from the database once for all figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from django.db.models import Q, QuerySet

from annotator.models import (
    COUNTED,
    Comparison,
    ComparisonCompletion,
    Completion,
    Judgment,
    Project,
    Purpose,
    Verdict,
)
from annotator.protocols import is_pick
from annotator.rankings import Ranking, outcomes_of

# The newest judgments; what is older is not read for a report.
JUDGMENTS_READ = 20_000

CODE = re.compile(r"^(`{3,}|~{3,}).*?(?:^\1|\Z)", re.DOTALL | re.MULTILINE)
HEADER = re.compile(r"^ {0,3}#{1,6}\s", re.MULTILINE)
LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])\s", re.MULTILINE)
BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


class Ballot(NamedTuple):
    """A judgment in force, with what is known of its comparison."""

    comparison: int
    annotator: int
    ranking: Ranking  # empty: all are bad
    criteria: Mapping[str, Ranking]
    order: Sequence[int]  # completion ids from left to right, as shown
    seconds: float | None
    guideline_version: int
    created: datetime
    is_repeat: bool
    purpose: str
    expected: Ranking  # of a known answer
    is_pick: bool = False  # only the best of several was asked for

    @property
    def outcomes(self) -> dict[tuple[int, int], int]:
        """What it says of each two completions."""
        return outcomes_of(self.ranking, is_pick=self.is_pick)


class Answer(NamedTuple):
    """What is looked at of a completion besides who wrote it: its looks."""

    source: str
    n_characters: int
    n_headers: int = 0
    n_list_items: int = 0
    n_bold: int = 0


class Votes(NamedTuple):
    counted: list[Ballot]  # on training and evaluation
    known: list[Ballot]  # on comparisons with a known answer
    repeats: list[Ballot]  # said a second time by the same person
    answers: dict[int, Answer]
    n_unrankable: int  # verdicts that say nothing of the answers
    is_cut: bool  # there are older judgments, which were not read


class PairVotes(NamedTuple):
    """Rankings taken apart: one row per vote and pair of completions, all of a pair together."""

    ballot: np.ndarray  # (n,) place among the ballots
    comparison: np.ndarray  # (n,)
    pair: np.ndarray  # (n,) the same number for the same two completions
    annotator: np.ndarray  # (n,)
    outcome: np.ndarray  # (n,) 1: the first is better; 0: a tie; -1: the second
    first: np.ndarray  # (n,) completion ids; the lower one
    second: np.ndarray  # (n,)

    def where(self, mask: np.ndarray) -> PairVotes:
        return PairVotes._make(column[mask] for column in self)


# --- reading ----------------------------------------------------------------------------------
def read_votes(project: Project, newest: int = JUDGMENTS_READ) -> Votes:
    """What is in force among the newest judgments. A handful of queries, however many there are."""
    judgments = Judgment.objects.filter(project=project)
    among = judgments.order_by("-pk").values("pk")[:newest]
    # Whoever calls unrankable what has a known answer is wrong; of other answers it says nothing.
    is_vote = Q(verdict__in=COUNTED) | Q(
        verdict=Verdict.UNRANKABLE, comparison__purpose=Purpose.GOLD
    )
    in_force = judgments.filter(is_vote, pk__in=among, voided=None)
    rows = in_force.order_by("pk").values_list(
        "comparison_id",
        "annotator_id",
        "ranking",
        "criteria",
        "assignment__order",
        "seconds",
        "guideline_version",
        "created",
        "is_repeat",
        "comparison__purpose",
        "comparison__expected",
        "assignment__protocol",
    )
    ballots = [
        Ballot._make((*row[:3], _rankings(row[3]), *row[4:-1], is_pick(row[-1], len(row[4]))))
        for row in rows
    ]
    first_said = [ballot for ballot in ballots if not ballot.is_repeat]
    return Votes(
        counted=[ballot for ballot in first_said if ballot.purpose != Purpose.GOLD],
        known=_first_said([ballot for ballot in ballots if ballot.purpose == Purpose.GOLD]),
        repeats=[one for one in ballots if one.is_repeat and one.purpose != Purpose.GOLD],
        answers=_answers(in_force),
        n_unrankable=_unrankable(judgments.filter(pk__in=among)).count(),
        is_cut=judgments.order_by("-pk")[newest:].exists(),
    )


def _first_said(known: Sequence[Ballot]) -> list[Ballot]:
    """Of each person on each known answer: later, in another attempt to qualify, they may remember it."""
    first: dict[tuple[int, int], Ballot] = {}
    for ballot in known:
        first.setdefault((ballot.comparison, ballot.annotator), ballot)
    return list(first.values())


def _unrankable(judgments: QuerySet[Judgment]) -> QuerySet[Judgment]:
    first_said = judgments.filter(verdict=Verdict.UNRANKABLE, voided=None, is_repeat=False)
    return first_said.exclude(comparison__purpose=Purpose.GOLD)


def _rankings(criteria: Mapping[str, Mapping[str, Ranking]]) -> dict[str, Ranking]:
    found = {name: said.get("ranking") for name, said in criteria.items()}
    return {name: ranking for name, ranking in found.items() if ranking}


def _answers(judgments: QuerySet[Judgment]) -> dict[int, Answer]:
    judged = Comparison.objects.filter(pk__in=judgments.order_by().values("comparison"))
    shown = ComparisonCompletion.objects.filter(comparison__in=judged).order_by()
    rows = Completion.objects.filter(pk__in=shown.values("completion"))
    # Texts are long: only their looks are kept.
    texts = rows.values_list("pk", "source", "text").iterator(chunk_size=200)
    return {pk: answer_of(source, text) for pk, source, text in texts}


def answer_of(source: str, text: str) -> Answer:
    """Example: "# Title\\n- **one**" has one header, one list item and one bold passage.

    Code is left out, in which a line that starts with # is no header.
    """
    prose = CODE.sub("", text)
    return Answer(
        source,
        len(text),
        n_headers=len(HEADER.findall(prose)),
        n_list_items=len(LIST_ITEM.findall(prose)),
        n_bold=len(BOLD.findall(prose)),
    )


# --- rankings to pairs ------------------------------------------------------------------------
def pair_votes(ballots: Iterable[Ballot]) -> PairVotes:
    """All rankings among the ballots; all-bad verdicts rank nothing."""
    numbers: dict[tuple[int, int, int], int] = {}
    rows = []
    for place, ballot in enumerate(ballots):
        for (first, second), outcome in ballot.outcomes.items():
            pair = numbers.setdefault((ballot.comparison, first, second), len(numbers))
            row = (place, ballot.comparison, pair, ballot.annotator, outcome, first, second)
            rows.append(row)
    table = np.array(rows, dtype=np.int64).reshape(-1, len(PairVotes._fields))
    return PairVotes._make(table[np.argsort(table[:, 2], kind="stable")].T)
