"""Which policy of a PPO run is kept: the best on held-out prompts, by what PPO maximises.

The policy is written as best-<step> as soon as it is the best so far. The one before goes only after
a checkpoint knows of the new one: a run that resumes from an older checkpoint needs the best that was
known then.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from rlhf.training import parallel
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import EncodedPrompt
from rlhf.training.models import encode


class Evaluation(NamedTuple):
    """Means per completion on the held-out prompts."""

    step: int  # 0: before training
    objective: float  # the score less the configured price of the KL
    score: float
    kl: float  # k1
    kl_k3: float
    length: float  # tokens
    # None and empty in checkpoints of before they were measured.
    kl_se: float | None = None  # standard error of `kl`
    parts: dict[str, float] = {}  # score of each source, before its weight

    @property
    def metrics(self) -> dict[str, float]:
        names = ("objective", "score", "kl", "length")
        return {f"eval/{name}": getattr(self, name) for name in names}


def read_held_out(
    tokenizer: PreTrainedTokenizerBase, config: PPOConfig, folder: RunFolder
) -> tuple[list[EncodedPrompt], int]:
    """The held-out prompts that fit, as many for each process, and how many were left out as too long;
    none if there shall be no evaluation."""
    path = folder.path / config.held_out
    if config.evaluate_every == 0 or not path.is_file():
        return [], 0
    encoded = [EncodedPrompt(line, encode(tokenizer, line.messages)) for line in read_prompts(path)]
    fitting = [prompt for prompt in encoded if len(prompt.ids) <= config.max_prompt_tokens]
    shared = fitting[: len(fitting) // parallel.count() * parallel.count()]
    return shared, len(encoded) - len(fitting)


def is_due(step: int, config: PPOConfig) -> bool:
    return step in config.evaluation_steps


def best(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The highest objective since training began, the first of equals; None before that."""
    return max(evaluations[1:], key=lambda found: found.objective, default=None)


def folder_of(found: Evaluation, folder: RunFolder) -> Path:
    return folder.path / f"best-{found.step}"


def remove_beaten(evaluations: Sequence[Evaluation], folder: RunFolder) -> None:
    """Remove the policies that are not the best any more."""
    found = best(evaluations)
    if found and folder.is_writer:
        for path in folder.path.glob("best-*"):
            if path != folder_of(found, folder):
                shutil.rmtree(path)


def outcome(evaluations: Sequence[Evaluation], kept: Evaluation) -> dict[str, Any]:
    """What the run's result says of the policy that is kept, beside the one before training."""
    before = evaluations[0]
    is_better = kept.objective > before.objective
    worse = "On held-out prompts it is no better than the policy before training."
    return {
        "kept_step": kept.step,
        "objective_first": before.objective,
        "objective_last": kept.objective,
        "score_first": before.score,
        "score_last": kept.score,
        "by_source": {
            name: {"first": before.parts[name], "last": score}
            for name, score in kept.parts.items()
            if name in before.parts
        },
        "kl": kept.kl,
        "kl_se": kept.kl_se,
        "kl_k3": kept.kl_k3,
        "length_last": kept.length,
        "note": "" if is_better else worse,
    }
