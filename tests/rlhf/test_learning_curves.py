import pytest

from rlhf.learning_curves import curve_of
from rlhf.models import RunKind, Status
from rlhf.training.forecast import forecast, forecast_accuracy
from tests.rlhf.factories import RunFactory

pytestmark = pytest.mark.django_db

SIZES = (10, 25, 50, 100)


def supervised(losses):
    points = [
        {"share": n / 100, "n_rows": n, "loss": loss, "standard_error": 0.01}
        for n, loss in zip(SIZES, losses, strict=True)
    ]
    result = {"learning_curve": points, "forecast": forecast(SIZES, losses, [0.01] * 4)}
    return RunFactory(kind=RunKind.SUPERVISED, status=Status.SUCCEEDED, result=result)


def test_a_run_shows_its_points_and_where_the_law_goes():
    curve = curve_of(supervised([1 + 3 * n**-0.5 for n in SIZES]))

    assert [(row.label, row.is_forecast) for row in curve.rows][2:6] == [
        ("50\u00a0%", False), ("100\u00a0%", False), ("2 times as many", True), ("4 times as many", True),
    ]  # fmt: skip
    assert len(curve.dots) == 4
    assert curve.line
    assert curve.sentence.startswith("With 2 times as many rows, a held-out loss of 1.")
    assert curve.sentence.endswith("after 1.3 now.")


def test_it_says_why_there_is_no_forecast():
    curve = curve_of(supervised([2.0, 2.01, 1.99, 2.0]))

    assert (curve.line, curve.sentence) == ("", "")
    assert curve.reason.startswith("From 10 to 100 it did not get better")


def test_accuracies_of_a_reward_model_climb():
    points = [
        {"share": n / 100, "n_votes": n, "accuracy": 0.8 - n**-0.5, "standard_error": 0.005}
        for n in SIZES
    ]
    result = {"learning_curve": points, "forecast": forecast_accuracy(points)}

    curve = curve_of(RunFactory(kind=RunKind.REWARD_MODEL, result=result))

    heights = [float(dot.y) for dot in curve.dots]
    assert heights == sorted(heights, reverse=True)  # SVG counts from above
    assert curve.unit == "votes"


def test_a_run_without_a_curve_has_none():
    assert curve_of(RunFactory(kind=RunKind.SUPERVISED)) is None
    assert curve_of(RunFactory(kind=RunKind.DOMAIN, result={"learning_curve": None})) is None
