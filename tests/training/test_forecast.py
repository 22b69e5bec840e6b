import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.forecast import EXPONENTS, course_error, forecast, forecast_accuracy

SIZES = [10, 25, 50, 100]


@settings(max_examples=30)
@given(
    floor=st.floats(0.0, 3.0),
    scale=st.floats(0.5, 10.0),
    exponent=st.sampled_from(list(EXPONENTS[30:])),
)
def test_points_of_a_law_give_the_law_back(floor, scale, exponent):
    losses = [floor + scale * n**-exponent for n in SIZES]

    found = forecast(SIZES, losses, [0.0] * 4)

    ahead = {point["factor"]: point["value"] for point in found["ahead"]}
    assert ahead[10] == pytest.approx(floor + scale * 1000**-exponent, abs=1e-6)


@settings(max_examples=30)
@given(
    falls=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=5),
    error=st.floats(0.0001, 0.002),
)
def test_more_data_is_never_forecast_to_do_harm_and_values_lie_in_their_intervals(falls, error):
    losses = [5 - sum(falls[:place]) for place in range(len(falls) + 1)]
    sizes = [10 * 2**place for place in range(len(losses))]

    found = forecast(sizes, losses, [error] * len(losses))

    values = [point["value"] for point in found["line"]]
    assert values == sorted(values, reverse=True)
    assert all(0 <= point["low"] <= point["value"] <= point["high"] for point in found["line"])


def test_the_interval_is_wider_where_points_are_less_sure():
    losses = [1 + 3 * n**-0.5 for n in SIZES]

    sure, unsure = (forecast(SIZES, losses, [error] * 4)["ahead"][-1] for error in (0.005, 0.05))

    assert unsure["high"] - unsure["low"] > 2 * (sure["high"] - sure["low"])


def test_about_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    truth, error = [1 + 3 * n**-0.5 for n in (*SIZES, 400)], 0.02

    hits = 0
    for _ in range(100):
        losses = [value + error * rng.standard_normal() for value in truth[:4]]
        point = forecast(SIZES, losses, [error] * 4)["ahead"][1]
        hits += point["low"] <= truth[4] <= point["high"]

    assert hits >= 88


def test_errors_are_of_what_rows_do_not_share():
    # Row 1 is more difficult than row 0 by 1 at both sizes; only row 2 goes its own way, from 0 to 2.
    misses = [[3.0, 4.0, 0.0], [2.0, 3.0, 2.0]]

    error = course_error(misses, [1, 1, 1])

    # Off what its size and its row have in common: ±1/2, ±1/2, ∓1; Σ² = 3, · 3/2, √, / 3 rows.
    assert error == pytest.approx(4.5**0.5 / 3)


def test_difficult_rows_alone_make_no_point_unsure():
    misses = [[level + 2 * count for count in (1, 5, 9)] for level in (0.0, 0.0)]

    assert course_error(misses, [1, 5, 9]) == pytest.approx(0.0)
    assert course_error([[1.0], [2.0]], [3]) == 0.0


@settings(max_examples=10, deadline=None)
@given(difficulty=st.floats(0.0, 5.0), seed=st.integers(0, 99))
def test_what_is_found_does_not_depend_on_how_difficult_the_rows_are(difficulty, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(12)
    law = [[1 + 3 * n**-0.5] * 12 + 0.05 * rng.standard_normal(12) for n in SIZES]

    errors = [
        course_error([of + level for of in law], [1] * 12) for level in (0, difficulty * rows)
    ]

    assert errors[1] == pytest.approx(errors[0])


@pytest.mark.parametrize(
    ("sizes", "losses", "reason"),
    [
        (SIZES[:3], [3.0, 2.0, 1.0], "A forecast needs 4 different sizes, and there are 3."),
        (SIZES, [2.0, 2.1, 1.9, 2.0], "From 10 to 100 it did not get better by more than chance"),
        (SIZES, [2.0, 1.0, float("nan"), 0.5], "A forecast needs points that are numbers."),
    ],
)
def test_it_says_why_there_is_no_forecast(sizes, losses, reason):
    found = forecast(sizes, losses, [0.01] * len(sizes))

    assert list(found) == ["reason"]
    assert found["reason"].startswith(reason)


def test_accuracies_are_forecast_as_accuracies():
    curve = [{"n_votes": n, "accuracy": 0.9 - n**-0.5, "standard_error": 0.005} for n in SIZES]

    point = forecast_accuracy(curve)["ahead"][-1]

    assert point["value"] == pytest.approx(0.9 - 1000**-0.5, abs=0.01)
    assert point["low"] <= point["value"] <= point["high"] <= 1
