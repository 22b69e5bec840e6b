"""What changes while PPO trains, and how it is kept: a resumed run goes on bit for bit.

No random state is kept: everything random is derived from the seed and the step's number.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from torch import Tensor, nn

from rlhf.training.artifacts import RunFolder, write_json
from rlhf.training.models import adapter_state
from rlhf.training.ppo_models import Models
from rlhf.training.ppo_selection import Evaluation


@dataclass
class State:
    """What changes from step to step: the content of a checkpoint, with the adapters."""

    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    kl_coefficient: float
    step: int = 0
    nonfinite_steps: int = 0  # in all
    nonfinite_in_a_row: int = 0
    first_score: float | None = None
    evaluations: list[Evaluation] = field(default_factory=list)  # the first before training


def snapshot(models: Models, state: State) -> dict[str, Any]:
    """All that makes the next step what it will be. No random state: it is derived."""
    return {
        "step": state.step,
        "kl_coefficient": state.kl_coefficient,
        "nonfinite_steps": state.nonfinite_steps,
        "nonfinite_in_a_row": state.nonfinite_in_a_row,
        "first_score": state.first_score,
        "evaluations": [tuple(found) for found in state.evaluations],
        "adapters": {name: adapter_state(models.model, name) for name in learning(models)},
        "policy": learnt(models.own_policy) if models.own_policy else None,
        "value_head": models.value_head.state_dict(),
        "critic": models.critic.state_dict() if models.critic else None,
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
    }


def learning(models: Models) -> list[str]:
    """The adapters that learn."""
    names = ("value",) if models.own_policy else ("policy", "value")
    return [name for name in names if name in models.model.peft_config]


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def copied(content: Any) -> Any:
    """The same structure with every tensor cloned to the CPU."""
    if isinstance(content, Tensor):
        return content.detach().cpu().clone()
    if isinstance(content, dict):
        return {key: copied(value) for key, value in content.items()}
    if isinstance(content, list):
        return [copied(value) for value in content]
    return content


def save_checkpoint(kept: dict[str, Any], folder: RunFolder) -> None:
    if not folder.is_writer:
        return
    # Through memory: torch.save straight to a full disk aborts the process, a file write raises.
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    with folder.writing_checkpoint(kept["step"]) as path:
        (path / "state.pt").write_bytes(buffer.getbuffer())
        write_json(path / "state.json", {"step": kept["step"]})


def restore(models: Models, state: State, folder: Path) -> None:
    """Put a checkpoint back. Weights are loaded as data only: no pickled code is run."""
    kept = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    for name in learning(models):
        set_peft_model_state_dict(models.model, kept["adapters"][name], adapter_name=name)
    if models.own_policy:
        models.own_policy.load_state_dict(kept["policy"], strict=False)
    if models.critic:
        models.critic.load_state_dict(kept["critic"])
    models.value_head.load_state_dict(kept["value_head"])
    state.optimizer.load_state_dict(kept["optimizer"])
    state.scheduler.load_state_dict(kept["scheduler"])
    for name in (
        "step", "kl_coefficient", "nonfinite_steps", "nonfinite_in_a_row", "first_score",
    ):  # fmt: skip
        setattr(state, name, kept[name])
    # Missing in checkpoints of before there were any.
    state.evaluations = [Evaluation(*found) for found in kept.get("evaluations", [])]
