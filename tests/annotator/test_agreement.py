"""Agreement of known votes, by hand and against another way of computing it."""

from statistics import fmean

import pytest

from annotator.agreement import Agreement, alpha, annotator_statistics
from annotator.models import Purpose
from tests.factories import (
    ComparisonFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db

A, B, TIE = ([0], [1]), ([1], [0]), ([0, 1],)


@pytest.fixture
def project():
    return ProjectFactory(overlap=10)


def vote(project, table, **fields):
    """One comparison per row, one annotator per column; None: did not judge it."""
    users = [UserFactory() for _ in table[0]]
    for row in table:
        comparison = ComparisonFactory(project=project, **fields)
        for user, groups in zip(users, row, strict=True):
            if groups is not None:
                make_judgment(comparison, user, *groups)
    return users


# --- alpha ------------------------------------------------------------------------------------
def test_alpha_of_perfect_agreement_is_1(project):
    vote(project, [[A, A, A], [B, B, B], [TIE, TIE, TIE]])

    assert alpha(project) == Agreement(1.0)


def test_alpha_does_not_depend_on_which_completion_comes_first(project):
    vote(project, [[A, A], [A, A]])

    assert alpha(project) == Agreement(1.0)


def test_alpha_by_hand(project):
    """Two of four pairs agree; from both sides, 16 values: half -1, half 1.

    Observed disagreement: 2 of 4 pairs. Expected: 8·8·2 of the 16·15 pairs of values.
    """
    vote(project, [[A, A], [B, B], [A, B], [B, A]])

    assert alpha(project).value == pytest.approx(1 - (2 / 4) / (8 * 8 * 2 / (16 * 15)))


def test_alpha_takes_rankings_apart_into_pairs(project):
    comparison = ComparisonFactory(project=project, texts=["a", "b", "c"])
    make_judgment(comparison, UserFactory(), [0], [1, 2])
    make_judgment(comparison, UserFactory(), [0], [1, 2])

    assert alpha(project) == Agreement(1.0)


def test_alpha_of_one_purpose_or_origin(project):
    vote(project, [[A, A]], origin="run-1")
    vote(project, [[A, B]], purpose=Purpose.EVALUATION, origin="run-2")

    assert alpha(project, purpose=Purpose.TRAINING).value == 1
    assert alpha(project, origin="run-2").value < 0
    assert alpha(project, origin="run-1").value == 1


def test_alpha_says_when_nobody_shares_a_comparison(project):
    vote(project, [[A, None], [None, B]])
    bad = ComparisonFactory(project=project)
    make_judgment(bad, UserFactory(), *A)
    make_judgment(bad, UserFactory())

    assert alpha(project) == Agreement(None, "No comparison has been ranked by two people yet.")


def test_alpha_says_when_all_are_ties(project):
    vote(project, [[TIE, TIE]])

    assert alpha(project).value is None
    assert alpha(project).reason.startswith("All rankings are ties")


# --- annotators -------------------------------------------------------------------------------
def test_whoever_votes_the_wrong_way_round_comes_first(project):
    *_, saboteur = vote(
        project, [[A, A, A, B], [B, B, B, A], [A, A, B, B], [A, A, A, B], [TIE, B, B, A]]
    )

    rows = annotator_statistics(project)

    assert rows[0].user == saboteur
    assert rows[0].agreement == pytest.approx(fmean([0, 0, 1 / 3, 0, 0.5 / 3]))
    assert [row.agreement for row in rows] == sorted(row.agreement for row in rows)


def test_statistics_count_what_is_shared(project):
    anna, ben, carl = vote(project, [[A, A, None], [B, None, None], [None, None, TIE]])

    rows = {row.user: row for row in annotator_statistics(project)}

    assert [(rows[user].n_judgments, rows[user].n_shared) for user in (anna, ben, carl)] == [
        (2, 1),
        (1, 1),
        (1, 0),
    ]
    assert (rows[anna].agreement, rows[carl].agreement) == (1.0, None)


@pytest.mark.parametrize("n", [1, 3])
def test_statistics_ask_equally_many_questions(project, n, django_assert_num_queries):
    vote(project, [[A] * n] * n)

    with django_assert_num_queries(3):
        annotator_statistics(project)
