"""Bad input to a reward model is a sentence before torch has anything to do."""

import json
import signal

import pytest

from rlhf.training import reward_checks
from rlhf.training.__main__ import main
from rlhf.training.artifacts import RunError
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import Pair
from rlhf.training.tiny import build_tokenizer

PROMPT = [{"role": "user", "content": "Why?"}]


def row(chosen="No.", rejected="Try the cup.", **columns):
    completions = {"chosen": chosen, "rejected": rejected}
    return {"prompt": PROMPT, **columns} | {
        name: [{"role": "assistant", "content": text}] for name, text in completions.items()
    }


def make_pair(chosen="No.", rejected="Try the cup.", p_chosen=1.0, split="train", weight=1.0):
    return Pair(PROMPT, chosen, rejected, p_chosen, split, False, False, weight=weight)


@pytest.fixture
def start(folder, monkeypatch):
    """Carry out a run on these rows, as `python -m rlhf.training` does; gives back its sentence.

    Nothing may have been loaded before it is said.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def start(rows, base="/nowhere", **settings):
        config = {"model": {"base": str(base), "adapters": []}, **settings}
        content = {"kind": "reward_model", "config": config}
        (folder.path / "config.json").write_text(json.dumps(content))
        (folder.path / "data").mkdir()
        (folder.path / "data" / "data.jsonl").write_text(
            "".join(f"{json.dumps(r)}\n" for r in rows)
        )
        status = main([str(folder.path)])
        events = [json.loads(line) for line in (folder.path / "events.jsonl").open()]
        phases = [event["name"] for event in events if event["type"] == "phase"]
        assert (status, phases) == (3, ["checking the votes"])
        return events[-1]["message"]

    return start


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "there are no pairs to learn from: the export holds no judged comparison"),
        (
            [row(split="test")] * 3,
            "there are no pairs to learn from: of the export's 3 pairs, all are held out. Judge "
            "comparisons of more prompts, and export again",
        ),
        (
            [row(p_chosen=0.5)] * 30 + [row(split="test")],
            "all 30 pairs to learn from are ties, which do not say what people prefer: judge more "
            "comparisons, and export again",
        ),
        (
            [row()] * 19 + [row(p_chosen=0.5)] * 5,
            "only 19 of the 24 pairs to learn from are decided, and min_pairs=20: judge more "
            "comparisons and export again, or lower min_pairs if this is only to try",
        ),
        (
            [row(weight=0)] * 20,
            "all 20 pairs to learn from have weight 0: give some of them more",
        ),
        (
            [row(), row(weight=float("nan"))],
            "data.jsonl, line 2: weight must be a number of at least 0, not nan",
        ),
        (
            [row(), row(weight=-1)],
            "data.jsonl, line 2: weight must be a number of at least 0, not -1",
        ),
    ],
)
def test_votes_that_nothing_can_be_learnt_from_are_a_sentence(start, rows, sentence):
    assert start(rows) == sentence


def test_pairs_that_are_all_too_long_are_a_sentence(start, tmp_path):
    build_tokenizer().save_pretrained(tmp_path / "model")
    rows = [row(rejected="No. " * 90)] * 20 + [row(rejected="No. " * 90, p_chosen=0.5)]

    assert start(rows, tmp_path / "model", max_tokens=50) == (
        "of 20 decided pairs to learn from, none have at most max_tokens=50 tokens, and "
        "min_pairs=20: raise max_tokens, or judge shorter completions"
    )


def test_a_tokenizer_without_a_chat_template_is_a_sentence(start, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")

    assert start([row()] * 20, tmp_path / "model") == (
        f"the tokenizer in {tmp_path}/model has no chat template, which says how a conversation "
        "becomes text: put its chat_template.jinja there, or import the model again, which adds a "
        "plain one"
    )


def test_pairs_that_no_base_can_read_are_a_sentence():
    pairs = [make_pair(), make_pair(rejected="No. " * 90)]

    with pytest.raises(RunError, match="only 1 have at most 50 tokens, which is all that the base"):
        reward_checks.check_lengths(
            build_tokenizer(), pairs, RewardModelConfig({}, min_pairs=2), longest=50
        )


def test_as_many_decided_pairs_as_asked_for_are_enough():
    pairs = [make_pair()] * 3 + [make_pair(p_chosen=0.5), make_pair(split="test")]

    reward_checks.check_pairs(pairs, RewardModelConfig({}, min_pairs=3))
    with pytest.raises(RunError, match="only 3 of the 4 pairs to learn from are decided"):
        reward_checks.check_pairs(pairs, RewardModelConfig({}, min_pairs=4))


def test_pairs_of_weight_0_and_long_ones_are_not_counted():
    tokenizer, long = build_tokenizer(), make_pair(rejected="No. " * 90)
    pairs = [make_pair(), make_pair(), make_pair(weight=0), long]

    reward_checks.check_lengths(tokenizer, pairs, RewardModelConfig({}, min_pairs=2, max_tokens=50))
    with pytest.raises(RunError, match="of 3 decided pairs to learn from, only 2 have at most max"):
        reward_checks.check_lengths(
            tokenizer, pairs, RewardModelConfig({}, min_pairs=3, max_tokens=50)
        )
