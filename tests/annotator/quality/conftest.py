"""Votes without a database."""

from datetime import UTC, datetime

import pytest

from annotator.quality.votes import Ballot, pair_votes

DEFAULTS = {
    "criteria": {},
    "order": [1, 2],
    "seconds": None,
    "guideline_version": 1,
    "created": datetime(2026, 1, 1, tzinfo=UTC),
    "is_repeat": False,
    "purpose": "training",
    "expected": [],
}


@pytest.fixture
def ballot():
    """ballot(comparison, annotator, ranking): of the completions 1 and 2, unless told otherwise."""

    def make(comparison, annotator, ranking, **fields):
        return Ballot(comparison, annotator, ranking, **DEFAULTS | fields)

    return make


@pytest.fixture
def ballots(ballot):
    """One comparison per row and one annotator per column; None: did not vote."""

    def make(rows, **fields):
        return [
            ballot(comparison, annotator, ranking, **fields)
            for comparison, row in enumerate(rows)
            for annotator, ranking in enumerate(row)
            if ranking is not None
        ]

    return make


@pytest.fixture
def voted(ballots):
    """The table of such votes."""
    return lambda rows: pair_votes(ballots(rows))
