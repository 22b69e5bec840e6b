import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.artifacts import RunError
from rlhf.training.demonstrations import prompt_of, split_of
from rlhf.training.models import encode, encode_completion
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.training.supervised_data import (
    IGNORED,
    AnswerNotFound,
    Pool,
    encode_conversation,
    epoch_batches,
    micro_batches,
    part_of,
    read_parts,
    text_blocks,
)
from rlhf.training.tiny import build_tokenizer

QUESTION = {"role": "user", "content": "How do I open the door?"}
ANSWER = {"role": "assistant", "content": "Try it."}
WHY = {"role": "user", "content": "Why?"}
BECAUSE = {"role": "assistant", "content": "Please take the key. Thank you!"}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def encoded(tokenizer, *messages):
    return encode_conversation(tokenizer, messages, {tokenizer.eos_token_id})


def learnt(tokenizer, example):
    """The text of the tokens that count."""
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


# --- conversations ----------------------------------------------------------------------------
def test_an_answer_is_learnt_in_the_very_tokens_that_a_policy_is_asked_for(tokenizer):
    (example,) = encoded(tokenizer, QUESTION, ANSWER)

    prompt, completion = encode(tokenizer, [QUESTION]), encode_completion(tokenizer, "Try it.")
    assert example.input_ids == prompt + completion
    assert example.labels == [IGNORED] * len(prompt) + completion


def test_all_answers_of_a_conversation_count_and_nothing_else(tokenizer):
    (example,) = encoded(tokenizer, QUESTION, ANSWER, WHY, BECAUSE)

    assert learnt(tokenizer, example) == (
        "Try it.<|im_end|>Please take the key. Thank you!<|im_end|>"
    )
    whole = tokenizer.apply_chat_template([QUESTION, ANSWER, WHY, BECAUSE], return_dict=True)
    assert example.input_ids == whole["input_ids"][:-1]  # without the line end after the last turn


def test_what_the_user_says_last_is_not_read(tokenizer):
    assert encoded(tokenizer, QUESTION, ANSWER, WHY) == encoded(tokenizer, QUESTION, ANSWER)


def test_control_tokens_spelt_out_in_an_answer_stay_text(tokenizer):
    (example,) = encoded(tokenizer, QUESTION, {**ANSWER, "content": "Say <|im_end|> now."})

    assert example.labels.count(tokenizer.eos_token_id) == 1


def test_of_an_empty_answer_its_end_is_learnt(tokenizer):
    (example,) = encoded(tokenizer, QUESTION, {**ANSWER, "content": ""})

    assert learnt(tokenizer, example) == "<|im_end|>"


def test_an_answer_that_the_template_writes_before_it_too_is_not_guessed_at():
    thinking = build_tokenizer()
    thinking.chat_template = thinking.chat_template.replace(
        "message['content']",
        "('Thinking: ' if message['role'] == 'assistant' else '') + message['content']",
    )

    with pytest.raises(AnswerNotFound):
        encoded(thinking, QUESTION, {**ANSWER, "content": "in"})


def test_a_template_that_drops_earlier_reasoning_gives_an_example_per_answer(tokenizer):
    forgetful = build_tokenizer()
    forgetful.chat_template = tokenizer.chat_template.replace(
        "message['content']",
        "(message['content'] if loop.last or message['role'] == 'user' else 'no')",
    )

    first, second = encoded(forgetful, QUESTION, ANSWER, WHY, BECAUSE)[:2]

    assert learnt(forgetful, first) == "Try it.<|im_end|>"
    assert learnt(forgetful, second) == "Please take the key. Thank you!<|im_end|>"


def test_a_template_without_the_opening_of_a_turn_is_refused(tokenizer):
    other = build_tokenizer()
    other.chat_template = tokenizer.chat_template.replace("assistant\\n' }}", "model\\n' }}")

    with pytest.raises(RunError, match="does not write an answer after the opening"):
        encoded(other, QUESTION, ANSWER)


def test_a_template_without_end_tokens_gets_one(tokenizer):
    endless = build_tokenizer()
    endless.chat_template = tokenizer.chat_template.replace(" + '<|im_end|>\\n'", "")

    (example,) = encoded(endless, QUESTION, ANSWER)

    assert learnt(endless, example) == "Try it.<|im_end|>"


# --- running text -----------------------------------------------------------------------------
def test_text_is_joined_with_end_tokens_and_cut_into_blocks(tokenizer):
    rows = [{"text": "a b c", "continues": True}, {"text": " d"}, {"text": "e f"}]

    blocks = list(text_blocks(tokenizer, rows, 4))

    texts = [tokenizer.decode(block.input_ids) for block in blocks]
    assert texts == ["a b c d", "<|im_end|>e f<|im_end|>"]
    assert all(block.labels == block.input_ids for block in blocks)


# --- rows -------------------------------------------------------------------------------------
def test_the_same_prompt_is_always_on_the_same_side():
    splits = {
        split_of({"messages": [QUESTION, {**ANSWER, "content": f"Answer {n}."}]}) for n in range(50)
    }

    assert len(splits) == 1
    assert prompt_of([QUESTION, ANSWER, WHY, BECAUSE]) == [QUESTION, ANSWER, WHY]
    assert split_of({"messages": [QUESTION, ANSWER], "split": "test"}) == "test"


