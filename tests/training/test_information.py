import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.training.information import entropy, expected_information, most_informative, sigmoid

differences = st.lists(st.floats(-50, 50), min_size=1, max_size=6)


def test_members_that_agree_leave_nothing_to_learn_even_if_all_are_unsure():
    found = expected_information([0.0, 0.0], closeness=0.0)

    assert found == (0.0, 0.0)


def test_disagreement_is_the_entropy_of_the_mean_less_the_mean_entropy():
    # p = 3/4 and 1/4: their mean is a coin toss, each alone has H(1/4).
    found = expected_information([math.log(3), -math.log(3)], closeness=0.0)

    h_of_quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.disagreement == pytest.approx(math.log(2) - h_of_quarter)
    assert found.total == found.disagreement


def test_one_member_asks_for_what_is_close():
    near, far = (expected_information([x], closeness=0.05).total for x in (0.1, 2.0))

    assert 0.05 * math.log(2) > near > far > 0
    assert near == pytest.approx(0.05 * entropy(sigmoid(0.1)))


def test_temperature_divides_the_differences():
    assert expected_information([2.0, -4.0], temperature=2.0) == expected_information([1.0, -2.0])


def test_a_ranking_is_worth_its_most_informative_pair():
    scores = [[0.0, 1.0, 5.0], [0.0, -1.0, 5.0]]  # the members disagree on the first two alone

    assert most_informative(scores) == expected_information([-1.0, 1.0])


@given(differences)
def test_information_lies_between_zero_and_one_bit(values):
    found = expected_information(values, closeness=0.4)

    assert 0 <= found.disagreement <= math.log(2) + 1e-12
    assert found.disagreement <= found.total < 1


@given(differences, st.randoms(use_true_random=False))
def test_neither_the_order_of_members_nor_that_of_completions_matters(values, rng):
    shuffled = rng.sample([-value for value in values], len(values))

    assert expected_information(shuffled) == pytest.approx(expected_information(values), abs=1e-9)
