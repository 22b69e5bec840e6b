import math

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training import reward_rules
from rlhf.training.artifacts import RunError
from rlhf.training.reward_rules import (
    Conversation,
    call_function,
    complete,
    format_lines,
    length_score,
    load_function,
    names_of,
    parse_lines,
    regex_score,
    scores_of,
    sentiment_score,
)


def said(text, n_tokens=0):
    return Conversation([{"role": "user", "content": "Why?"}], text, n_tokens, truncated=False)


# --- lines --------------------------------------------------------------------------------------
def test_a_line_is_a_kind_with_its_settings():
    text = "length target=80 weight=0.2\r\n\r\nregex pattern='thank you' count=2 name=thanks\n"

    assert parse_lines(text) == [
        {"kind": "length", "target": 80, "weight": 0.2},
        {"kind": "regex", "pattern": "thank you", "count": 2, "name": "thanks"},
    ]


numbers = st.floats(allow_nan=False, allow_infinity=False)
shared = {"weight": numbers, "mean": numbers, "clip": st.floats(1e-3, 1e3)}
lengths = st.fixed_dictionaries(
    {"kind": st.just("length"), "target": st.integers(1, 10**6)},
    optional=shared | {"unit": st.sampled_from(["tokens", "words"])},
)
literals = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1, max_size=9)
patterns = st.fixed_dictionaries(
    {"kind": st.just("regex"), "pattern": literals.map(regex.escape)}, optional=shared
)


@settings(max_examples=50)
@given(st.lists(st.one_of(lengths, patterns), max_size=3))
def test_lines_that_were_written_are_read_as_the_same_rules(rules):
    assert parse_lines(format_lines(rules)) == rules


def refusal(text):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_lines(text, allowed=["math.sqrt"])
    return str(caught.value)


@given(st.text(st.sampled_from("length target=80'\\\" \n#\0")))
def test_any_text_is_read_or_refused_with_its_line(text):
    try:
        parse_lines(text)
    except ValueError:
        assert refusal(text).startswith("Line ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("beauty", "there is no kind of reward 'beauty'; there are length, regex, sentiment,"),
        ("length", "length needs target=…"),
        ("length 80", "'80' is no setting; write NAME=VALUE"),
        ("length target=80.5", "target=80.5 must be a whole number"),
        ("length target=80 target=90", "target is given twice"),
        ("length target=80 unit=pages", "unit=pages must be tokens or words"),
        ("length target=80 colour=red", "length has no setting 'colour'; it has target, unit,"),
        ("length target=80 weight=nan", "weight=nan must be a number"),
        ("length target=80 std=0", "std=0.0 must be above 0"),
        ("length target=80 name=mean", "name=mean is the name of another metric"),
        ("length target=80 name=A", "name=A must be small letters"),
        ("regex pattern=(", "the pattern ( is no regular expression: missing )"),
        ("regex pattern='(a{1000}){1000}'", "the pattern (a{1000}){1000} repeats too often"),
        ("regex pattern='(", "No closing quotation"),
        ("reward_model version=x mean=1", "reward_model has no setting 'mean'"),
        ("reward_model version=x folder=/", "a reward model is named by version=…"),
        ("reward_model version=x ensemble=min", "ensemble=min must be one of mean, worst,"),
        (
            "reward_model version=x uncertainty_coefficient=inf",
            "uncertainty_coefficient=inf must be a number of at least 0",
        ),
        ("sentiment name=disagreement", "name=disagreement is the name of another metric"),
        ("callable function=os.getcwd", "os.getcwd is not in PREFERENDUM_REWARD_FUNCTIONS"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_number_and_the_reason(line, message):
    assert refusal(f"sentiment\n{line}").startswith(f"Line 2: {message}")


def test_each_source_has_a_name_of_its_own():
    rules = parse_lines(
        "length target=8\nlength target=9\nsentiment name=length_2\nreward_model version=x"
    )

    assert names_of(True, rules) == [
        "reward_model", "length", "length_3", "length_2", "reward_model_2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="two rewards have the name kind"):
        names_of(True, parse_lines("sentiment name=kind") * 2)


def test_a_name_given_twice_is_refused():
    assert refusal("sentiment name=mood\nlength target=8 name=mood") == (
        "In these lines, two rewards have the name mood."
    )


# --- scores -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "score"), [(0, 0), (2, 0.5), (4, 1), (6, 0.5), (8, 0), (99, 0)])
def test_length_is_best_at_the_target_and_bounded(n, score):
    assert length_score(said("x", n_tokens=n), 4, "tokens") == score
    assert length_score(said("word " * n, n_tokens=7), 4, "words") == score


@pytest.mark.parametrize(("text", "score"), [("none", 0), ("ab", 0.5), ("ab ab", 1), ("ababab", 1)])
def test_regex_counts_matches_up_to_a_limit(text, score):
    assert regex_score(text, regex.compile("ab"), 2) == score


def test_a_pattern_that_would_take_years_ends_the_run_with_a_sentence(monkeypatch):
    monkeypatch.setattr(reward_rules, "PATTERN_SECONDS", 0.1)

    with pytest.raises(RunError, match=r"took more than 0.1 s on an answer of 3001 characters"):
        regex_score("a" * 3000 + "b", regex.compile("(a|aa)+$"), 1)


@pytest.mark.parametrize(
    ("text", "score"), [("Good, GOOD and bad!", 1 / 3), ("awful", -1), ("goodness", 0), ("", 0)]
)
def test_sentiment_is_the_balance_of_known_words(text, score):
    assert sentiment_score(text) == pytest.approx(score)


def test_a_rule_scores_every_conversation():
    rule = complete({"kind": "regex", "pattern": "b"})

    assert scores_of(rule, [said("a"), said("ab")]) == [0, 1]


# --- functions of others ------------------------------------------------------------------------
def test_a_function_is_shown_prompts_and_completions():
    def count(prompts, completions):
        return [len(prompt) + len(text) for prompt, text in zip(prompts, completions, strict=True)]

    assert call_function("count", count, [said("ab"), said("")]) == [3.0, 1.0]


def test_a_function_that_is_not_allowed_is_not_loaded():
    with pytest.raises(RunError, match=r"^os\.getcwd is not in PREFERENDUM_REWARD_FUNCTIONS"):
        load_function("os.getcwd", ["os.getlogin"])

    with pytest.raises(RunError, match=r"no\.such cannot be loaded: No module named 'no'"):
        load_function("no.such", ["no.such"])

    assert load_function("math.sqrt", ["math.sqrt"]) is math.sqrt


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "gave 1 scores for 2 completions"),
        ([1.0, math.nan], "gave the score nan"),
        ([1.0, None], "failed: TypeError"),
        (None, "failed: TypeError"),
    ],
)
def test_a_wrong_result_of_a_function_is_a_sentence(result, message):
    with pytest.raises(RunError, match=f"The reward function f {message}"):
        call_function("f", lambda prompts, completions: result, [said("a"), said("b")])
