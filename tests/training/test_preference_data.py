"""What benchmarks of reward models learn from and are measured by."""

import gzip
import json

import pytest
from transformers import AutoTokenizer

from bench.preference_data import select_pairs


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


def transcript(question, better="Yes.", worse="No."):
    start = f"\n\nHuman: {question}\n\nAssistant: "
    return {"chosen": start + better, "rejected": start + worse}


def questions(pairs):
    return [pair.prompt[-1]["content"] for pair in pairs]


def test_the_next_pairs_of_other_prompts_are_held_out(tokenizer, tmp_path):
    rows = [
        transcript("A?"), transcript("B?"), transcript("B?", "Ah.", "Oh."), {"chosen": "broken"},
        transcript("C?", "Well. " * 200), transcript("D?"), transcript("E?"), transcript("F?"),
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))

    selection = select_pairs(path, tokenizer, 2, max_tokens=60)

    assert questions(selection.train) == ["A?", "B?"]
    assert questions(selection.held_out) == ["D?", "E?"]
    assert (selection.train[0].chosen, selection.train[0].rejected) == ("Yes.", "No.")
    assert 4 * 3 < selection.tokens < 4 * 60
    with pytest.raises(
        SystemExit, match="4 pairs to learn from and 2 to hold out that fit into 60"
    ):
        select_pairs(path, tokenizer, 4, max_tokens=60)


def test_an_export_says_itself_what_is_held_out_and_its_ties_are_left_out(tokenizer, tmp_path):
    def row(question, split, p_chosen):
        texts = {"chosen": "Yes.", "rejected": "No."}
        return {
            "prompt": [{"role": "user", "content": question}], "split": split, "p_chosen": p_chosen,
            **{name: [{"role": "assistant", "content": text}] for name, text in texts.items()},
        }  # fmt: skip

    path = tmp_path / "data.jsonl"
    rows = [row("A?", "test", 1), row("B?", "train", 0.5), row("C?", "train", 0.75)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))

    selection = select_pairs(path, tokenizer, 1, max_tokens=60)

    assert (questions(selection.train), questions(selection.held_out)) == (["C?"], ["A?"])
