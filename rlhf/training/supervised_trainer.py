"""TRL's SFTTrainer, made to learn from the steps that a run has planned.

The loss, the fused vocabulary head, the loop, the optimiser and the checkpoints are TRL's. Ours are which
rows a step learns from (supervised_data.py), that a step is divided into micro-batches by tokens, and
that a checkpoint is whole or absent. The loss of a step is the mean over its tokens that count, however
it is divided.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf.training import reward_trainer
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder
from rlhf.training.parameters import Anchored
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.training.supervised_data import IGNORED, micro_batches
from rlhf.training.trainer_settings import WarmingUp, on_one_gpu, shared_settings


class SupervisedTrainer(WarmingUp, Anchored, SFTTrainer):
    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        batches: Sequence[Sequence[int]],
        config: SupervisedConfig,
        reporter: Reporter,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """`batches` says which rows, by place, each optimiser step of all epochs learns from."""
        self.rows = rows
        self.batches = batches
        self.config = config
        self.reporter = reporter
        self.folder = reporter.folder
        super().__init__(
            model,
            trainer_settings(config, len(batches), self.folder, on_cpu=_is_on_cpu(model)),
            settings=config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[reporter, *callbacks],
        )
        # Held-out rows are never packed, so that their loss is the same with packing and without.
        self.collate_held_out = DataCollatorForLanguageModeling(tokenizer.pad_token_id)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The numbers of the optimiser steps, of all epochs in a row."""
        steps: Any = range(len(self.batches))
        return DataLoader(steps, batch_size=1, collate_fn=lambda numbers: {"step": numbers[0]})

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        model.train()
        parts = self.collated(self.batches[inputs["step"]])
        n_tokens = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
        self.current_gradient_accumulation_steps = len(parts)  # the anchor is shared among them
        loss = torch.zeros((), device=self.args.device)
        for part in parts:
            self.reporter.stop_if_asked()
            share = self.compute_loss(
                model, self._prepare_inputs(part), num_items_in_batch=torch.tensor(n_tokens)
            )
            if not torch.isfinite(share):
                raise RunError(
                    f"the loss became {share.item()} at step {self.state.global_step + 1}: lower the "
                    f"learning rate ({self.args.learning_rate:g}) and start again",
                    DIVERGED,
                )
            if share.requires_grad:  # all that could move may be frozen still
                self.accelerator.backward(share)
            loss += share.detach()
        return loss

    def collated(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The micro-batches of a step."""
        rows = [self.rows[place] for place in places]
        lengths = [len(row["input_ids"]) for row in rows]
        return [
            self.data_collator([rows[index] for index in group])
            for group in micro_batches(lengths, self.config.micro_batch_tokens)
        ]

    @torch.no_grad()
    def measure(self, rows: Dataset) -> Measured:
        """How surprised the model is by rows, as it is now."""
        was_training = self.model.training  # by which TRL knows whose metrics it reports
        model = self.model.eval()
        sums, counts = [], []
        lengths = [len(ids) for ids in rows["input_ids"]]
        for group in micro_batches(lengths, self.config.micro_batch_tokens):
            self.reporter.stop_if_asked()
            inputs = self._prepare_inputs(self.collate_held_out([rows[index] for index in group]))
            found = model(**inputs, use_cache=False, fused_lm_head=True)
            sums += (-found.log_probs.double().sum(1)).tolist()
            counts += found.label_mask.sum(1).tolist()
        model.train(was_training)
        return Measured(sums, counts)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let TRL write beside the run's checkpoints, then move the whole into its place."""
        written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        number = self.reporter.first_step + self.state.global_step
        try:
            with self.folder.writing_checkpoint(number) as target:
                super()._save_checkpoint(model, trial)
                for file in written.iterdir():
                    file.rename(target / file.name)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README.md in checkpoints."""


class Measured(NamedTuple):
    """Of each held-out row the sum of its tokens' losses, in nats, and how many tokens count."""

    sums: list[float]
    counts: list[int]

    @property
    def loss(self) -> float | None:
        """The mean over all tokens; None without any."""
        n = sum(self.counts)
        return sum(self.sums) / n if n else None

    def __add__(self, other: Any) -> Measured:
        return Measured([*self.sums, *other.sums], [*self.counts, *other.counts])


class Reporter(reward_trainer.Reporter):
    """With the metrics of a supervised run."""

    NAMES = {
        "loss": "loss", "mean_token_accuracy": "accuracy", "entropy": "entropy",
        "anchor": "anchor", "grad_norm": "grad_norm", "learning_rate": "learning_rate",
    }  # fmt: skip

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        found = {
            ours: float(logs[name]) for name, ours in self.NAMES.items() if logs and name in logs
        }
        if self.is_shown and found:
            self.folder.metrics(self.first_step + state.global_step, found)


def trainer_settings(
    config: SupervisedConfig, n_steps: int, folder: RunFolder, *, on_cpu: bool
) -> SFTConfig:
    settings = SFTConfig(
        **shared_settings(folder, n_steps, config.seed, on_cpu=on_cpu),
        max_steps=n_steps,
        per_device_train_batch_size=1,  # a step's number
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokens with labels already
        packing=config.packing,
        max_length=config.max_tokens if config.packing else None,
        remove_unused_columns=False,
    )
    return on_one_gpu(settings)


def _is_on_cpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cpu"
