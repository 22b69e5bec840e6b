"""TRL's RewardTrainer, made to learn from all that the votes say.

Ours differs in that

* a step's pairs are given as groups of completions, and each completion is run once (reward_forward.py);
* labels are soft, pairs have weights, ties may be an outcome of their own, and "all bad" may be learnt
  from (reward_loss.py). For sure, equal pairs the loss is TRL's;
* a step is divided into micro-batches by tokens, and the loss into as many parts, so that neither the
  gradient nor the loss depends on how;
* it stops between two micro-batches, and its checkpoints are whole or absent.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import RewardConfig, RewardTrainer

from rlhf.training.annotator_model import AnnotatorModel, length_difference
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped
from rlhf.training.config import RewardModelConfig
from rlhf.training.reward_data import (
    EncodedPair,
    Group,
    column,
    encoded_offers,
    n_judgments,
    n_pairs,
)
from rlhf.training.reward_forward import Scorer
from rlhf.training.reward_loss import all_bad_losses, vote_losses
from rlhf.training.trainer_settings import WarmingUp, on_one_gpu, shared_settings

SECONDS_BETWEEN_CHECKPOINTS = 60.0
VOTES_LEARNING_RATE = 0.05  # a few numbers that have to move by tenths within a hundred steps


class PreferenceTrainer(WarmingUp, RewardTrainer):
    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        scorer: Scorer,
        groups: Sequence[Group],
        epochs: Sequence[Sequence[Sequence[int]]],
        config: RewardModelConfig,
        reporter: Reporter,
        total_weight: float = 1.0,
    ) -> None:
        """`epochs` says which groups, by place, each optimiser step of each epoch learns from.
        `total_weight` of all pairs, before it is made relative: against it stands the annotators' prior.
        """
        self.total_weight = total_weight
        self.scorer = scorer
        self.head = scorer.head
        self.groups = groups
        self.batches = list(itertools.chain.from_iterable(epochs))
        self.config = config
        self.reporter = reporter
        self.folder = reporter.folder
        nothing = Dataset.from_dict({"chosen_ids": [], "rejected_ids": []})  # TRL asks for one
        super().__init__(
            model,
            trainer_settings(
                config, len(self.batches), self.folder, on_cpu=model.device.type == "cpu"
            ),
            train_dataset=nothing,
            processing_class=tokenizer,
            callbacks=[reporter],
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The numbers of the optimiser steps, of all epochs in a row."""
        steps: Any = range(len(self.batches))
        return DataLoader(steps, batch_size=1, collate_fn=lambda numbers: {"step": numbers[0]})

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        model.train()
        groups = [self.groups[place] for place in self.batches[inputs["step"]]]
        by_number = {group.number: group for group in groups}
        of_step = {"n_pairs": n_pairs(groups), "n_judgments": n_judgments(groups)}
        outcomes: list[tuple[Tensor, Tensor]] = []
        loss = torch.zeros((), device=self.scorer.device)
        for numbers in self.scorer.micro_batches(list(by_number), self.config.micro_batch_tokens):
            self.reporter.stop_if_asked()
            part, outputs = self.compute_loss(
                model,
                {"groups": [by_number[number] for number in numbers], **of_step},
                return_outputs=True,
            )
            self.accelerator.backward(part)
            loss += part.detach()
            outcomes.append(outputs)
        if (annotators := getattr(self.head, "annotators", None)) is not None:
            # To a step's mean over pairs what the prior is to the sum over all votes.
            self.accelerator.backward(annotators.prior() / self.total_weight)
        self._keep_metrics(*map(torch.cat, zip(*outcomes, strict=True)))
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Of some groups, their share of the mean loss over the step's `n_pairs` pairs, and over the
        `n_judgments` of its offers if there are any. The outputs are the margins and the pairs' p_chosen, (B,) each."""
        groups: list[Group] = inputs["groups"]
        rows = [row for group in groups for row in self.scorer.rows_of[group.number]]
        scores = self.scorer.scores(rows)
        pairs, chosen, rejected = _scores_of_pairs(groups, scores)
        losses = pair_losses(chosen - rejected, groups, self.head, self.config)
        losses = losses + self.config.center_rewards * (chosen + rejected) ** 2
        weights = column(pairs, "weight").to(losses.device)
        loss = (weights * losses).sum() / max(1, inputs["n_pairs"])
        if encoded_offers(groups):
            of_offers = offer_losses(groups, scores, self.head.all_bad_level)
            share = of_offers.sum() / inputs["n_judgments"]
            loss = loss + self.config.all_bad_coefficient * share
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}: lower the "
                f"learning rate ({self.args.learning_rate:g}) and start again",
                DIVERGED,
            )
        outputs = ((chosen - rejected).detach(), column(pairs, "p_chosen"))
        return (loss, outputs) if return_outputs else loss

    def _keep_metrics(self, margins: Tensor, p_chosen: Tensor) -> None:
        """Nobody can be right about a tie: the accuracy is over decided pairs."""
        if not len(margins):
            return
        metrics = self._metrics["train"]
        metrics["margin"].append(margins.mean().item())
        if (is_decided := p_chosen != 0.5).any():
            is_right = (margins.cpu() > 0) == (p_chosen > 0.5)
            metrics["accuracy"].append(is_right[is_decided].float().mean().item())

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """What says how people vote does not move at the pace of weights."""
        optimizer = super().create_optimizer(*args, **kwargs)
        named = self.head.named_parameters()
        of_votes = [each for name, each in named if name not in ("weight", "bias")]
        if of_votes:
            ids = set(map(id, of_votes))
            for group in optimizer.param_groups:
                group["params"] = [each for each in group["params"] if id(each) not in ids]
            optimizer.add_param_group(
                {"params": of_votes, "lr": VOTES_LEARNING_RATE, "weight_decay": 0.0}
            )
        return optimizer

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
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


