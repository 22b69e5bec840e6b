"""What a rollout of PPO holds, and what is reported of it.

B completions of up to T tokens; a rollout is one batch of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf.training.artifacts import RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.generate import EncodedPrompt, Sampled
from rlhf.training.models import decode
from rlhf.training.ppo_checkpoint import State
from rlhf.training.ppo_math import explained_variance, kl_estimates, masked_mean, repeated_share
from rlhf.training.ppo_models import Models


class Rollout(NamedTuple):
    """One batch of completions with all that the update needs. Tensors are on the CPU."""

    prompts: list[EncodedPrompt]  # B
    completions: list[Sampled]  # B
    mask: Tensor  # (B, T) True at completion tokens, the end token included
    logprobs: Tensor  # (B, T) of the policy that sampled
    ref_logprobs: Tensor  # (B, T)
    values: Tensor  # (B, T) of the state before each token
    entropies: Tensor  # (B, T)
    raw_scores: dict[str, Tensor]  # (B, M) by source of rewards, of each of its M members
    truncated: Tensor  # (B,)


class Targets(NamedTuple):
    """What the update learns from. All on the CPU."""

    parts: dict[str, Tensor]  # (B,) the normalised, clipped scores by source
    scores: Tensor  # (B,) their weighted sum, with the penalty for missing ends
    rewards: Tensor  # (B, T)
    advantages: Tensor  # (B, T) PPO's whitened over the whole batch
    returns: Tensor  # (B, T)
    disagreement: Tensor | None = None  # (B,) of the first source with several members
    kl_in_loss: float = 0.0  # coefficient of the KL in the loss; 0: it is in the rewards


def joined(parts: Sequence[Rollout]) -> Rollout:
    """One rollout of all rows, padded to the longest completion."""
    width = max(part.mask.shape[1] for part in parts)

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):  # (B, M) each
            return {name: torch.cat([value[name] for value in values]) for name in values[0]}
        if values[0].dim() == 2:  # (B, T)
            values = [F.pad(value, (0, width - value.shape[1])) for value in values]
        return torch.cat(list(values))

    prompts, completions, *tensors = zip(*parts, strict=True)
    return Rollout(
        list(chain.from_iterable(prompts)),
        list(chain.from_iterable(completions)),
        *(join(values) for values in tensors),
    )


def rollout_metrics(rollout: Rollout, targets: Targets, state: State) -> dict[str, float]:
    """docs/ppo.md defines each. Only real tokens count."""
    kl = kl_estimates(rollout.logprobs, rollout.ref_logprobs, rollout.mask)
    lengths = rollout.mask.sum(1).float()
    several = targets.disagreement
    return {
        "score/mean": float(targets.scores.mean()),
        "score/std": float(targets.scores.std(correction=0)),
        "score/raw_mean": float(next(iter(rollout.raw_scores.values())).mean()),
        **{f"score/{name}": float(part.mean()) for name, part in targets.parts.items()},
        **({} if several is None else {"score/disagreement": float(several.mean())}),
        "reward/mean": float(targets.rewards.sum(1).mean()),
        "kl/k1": float(kl.k1.mean()),
        "kl/k3": float(kl.k3.mean()),
        "kl/coefficient": state.kl_coefficient,
        "entropy": float(masked_mean(rollout.entropies, rollout.mask)),
        "length/mean": float(lengths.mean()),
        "length/truncated_share": float(rollout.truncated.float().mean()),
        "repetition/mean": fmean(repeated_share(each.ids) for each in rollout.completions),
        "value/explained_variance": explained_variance(
            rollout.values, targets.returns, rollout.mask
        ),
        "learning_rate": state.scheduler.get_last_lr()[0],
    }


def report_rollout(
    models: Models,
    rollout: Rollout,
    targets: Targets,
    step: int,
    config: PPOConfig,
    folder: RunFolder,
) -> None:
    """Keep the whole rollout in the folder, and show its first answers on the run's page."""
    if not folder.is_writer:
        return
    kl = kl_estimates(rollout.logprobs, rollout.ref_logprobs, rollout.mask)
    lines = []
    for row, (prompt, completion) in enumerate(
        zip(rollout.prompts, rollout.completions, strict=True)
    ):
        text, value = decode(models.tokenizer, completion.ids), float(targets.scores[row])
        line = {
            "id": prompt.line.id,
            "completion": text,
            "score": value,
            "kl": float(kl.k1[row]),
            "n_tokens": len(completion.ids),
            "truncated": completion.truncated,
            "repetition": repeated_share(completion.ids),
        }
        if targets.disagreement is not None:
            line["disagreement"] = float(targets.disagreement[row])
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        if row < config.samples:
            folder.sample(step, row, prompt.line.messages, text, value)
    (folder.path / "rollouts").mkdir(exist_ok=True)
    path = folder.path / "rollouts" / f"step-{step:05d}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
