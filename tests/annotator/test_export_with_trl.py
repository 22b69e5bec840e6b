"""`datasets` and TRL read an export as it is, in every shape."""
# ruff: noqa: PLC0415  (they take seconds to import, and every test session reads this file)

import json
import zipfile

import pytest

from annotator.exporting import create_export
from annotator.exports.derived import derive
from annotator.exports.schemas import features_of
from annotator.exports.shapes import COLUMNS, SHAPES
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment


@pytest.fixture
def export(db):
    project = ProjectFactory(overlap=2, protocol={"rewrite": True})
    for split in ("train", "train", "test"):
        comparison = ComparisonFactory(
            project=project, prompt__split=split, texts=["Yes.", "No, thank you.", "Maybe."]
        )
        make_judgment(comparison, UserFactory(), [1], [0, 2], rewrite="Not now.")
        make_judgment(comparison, UserFactory(), [0], [1], [2])
    return create_export(project)


@pytest.fixture
def data_file(export):
    return str(export.folder / "data.jsonl")


def unpacked(export, shape, folder):
    with zipfile.ZipFile(derive(export, shape, "datasets")) as archive:
        archive.extractall(folder)
    return str(folder)


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


def test_with_the_features_of_the_manifest_an_empty_list_keeps_its_type(
    export, data_file, tmp_path
):
    from datasets import Features, List, Value, load_dataset

    features = Features.from_dict(export.manifest["features"])
    dataset = load_dataset(
        "json", data_files=data_file, split="train", features=features, cache_dir=str(tmp_path)
    )

    assert dataset.features["chosen_flags"] == List(Value("string"))
    assert dataset[0]["votes"][0]["reasons"] == []
    assert len(dataset) == 9


@pytest.mark.parametrize("shape", SHAPES)
def test_load_from_disk_reads_the_packed_folder(export, shape, tmp_path):
    from datasets import Features, load_from_disk

    dataset = load_from_disk(unpacked(export, shape, tmp_path / "dataset"))

    rows = [json.loads(line) for line in derive(export, shape, "jsonl").read_text().splitlines()]
    assert dataset["test"].features == Features.from_dict(features_of(SHAPES[shape].columns))
    for split in ("train", "test"):
        assert dataset[split].to_list() == [row for row in rows if row["split"] == split]


def test_load_dataset_reads_parquet(export, tmp_path):
    from datasets import load_dataset

    file = str(derive(export, "kto", "parquet"))
    dataset = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path))

    assert dataset.unique("label") == [True, False]


# --- one step of each trainer ---------------------------------------------------------------------
def tiny(tokenizer, head="LlamaForCausalLM", **changes):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=tokenizer.pad_token_id, **changes,
    )  # fmt: skip
    return getattr(transformers, head)(config)


def arguments(folder):
    return {
        "output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": 4,
        "report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no",
    }  # fmt: skip


def test_reward_trainer_takes_a_step_on_it(data_file, tmp_path):
    from datasets import load_dataset
    from trl import RewardConfig, RewardTrainer

    from rlhf.training.tiny import build_tokenizer

    dataset = load_dataset("json", data_files=data_file, split="train", cache_dir=str(tmp_path))
    tokenizer = build_tokenizer()
    model = tiny(tokenizer, "LlamaForSequenceClassification", num_labels=1)
    before = model.score.weight.detach().clone()
    trainer = RewardTrainer(
        model,
        RewardConfig(**arguments(tmp_path)),
        train_dataset=dataset,
        processing_class=tokenizer,
    )

    result = trainer.train()

    assert result.global_step == 1
    assert result.training_loss > 0
    assert (model.score.weight != before).any()


@pytest.mark.parametrize("shape", ["dpo", "kto", "sft"])
def test_the_trainer_of_the_shape_takes_a_step_on_it(export, shape, tmp_path):
    import trl
    from datasets import load_from_disk

    from rlhf.training.tiny import build_tokenizer

    name = shape.upper()
    dataset = load_from_disk(unpacked(export, shape, tmp_path / "dataset"))
    tokenizer = build_tokenizer()
    model = tiny(tokenizer)
    before = model.lm_head.weight.detach().clone()
    reference = {} if shape == "sft" else {"ref_model": tiny(tokenizer)}
    trainer = getattr(trl, f"{name}Trainer")(
        model,
        args=getattr(trl, f"{name}Config")(**arguments(tmp_path)),
        train_dataset=dataset["train"],
        processing_class=tokenizer,
        **reference,
    )

    result = trainer.train()

    assert result.global_step == 1
    assert result.training_loss > 0
    assert (model.lm_head.weight != before).any()
