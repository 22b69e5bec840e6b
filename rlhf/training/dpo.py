"""The run *DPO*: direct preference optimisation of a policy, by TRL's trainer (preference.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig as TrainerConfig
from trl import DPOTrainer

from rlhf.training.artifacts import RunFolder
from rlhf.training.preference import (
    FromVotes,
    Row,
    carry_out,
    own_callbacks,
    reporter_of,
    steps_of_epoch,
    trainer_settings,
)
from rlhf.training.preference_config import DPOConfig


class Trainer(FromVotes, DPOTrainer):
    REFERENCES: ClassVar = {
        "chosen_ids": "ref_chosen_logps",
        "rejected_ids": "ref_rejected_logps",
    }


def run(config: DPOConfig, folder: RunFolder) -> dict[str, Any]:
    return carry_out(config, folder, partial(make_trainer, config, folder), config.votes)


def make_trainer(
    config: DPOConfig,
    folder: RunFolder,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
) -> Trainer:
    of_epoch = steps_of_epoch(len(rows), config)
    n_steps = of_epoch * config.epochs
    settings = trainer_settings(config, folder, on_cpu=model.device.type == "cpu", n_steps=n_steps)
    return Trainer(
        model=model,
        args=TrainerConfig(
            **settings, loss_type=[config.loss], label_smoothing=config.label_smoothing
        ),
        train_dataset=dataset_of(rows),
        processing_class=tokenizer,
        settings=config,
        reporter=reporter_of(config, folder, n_steps),
        callbacks=own_callbacks(model, config, of_epoch),
    )


def dataset_of(rows: Sequence[Row]) -> Dataset:
    """In the columns of TRL's collator. Its trainer shuffles them anew for each epoch, by the seed."""
    return Dataset.from_dict(
        {
            "prompt_ids": [row.prompt for row in rows],
            "chosen_ids": [row.chosen for row in rows],
            "rejected_ids": [row.rejected for row in rows],
        }
    )