def write_dataset(folder, rows, name="polite"):
    (folder.path / name).mkdir()
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder.path / name / "data.jsonl").write_text("\n".join(lines) + "\n")
    return {"name": name, "folder": name}


def row(text, split="train"):
    return {"messages": [QUESTION, {**ANSWER, "content": text}], "split": split}


def parts_of(folder, tokenizer, rows, **settings):
    config = SupervisedConfig(model={}, datasets=[write_dataset(folder, rows)], **settings)
    return read_parts(folder, config, tokenizer, {tokenizer.eos_token_id})


def test_held_out_rows_are_not_among_those_learnt_from(folder, tokenizer):
    (part,) = parts_of(folder, tokenizer, [row("Yes."), row("No.", "test"), row("Maybe.")])

    assert [learnt(tokenizer, Row(each)) for each in part.train] == [
        "Yes.<|im_end|>", "Maybe.<|im_end|>",
    ]  # fmt: skip
    assert [learnt(tokenizer, Row(each)) for each in part.test] == ["No.<|im_end|>"]


class Row:
    def __init__(self, stored):
        self.labels = stored["labels"]


def test_long_rows_are_left_out_and_counted_and_never_cut(folder, tokenizer):
    (part,) = parts_of(folder, tokenizer, [row("Yes."), row("Yes " * 50)], max_tokens=40)

    assert (len(part.train), part.left_out) == (1, {"too_long": 1, "rewritten_by_template": 0})


@pytest.fixture(scope="module")
def joining():
    """A tokenizer whose template writes the lines of a message in one."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].split() | join(' ')"
    )
    return tokenizer


def test_answers_that_a_template_rewrites_are_left_out_and_counted(folder, joining):
    (part,) = parts_of(folder, joining, [row("Yes, please."), row("Say\n<|im_end|> now.")])

    assert part.left_out == {"too_long": 0, "rewritten_by_template": 1}
    assert learnt(joining, Row(part.train[0])) == "Yes, please.<|im_end|>"
    assert len(part.train) == 1


def test_a_template_that_rewrites_all_answers_is_told_so(folder, joining):
    with pytest.raises(RunError, match="template rewrites answers of the dataset “polite”"):
        parts_of(folder, joining, [row("Yes,\nplease.")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("Yes.", "test")], "All rows of the dataset “polite” are held out"),
        ([row("Yes " * 50)], "that may be learnt from are longer than 40 tokens"),
        ([row("Yes."), "{broken"], "line 2 of data.jsonl is no row"),
    ],
)
def test_a_dataset_with_nothing_to_learn_from_is_refused(folder, tokenizer, rows, message):
    with pytest.raises(RunError, match=message):
        parts_of(folder, tokenizer, rows, max_tokens=40)


def test_what_rows_hold_beside_their_text_is_neither_learnt_nor_opened(folder, tokenizer):
    plain, picture = row("Yes."), "file:///etc/passwd"
    hostile = {
        **plain,
        "images": [picture],
        "tools": [{"name": "x"}],
        "chat_template": "{{ 1 / 0 }}",
    }
    hostile["messages"] = [{**each, "image": picture} for each in plain["messages"]]

    (part,) = parts_of(folder, tokenizer, [plain, hostile])

    assert part.train.column_names == ["input_ids", "labels"]
    assert part.train[0] == part.train[1]


# --- batches ----------------------------------------------------------------------------------
@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    weight=st.sampled_from([1.0, 2.0, 0.5, 2.5]),
    mixing=st.sampled_from(["mixed", "alternating"]),
)
def test_an_epoch_shows_each_row_as_often_as_its_weight_says(sizes, weight, mixing):
    pools = [Pool([10_000 * n + i for i in range(size)], [i % 7 for i in range(size)], weight)
             for n, size in enumerate(sizes)]  # fmt: skip

    batches = epoch_batches(pools, 4, mixing, seed=1, epoch=0)

    counts = Counter(place for batch in batches for place in batch)
    for pool in pools:
        shown = [counts[place] for place in pool.places]
        assert sum(shown) == max(1, round(weight * len(shown)))
        assert set(shown) <= {int(weight), int(weight) + 1}
    assert all(len(batch) <= 4 for batch in batches)
    assert batches == epoch_batches(pools, 4, mixing, seed=1, epoch=0)


def test_alternating_batches_are_of_one_dataset_each_and_spread_evenly():
    pools = [Pool(range(8), [1] * 8, 1.0), Pool(range(100, 104), [1] * 4, 1.0)]

    batches = epoch_batches(pools, 2, "alternating", seed=0, epoch=0)

    assert [batch[0] >= 100 for batch in batches] == [False, True, False, False, True, False]
    assert all((batch[0] >= 100) == (batch[1] >= 100) for batch in batches)


def test_rows_of_similar_length_come_together():
    pool = Pool(range(64), [n % 16 for n in range(64)], 1.0)

    batches = epoch_batches([pool], 4, "mixed", seed=0, epoch=0)

    assert all(len({place % 16 for place in batch}) == 1 for batch in batches)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 100))
def test_micro_batches_hold_each_row_once_and_as_many_tokens_as_may_be(lengths, most):
    groups = micro_batches(lengths, most)

    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most


def test_a_larger_part_of_the_rows_has_those_of_a_smaller_one():
    pool = Pool(range(100), range(100), 1.0)

    small, large = (set(part_of(pool, share, seed=3).places) for share in (0.1, 0.5))

    assert (len(small), len(large)) == (10, 50)
    assert small < large
