import pytest

from rlhf.training.arms import Part, arm_parts, compare_arms, final_row, points, votes_needed
from rlhf.training.data import Pair

QUESTION = [{"role": "user", "content": "Why?"}]


def pair(arm, first_vote, n_judgments=1, split="train"):
    return Pair(
        QUESTION, "So.", "No.", 1.0, split, False, False,
        n_judgments=n_judgments, arm=arm, first_vote=first_vote,
    )  # fmt: skip


def row(arm, n_votes, accuracy):
    return {"arm": arm, "n_votes": n_votes, "accuracy": accuracy}


def test_parts_are_equally_many_first_votes_of_both_arms():
    pairs = [pair(arm, place, 2) for place in range(120, 0, -1) for arm in ("active", "random")]
    pairs += [pair("", 0), pair("active", 0, split="test")]

    parts = arm_parts(pairs)

    assert [
        (part.arm, part.n_votes, [pairs[place].first_vote for place in part.places])
        for part in parts
    ] == [(arm, n, list(range(1, n // 2 + 1))) for n in (100, 200) for arm in ("active", "random")]
    assert {pairs[place].arm for place in parts[0].places} == {"active"}


def test_each_part_is_trained_on_and_measured():
    parts = [Part("active", 100, [0, 1]), Part("random", 100, [2, 3])]

    rows = compare_arms(parts, lambda part: (0.7, 0.6, 0.8 if part.arm == "active" else 0.9))

    assert rows == [
        {"arm": "active", "n_votes": 100, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8},
        {"arm": "random", "n_votes": 100, "accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.9},
    ]  # fmt: skip


def test_an_arm_with_too_few_votes_is_not_compared():
    pairs = [pair("active", n) for n in range(500)] + [pair("random", n) for n in range(99)]

    assert arm_parts(pairs) == []


@pytest.mark.parametrize(
    ("n_votes", "expected"),
    [(0, []), (99, []), (100, [100]), (350, [100, 200, 300]), (700, [100, 300, 500, 700]),
     (1250, [300, 600, 900, 1200])],
)  # fmt: skip
def test_points_are_every_hundred_votes_thinned_from_the_end(n_votes, expected):
    assert points(n_votes) == expected


def test_a_pair_with_more_votes_than_are_left_is_not_split():
    pairs = [pair(arm, n, 30) for n in range(5) for arm in ("active", "random")]

    assert [len(part.places) for part in arm_parts(pairs)] == [3, 3]


def test_a_ranking_counts_once_and_is_never_cut():
    ranking = [pair("random", 1)._replace(comparison=7)] * 3
    others = [pair("random", n)._replace(comparison=n) for n in range(8, 108)]

    parts = arm_parts([*ranking, *others, *([pair("active", 1)] * 100)])

    assert [len(part.places) for part in parts if part.arm == "random"] == [102]


def test_votes_needed_are_those_of_the_first_point_as_good_as_the_random_arms_last():
    rows = [
        row("active", 100, 0.6), row("random", 100, 0.9), row("active", 200, 0.7),
        row("random", 200, 0.65), row("active", 300, 0.6), row("random", 300, 0.7),
    ]  # fmt: skip

    assert final_row(rows) == row("random", 300, 0.7)
    assert votes_needed(rows) == 200


@pytest.mark.parametrize("accuracy", [0.69, None])
def test_votes_needed_are_unknown_if_it_was_never_as_good(accuracy):
    assert votes_needed([row("active", 100, accuracy), row("random", 100, 0.7)]) is None


def test_nothing_held_out_is_no_final_accuracy():
    rows = [row("active", 100, None), row("random", 100, None)]

    assert (final_row(rows), votes_needed(rows)) == (None, None)
