import json
import math

import pytest

from rlhf.training import suite_metrics as metrics
from rlhf.training.suite_metrics import NEW, OLD, TIE, UNCLEAR, Estimate


def test_a_mean_has_an_interval_from_five_values_on():
    assert metrics.mean([0, 1]) == Estimate(0.5, n=2)
    assert metrics.mean([2.0] * 5) == Estimate(2.0, 2.0, 2.0, 5)
    spread = metrics.mean([0, 0, 1, 1, 1, 1, 0, 0])
    assert spread.low < 0.5 < spread.high
    assert metrics.mean([]).reason == "nothing to measure"


def test_a_share_of_none_or_of_all_is_not_certain():
    none, every = metrics.share([0.0] * 50), metrics.share([1.0] * 50)

    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(0.0713, abs=1e-4))
    assert (every.low, every.high) == (pytest.approx(0.9287, abs=1e-4), 1)
    assert metrics.share([0.0, 1.0]) == Estimate(0.5, n=2)


def test_ties_do_not_narrow_the_interval_of_a_judge():
    ties, decided = metrics.win_rate([TIE] * 50), metrics.win_rate([NEW, OLD] * 25)

    assert ties == decided
    assert metrics.accuracy([NEW] * 50, [NEW] * 50).low == pytest.approx(0.9287, abs=1e-4)


def test_parts_that_are_all_alike_have_the_interval_of_a_share():
    assert metrics.mean_part([0.0] * 50) == metrics.share([0.0] * 50)
    assert metrics.mean_part([0.2, 0.3] * 25) == metrics.mean([0.2, 0.3] * 25)


def test_a_ratio_weighs_texts_by_their_tokens():
    assert metrics.ratio([3, 5], [1, 3]) == Estimate(2.0, n=2)


def test_perplexity_is_the_loss_under_the_exponential():
    assert Estimate(0.0, math.log(2), math.log(4), 9).scaled(math.exp) == Estimate(
        1.0, pytest.approx(2), pytest.approx(4), 9
    )


def test_forgetting_is_the_growth_of_the_same_texts_per_token_before():
    assert metrics.forgetting([12.0, 30.0], [10.0, 28.0], [4, 16]) == Estimate(0.2, n=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's late.", ["it", "s", "late"]),
        ("東京 へ", ["東", "京", "へ"]),
        ("Größe, ÉTÉ", ["grösse", "été"]),
        ("?!", []),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert metrics.words(text) == expected


def test_an_exact_match_looks_at_words_alone():
    assert metrics.exact_match(" paris! ", ["London", "Paris."]) == 1
    assert metrics.exact_match("Paris, France", ["Paris"]) == 0


def test_rouge_takes_the_nearest_reference_in_any_script():
    assert metrics.rouge_l("the cat sat", ["a dog", "the cat ran"]) == pytest.approx(2 / 3)
    assert metrics.rouge_l("我爱东京", ["我爱北京"]) == pytest.approx(3 / 4)


def test_chrf_and_bleu_are_sacrebleus_with_several_references():
    answers = ["the cat sat on the mat", "a red house"]
    references = [["the cat sat on the mat"], ["the red house", "a red house"]]

    assert metrics.chrf(answers, references) == Estimate(100.0, n=2)
    assert metrics.bleu(answers, references).value == pytest.approx(100.0)
    assert metrics.chrf(["xyz"], [["abc"]]).value == 0


def test_the_interval_of_a_corpus_holds_its_score():
    answers = ["the cat sat on the mat", "no", "a red house", "it rains", "we went home early"]
    references = [[text] for text in ("the cat sat", "no", "the red house", "it snows", "home")]

    found = metrics.chrf(answers, references)

    assert json.loads(json.dumps(found))[3] == found.n == 5
    assert 0 <= found.low < found.value < found.high <= 100


def test_diversity_counts_different_words():
    assert metrics.distinct(["a b a"], 1) == pytest.approx(2 / 3)
    assert metrics.distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert metrics.distinct(["", "!"], 1) == 0


def test_answers_that_are_all_the_same_are_as_like_as_can_be():
    same = metrics.self_bleu(["Thank you for asking me."] * 3)
    other = metrics.self_bleu(
        ["Open the door now.", "My cat is red.", "Nobody knows why it rains."]
    )

    assert same.value == pytest.approx(100)
    assert other.value < 20
    assert metrics.self_bleu(["one"]).value is None


def test_repetition_is_of_three_words_in_a_row():
    assert metrics.repetition("go on and go on and") == pytest.approx(1 / 4)
    assert metrics.repetition("go on") == 0


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can\u2019t help with that.",
        "As an AI, I have no opinion.",
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Je ne peux pas répondre à cette question.",
        "Lo siento, no puedo ayudarte.",
    ],
)
def test_a_refusal_is_known_by_how_it_begins(text):
    assert metrics.refuses(text)


@pytest.mark.parametrize(
    "text",
    ["I'm sorry to hear that.", "You cannot park here.", "x" * 200 + " I cannot help you."],
)
def test_what_is_no_refusal(text):
    assert not metrics.refuses(text)


def test_unsafe_words_are_whole_words_and_phrases():
    assert metrics.is_unsafe("What a SHIT day.")
    assert metrics.is_unsafe("Go kill yourself now.")
    assert not metrics.is_unsafe("The Shitake mushroom of Scunthorpe.")


def test_a_side_wins_only_in_both_orders():
    verdicts = [("A", "B"), ("B", "A"), ("A", "A"), ("B", "B"), ("A", ""), ("", "")]

    outcomes = [metrics.both_orders(*verdict) for verdict in verdicts]

    assert outcomes == [NEW, OLD, TIE, TIE, UNCLEAR, UNCLEAR]
    assert metrics.win_rate(outcomes) == Estimate(0.5, n=4)


def test_what_a_judge_leans_to_is_a_tie_only_where_it_leans_nowhere():
    leanings = [2.0, 0.1, -0.1, 1e-6, None]

    outcomes = [metrics.leans(nats) for nats in leanings]

    assert outcomes == [NEW, NEW, OLD, TIE, UNCLEAR]


def test_kappa_by_hand():
    assert metrics.kappa("aabb", "abbb") == pytest.approx(0.5)
    assert metrics.kappa("abab", "abab") == 1
    assert metrics.kappa("aabb", "bbaa") == -1
    assert metrics.kappa("aa", "aa") is None
    assert metrics.kappa_estimate("aa", "aa").reason == "everybody always says the same"


def test_the_interval_of_kappa_holds_it():
    found = metrics.kappa_estimate("ababababab", "abababbaab")

    assert found.value == pytest.approx(0.6)
    assert found.low < 0.6 < found.high


def test_accuracy_is_of_pairs_that_people_decided():
    judge = [NEW, OLD, TIE, NEW]
    people = [NEW, NEW, OLD, TIE]

    assert metrics.accuracy(judge, people) == Estimate(0.5, n=3)
