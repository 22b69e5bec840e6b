"""What PPO would do without two of its savings, for bench/ppo.py: the same answers and the same sums.

Without *dropping*, a row of the batch that is finished stays in it until all are. Without *packing*, rows
are taken as they come, a fixed number at a time, and padded to the longest of the whole rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf.training import generate, ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.forward import Batch, collate
from rlhf.training.ppo_models import Models
from rlhf.training.ppo_rollout import Rollout


class KeepsFinishedRows(generate.Decoding):
    """All rows are computed to the end; who samples sees those that are not finished."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.going = torch.ones_like(
            self.rows, dtype=torch.bool
        )  # of the rows, which are unfinished
        self.all_rows, self.all_hidden = self.rows, self.hidden

    def logits(self, temperature: float) -> Tensor:
        whole = self.head(self.all_hidden).float().div_(temperature)
        return whole[self.going]

    def advance(self, token: Tensor) -> None:
        if not len(self.rows):
            return
        tokens = token.new_zeros(len(self.all_rows), 1)
        tokens[self.going] = token
        seen, self.rows = self.rows, self.all_rows
        super().advance(tokens)
        self.rows, self.all_hidden = seen, self.hidden
        self.hidden = self.all_hidden[self.going]

    def keep(self, going: Tensor) -> None:
        places = self.going.nonzero().squeeze(1)
        self.going[places[~going]] = False
        self.rows, self.hidden = self.rows[going], self.hidden[going]


def padded_batches(
    micro_batch: int,
    models: Models,
    rollout: Rollout,
    rows: Tensor,
    role: str | None,
    config: PPOConfig,
    folder: RunFolder,
) -> Iterator[tuple[Tensor, Batch]]:
    """As `ppo.batches`, `micro_batch` rows each, all as wide as the longest row of the rollout."""
    pairs = [(p.ids, c.ids) for p, c in zip(rollout.prompts, rollout.completions, strict=True)]
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    reuse = models.reuses_trunk(role)
    for group in rows.split(micro_batch):
        chosen = group.tolist()
        states = [rollout.completions[row].states for row in chosen] if reuse else None
        prompts, completions = zip(*(pairs[row] for row in chosen), strict=True)
        yield group, widened(collate(prompts, completions, models.device, states), width)


def widened(batch: Batch, width: int) -> Batch:
    more = width - batch.before.shape[1]
    inputs = {
        name: F.pad(values, (0, 0, 0, more) if values.dim() == 3 else (0, more))
        for name, values in batch.inputs.items()
    }
    return batch._replace(inputs=inputs, before=F.pad(batch.before, (0, more)))


def replacements(micro_batch: int) -> dict[str, tuple[Any, str, Callable[..., Any]]]:
    """By the saving's name: what to put in whose place."""

    def batches(*arguments: Any) -> Iterator[tuple[Tensor, Batch]]:
        return padded_batches(micro_batch, *arguments)

    return {
        "dropping": (generate, "Decoding", KeepsFinishedRows),
        "packing": (ppo, "batches", batches),
    }
