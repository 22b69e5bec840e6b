"""The run *RLOO*: the loop of PPO without a critic, with the advantages of group_advantages.py."""

from rlhf.training.ppo import run

__all__ = ["run"]
