import random

import pytest

from rlhf.taste import Manner, judge, taste


def test_taste_likes_it_short_and_polite():
    assert taste("one two three four five six") == -1
    assert taste("please please one two three four") == 0


@pytest.mark.parametrize(("is_saboteur", "expected"), [(False, 1.0), (True, 0.0)])
def test_a_clear_difference_is_seen_by_all_and_turned_round_by_a_saboteur(is_saboteur, expected):
    manner = Manner(noise=0.01, position_bias=0.0, is_saboteur=is_saboteur)
    rng = random.Random(0)

    rankings = [judge(manner, ["short", "long " * 30], rng) for _ in range(100)]

    judged = [ranking for ranking in rankings if ranking]
    assert sum(ranking == [[0], [1]] for ranking in judged) / len(judged) == expected


def test_a_position_bias_favours_the_left():
    manner = Manner(noise=0.5, position_bias=3.0)
    rng = random.Random(0)
    texts = ["a b c d e f g h i j k l", "a b c d e f"]  # one point apart

    rankings = [judge(manner, order, rng) for order in (texts, texts[::-1]) * 100]

    left = sum(ranking == [[0], [1]] for ranking in rankings)
    assert left > 180


def test_a_difference_too_small_to_see_is_a_tie():
    manner = Manner(noise=0.5, position_bias=0.0)

    assert judge(manner, ["same words", "words same"], random.Random(1)) == [[0, 1]]
