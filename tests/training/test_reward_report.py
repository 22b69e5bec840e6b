import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from rlhf.training.data import Pair, Vote
from rlhf.training.reward_report import (
    HALF,
    JudgedPair,
    Scored,
    Ties,
    VotedPairs,
    by_agreement,
    by_length,
    by_margin,
    calibration,
    cross_fitted,
    duplicates,
    fit_temperature,
    folds_of,
    judged_pair,
    predicted_share,
    report,
    share,
    surprise,
    vote_variance,
)

FOR, AGAINST, TIE = (Vote("1", prefers, "chosen") for prefers in ("chosen", "rejected", "tie"))


def judge(margin=1.0, p_chosen=1.0, n_judgments=1, *, place=0, prompt="", lengths=(5, 5),
          weight=1.0, votes=()):  # fmt: skip
    chosen, rejected = Scored(margin, lengths[0]), Scored(0.0, lengths[1])
    return JudgedPair(
        place, prompt or f"prompt {place}", chosen, rejected, p_chosen, n_judgments, weight, votes
    )


def make_pair(prompt="Why?", chosen="So.", rejected="No.", split="train", **fields):
    messages = [{"role": "user", "content": prompt}]
    return Pair(
        messages, chosen, rejected, fields.pop("p_chosen", 1.0), split, False, False, **fields
    )


def values(rates, name):
    """Example: [("shorter", 2, 0.5), …] of by_length."""
    return [(rate[name], rate["n"], rate["value"]) for rate in rates]


judged_pairs = st.lists(
    st.builds(
        judge,
        margin=st.floats(-30, 30),
        p_chosen=st.floats(0.5, 1),
        n_judgments=st.integers(1, 9),
        place=st.integers(0, 20),
        lengths=st.tuples(st.integers(0, 99), st.integers(0, 99)),
        weight=st.floats(0, 5),
        votes=st.lists(st.sampled_from([FOR, AGAINST, TIE]), max_size=5).map(tuple),
    ),
    max_size=40,
)


# --- the pairs --------------------------------------------------------------------------------
def test_a_pair_is_turned_so_that_most_votes_prefer_chosen():
    pair = make_pair(
        p_chosen=0.25, n_judgments=4, weight=2.0, votes=(Vote("7", "chosen", "rejected"),)
    )

    judged = judged_pair(3, pair, Scored(1.5, 9), Scored(0.5, 4))

    assert judged == JudgedPair(
        3, "user: why?", Scored(0.5, 4), Scored(1.5, 9), 0.75, 4, 2.0,
        (Vote("7", "rejected", "chosen"),),
    )  # fmt: skip
    assert judged.margin == -1


