"""The run *KTO*: answers that are good or bad, each alone, by TRL's trainer (preference.py).

Of a pair, the chosen answer is a good one and the rejected a bad one. The KL that KTO holds its losses against
is measured on mismatched answers: each prompt with the answer before it in the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import KTOConfig as TrainerConfig
from trl import KTOTrainer

from rlhf.training.artifacts import RunFolder
from rlhf.training.preference import (
    FromVotes,
    Row,
    carry_out,
    own_callbacks,
    reporter_of,
    shuffled,
    steps_of_epoch,
    trainer_settings,
)
from rlhf.training.preference_config import KTOConfig


class Trainer(FromVotes, KTOTrainer):
    REFERENCES: ClassVar = {"completion_ids": "ref_logps", "KL_completion_ids": "ref_KL_logps"}


def run(config: KTOConfig, folder: RunFolder) -> dict[str, Any]:
    return carry_out(config, folder, partial(make_trainer, config, folder))


def make_trainer(
    config: KTOConfig,
    folder: RunFolder,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
) -> Trainer:
    dataset = dataset_of(rows, config)
    of_epoch = steps_of_epoch(len(dataset), config)
    n_steps = of_epoch * config.epochs
    settings = trainer_settings(config, folder, on_cpu=model.device.type == "cpu", n_steps=n_steps)
    return Trainer(
        model=model,
        args=TrainerConfig(
            **settings,
            loss_type=config.loss,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        settings=config,
        reporter=reporter_of(config, folder, n_steps),
        callbacks=own_callbacks(model, config, of_epoch),
    )


def dataset_of(rows: Sequence[Row], config: KTOConfig) -> Dataset:
    """Each answer alone, drawn into micro-batches that stay the same in all epochs, with the mismatched
    answer that measures the KL. A last one that would be alone in its micro-batch is left out: there is
    no other answer to measure by."""
    size = config.micro_batch_size
    examples = [(row.prompt, row.chosen, True) for row in rows]
    examples += [(row.prompt, row.rejected, False) for row in rows]
    examples = shuffled(examples, config.seed)
    if config.loss == "kto" and len(examples) % size == 1:
        del examples[-1]
    prompts, completions, labels = zip(*examples, strict=True)
    columns: dict[str, Sequence[Any]] = {
        "prompt_ids": prompts,
        "completion_ids": completions,
        "label": labels,
    }
    if config.loss == "kto":
        batches = [completions[at : at + size] for at in range(0, len(completions), size)]
        columns["KL_completion_ids"] = [ids for batch in batches for ids in rotated(batch)]
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


def rotated(batch: Sequence[Any]) -> list[Any]:
    """Example: a, b, c -> c, a, b."""
    return [batch[-1], *batch[:-1]]
