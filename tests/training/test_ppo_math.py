"""Every number here can be checked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from rlhf.training.ppo_math import (
    adapt_kl_coefficient,
    best_of_n_kl,
    charge_missing_end,
    combine_members,
    disagreement_of,
    estimate_advantages,
    explained_variance,
    kl_estimates,
    masked_mean,
    normalise_scores,
    policy_loss,
    repeated_share,
    shape_rewards,
    standard_error,
    total_scores,
    value_loss,
    whiten,
)
from rlhf.training.reward_rules import ENSEMBLES

MASK = tensor([[True, True, True], [True, True, False]])


def test_masked_mean_ignores_what_padding_holds():
    values = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, math.nan]])

    assert masked_mean(values, MASK) == 3.0


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([1, 2, 3, 1, 2, 3], 0.25),  # 123 231 312 123
        ([7] * 12, 0.9),  # the same 3-gram ten times
        ([1, 2, 3, 4], 0.0),
        ([1, 2], 0.0),
        ([], 0.0),
    ],
)
def test_repetition_is_the_share_of_three_tokens_that_came_before(tokens, share):
    assert repeated_share(tokens) == pytest.approx(share)


def test_whiten_gives_mean_zero_and_variance_one():
    values = tensor([[1.0, 3.0, 1.0], [3.0, 2.0, 100.0]])

    # mean 2, biased variance 4/5
    expected = tensor([[-1.0, 1.0, -1.0], [1.0, 0.0, 0.0]]) / math.sqrt(0.8)
    assert_close(whiten(values, MASK), expected)


def test_whiten_of_one_token_is_finite():
    assert whiten(tensor([[7.0]]), tensor([[True]])).tolist() == [[0.0]]


def test_the_error_of_a_mean_counts_prompts_and_not_their_answers():
    assert standard_error(tensor([[1.0, 3.0], [4.0, 4.0]])) == 1.0
    assert standard_error(tensor([[1.0, 1.0, 3.0, 3.0], [4.0] * 4])) == 1.0
    assert standard_error(tensor([[1.0, 3.0]])) is None


def test_kl_estimates_by_hand():
    logprobs = tensor([[0.5, 0.25]]).log()
    ref_logprobs = tensor([[0.25, 0.5]]).log()

    kl = kl_estimates(logprobs, ref_logprobs, tensor([[True, True]]))

    log2 = math.log(2)
    assert_close(kl.k1, tensor([0.0]))
    assert_close(kl.k2, tensor([log2**2]))
    assert_close(kl.k3, tensor([(0.5 - 1 + log2) + (2 - 1 - log2)]))


def test_kl_of_a_policy_with_itself_is_zero_for_each_estimator():
    logprobs = -torch.rand(2, 3)

    kl = kl_estimates(logprobs, logprobs, MASK)

    assert [estimate.tolist() for estimate in kl] == [[0.0, 0.0]] * 3


def test_kl_padding_does_not_count():
    logprobs = tensor([[-1.0, -5.0]])
    ref_logprobs = tensor([[-3.0, -1.0]])

    assert kl_estimates(logprobs, ref_logprobs, tensor([[True, False]])).k1.tolist() == [2.0]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20))
def test_k3_is_never_negative(log_ratios):
    logprobs = tensor([log_ratios])

    k3 = kl_estimates(logprobs, torch.zeros_like(logprobs), torch.ones_like(logprobs).bool()).k3

    assert k3.item() >= -1e-5


def test_normalise_scores_measures_each_member_by_its_own_scale():
    scores = normalise_scores(tensor([[3.0, 3.0], [1.0, 1.0]]), [(1.0, 2.0), (0.0, 0.5)])

    assert scores.tolist() == [[1.0, 6.0], [0.0, 2.0]]


@pytest.mark.parametrize(
    ("ensemble", "expected"),
    [("mean", [2.0, -1.0]), ("worst", [1.0, -1.0]), ("uncertainty", [1.5, -1.0])],
)
def test_members_that_disagree_count_for_less(ensemble, expected):
    members = tensor([[1.0, 3.0], [-1.0, -1.0]])

    assert disagreement_of(members).tolist() == [1.0, 0.0]
    assert combine_members(members, ensemble, 0.5).tolist() == expected


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_one_member_says_the_same_to_the_last_bit(ensemble):
    scores = torch.randn(1000, generator=torch.manual_seed(0))

    members = normalise_scores(scores.unsqueeze(1), [(0.1, 0.3)])

    assert torch.equal(combine_members(members, ensemble, 0.7), (scores - 0.1) / 0.3)


def test_total_scores_are_weighted_sums():
    parts = [tensor([1.0, 5.0, 1.0]), tensor([2.0, 2.0, 2.0])]

    assert total_scores(parts, [1.0, -0.5]).tolist() == [0.0, 4.0, 0.0]


@pytest.mark.parametrize(("n", "kl"), [(1, 0.0), (2, 0.1931472), (16, 1.8350887)])
def test_kl_of_the_best_of_n(n, kl):
    assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-7)


def test_kl_of_the_best_of_n_by_counting():
    """A hundred thousand completions, all equally likely and ranked: the best of 4 is rank r or
    less with probability (r / N)^4."""
    rank = torch.arange(1, 100_001, dtype=torch.float64) / 100_000
    best = rank**4 - torch.cat([rank.new_zeros(1), rank[:-1] ** 4])

    kl = (best * (best * 100_000).log()).sum()

    assert float(kl) == pytest.approx(best_of_n_kl(4), abs=1e-4)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("penalty", [3.0, 3.0, 1.0]),
        ("replace", [3.0, 3.0, -2.0]),
        # the last 4 of 10 tokens: 6 are free, 8 pay half, 10 all
        ("ramp", [3.0, 2.0, 1.0]),
    ],
)
def test_what_a_completion_pays_for_not_ending_in_time(mode, expected):
    scores = charge_missing_end(
        torch.full((3,), 3.0),
        tensor([6, 8, 10]),
        tensor([False, False, True]),
        mode=mode,
        penalty=2.0,
        limit=10,
        ramp=0.4,
    )

    assert_close(scores, tensor(expected))


def test_score_sits_on_the_last_real_token():
    logprobs = tensor([[-1.0, -1.0, -1.0], [-1.0, -1.0, -9.0]])
    ref_logprobs = tensor([[-2.0, -1.0, -1.0], [-1.0, -2.0, -1.0]])

    rewards = shape_rewards(tensor([10.0, 20.0]), logprobs, ref_logprobs, MASK, 0.5)

    assert rewards.tolist() == [[-0.5, 0.0, 10.0], [0.0, 19.5, 0.0]]


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", 1.0), ("k2", 0.5), ("k3", math.exp(-1))]
)
def test_the_kl_penalty_is_of_the_estimator_asked_for(estimator, expected):
    one = tensor([[True]])

    rewards = shape_rewards(
        tensor([0.0]), tensor([[-1.0]]), tensor([[-2.0]]), one, 0.1, kl_estimator=estimator
    )

    assert_close(rewards, tensor([[-0.1 * expected]]))


def test_advantages_by_hand():
    rewards = tensor([[1.0, 2.0]])
    values = tensor([[0.5, 1.0]])

    advantages, returns = estimate_advantages(
        rewards, values, tensor([[True, True]]), gamma=0.9, lam=0.5
    )

    # d1 = 2 - 1 = 1; d0 = 1 + 0.9 * 1 - 0.5 = 1.4; A1 = 1; A0 = 1.4 + 0.9 * 0.5 * 1 = 1.85
    assert_close(advantages, tensor([[1.85, 1.0]]))
    assert_close(returns, tensor([[2.35, 2.0]]))


def naive_advantages(rewards, values, length, gamma, lam):
    """The definition: A_t = sum over l of (gamma * lam)^l * delta_{t+l}."""
    deltas = [
        rewards[t] + (gamma * values[t + 1] if t + 1 < length else 0.0) - values[t]
        for t in range(length)
    ]
    return [
        sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)
    ]


@given(st.integers(1, 6), st.integers(0, 3), st.floats(0.5, 1), st.floats(0, 1), st.integers(0, 99))
def test_advantages_agree_with_the_definition_whatever_the_padding(
    length, padding, gamma, lam, seed
):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 1, length + padding, generator=generator)
    mask = (torch.arange(length + padding) < length).unsqueeze(0)
    rewards = rewards.masked_fill(~mask, 0.0)

    advantages, _ = estimate_advantages(rewards, values, mask, gamma, lam)

    expected = naive_advantages(rewards[0].tolist(), values[0].tolist(), length, gamma, lam)
    assert_close(advantages[0, :length], tensor(expected), atol=1e-4, rtol=1e-4)
    assert advantages[0, length:].tolist() == [0.0] * padding


def test_with_lambda_one_the_advantage_is_return_minus_value():
    rewards, values = torch.randn(2, 2, 3)

    advantages, returns = estimate_advantages(
        rewards.masked_fill(~MASK, 0.0), values, MASK, gamma=1.0, lam=1.0
    )

    rewards_to_go = rewards.masked_fill(~MASK, 0.0).flip(1).cumsum(1).flip(1)
    assert_close(returns, rewards_to_go.masked_fill(~MASK, 0.0))
    assert_close(advantages, (rewards_to_go - values).masked_fill(~MASK, 0.0))


def test_policy_loss_at_ratio_one_is_minus_the_advantages():
    logprobs = -torch.rand(3)

    result = policy_loss(logprobs, logprobs, tensor([1.0, 2.0, 3.0]), 0.2, 20.0)

    assert result.loss == -6.0
    assert result.ratio.tolist() == [1.0] * 3
    assert (result.clipped, result.approx_kl, result.clamped) == (0, 0, 0)


def test_policy_loss_clips_only_what_would_gain():
    logprobs = tensor([1.5, 0.5, 1.5, 0.5]).log()
    advantages = tensor([1.0, 1.0, -1.0, -1.0])

    result = policy_loss(logprobs, torch.zeros(4), advantages, 0.2, 20.0)

    # 1.5 with A=1 is held at 1.2; 0.5 with A=-1 at 0.8; the other two are not clipped
    assert_close(result.loss, tensor(-1.2 - 0.5 + 1.5 + 0.8))
    assert result.clipped == 2


def test_a_clipped_token_has_no_gradient():
    logprobs = tensor([math.log(1.5), 0.0], requires_grad=True)

    policy_loss(logprobs, torch.zeros(2), torch.ones(2), 0.2, 20.0).loss.backward()

    assert logprobs.grad.tolist() == [0.0, -1.0]


def test_the_clip_range_may_be_wider_upwards():
    logprobs = tensor([1.5, 0.5]).log()

    result = policy_loss(
        logprobs, torch.zeros(2), tensor([1.0, -1.0]), 0.2, 20.0, clip_range_high=0.4
    )

    assert_close(result.loss, tensor(-1.4 + 0.8))
    assert result.clipped == 2


def test_dual_clip_holds_the_loss_of_a_bad_token_that_became_likelier():
    logprobs = tensor([5.0, 2.0, 5.0]).log().requires_grad_()

    result = policy_loss(
        logprobs, torch.zeros(3), tensor([-2.0, -2.0, 2.0]), 0.2, 20.0, dual_clip=3.0
    )
    result.loss.backward()

    # 5·2 is held at 3·2; 2·2 is below that; a good token is clipped at 1.2 as ever
    assert_close(result.loss.detach(), tensor(6.0 + 4.0 - 2.4))
    assert result.clipped == 2
    assert_close(logprobs.grad, tensor([0.0, 4.0, 0.0]))


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8))
def test_clips_that_are_out_of_reach_leave_the_loss_as_it_is(tokens):
    log_ratios, advantages = tensor(tokens).T
    plain = policy_loss(log_ratios, torch.zeros(len(tokens)), advantages, 0.2, 20.0)

    same = policy_loss(
        log_ratios, torch.zeros(len(tokens)), advantages, 0.2, 20.0,
        clip_range_high=0.2, dual_clip=10.0,
    )  # fmt: skip

    assert (same.loss, same.clipped) == (plain.loss, plain.clipped)


def test_policy_loss_clamps_and_counts_huge_ratios():
    result = policy_loss(tensor([1000.0, 0.0]), torch.zeros(2), -torch.ones(2), 0.2, 20.0)

    assert result.clamped == 1
    assert torch.isfinite(result.loss)


def test_value_loss_takes_the_larger_of_clipped_and_not():
    values, old, returns = tensor([1.0, 3.0]), tensor([0.0, 0.0]), tensor([2.0, 3.0])

    result = value_loss(values, old, returns, 0.5)

    # near the old value: 0.5 and 0.5; squared errors 1.5^2 > 1 and 2.5^2 > 0
    assert_close(result.loss, tensor(0.5 * (2.25 + 6.25)))
    assert result.clipped == 2


def test_value_loss_without_clipping_is_half_the_squared_error():
    result = value_loss(tensor([1.0]), torch.zeros(1), tensor([3.0]), None)

    assert (result.loss, result.clipped) == (2.0, 0)


def test_explained_variance_of_a_perfect_and_a_constant_critic():
    returns = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 77.0]])

    assert explained_variance(returns, returns, MASK) == 1.0
    assert explained_variance(torch.full((2, 3), 3.0), returns, MASK) == 0.0
    assert math.isnan(explained_variance(returns, torch.ones(2, 3), MASK))


@pytest.mark.parametrize(
    ("kl", "expected"), [(12.0, 0.102), (6.0, 0.1), (0.0, 0.098), (6.6, 0.101)]
)
def test_kl_controller_moves_against_the_error_by_at_most_a_fifth(kl, expected):
    coefficient = adapt_kl_coefficient(0.1, kl, target=6.0, completions=100, horizon=1000)

    assert coefficient == pytest.approx(expected)
