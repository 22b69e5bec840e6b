"""What the comparing page offers, and how what comes back is read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.ballots import choices, entered_by, keep, key_sheet, read
from annotator.models import Judgment, Verdict
from annotator.protocols import PRESETS, QUALITIES, Protocol, check

FULL = Protocol(
    strengths=("slightly better", "better", "much better"),
    criteria=QUALITIES,
    rationale="optional",
    reasons=("Clear", "Short"),
    rewrite=True,
    span_labels=("wrong",),
    flags=("unsafe", "broken"),
)


def keys_of(protocol, n):
    return {choice.key: choice.label for choice in choices(protocol, n)}


def read_ranks(*ranks):
    """What is read of these ranks, from left to right, of answers 10, 11, …"""
    order = list(range(10, 10 + len(ranks)))
    return read({f"rank-{i}": [rank] for i, rank in enumerate(ranks)}, Protocol(), order)


def test_the_arena_has_the_keys_it_always_had():
    assert keys_of(Protocol(), 2) == {"1": "A better", "0": "Tie", "2": "B better", "9": "Both bad"}


@pytest.mark.parametrize(("preset", "n_keys"), [("anthropic", 8), ("llama2", 8), ("helpsteer", 7)])
def test_one_key_says_the_choice_and_its_strength(preset, n_keys):
    protocol = PRESETS[preset].protocol
    keys = keys_of(protocol, 2)

    assert list(keys) == [str(key) for key in range(1, n_keys + 1)]
    assert keys["1"] == f"A {protocol.strengths[-1]}"
    assert keys[str(n_keys)] == f"B {protocol.strengths[-1]}"


def test_the_best_of_nine_is_one_key():
    keys = keys_of(PRESETS["best_of_n"].protocol, 9)

    assert (keys["1"], keys["9"], keys["x"]) == ("A best", "I best", "All bad")


def test_the_sheet_says_how_passages_are_marked_by_keyboard():
    sheet = key_sheet(Protocol(span_labels=("wrong",)), 2)

    assert sheet[4:9] == [
        (["J", "K"], "Next, previous answer"),
        (["H"], "Text of the answer in hand, to mark passages in it"),
        (["⇧ ←", "⇧ →"], "In the text: select"),
        (["↵", "1", "…"], "In the text: mark it with the first label, or by number"),
        (["Esc"], "Out of the text"),
    ]


@pytest.mark.parametrize(
    ("value", "ranking", "strength"),
    [
        ("first-3", [[7], [5]], 3),
        ("second-1", [[5], [7]], 1),
        ("tie", [[7, 5]], None),
        ("all_bad", [], None),
    ],
)
def test_a_choice_is_read_in_the_order_shown(value, ranking, strength):
    said = read({"choice": [value]}, FULL, [7, 5])

    assert (said["ranking"], said["strength"]) == (ranking, strength)


def test_ranks_become_tie_groups_best_first():
    assert read_ranks("3", "1", "3")["ranking"] == [[11], [10, 12]]


def test_ranks_need_not_start_at_one_nor_follow_on():
    assert read_ranks("2", "3", "3")["ranking"] == [[10], [11, 12]]


@pytest.mark.parametrize("rank", ["", "0", "4", "-1", "1.5", "x", "¹"])
def test_a_rank_is_a_number_from_one_to_the_number_of_answers(rank):
    with pytest.raises(ValueError, match="Give every answer a rank"):
        read_ranks("1", "2", rank)


@pytest.mark.parametrize(
    ("protocol", "order", "value"),
    [(Protocol(), [7, 5], "third"), (Protocol(), [7, 5], ""), (FULL, [7, 5], "first")],
)
def test_there_are_no_other_choices(protocol, order, value):
    with pytest.raises(ValueError, match="Choose one of: A "):
        read({"choice": [value]}, protocol, order)


def test_better_of_two_says_nothing_of_three():
    with pytest.raises(ValueError, match="Give every answer a rank"):
        read({"choice": ["first"]}, Protocol(), [1, 2, 3])


def test_whoever_finds_all_bad_need_not_rank_them():
    assert read({"choice": ["all_bad"]}, FULL, [1, 2, 3])["verdict"] == Verdict.ALL_BAD


def test_that_answers_cannot_be_ranked_is_no_verdict_on_them():
    protocol = PRESETS["instructgpt"].protocol

    assert keys_of(protocol, 4) == {"n": "Unrankable"}
    assert read({"choice": ["unrankable"]}, protocol, [1, 2, 3, 4])["verdict"] == Verdict.UNRANKABLE


def test_all_bad_and_unrankable_are_not_said_at_once():
    protocol = Protocol(allow_unrankable=True)

    with pytest.raises(ValueError, match="All bad, or unrankable"):
        read({"choice": ["all_bad", "unrankable"]}, protocol, [1, 2, 3])


def test_a_skip_takes_nothing_along():
    said = read({"choice": ["first-1", "skip"], "rationale": ["So."]}, FULL, [7, 5])

    assert (said["verdict"], said["rationale"]) == (Verdict.SKIPPED, "")


def test_what_is_said_besides_is_about_the_answers_shown():
    said = read(
        {
            "choice": ["second-2"],
            "criterion-honest": ["first-1"],
            "reason": ["Clear", "Short"],
            "rationale": ["Because.\r\nReally. "],
            "rewrite": ["def f():\r\n    pass\r\n"],
            "flag-1": ["unsafe"],
            "spans": ['[{"answer": 1, "start": 0, "end": 2, "label": "wrong"}]'],
        },
        FULL,
        [7, 5],
    )

    assert said == {
        "verdict": Verdict.RANKING,
        "ranking": [[5], [7]],
        "strength": 2,
        "criteria": {"honest": {"ranking": [[7], [5]], "strength": 1}},
        "reasons": ["Clear", "Short"],
        "rationale": "Because.\nReally.",
        "rewrite": "def f():\n    pass",
        "flags": {"5": ["unsafe"]},
        "spans": [{"completion": 5, "start": 0, "end": 2, "label": "wrong"}],
    }


@pytest.mark.parametrize(
    "spans", ["{", "3", "[3]", "{}x", '[{"answer": 2}]', '[{"answer": -1, "start": 0}]', "[" * 9999]
)
def test_highlights_that_did_not_arrive_whole_are_told(spans):
    with pytest.raises(ValueError, match="did not arrive whole"):
        read({"choice": ["tie"], "spans": [spans]}, FULL, [7, 5])


def test_several_answers_are_picked_from_by_criterion():
    entered = {f"rank-{place}": ["1"] for place in range(3)}
    entered |= {"criterion-honest": ["best-2"], "criterion-helpful": ["tie"]}

    criteria = read(entered, FULL, [1, 2, 3])["criteria"]

    assert {key: said["ranking"] for key, said in criteria.items()} == {
        "honest": [[3], [1, 2]],
        "helpful": [[1, 2, 3]],
    }


@st.composite
def filled_in(draw):
    """A ballot of 2 to 4 answers, filled in at random but whole."""
    n = draw(st.integers(2, 4))
    some = lambda labels: draw(st.lists(st.sampled_from(labels), unique=True))  # noqa: E731
    entered = {"reason": some(FULL.reasons), "rationale": [draw(st.sampled_from(["", "So."]))]}
    entered |= {f"flag-{place}": some(FULL.flags) for place in range(n)}
    if n == 2:
        values = [choice.value for choice in choices(FULL, n)]
        entered["choice"] = [draw(st.sampled_from(values))]
    else:
        values = ["tie", *(f"best-{place}" for place in range(n))]
        entered |= {f"rank-{i}": [str(draw(st.integers(1, n)))] for i in range(n)}
    for criterion in QUALITIES:
        value = draw(st.sampled_from([value for value in values if value != "all_bad"]))
        entered[f"criterion-{criterion.key}"] = [value]
    spans = [{"answer": draw(st.integers(0, n - 1)), "start": 0, "end": 1, "label": "wrong"}]
    entered["spans"] = [json.dumps(spans[: draw(st.integers(0, 1))])]
    return n, entered


@given(filled_in())
def test_what_was_said_is_entered_again_after_an_undo(filled):
    n, entered = filled
    order = [30 + place * 7 % 5 for place in range(n)]

    said = read(entered, FULL, order)
    check(FULL, order, said)
    again = read(entered_by(Judgment(**said), FULL, order), FULL, order)

    assert again == said


def test_a_draft_keeps_what_the_ballot_has_and_nothing_else():
    entered = {
        "rationale": ["a\0b"],
        "rank-1": ["2"],
        "rank-2": ["1"],
        "csrf": ["x"],
        "spans": ["[]"],
    }

    assert keep(entered, FULL, 2) == {"rationale": ["ab"], "rank-1": ["2"]}
