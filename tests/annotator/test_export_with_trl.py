"""`datasets` and TRL read an export as it is."""
# ruff: noqa: PLC0415  (they take seconds to import, and every test session reads this file)

import pytest

from annotator.exporting import create_export
from annotator.exports.shapes import COLUMNS
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment


@pytest.fixture
def data_file(db):
    project = ProjectFactory(overlap=2)
    for split in ("train", "train", "test"):
        comparison = ComparisonFactory(
            project=project, prompt__split=split, texts=["Yes.", "No, thank you.", "Maybe."]
        )
        make_judgment(comparison, UserFactory(), [1], [0, 2])
        make_judgment(comparison, UserFactory(), [0], [1], [2])
    return str(create_export(project).folder / "data.jsonl")


def test_datasets_gives_every_column_one_type(data_file, tmp_path):
    from datasets import List, Value, load_dataset

    dataset = load_dataset("json", data_files=data_file, split="train", cache_dir=str(tmp_path))

    messages = List({"content": Value("string"), "role": Value("string")})
    nothing = List(Value("null"))  # was asked for besides in this project
    assert dataset.features == {
        **dict.fromkeys(("prompt", "chosen", "rejected"), messages),
        **dict.fromkeys(("p_chosen", "weight", "margin", "tie_share"), Value("float64")),
        **dict.fromkeys(("n_judgments", "comparison", "round", "n_all_bad"), Value("int64")),
        "first_vote": Value("int64"),
        "arm": Value("string"),
        **dict.fromkeys(("split", "prompt_key"), Value("string")),
        **dict.fromkeys(("chosen_source", "rejected_source"), Value("string")),
        "votes": List(
            {
                **dict.fromkeys(("annotator", "prefers", "first", "rationale"), Value("string")),
                "strength": Value("float64"),
                **dict.fromkeys(("criteria", "reasons", "spans"), nothing),
            }
        ),
        **dict.fromkeys(("criteria", "chosen_flags", "rejected_flags"), nothing),
        **dict.fromkeys(("chosen_truncated", "rejected_truncated"), Value("bool")),
    }
    assert list(dataset.features) == list(COLUMNS)
    assert len(dataset) == 9


def test_reward_trainer_takes_a_step_on_it(data_file, tmp_path):
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from rlhf.training.tiny import build_tokenizer

    dataset = load_dataset("json", data_files=data_file, split="train", cache_dir=str(tmp_path))
    tokenizer = build_tokenizer()
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_labels=1,
            num_hidden_layers=2, num_attention_heads=2, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    before = model.score.weight.detach().clone()
    trainer = RewardTrainer(
        model,
        RewardConfig(str(tmp_path), max_steps=1, per_device_train_batch_size=9, report_to="none",
                     use_cpu=True, bf16=False, save_strategy="no"),
        train_dataset=dataset,
        processing_class=tokenizer,
    )  # fmt: skip

    result = trainer.train()

    assert result.global_step == 1
    assert result.training_loss > 0
    assert (model.score.weight != before).any()
