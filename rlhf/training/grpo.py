"""The run *GRPO*: the loop of PPO without a critic, with the advantages of group_advantages.py, or by TRL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlhf.training import ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import GroupConfig


def run(config: GroupConfig, folder: RunFolder) -> dict[str, Any]:
    """By whose trainer is the config's choice; TRL's computes whole models, so no trunk is kept for it."""
    if config.trainer == "own":
        return ppo.run(config, folder)
    from rlhf.training import group_trl  # noqa: PLC0415 (TRL takes seconds, and memory)

    return ppo.run(replace(config, reuse_trunk=False), folder, group_trl.train)
