"""What all of TRL's trainers are told here, whatever they train, and how their learning rate goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rlhf.training.artifacts import RunFolder

MAX_REPORTS = 500  # of training metrics, so that a long run's page stays light


def shared_settings(folder: RunFolder, n_steps: int, seed: int, *, on_cpu: bool) -> dict[str, Any]:
    return {
        "output_dir": str(folder.path / ".trainer"),
        # Precision is the weights' own (bf16 base, fp32 adapter on a GPU), as in PPO.
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": False,
        "logging_steps": max(1, n_steps // MAX_REPORTS),
        "logging_nan_inf_filter": False,  # a NaN ends the run, it is not averaged away
        "save_strategy": "no",  # the reporter says when
        "seed": seed,
        "report_to": "none",
        "disable_tqdm": True,
    }


def on_one_gpu(settings: Any) -> Any:
    """This process uses one; TRL refuses to be given several."""
    if settings.n_gpu > 1:
        settings._n_gpu = 1
    return settings


# --- the learning rate ------------------------------------------------------------------------
def warm_up_then_fall(share: float, total: int) -> Callable[[int], float]:
    """By the optimiser steps done so far, what the learning rate is multiplied by: linearly up in this share of all
    steps, and linearly to 0. Every step learns something, the first and the last too."""
    warmup = max(1, round(share * total))
    return lambda done: min((done + 1) / warmup, max(0.0, 1 - done / total))


class WarmingUp:
    """Put before a trainer of transformers, whose own schedule begins at 0: a step of a warm-up, as short
    runs have one, would learn nothing. `warmup_steps` is a share here, 1 included."""

    args: Any
    optimizer: Any
    lr_scheduler: Any

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LambdaLR:
        if self.lr_scheduler is None:
            rate = warm_up_then_fall(self.args.warmup_steps, num_training_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler
