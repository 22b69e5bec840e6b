"""Figures of annotators, by hand; and when several of them together are worth a word."""

import pytest

from annotator.quality.coefficients import Estimate, meetings
from annotator.quality.consensus import dawid_skene
from annotator.quality.people import (
    everybody,
    evidence_by_annotator,
    figures_of,
    first_shown,
    known_answers,
    known_answers_of_all,
    longer,
    median_seconds,
    said_twice,
    self_agreement,
    share,
    signals,
    too_fast,
)
from annotator.quality.votes import Answer, pair_votes

A, B, TIE, BAD = [[1], [2]], [[2], [1]], [[1, 2]], []
ANSWERS = {1: Answer("model", 200), 2: Answer("model", 300)}


def figures(votes, known=(), repeats=()):
    """By annotator, and 0 for everybody."""
    table = pair_votes(votes)
    evidence = evidence_by_annotator(
        votes, known, said_twice(votes, repeats), table, meetings(table), dawid_skene(table)
    )
    found = {who: figures_of(who, of, ANSWERS) for who, of in evidence.items()}
    return found | {0: figures_of(0, everybody(evidence.values()), ANSWERS)}


# --- with the others --------------------------------------------------------------------------
def test_agreement_with_the_others_by_hand(ballot):
    """With each of the others: the same 1, a tie ½, the opposite 0; the mean over comparisons."""
    votes = [
        ballot(comparison, who, said)
        for comparison, row in enumerate([[A, A, B], [A, TIE, None], [A, None, None]])
        for who, said in enumerate(row, start=1)
        if said
    ]

    found = figures(votes)

    assert found[1].agreement == Estimate((0.5 + 0.5) / 2, n=2)
    assert found[3].agreement == Estimate(0.0, n=1)
    assert (found[1].n_votes, found[3].n_votes, found[0].n_votes) == (3, 1, 6)


def test_whoever_votes_the_wrong_way_round_is_least_reliable(ballot):
    rows = [[A, A, A, B], [B, B, B, A]] * 6
    votes = [ballot(c, who, said) for c, row in enumerate(rows) for who, said in enumerate(row, 1)]

    found = figures(votes)

    assert found[4].reliability.value < 0.01
    assert found[1].reliability.value > 0.99
    assert found[1].reliability.n == 12


def test_alone_there_is_nobody_to_agree_with(ballot):
    found = figures([ballot(1, 1, A)])

    assert found[1].agreement.reason == found[1].reliability.reason
    assert found[1].agreement.reason == "Nobody else has ranked the same comparisons."


# --- shares of votes --------------------------------------------------------------------------
def test_a_share_has_wilsons_interval():
    """Wilson 1927 for 8 of 10: (p + z²/2n ± z √(p q / n + z²/4n²)) / (1 + z²/n)."""
    found = share([True] * 8 + [False] * 2, "")

    assert found.value == 0.8
    assert (found.low, found.high) == (
        pytest.approx(0.490, abs=5e-4),
        pytest.approx(0.943, abs=5e-4),
    )


def test_known_answers_are_right_or_wrong(ballot):
    said = [(A, A), (B, A), (TIE, A), (BAD, A), (TIE, TIE)]

    found = known_answers([ballot(1, 1, ranking, expected=right) for ranking, right in said])

    assert (found.value, found.n) == (2 / 5, 5)


def test_votes_on_one_known_answer_stay_together(ballot):
    once = [ballot(n, 1, A if n % 3 else B, expected=A) for n in range(12)]
    thrice = [vote._replace(annotator=who) for vote in once for who in (1, 2, 3)]

    found = known_answers_of_all(thrice)

    assert found == known_answers_of_all(once)  # no surer of it by more votes on the same ones
    assert (found.value, found.n) == (2 / 3, 12)
    assert found.low < 2 / 3 < found.high


def test_self_agreement_compares_with_what_was_said_before(ballot):
    before = [ballot(c, 1, said) for c, said in enumerate([A, A, A, BAD])]
    again = [ballot(c, 1, said, is_repeat=True) for c, said in enumerate([A, B, TIE, A])]
    of_other = ballot(9, 1, A, is_repeat=True)

    found = figures(before, repeats=[*again, of_other])

    assert found[1].self_agreement == Estimate((1 + 0 + 1 / 2 + 0) / 4, n=4)
    assert (
        self_agreement([]).reason == "No comparison has been judged twice by the same person yet."
    )


def test_position_bias_is_how_often_the_left_one_won(ballot):
    votes = [ballot(1, 1, A), ballot(2, 1, A, order=[2, 1]), ballot(3, 1, B, order=[2, 1])]

    found = first_shown([*votes, ballot(4, 1, TIE), ballot(5, 1, BAD)])

    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_position_bias_of_rankings_is_that_of_all_their_pairs(ballot):
    """Of 3 > 1 > 2 shown as 1, 2, 3 only 1 stood before what it beats; a tie is left out."""
    ranked = ballot(1, 1, [[3], [1], [2]], order=[1, 2, 3])
    tied = ballot(2, 1, [[1, 2], [3]], order=[1, 2, 3])
    best_of_four = ballot(3, 1, [[2], [1, 3, 4]], order=[1, 2, 3, 4], is_pick=True)

    assert [first_shown([vote]).value for vote in (ranked, tied, best_of_four)] == pytest.approx(
        [1 / 3, 1, 2 / 3]
    )
    assert first_shown([ranked, tied, best_of_four]).n == 3