def _scores_of_pairs(
    groups: Sequence[Group], scores: Tensor
) -> tuple[list[EncodedPair], Tensor, Tensor]:
    """The groups' pairs, and the scores of their two completions, (B,) each, from those of all
    completions, group after group."""
    pairs, chosen, rejected = [], [], []
    start = 0
    for group in groups:
        pairs += group.pairs
        chosen += [start + pair.chosen for pair in group.pairs]
        rejected += [start + pair.rejected for pair in group.pairs]
        start += len(group.completions)
    return pairs, scores[chosen], scores[rejected]


def pair_losses(
    margins: Tensor, groups: Sequence[Group], head: torch.nn.Module, config: RewardModelConfig
) -> Tensor:
    """The loss of each pair, (B,), without its weight: of its shares, or, where annotators are learned
    too and its votes are known one by one, the mean of its votes'."""
    pairs = [pair for group in groups for pair in group.pairs]
    p_chosen, tie_share, strength = (
        column(pairs, name).to(margins.device) for name in ("p_chosen", "tie_share", "margin")
    )
    tie = getattr(head, "tie", None)
    losses = vote_losses(margins, p_chosen, tie_share, strength, config, tie)
    annotators: AnnotatorModel | None = getattr(head, "annotators", None)
    if annotators is None:
        return losses
    differences = [
        length_difference(
            len(group.completions[pair.chosen]), len(group.completions[pair.rejected])
        )
        for group in groups
        for pair in group.pairs
    ]
    votes = annotators.encode([pair._replace(weight=1.0) for pair in pairs], differences)
    by_vote = vote_losses(
        annotators.logits(margins, votes), votes.preference, (votes.preference == 0.5).float(),
        strength[votes.pair], config, tie,
    )  # fmt: skip
    by_pair = torch.zeros_like(losses).index_add(0, votes.pair, votes.weight * by_vote)
    has_votes = torch.tensor(
        [bool(pair.votes) for pair in pairs], dtype=torch.bool, device=losses.device
    )
    return torch.where(has_votes, by_pair, losses)


def offer_losses(groups: Sequence[Group], scores: Tensor, level: Tensor) -> Tensor:
    """What the judgments of each offer cost, (offers,), by the scores of all completions, group after
    group."""
    worths = []
    start = 0
    for group in groups:
        for offer in group.offers:
            worths.append(scores[[start + place for place in offer.completions]].logsumexp(0))
        start += len(group.completions)
    counts = [(offer.n_bad, offer.n_ranked) for offer in encoded_offers(groups)]
    n_bad, n_ranked = torch.tensor(counts, device=scores.device).T
    return all_bad_losses(torch.stack(worths), n_bad, n_ranked, level)


def trainer_settings(
    config: RewardModelConfig, n_steps: int, folder: RunFolder, *, on_cpu: bool
) -> RewardConfig:
    settings = RewardConfig(
        **shared_settings(folder, n_steps, config.seed, on_cpu=on_cpu),
        max_steps=n_steps,
        per_device_train_batch_size=1,  # a step's number
        learning_rate=config.learning_rate,
        warmup_steps=0.05,  # share of all steps
        max_length=None,  # left out and counted already
        remove_unused_columns=False,
    )
    return on_one_gpu(settings)


class Reporter(TrainerCallback):
    """Tells the run's folder how it goes, and hears its request to stop."""

    def __init__(
        self, folder: RunFolder, first_step: int, n_steps: int, epoch_ends: Sequence[int],
        evaluate: Any, *, is_shown: bool = True,
    ) -> None:  # fmt: skip
        """Of a run of `n_steps` steps in all, this training begins after `first_step`.

        `evaluate(step)` is called where an epoch ends that is not the last. The charts are of what
        `is_shown`.
        """
        self.is_shown = is_shown
        self.folder = folder
        self.first_step = first_step
        self.n_steps = n_steps
        self.epoch_ends = set(epoch_ends)
        self.evaluate = evaluate
        self.saved = time.monotonic()
        self.began = time.monotonic()
        self.resumed_at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.resumed_at = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = self.first_step + state.global_step
        per_step = (time.monotonic() - self.began) / (state.global_step - self.resumed_at)
        self.folder.progress(step, self.n_steps, per_step * (self.n_steps - step))
        self.stop_if_asked()
        is_last = state.global_step == state.max_steps
        if self.is_shown and state.global_step in self.epoch_ends and not is_last:
            self.evaluate(step)
        if is_last or time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        names = (
            ("loss", "accuracy", "margin", "learning_rate", "grad_norm") if self.is_shown else ()
        )
        if values := {name: float(logs[name]) for name in names if logs and name in logs}:
            self.folder.metrics(self.first_step + state.global_step, values)

    def stop_if_asked(self) -> None:
        if self.folder.should_stop():
            raise Stopped


def train(trainer: Any) -> None:
    """Train, from its newest checkpoint if there is one. Raises Stopped with all of it saved.

    A trainer with `batches`, a `folder` and a `reporter`, as the one above and SupervisedTrainer.
    """
    first = trainer.reporter.first_step
    last = first + len(trainer.batches)
    checkpoints = [
        (step, path) for step, path in trainer.folder.checkpoints() if first < step <= last
    ]
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints[-1][1]) if checkpoints else None)
    except Stopped:
        if first + trainer.state.global_step > (checkpoints[-1][0] if checkpoints else first):
            trainer._save_checkpoint(trainer.model, trial=None)
        raise
