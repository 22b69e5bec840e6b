"""The sequential test: by hand, by identities that hold for every sequence, and by simulation."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import sequential
from rlhf.sequential import LOSS, TIE, WIN, Decision, Rule

RULE = Rule(alpha=0.05, margin=0.1)
COUNTS = st.fixed_dictionaries({value: st.integers(0, 60) for value in (LOSS, TIE, WIN)})


def wealth(counts, mean, bets=RULE.bets):
    return math.exp(sequential.log_wealth(counts, mean, bets))


# --- betting ----------------------------------------------------------------------------------
def test_wealth_is_as_by_hand():
    assert wealth({WIN: 3, TIE: 7, LOSS: 1}, 0.5, [(0.5, 1.0)]) == pytest.approx(1.5**3 * 0.5)
    assert wealth({WIN: 2}, 0.8, [(0.5, 1.0)]) == pytest.approx((0.5 + 0.5 / 0.8) ** 2)


def test_many_accounts_are_robbins_beta_binomial_mixture():
    shares = [(2 * i + 1) / 2000 - 1 for i in range(2000)]  # uniform between -1 and 1

    found = wealth({WIN: 9, LOSS: 1}, 0.5, [(share, 1 / 2000) for share in shares])

    # 2ⁿ · B(wins + 1, losses + 1), Robbins 1970.
    assert found == pytest.approx(2**10 * math.factorial(9) / math.factorial(11), rel=1e-3)


@given(COUNTS, st.floats(0.05, 0.95), st.floats(0, 0.5))
def test_next_outcome_neither_wins_nor_loses_money_on_average(counts, mean, ties):
    """A martingale: this is what the error rate follows from."""
    ties = min(ties, 2 * mean, 2 * (1 - mean))  # and wins, so that the mean is what it is
    chances = {WIN: mean - ties / 2, TIE: ties, LOSS: 1 - mean - ties / 2}

    after = sum(
        chance * wealth(counts | {value: counts[value] + 1}, mean)
        for value, chance in chances.items()
    )

    assert after == pytest.approx(wealth(counts, mean), rel=1e-9)


def test_path_is_the_wealth_after_each_outcome():
    path = list(sequential.wealth_path([WIN, TIE, LOSS], 0.6, RULE.bets))

    assert path[1:] == pytest.approx(
        [wealth({WIN: 1, TIE: 1}, 0.6), wealth({WIN: 1, TIE: 1, LOSS: 1}, 0.6)]
    )


@given(COUNTS)
def test_whoever_has_the_lower_mean_in_doubt_has_more(counts):
    assert wealth(counts, 0.4) >= wealth(counts, 0.5) >= wealth(counts, 0.6)


@settings(max_examples=40)
@given(COUNTS.filter(lambda counts: sum(counts.values()) > 0))
def test_bounds_enclose_the_mean_and_exclude_what_has_been_beaten(counts):
    point = sequential.standing(counts, RULE)

    assert point.low <= point.mean <= point.high
    assert (point.low > 0.5) == (sequential.log_wealth(counts, 0.5, RULE.bets) > RULE.enough)


# --- deciding ---------------------------------------------------------------------------------
def test_wins_alone_promote_when_the_stake_is_twenty_times_as_much():
    """(1 + c)ⁿ, half of it with c = 0.2, the rest evenly: 7 wins make 18.6, 8 make 33."""
    after = [wealth({WIN: n}, 0.5) for n in (7, 8)]
    by_hand = [0.5 * 1.2**n + 0.1 * sum((1 + c) ** n for c in (0.1, 0.25, 0.45, 0.7, 0.95))
               for n in (7, 8)]  # fmt: skip

    assert after == pytest.approx(by_hand)
    assert by_hand[0] < 20 < by_hand[1]
    assert sequential.decide([WIN] * 50, RULE, most=100) == Decision("promote", 8)


def test_ties_alone_end_in_a_rejection():
    assert sequential.decide([TIE] * 200, RULE, most=200).verdict == "reject"


def test_what_comes_after_the_decision_changes_nothing():
    decided = sequential.decide([WIN] * 8, RULE, most=100)

    assert sequential.decide([WIN] * 8 + [LOSS] * 90, RULE, most=100) == decided


def test_budget_ends_it_undecided():
    outcomes = [WIN, LOSS, WIN] * 4

    assert sequential.decide(outcomes, RULE, most=13) is None
    assert sequential.decide(outcomes, RULE, most=12) == Decision("undecided", 12)


def test_sequence_ends_with_the_last_outcome():
    points = sequential.sequence([WIN, LOSS, TIE] * 35, RULE, points=50)

    assert (len(points), points[-1].n, points[-1].mean) == (35, 105, 0.5)


def test_forecast_follows_the_money_made_so_far():
    money = sequential.log_wealth({WIN: 4}, 0.5, RULE.bets)

    assert sequential.outcomes_to_go([WIN] * 4, RULE) == math.ceil(4 * (math.log(20) / money - 1))
    assert sequential.outcomes_to_go([LOSS, WIN], RULE) is None
    assert sequential.outcomes_to_go([], RULE) is None


def test_few_of_many_sequences_without_a_difference_promote():
    """Looked at after each outcome; the seeds are given, so this is the same each time."""
    verdicts = Counter()
    for seed in range(300):
        rng = random.Random(seed)
        outcomes = rng.choices([WIN, TIE, LOSS], [4, 2, 4], k=150)
        verdicts[sequential.decide(outcomes, RULE, most=150).verdict] += 1

    assert verdicts["promote"] / 300 <= 0.05
    assert verdicts["reject"] > verdicts["undecided"]


def test_fixed_size_is_as_in_textbooks():
    assert sequential.fixed_size(0.1, 0.25, alpha=0.05, power=0.8) == 155
