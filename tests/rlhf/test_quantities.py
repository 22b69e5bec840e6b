from datetime import timedelta

import pytest

from rlhf.templatetags import quantities


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under a second"),
        (1, "1 second"),
        (8.4, "8 seconds"),
        (100, "2 minutes"),
        (5400, "1.5 hours"),
        (3 * 86_400, "3 days"),
        (timedelta(minutes=5), "5 minutes"),
        (None, "\u2013"),
    ],
)
def test_duration(seconds, text):
    assert quantities.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (3, "a few seconds left"), (200, "about 3 minutes left")]
)
def test_remaining(seconds, text):
    assert quantities.remaining(seconds) == text


def test_percent_decimals_and_significant_digits():
    assert quantities.percent(0.714) == "71\u00a0%"
    assert quantities.decimals(-0.456) == "\u22120.46"
    assert quantities.decimals(-0.001) == "0.00"
    assert quantities.significant(0.00012345) == "0.000123"
    assert quantities.significant(12345.6) == "12,300"
    assert quantities.significant(0.0) == "0"
    assert quantities.significant(-0.0000123) == "\u22121.23e\u221205"


def test_what_is_not_there_is_a_dash():
    missing = ["", None]  # a template turns a missing key into an empty string

    assert [quantities.percent(value) for value in missing] == ["\u2013"] * 2
    assert [quantities.decimals(value) for value in missing] == ["\u2013"] * 2
    assert [quantities.significant(value) for value in missing] == ["\u2013"] * 2
