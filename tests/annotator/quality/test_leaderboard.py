"""Strengths by hand and against statsmodels; style taken out of them."""

import numpy as np
import pytest
import statsmodels.api as sm

from annotator.quality import leaderboard as module
from annotator.quality.leaderboard import (
    NO_VOTES,
    battles_of,
    design_of,
    estimates,
    fit,
    leaderboard,
)
from annotator.quality.votes import Answer, pair_votes

A, B, TIE = [[1], [2]], [[2], [1]], [[1, 2]]
ANSWERS = {1: Answer("good", 100), 2: Answer("bad", 100)}


def battles(ballots, said, answers=ANSWERS):
    return battles_of(pair_votes(ballots([[ranking] for ranking in said])), answers)


def made_up(n=300, seed=0):
    """Answers by three sources; people prefer c to b to a, and longer ones whoever wrote them."""
    generator = np.random.default_rng(seed)
    strength = {"a": 0.0, "b": 0.5, "c": 1.0}
    answers, said = {}, []
    for place in range(n):
        one, other = 2 * place + 1, 2 * place + 2
        for pk, source in zip(
            (one, other), generator.choice(list(strength), 2, False), strict=True
        ):
            # c writes long answers, and would win by that alone
            answers[pk] = Answer(
                source, int(generator.integers(100, 500) * (3 if source == "c" else 1))
            )
        gap = strength[answers[one].source] - strength[answers[other].source]
        gap += 2 * np.log(answers[one].n_characters / answers[other].n_characters)
        is_won = generator.random() < 1 / (1 + np.exp(-gap))
        said.append([[one], [other]] if is_won else [[other], [one]])
    return said, answers


# --- strengths --------------------------------------------------------------------------------
def test_strengths_of_two_by_hand(ballots):
    """Three wins of four, and a tie of each against the imaginary average (½ of a win each).

    With β and -β: 3 - 4 σ(2 β) + ½ - σ(β) = 0.
    """
    found = battles(ballots, [A, A, A, B])

    beta = fit(design_of(found, with_style=False), found.won, np.ones(4), np.zeros(2))

    assert beta[0] == pytest.approx(-beta[1])
    assert 3 - 4 / (1 + np.exp(-2 * beta[0])) + 0.5 - 1 / (1 + np.exp(-beta[0])) == pytest.approx(0)


def test_strengths_are_those_of_statsmodels(ballots):
    said, answers = made_up()
    found = battles(ballots, said, answers)
    design = design_of(found, with_style=True)
    n = design.shape[1]
    imaginary = np.vstack([design, np.eye(n)])  # the ties, as rows of data
    library = sm.GLM(np.append(found.won, [0.5] * n), imaginary, sm.families.Binomial()).fit()

    beta = fit(design, found.won, np.ones(len(design)), np.zeros(n))

    assert beta == pytest.approx(library.params, abs=1e-5)


def test_a_tie_is_half_a_win_for_each(ballots):
    tied = leaderboard(battles(ballots, [TIE, TIE, TIE]))

    assert [row["strength"]["value"] for row in tied["rows"]] == pytest.approx([1000, 1000])
    assert tied["matrix"] == [[None, {"share": 0.5, "n": 3}], [{"share": 0.5, "n": 3}, None]]


def test_who_never_lost_is_strong_but_not_infinitely(ballots):
    rows = leaderboard(battles(ballots, [A] * 12))["rows"]

    assert [row["source"] for row in rows] == ["good", "bad"]
    assert 1100 < rows[0]["strength"]["low"] <= rows[0]["strength"]["high"] < 2000
    assert rows[0]["wins"]["value"] == 1


def test_intervals_cover_the_value_and_shrink_with_votes(ballots):
    few = estimates(battles(ballots, [A, A, B] * 10), with_style=False)[0]
    many = estimates(battles(ballots, [A, A, B] * 100), with_style=False)[0]

    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_style_is_taken_out(ballots):
    """c wins by length more than by being c: controlled, its lead is nearer the 0.5 it has."""
    said, answers = made_up()
    board = leaderboard(battles(ballots, said, answers))

    leads = [
        board["rows"][0][column]["value"] - board["rows"][1][column]["value"]
        for column in ("strength", "controlled")
    ]
    assert board["rows"][0]["source"] == "c"
    assert leads[1] < leads[0] / 2
    assert board["style"]["n_characters"]["low"] > 0
    assert board["style"]["n_bold"]["value"] == 0


# --- the board --------------------------------------------------------------------------------
def test_the_matrix_is_in_the_order_of_the_rows(ballots):
    board = leaderboard(battles(ballots, [B, B, A, TIE]))

    assert [row["source"] for row in board["rows"]] == ["bad", "good"]
    assert board["matrix"][0] == [None, {"share": 2.5 / 4, "n": 4}]
    assert board["rows"][0]["n_votes"] == 4


def test_sources_with_few_votes_are_left_out_and_counted(ballots, monkeypatch):
    monkeypatch.setattr(module, "MAX_SOURCES", 2)
    answers = {pk: Answer(source, 9) for pk, source in enumerate("abc", start=1)}

    board = leaderboard(battles(ballots, [[[1], [2]], [[1], [2]], [[1], [3]]], answers))

    assert [row["source"] for row in board["rows"]] == ["a", "b"]
    assert (board["rows"][0]["n_votes"], board["n_left_out"]) == (2, 1)


def test_sources_that_never_met_are_in_groups(ballots):
    answers = {pk: Answer(source, 9) for pk, source in enumerate("abcd", start=1)}

    board = leaderboard(battles(ballots, [[[1], [2]], [[4], [3]]], answers))

    assert board["groups"] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("said", "answers"), [([], {}), ([A], {1: Answer("import", 5), 2: Answer("import", 5)})]
)
def test_without_two_sources_there_is_a_sentence(ballots, said, answers):
    assert leaderboard(battles(ballots, said, answers)) == {
        "rows": [], "n_left_out": 0, "reason": NO_VOTES,
    }  # fmt: skip