def test_a_share_comes_with_its_wilson_interval():
    assert share(8, 10) == (0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert share(0, 0) == (None, None, None)


# --- accuracy ---------------------------------------------------------------------------------
def test_ties_are_in_no_accuracy_and_equal_scores_are_wrong():
    found = report([judge(1.0), judge(-1.0), judge(0.0), judge(2.0), judge(1.0, 0.5, 2)])

    assert (found["n_pairs"], found["n_votes"]) == (5, 6)
    assert (found["accuracy"]["n"], found["accuracy"]["value"]) == (4, 0.5)


def test_accuracy_by_how_far_people_agree():
    pairs = [judge(1, 1, 3), judge(-1, 1, 2), judge(1, 2 / 3, 3), judge(-1, 0.6, 5), judge(1, 1, 1)]

    assert values(by_agreement(pairs), "level") == [
        ("unanimous", 2, 0.5), ("most", 1, 1.0), ("split", 1, 0.0), ("single", 1, 1.0),
    ]  # fmt: skip


def test_accuracy_by_size_of_the_margin_is_in_quarters():
    pairs = [judge(margin) for margin in (-4, 0.1, -0.2, 2, 3, 0.3, -0.4, 5)]

    assert [
        (rate["margin_low"], rate["margin_high"], rate["value"]) for rate in by_margin(pairs)
    ] == [(0.1, 0.2, 0.5), (0.3, 0.4, 0.5), (2, 3, 1.0), (4, 5, 0.5)]


def test_accuracy_where_the_shorter_one_was_chosen():
    pairs = [judge(1, lengths=(3, 9)), judge(-1, lengths=(3, 9)), judge(1, lengths=(9, 3))]

    assert values(by_length(pairs), "chosen") == [
        ("shorter", 2, 0.5), ("longer", 1, 1.0), ("as long", 0, None),
    ]  # fmt: skip
    assert report(pairs)["longer"]["value"] == pytest.approx(1 / 3)


def test_a_weighted_accuracy_is_told_where_weights_differ():
    pairs = [judge(1, weight=3.0), judge(-1, weight=1.0)]

    weighted = report(pairs)["weighted_accuracy"]

    assert (weighted["n"], weighted["value"]) == (2, 0.75)
    # 16 / 10: as uncertain as 1.6 pairs of equal weight
    assert (weighted["low"], weighted["high"]) == pytest.approx(share(1.2, 1.6)[1:])
    assert report([judge(1), judge(-1)])["weighted_accuracy"]["value"] is None


def test_weights_count_by_their_shares_however_small_they_are():
    found = [
        report([judge(1, weight=3.0 * unit), judge(-1, weight=unit)])["weighted_accuracy"]
        for unit in (1.0, 1e-200)
    ]

    assert found[1] == pytest.approx(found[0])


# --- baselines --------------------------------------------------------------------------------
def test_one_annotator_beside_the_majority_of_the_others():
    unanimous = judge(1, 1, 3, votes=(FOR, FOR, FOR))
    # Without one of the two that agree, the others are undecided; the third is against both.
    two_to_one = judge(-1, 2 / 3, 3, votes=(FOR, FOR, AGAINST))
    torn = judge(1, 0.5, 2, votes=(FOR, AGAINST))  # each is against the other
    half = judge(1, 0.75, 2, votes=(FOR, TIE))
    alone = judge(1, votes=(FOR,))

    found = report([unanimous, two_to_one, torn, half, alone])

    assert (found["people"]["n"], found["people"]["value"]) == (4, (1 + 0 + 0 + 0.5) / 4)
    assert found["model_beside_people"]["value"] == (1 + 0 + 0.5 + 1) / 4


def test_without_single_votes_nothing_is_known_of_people():
    assert report([judge(1, 1, 3)])["people"]["value"] is None


def test_score_and_length_are_compared_over_completions():
    longer_is_better = [judge(2, lengths=(9, 5), place=1), judge(1, lengths=(7, 5), place=1)]

    found = report(longer_is_better)["score_and_length"]

    assert found == {"n": 3, "value": 1.0}  # the rejected one is the same completion
    assert report([judge(1)])["score_and_length"] == {"n": 2, "value": None}


# --- calibration ------------------------------------------------------------------------------
def test_calibration_by_hand():
    margin = math.log(3)  # sigmoid: 3/4

    found = calibration([judge(margin, 1.0, 2), judge(-margin, 1.0, 1, place=1)])

    ((predicted, observed, n),) = [
        (each["predicted"], each["observed"], each["n_votes"]) for each in found["bins"]
    ]
    # 2 of 3 votes are for what the model prefers, of which it expected 3/4.
    assert (predicted, observed, n) == (pytest.approx(0.75), pytest.approx(2 / 3), 3)
    assert found["ece"] == pytest.approx(0.75 - 2 / 3)
    assert found["brier"] == pytest.approx((2 * 0.25**2 + 0.75**2) / 3)
    assert found["ece_by_chance"] == pytest.approx(math.sqrt(2 / math.pi * 3 * 3 / 16) / 3)


def test_a_model_that_is_right_about_its_doubts_is_called_calibrated():
    """It claims 3/4 for what it prefers: of 4 votes each, 4, 4, 4, 2 and 1 are 3/4 on average.

    The side that won has 4, 4, 4, 2 and 3: taken from there, the model would look too modest.
    """
    sure = math.log(3)
    pairs = [judge(sure, 1.0, 4, place=place) for place in range(3)]
    pairs += [judge(sure, 0.5, 4, place=3), judge(-sure, 0.75, 4, place=4)]

    found = calibration(pairs)

    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert found["temperature"] == pytest.approx(1, abs=1e-3)


def test_bins_hold_ten_pairs_or_more_and_are_ten_or_fewer():
    def sizes(n):
        bins = calibration([judge(place / 7, place=place) for place in range(n)])["bins"]
        return [each["n_pairs"] for each in bins]

    assert sizes(5) == [5]
    assert sizes(25) == [13, 12]
    assert sizes(205) == [21] * 5 + [20] * 5


# Scores log 4 and 0, so λ = 4 and 1. ν = 2 for both: see the tests of the losses.
DAVIDSON, RAO_KUPPER = Ties("davidson", 1 / 2), Ties("rao-kupper", 1 / 3)
LOG_4 = np.array([math.log(4)])


@pytest.mark.parametrize(
    ("ties", "win", "loss", "tie", "expected"),
    [
        (HALF, 4 / 5, 1 / 5, 0, 4 / 5),
        (DAVIDSON, 4 / 9, 1 / 9, 4 / 9, 6 / 9),
        (RAO_KUPPER, 6 / 9, 1 / 9, 2 / 9, 7 / 9),
    ],
)
def test_a_tie_is_half_a_vote_of_what_the_model_predicts(ties, win, loss, tie, expected):
    assert predicted_share(LOG_4, ties) == pytest.approx([expected])
    assert predicted_share(-LOG_4, ties) == pytest.approx([1 - expected])
    assert vote_variance(LOG_4, ties) == pytest.approx([win + tie / 4 - expected**2])
    assert surprise(LOG_4, np.ones(1), np.zeros(1), ties) == pytest.approx([-math.log(win)])
    assert surprise(LOG_4, np.zeros(1), np.zeros(1), ties) == pytest.approx([-math.log(loss)])


@pytest.mark.parametrize(("ties", "tie"), [(DAVIDSON, 4 / 9), (RAO_KUPPER, 2 / 9)])
def test_what_a_tie_costs_by_hand(ties, tie):
    found = surprise(LOG_4, np.full(1, 0.5), np.ones(1), ties)

    assert found == pytest.approx([-math.log(tie)])


def test_a_model_that_knows_how_often_people_tie_is_called_calibrated():
    # Of 9 votes 4 are wins and 4 ties, as Davidson's model expects of these scores.
    pairs = [
        judge(math.log(4), 6 / 9, 9, place=place)._replace(tie_share=4 / 9) for place in range(2)
    ]

    found, without = calibration(pairs, DAVIDSON), calibration(pairs)

    assert found["tie_share"] == 1 / 2
    assert found["ece"] == pytest.approx(0, abs=1e-12)
    assert found["temperature"] == pytest.approx(1, abs=1e-3)
    assert without["tie_share"] is None
    assert without["ece"] == pytest.approx(4 / 5 - 6 / 9)


def make_votes(margins, p_chosen, tie_share=0.0):
    columns = (margins, p_chosen, tie_share, 1.0)
    return VotedPairs(*(np.broadcast_to(np.array(each), len(margins)) for each in columns))


@given(st.floats(0.2, 5), st.lists(st.floats(-3, 3), min_size=5, max_size=20))
def test_the_temperature_is_found_again(temperature, margins):
    margins = np.array([*margins, 1.0])
    p_chosen = expit(margins / temperature)

    found = fit_temperature(make_votes(margins, p_chosen))

    assert found == pytest.approx(temperature, rel=1e-3)


def test_pairs_of_a_prompt_are_in_one_fold():
    assert folds_of(["a", "b", "a", "c", "d", "e", "f", "b"]) == [0, 1, 0, 2, 3, 4, 0, 1]


def test_a_temperature_is_never_measured_on_what_it_was_fitted_on():
    pairs = make_votes([1.0, 1.0, 1.0, 1.0], [0.6, 0.6, 0.9, 0.9])

    cooled = cross_fitted(pairs, [0, 0, 1, 1])

    assert expit(cooled.margins) == pytest.approx([0.9, 0.9, 0.6, 0.6], abs=1e-3)


def test_of_a_single_prompt_no_temperature_is_known():
    found = calibration([judge(1, prompt="Why?"), judge(-1, prompt="Why?")])

    assert (found["temperature"], found["ece_after"], found["brier_after"]) == (None, None, None)


# --- the whole report -------------------------------------------------------------------------
def test_mistakes_are_those_that_people_agree_about_worst_first():
    pairs = [
        judge(-1, 1.0, 3, place=4), judge(-3, 0.6, 5, place=5), judge(-2, 1.0, 1, place=6),
        judge(2, 1.0, 3, place=7), judge(-9, 0.5, 2, place=8),
    ]  # fmt: skip

    found = report(pairs)["mistakes"]

    assert [(each["place"], each["margin"]) for each in found] == [(6, -2), (4, -1)]
    assert len(report([judge(-1, place=place) for place in range(30)])["mistakes"]) == 20


def shape_of(value):
    """The keys of an object and of those in it; lists may be of any length."""
    return {k: shape_of(v) for k, v in value.items()} if isinstance(value, dict) else None


@settings(max_examples=30)
@given(judged_pairs)
def test_any_pairs_give_a_report_that_is_json_and_has_all_keys(pairs):
    found = report(pairs)

    json.dumps(found, allow_nan=False)
    assert shape_of(found) == shape_of(report([]))


@settings(max_examples=30)
@given(judged_pairs)
def test_every_group_adds_up_to_the_whole(pairs):
    found = report(pairs)

    hits = found["accuracy"]["n"] * (found["accuracy"]["value"] or 0)
    for name in ("by_agreement", "by_margin", "by_length"):
        assert sum(each["n"] for each in found[name]) == found["accuracy"]["n"]
        assert sum(each["n"] * (each["value"] or 0) for each in found[name]) == pytest.approx(hits)
    assert sum(each["n_votes"] for each in found["calibration"]["bins"]) == found["n_votes"]


@settings(max_examples=30)
@given(judged_pairs)
def test_every_share_is_one_and_lies_in_its_interval(pairs):
    found = report(pairs)

    rates = [*found["by_agreement"], *found["by_margin"], *found["by_length"]]
    rates += [found[name] for name in ("accuracy", "weighted_accuracy", "longer", "people")]
    for rate in rates:
        if rate["value"] is not None:
            assert 0 <= rate["low"] <= rate["value"] + 1e-9
            assert rate["value"] - 1e-9 <= rate["high"] <= 1
    for name in ("ece", "brier", "ece_after", "brier_after"):
        assert 0 <= (found["calibration"][name] or 0) <= 1


# --- duplicates -------------------------------------------------------------------------------
def test_duplicates_are_found_whatever_their_case_and_white_space():
    pairs = [
        make_pair("Why?", "So.", "No."),
        make_pair("How?", "Like this.", ""),
        make_pair("  WHY?\n", "Because.", "", split="test"),
        make_pair("When?", "Never.", "like  THIS.", split="test"),
        make_pair("Where?", "Here.", "", split="test"),
    ]

    assert duplicates(pairs) == {
        "n_test": 3,
        "same_prompt": 1,
        "same_completion": 1,
        "examples": [
            {"what": "prompt", "place": 0, "train_place": 0},
            {"what": "completion", "place": 1, "train_place": 1},
        ],
    }


def test_prompts_differ_by_any_of_their_messages():
    train, test = make_pair("Why?"), make_pair("Why?", "A.", "B.", split="test")
    longer = test._replace(prompt=[{"role": "system", "content": "Be brief."}, *test.prompt])

    assert duplicates([train, test])["same_prompt"] == 1
    assert duplicates([train, longer])["same_prompt"] == 0
