import json

import pytest

from rlhf.training.artifacts import RunError
from rlhf.training.data import (
    ComparisonLine,
    CompletionLine,
    Offer,
    Pair,
    PromptLine,
    Vote,
    offers_of,
    read_comparisons,
    read_offers,
    read_pairs,
    read_prompts,
)

QUESTION = [{"role": "user", "content": "Why?"}]
ANSWER = [{"role": "assistant", "content": "So."}]
OTHER = [{"role": "assistant", "content": "No."}]
ROW = {"prompt": QUESTION, "chosen": ANSWER, "rejected": OTHER, "p_chosen": 0.75, "split": "test"}


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        path = tmp_path / "data.jsonl"
        path.write_text(
            "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
        )
        return path

    return write


def test_prompts_are_read_with_their_ids(write):
    path = write({"id": 7, "messages": QUESTION}, {"id": 8, "messages": QUESTION})

    assert read_prompts(path) == [PromptLine(7, QUESTION), PromptLine(8, QUESTION)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "data.jsonl, line 2: not JSON"),
        ([1], "data.jsonl, line 2: expected a JSON object, not list"),
        ({"messages": QUESTION}, "line 2: id must be a number, not None"),
        ({"id": 1, "messages": []}, "line 2: messages must be a list of messages"),
        ({"id": 1, "messages": [{"role": "user"}]}, "line 2: messages must be a list of messages"),
        ({"id": 1, "messages": [*QUESTION, *ANSWER]}, "line 2: messages must end with what the"),
    ],
)
def test_a_bad_prompt_is_named_by_its_line(write, row, message):
    path = write({"id": 1, "messages": QUESTION}, row)

    with pytest.raises(RunError, match=message):
        read_prompts(path)


def test_a_pair_is_read_with_its_soft_label_and_split(write):
    path = write({**ROW, "chosen_truncated": True})

    assert read_pairs(path) == [Pair(QUESTION, "So.", "No.", 0.75, "test", True, False)]


def test_a_pair_is_read_with_all_that_was_said_of_it(write):
    vote = {"annotator": "7", "prefers": "tie", "first": "rejected"}
    numbers = {"n_judgments": 4, "weight": 2, "margin": 1.5, "tie_share": 0.25}

    (pair,) = read_pairs(write({**ROW, **numbers, "votes": [vote]}))

    assert pair.votes == (Vote("7", "tie", "rejected"),)
    assert {name: getattr(pair, name) for name in numbers} == numbers


def test_a_plain_preference_dataset_is_read_as_sure_and_for_training(write):
    path = write({"prompt": QUESTION, "chosen": ANSWER, "rejected": OTHER})

    assert read_pairs(path) == [Pair(QUESTION, "So.", "No.", 1.0, "train", False, False)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p_chosen": 1.5}, "line 2: p_chosen must be between 0 and 1, not 1.5"),
        ({"p_chosen": None}, "line 2: p_chosen must be between 0 and 1, not None"),
        ({"split": "dev"}, "line 2: split must be 'train' or 'test', not 'dev'"),
        ({"chosen": "So."}, "line 2: chosen must be a list of one message of the assistant"),
        ({"rejected": QUESTION}, "line 2: rejected must be a list of one message of the assistant"),
        ({"prompt": "Why?"}, "line 2: prompt must be a list of messages"),
        ({"weight": float("nan")}, "line 2: weight must be a number of at least 0, not nan"),
        ({"tie_share": 0.6}, "line 2: tie_share=0.6 does not go with p_chosen=0.75"),
        ({"weight": -1}, "line 2: weight must be a number of at least 0, not -1"),
        ({"n_judgments": 0}, "line 2: n_judgments must be a number of at least 1, not 0"),
        ({"votes": [{"annotator": "7"}]}, "line 2: votes must be a list of"),
        ({"arm": "left"}, "line 2: arm must be 'active', 'random' or empty, not 'left'"),
    ],
)
def test_a_bad_pair_is_named_by_its_line_and_column(write, change, message):
    path = write(ROW, {**ROW, **change})

    with pytest.raises(RunError, match=message):
        read_pairs(path)


COMPARISON = {"id": 4, "messages": QUESTION, "completions": [
    {"id": 7, "text": "So.", "truncated": False}, {"id": 8, "text": "No", "truncated": True}
]}  # fmt: skip


def test_comparisons_are_read_with_their_completions(write):
    completions = [CompletionLine(7, "So.", False), CompletionLine(8, "No", True)]

    assert read_comparisons(write(COMPARISON)) == [ComparisonLine(4, QUESTION, completions)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "4"}, "line 2: id must be a number, not '4'"),
        ({"messages": "Why?"}, "line 2: messages must be a list of messages"),
        ({"completions": COMPARISON["completions"][:1]}, "line 2: completions must be a list of"),
        ({"completions": ["So.", "No."]}, "line 2: completions must be a list of two or more"),
    ],
)
def test_a_bad_comparison_is_named_by_its_line_and_column(write, change, message):
    path = write(COMPARISON, {**COMPARISON, **change})

    with pytest.raises(RunError, match=message):
        read_comparisons(path)


def record(*verdicts, **others):
    judgments = [{"verdict": verdict} for verdict in verdicts]
    return {"prompt": QUESTION, "completions": ["So.", "No."], "truncated": [False, True],
            "judgments": judgments, "rulings": [], "split": "train", **others}  # fmt: skip


def test_comparisons_that_nobody_ranked_are_read_and_those_that_all_skipped_are_not(write):
    path = write(record("all_bad", "skipped"), record("skipped"))

    assert read_offers(path) == [Offer(QUESTION, ["So.", "No."], [False, True], "train", 1, 0)]


def test_a_ruling_counts_as_one_more_ranking(write):
    ruling = {"verdict": "ranking"}

    (offer,) = read_offers(write(record("all_bad", "ranking", rulings=[ruling], split="test")))

    assert (offer.n_bad, offer.n_ranked, offer.split) == (1, 2, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truncated": [False]}, "line 2: completions must be a list of texts, and truncated say"),
        ({"completions": None}, "line 2: completions must be a list of texts, and truncated say"),
        ({"judgments": ["all_bad"]}, "line 2: judgments and rulings must be lists of objects"),
        ({"prompt": "Why?"}, "line 2: prompt must be a list of messages"),
    ],
)
def test_a_bad_record_is_named_by_its_line(write, change, message):
    path = write(record("ranking"), record("ranking") | change)

    with pytest.raises(RunError, match=message):
        read_offers(path)


def test_without_single_votes_comparisons_are_those_that_have_pairs(write):
    row = {**ROW, "comparison": 4, "n_all_bad": 2, "n_judgments": 3}
    third = [{"role": "assistant", "content": "Hm."}]

    offers = offers_of(read_pairs(write(row, row | {"rejected": third}, ROW)))

    assert offers == [
        Offer(QUESTION, ["So.", "No.", "Hm."], [False] * 3, "test", 2, 3),
        Offer(QUESTION, ["So.", "No."], [False] * 2, "test", 0, 1),
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no file .*/data\.jsonl"):
        read_pairs(tmp_path / "data.jsonl")