def test_the_bias_of_single_pairs_has_wilsons_interval(ballot):
    votes = [ballot(place, 1, A if place < 14 else B) for place in range(20)]

    assert first_shown(votes) == pytest.approx(share([True] * 14 + [False] * 6, ""))


def test_pairs_of_a_ranking_that_all_say_the_same_are_one_vote(ballot):
    """Who always ranks in the order shown has said so once a ranking, not three times."""
    rankings = [
        ballot(place, 1, [[1], [2], [3]] if place < 24 else [[3], [2], [1]], order=[1, 2, 3])
        for place in range(30)
    ]

    assert first_shown(rankings) == pytest.approx(share([True] * 24 + [False] * 6, ""))


def test_rankings_of_many_pairs_say_more_than_single_pairs_once_there_are_enough(ballot):
    """Half of 1 > 3 > 2 and half of 2 > 3 > 1: the first shown wins 2 and 1 of three pairs."""
    rankings = [
        ballot(place, 1, [[1], [3], [2]] if place % 2 else [[2], [3], [1]], order=[1, 2, 3])
        for place in range(30)
    ]
    single = share([True] * 15 + [False] * 15, "")

    few, many = first_shown(rankings[:28]), first_shown(rankings)

    assert (few.value, many.value) == (pytest.approx(1 / 2), pytest.approx(1 / 2))
    assert few.high - few.low > single.high - single.low > many.high - many.low


def test_length_bias_of_rankings_is_that_of_pairs_that_differ_in_length(ballot):
    answers = {1: Answer("model", 100), 2: Answer("model", 105), 3: Answer("model", 300)}
    vote = ballot(1, 1, [[3], [1], [2]], order=[1, 2, 3])

    assert longer([vote], answers).value == 1.0


def test_length_bias_is_how_often_the_longer_one_won(ballot):
    answers = ANSWERS | {3: Answer("model", 205)}
    nearly_equal = ballot(4, 1, [[1], [3]], order=[1, 3])

    found = longer([ballot(1, 1, A), ballot(2, 1, B), ballot(3, 1, B), nearly_equal], answers)

    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)


def test_too_fast_is_before_the_answers_could_be_skimmed(ballot):
    """500 characters: 5 seconds. However long the answers, 15 seconds are enough."""
    votes = [ballot(1, 1, A, seconds=seconds) for seconds in (4.9, 5.0, None)]
    long = [ballot(2, 1, A, seconds=seconds) for seconds in (14.9, 15.0)]

    assert too_fast(votes, ANSWERS).value == 1 / 2
    assert too_fast(long, {1: Answer("model", 9000), 2: Answer("model", 9000)}).value == 1 / 2


def test_pace_is_the_median_between_two_of_the_times(ballot):
    """Of 10 times, the 2nd and the 9th hold the median in 97.9 % of samples, the 3rd and the 8th
    in 89.1 %."""
    votes = [ballot(1, 1, A, seconds=float(seconds)) for seconds in range(1, 11)]

    assert median_seconds(votes) == Estimate(5.5, 2.0, 9.0, 10)
    assert median_seconds(votes[:1]) == Estimate(1.0, 1.0, 1.0, 1)


def test_without_votes_there_is_a_reason_for_each_figure():
    found = figures([])

    estimates = [figure for figure in found[0] if isinstance(figure, Estimate)]
    assert all(figure.value is None and figure.reason for figure in estimates)


# --- several together -------------------------------------------------------------------------
def careless_votes(ballot, *, is_fast, is_saboteur):
    """Thirty comparisons by four; the fourth may vote the wrong way round, and in two seconds."""
    return [
        ballot(
            comparison,
            who,
            wrong if who == 4 and is_saboteur else right,
            seconds=2.0 if who == 4 and is_fast else 30.0,
            order=[1, 2] if comparison % 4 < 2 else [2, 1],
        )
        for comparison in range(30)
        for right, wrong in [(A, B) if comparison % 2 else (B, A)]
        for who in (1, 2, 3, 4)
    ]


def test_two_signals_are_worth_a_word(ballot):
    found = figures(careless_votes(ballot, is_fast=True, is_saboteur=True))

    assert signals(found[4], found[0]) == [
        "agrees less with the others",
        "is more often faster than one can skim",
    ]
    assert signals(found[1], found[0]) == []


@pytest.mark.parametrize(("is_fast", "is_saboteur"), [(True, False), (False, True)])
def test_nobody_is_accused_by_one_number(ballot, is_fast, is_saboteur):
    found = figures(careless_votes(ballot, is_fast=is_fast, is_saboteur=is_saboteur))

    assert signals(found[4], found[0]) == []
