import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from rlhf.training.reward_loss import (
    all_bad_losses,
    davidson_loss,
    first_level,
    first_tie,
    rao_kupper_loss,
    smoothed,
    soft_loss,
)

LOSSES = {"davidson": davidson_loss, "rao-kupper": rao_kupper_loss}


def test_the_soft_loss_by_hand():
    losses = soft_loss(tensor([0.0, math.log(3)]), tensor([0.5, 0.75]))

    # sigmoid(log 3) = 3/4: the cross-entropy of 3/4 with itself
    assert_close(losses, tensor([math.log(2), -0.75 * math.log(0.75) - 0.25 * math.log(0.25)]))


def test_the_soft_loss_is_that_of_so_many_independent_votes():
    margin = tensor([0.3])

    votes = [soft_loss(margin, tensor([vote])) for vote in (1.0, 1.0, 1.0, 0.0)]

    assert_close(soft_loss(margin, tensor([0.75])), sum(votes) / 4)


def test_davidson_by_hand():
    # Scores log 4 and 0, ν = 2: z = 4 + 1 + 2·2, so win 4/9, loss 1/9, tie 4/9.
    margin, tie = tensor([math.log(4)]), tensor(math.log(2))

    for p, ties, expected in ((1.0, 0.0, 4 / 9), (0.0, 0.0, 1 / 9), (0.5, 1.0, 4 / 9)):
        loss = davidson_loss(margin, tensor([p]), tensor([ties]), tie)
        assert_close(loss, tensor([-math.log(expected)]))


def test_rao_kupper_by_hand():
    # Scores log 4 and 0, ν = 2: win 4 / (4 + 2), loss 1 / (1 + 8), the rest a tie.
    margin, tie = tensor([math.log(4)]), tensor(0.0)  # softplus(0) = log 2

    for p, ties, expected in ((1.0, 0.0, 2 / 3), (0.0, 0.0, 1 / 9), (0.5, 1.0, 2 / 9)):
        loss = rao_kupper_loss(margin, tensor([p]), tensor([ties]), tie)
        assert_close(loss, tensor([-math.log(expected)]))


@pytest.mark.parametrize("kind", LOSSES)
@given(margin=st.floats(-5, 5), tie=st.floats(-3, 3))
def test_the_three_outcomes_are_all_there_are(kind, margin, tie):
    shares = ((1.0, 0.0), (0.0, 0.0), (0.5, 1.0))

    losses = [
        LOSSES[kind](tensor([margin]), tensor([p]), tensor([ties]), tensor(tie))
        for p, ties in shares
    ]

    assert_close(sum(torch.exp(-loss) for loss in losses), torch.ones(1))


@pytest.mark.parametrize("kind", LOSSES)
@given(share=st.floats(0.01, 0.9))
def test_the_tie_parameter_starts_where_equal_scores_give_as_many_ties(kind, share):
    tie = tensor(first_tie(kind, [share]))

    loss = LOSSES[kind](torch.zeros(1), tensor([0.5]), torch.ones(1), tie)

    assert_close(torch.exp(-loss), tensor([share]), atol=1e-5, rtol=1e-4)


def test_all_bad_by_hand():
    # Answers worth 1 + 2 and 4 + 1, none of them 1: P(all bad) is 1/4 and 1/6.
    worth = tensor([math.log(3), math.log(5)])

    losses = all_bad_losses(worth, tensor([2.0, 0.0]), tensor([1.0, 3.0]), tensor(0.0))

    assert_close(losses, tensor([2 * math.log(4) - math.log(3 / 4), -3 * math.log(5 / 6)]))


def test_the_level_starts_where_answers_of_score_0_are_as_often_bad():
    worth, level = tensor([math.log(3)]), tensor(first_level(3.0, 0.25))

    loss = all_bad_losses(worth, torch.ones(1), torch.zeros(1), level)

    assert_close(loss, tensor([math.log(4)]))


def test_smoothing_leaves_doubt_where_all_agree():
    assert smoothed(tensor([1.0, 0.0, 0.75]), 0.1).tolist() == pytest.approx([0.9, 0.1, 0.75])
