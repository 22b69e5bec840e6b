import pytest

from rlhf.alarms import as_json, find_alarms


def reports(**series):
    """(step, values) from one list per metric. Example: kl=[1, 2]; names are those below."""
    names = {
        "kl": "kl/k1", "clip": "policy/clip_fraction", "ratio": "policy/ratio_first",
        "first_kl": "policy/approx_kl_first", "first_clip": "policy/clip_fraction_first",
        "bits": "policy/bits", "explained": "value/explained_variance",
        "score": "score/mean", "spread": "score/std", "length": "length/mean", "repetition": "repetition/mean",
    }  # fmt: skip
    n = max(map(len, series.values()))
    return [
        (step + 1, {names.get(name, name): series[name][step] for name in series})
        for step in range(n)
    ]


def found(**series):
    return [(a.name, a.metric, a.level, a.steps) for a in find_alarms(reports(**series))]


def test_run_as_it_should_be_raises_no_alarm():
    assert find_alarms([]) == []
    assert (
        found(
            kl=[0.0, 12.0, 30.0], entropy=[1.5, 1.2, 1.0], clip=[0.1, 0.4, 0.2], score=[0, 1, 2],
            ratio=[1.0, 1.0005, 1.0], first_kl=[0.0, 1e-6, 0.0], explained=[-0.1, 0.2, 0.4],
            length=[30.0, 29.0, 28.0], repetition=[0.1, 0.1, 0.1],
        )
        == []
    )  # fmt: skip


def test_kl_is_yellow_above_30_nats_and_red_above_50():
    assert found(kl=[1, 31, 51, 60, 50, 20]) == [
        ("KL", "kl/k1", "red", [3, 4]),
        ("KL", "kl/k1", "yellow", [2, 5]),
    ]


@pytest.mark.parametrize(
    ("entropy", "steps"),
    [([2.0, 0.41, 0.39], [3]), ([0.3, 0.11, 0.09], [3]), ([2.0, None, 2.0], [])],
)
def test_entropy_collapses_below_a_fifth_of_its_first_value_or_a_tenth_of_a_nat(entropy, steps):
    expected = [("entropy collapse", "entropy", "red", steps)] if steps else []

    assert found(entropy=entropy) == expected


def test_explained_variance_may_be_negative_for_four_steps_in_a_row():
    alarm = ("explained variance", "value/explained_variance", "yellow")

    assert found(explained=[-1, -1, -1, -1, 0.1] * 2) == []
    assert found(explained=[0.1, *[-1] * 6, 0.2, -1]) == [(*alarm, [2, 3, 4, 5, 6, 7])]


def test_clip_fraction_above_two_fifths_is_yellow():
    assert found(clip=[0.1, 0.41]) == [("clip fraction", "policy/clip_fraction", "yellow", [2])]


def test_first_update_that_does_not_start_where_the_answers_were_sampled_is_red():
    assert found(ratio=[1.0, 0.98], first_kl=[0.0, 0.01]) == [
        ("first ratio", "policy/ratio_first", "red", [2]),
        ("first KL", "policy/approx_kl_first", "red", [2]),
    ]


def test_in_fp32_the_first_update_starts_exactly_where_the_answers_were_sampled():
    metrics = {"ratio": [1.00001, 1.001], "first_kl": [1e-9, 1e-5], "first_clip": [0.0, 0.01]}

    assert found(**metrics, bits=[32, 32]) == [
        ("first ratio", "policy/ratio_first", "red", [2]),
        ("first KL", "policy/approx_kl_first", "red", [2]),
        ("first clip fraction", "policy/clip_fraction_first", "red", [2]),
    ]


@pytest.mark.parametrize("bits", [16, None])  # runs of before there was a word about it
def test_what_bf16_rounds_is_no_alarm_of_the_first_update(bits):
    assert found(ratio=[1.001], first_kl=[1e-4], first_clip=[0.01], bits=[bits]) == []


def test_score_that_rises_with_the_length_is_reward_hacking():
    score, length = [0, 0, 0, 1, 1, 1], [10, 10, 10, 16, 22, 31]

    # means of three: scores 0, 1/3, 2/3, 1; lengths 10, 12, 16, 23
    assert found(score=score, length=length) == [
        ("reward hacking", "length/mean", "red", [6]),
        ("reward hacking", "length/mean", "yellow", [5]),
    ]
    assert found(score=[0] * 6, length=length) == []


def test_rise_of_the_score_is_measured_by_its_spread_at_first():
    """As of a rule with a weight of a tenth."""
    score, length = [0, 0, 0, 0.1, 0.1, 0.1], [10, 10, 10, 16, 22, 31]

    assert found(score=score, length=length) == []
    assert found(score=score, spread=[0.2] * 6, length=length) == []  # half of it at most
    assert found(score=score, spread=[0.1] * 3 + [1] * 3, length=length) == [
        ("reward hacking", "length/mean", "red", [6]),
        ("reward hacking", "length/mean", "yellow", [5]),
    ]


def test_score_that_rises_with_repetition_is_reward_hacking():
    score = [0, 0, 0, 3, 3, 3]

    assert found(score=score, repetition=[0.0, 0.0, 0.0, 0.6, 0.6, 0.6]) == [
        ("reward hacking", "repetition/mean", "red", [5, 6]),  # means 0, 0.2, 0.4, 0.6
    ]
    assert found(score=score, repetition=[0.5] * 6) == []  # it was so at first


def test_alarm_says_from_when_to_when():
    (alarm,) = find_alarms(reports(kl=[1, 31, 1, 40]))

    assert (alarm.step_from, alarm.step_to) == (2, 4)
    assert alarm.sentence.startswith("KL above 30 nats: read the answers")


def test_of_an_alarm_that_goes_on_and_on_a_hundred_steps_are_kept():
    (kept,) = as_json(find_alarms(reports(kl=[31] * 1000)))

    assert (kept["step_from"], kept["step_to"], kept["n_steps"]) == (1, 1000, 1000)
    assert kept["steps"] == [*range(1, 1000, 10), 1000]
