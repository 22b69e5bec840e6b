"""What votes come to, by hand, and whom the models believe."""

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import NoisyBradleyTerry
from scipy.optimize import check_grad
from scipy.special import expit

from annotator.quality.consensus import (
    ATTENTION_PRIOR,
    NoisyVotes,
    Opinion,
    consensus,
    dawid_skene,
    disagreement,
    grouped,
    majority,
    noisy_loss,
    noisy_scores,
)
from annotator.quality.votes import pair_votes

A, B, TIE, BAD = [[1], [2]], [[2], [1]], [[1, 2]], []


# --- majority ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([A, A, B], Opinion(A, 2 / 3)),
        ([A, A, BAD], Opinion(A, 2 / 3)),
        ([TIE, TIE, B], Opinion(TIE, 2 / 3)),
        ([A, B], Opinion([], 1 / 2)),
        ([A, B, TIE], Opinion([], 1 / 3)),
        ([A, BAD, BAD], Opinion([], 1 / 3)),
        ([BAD, BAD], Opinion([], 0.0)),
    ],
)
def test_the_majority_of_two_is_what_more_than_half_of_all_votes_say(ballots, said, found):
    opinion = majority(ballots([said]))

    assert (opinion.ranking, opinion.support) == (found.ranking, pytest.approx(found.support))


def test_the_majority_of_three_is_ordered_by_who_beats_whom(ballots):
    """1 beats 2 and 3; 2 beats 3: of nine votes on pairs, seven say so."""
    said = [[[1], [2], [3]], [[1], [2], [3]], [[2], [3], [1]]]

    assert majority(ballots([said])) == Opinion([[1], [2], [3]], pytest.approx(7 / 9))


def test_equals_stand_together():
    assert grouped({7: 1.0, 8: 2.0, 9: 1.0}) == [[8], [7, 9]]


# --- disagreement -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([A, A, A], 0),
        ([A, B], 1 / 2),
        ([A, A, B, B], 1 / 2),
        ([A, B, B], 4 / 9),
        ([A, TIE], 1 / 4),
        ([A, BAD], 1 / 2),
        ([BAD, BAD], 0),
        ([[[1], [2], [3]], [[1], [3], [2]]], 1 / 6),
    ],
)
def test_disagreement_is_how_unlike_two_votes_drawn_at_random_are(ballots, said, expected):
    assert disagreement(ballots([said])) == pytest.approx(expected)


# --- Dawid and Skene --------------------------------------------------------------------------
def test_dawid_skene_believes_those_who_agree(voted):
    """Three say the same 20 times, a fourth the opposite: nobody believes the fourth."""
    rows = [[A, A, A, B], [B, B, B, A]] * 10

    found = dawid_skene(voted(rows))

    assert [int(np.argmax(found[pair])) - 1 for pair in (0, 1)] == [1, -1]
    assert found[0].sum() == pytest.approx(1)
    assert found[0][2] > 0.99


def test_dawid_skene_decides_by_whom_it_believes(voted):
    """One against one: who was right before against who never was."""
    rows = [[A, A, A, B], [B, B, B, A], [A, A, A, A], [B, B, B, B]] * 5

    found = dawid_skene(voted([*rows, [A, None, None, B], [B, None, None, A]]))

    assert found[20][2] > 0.9
    assert found[21][0] > 0.9


def test_dawid_skene_is_the_same_from_the_other_side(voted):
    rows = [[A, B, A], [B, TIE, B], [A, A, None], [TIE, A, B], [A, A, B]]
    turned = [
        [said and [[3 - pk for pk in group] for group in said] for said in row] for row in rows
    ]

    found, other = dawid_skene(voted(rows)), dawid_skene(voted(turned))

    for pair in found:
        assert found[pair] == pytest.approx(other[pair][::-1])


def test_dawid_skene_knows_nothing_of_single_votes(voted):
    assert dawid_skene(voted([[A, None], [None, B]])) == {}


# --- noisy Bradley and Terry ------------------------------------------------------------------
def noisy_votes(n=40, n_completions=5, n_annotators=3):
    generator = np.random.default_rng(0)
    pairs = np.array([generator.choice(n_completions, 2, replace=False) for _ in range(n)])
    return NoisyVotes(
        *pairs.T, generator.integers(n_annotators, size=n), generator.choice([0, 0.5, 1], n),
        generator.choice([-1, 1], n), n_completions, n_annotators,
    )  # fmt: skip


