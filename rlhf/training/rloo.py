"""The run *RLOO*: as GRPO, with other advantages."""

from rlhf.training.grpo import run

__all__ = ["run"]