def test_the_gradient_of_the_noisy_model_is_that_of_its_loss():
    votes = noisy_votes()
    x = np.random.default_rng(1).normal(size=5 + 2 * 3)

    error = check_grad(lambda x: noisy_loss(x, votes)[0], lambda x: noisy_loss(x, votes)[1], x)

    assert error < 1e-4


def test_the_noisy_model_by_hand():
    """One vote for the first, shown left, with scores 1 and 0, γ at its prior and q = 0."""
    vote = NoisyVotes(*(np.array([n]) for n in (0, 1, 0, 1, 1)), 2, 1)
    gamma = expit(2.0)

    loss, _ = noisy_loss(np.array([1.0, 0.0, 2.0, 0.0]), vote)

    assert loss == pytest.approx(-np.log(gamma * expit(1) + (1 - gamma) / 2) + 1 / 2)


def crowd_kit_votes(votes):
    """(n, 3): the left completion, the right one and the winner, as numbers from 1 on."""
    two = np.stack([votes.first, votes.second], axis=1) + 1
    won = np.where(votes.outcome == 1, two[:, 0], two[:, 1])
    return np.column_stack([np.where(votes.side[:, None] > 0, two, two[:, ::-1]), won])


def test_the_likelihood_of_the_noisy_model_is_crowd_kits():
    votes = noisy_votes()
    votes = votes._replace(outcome=(votes.outcome > 0).astype(float))  # it knows no ties
    x = np.random.default_rng(1).normal(size=5 + 2 * 3)
    theirs = np.concatenate([[0.0], x[:5], x[6::2], x[5::2]])  # scores, q, γ
    prior = ((x[5::2] - ATTENTION_PRIOR) ** 2).sum() / 2 + (x[:5] ** 2).sum() / 2
    prior += (x[6::2] ** 2).sum() / 2

    loss, _ = noisy_loss(x, votes)

    library = NoisyBradleyTerry._compute_log_likelihood
    assert loss - prior == pytest.approx(
        library(theirs, crowd_kit_votes(votes), votes.annotator, 5, 3, 0.0)
    )


def test_scores_stand_in_the_order_of_crowd_kits(ballot):
    """Six answers to one prompt, 360 votes by six people who look at them."""
    generator = np.random.default_rng(4)
    said = []
    for place in range(360):
        one, other = order = generator.permutation(6)[:2].tolist()
        is_won = generator.random() < expit(one - other)
        ranking = [[one], [other]] if is_won else [[other], [one]]
        said.append(ballot(0, place % 6, ranking, order=order))
    rows = [(vote.annotator, *vote.order, vote.ranking[0][0]) for vote in said]

    ours = noisy_scores(pair_votes(said), said).scores
    theirs = NoisyBradleyTerry().fit_predict(
        pd.DataFrame(rows, columns=["worker", "left", "right", "label"])
    )

    assert sorted(ours, key=ours.get) == theirs.sort_values().index.tolist() == list(range(6))


def test_the_noisy_model_finds_out_who_only_looks_at_the_side(ballot):
    """Annotator 3 always prefers the left one, which is the worse one half of the time."""
    said = [
        ballot(comparison, annotator, ranking, order=order)
        for comparison in range(30)
        for order in [[1, 2] if comparison % 2 else [2, 1]]
        for annotator, ranking in [(1, A), (2, A), (3, [[order[0]], [order[1]]])]
    ]

    found = noisy_scores(pair_votes(said), said)

    assert found.scores[1] > found.scores[2]
    assert found.attention[3] < 0.5 < 0.8 < found.attention[1]
    assert found.left[3] > 0.8


def test_without_votes_there_are_no_scores(voted):
    assert noisy_scores(voted([]), []) == ({}, {}, {})


# --- all three together -----------------------------------------------------------------------
def test_consensus_is_of_comparisons_with_two_votes_or_more(ballots):
    votes = ballots([[A, A, BAD], [A, None, None]])
    table = pair_votes(votes)

    found = consensus(votes, table, dawid_skene(table), noisy_scores(table, votes).scores)

    assert list(found) == [0]
    assert (found[0]["n_votes"], found[0]["n_all_bad"]) == (3, 1)
    assert found[0]["majority"] == {"ranking": A, "support": pytest.approx(2 / 3)}
    assert [found[0][name]["ranking"] for name in ("dawid_skene", "bradley_terry")] == [A, A]


def test_consensus_of_nothing_but_all_bad_is_undecided(ballots):
    votes = ballots([[BAD, BAD]])

    found = consensus(votes, pair_votes(votes), {}, {})

    names = ("majority", "dawid_skene", "bradley_terry")
    assert [found[0][name]["ranking"] for name in names] == [[], [], []]
