"""The run *merge weights*: a policy that is adapters on a base, written as one model of its own.

What it writes loads with `AutoModelForCausalLM.from_pretrained`, without peft and without the base.
"""

from __future__ import annotations

from typing import Any

import torch

from rlhf.training.artifacts import RunFolder, Stopped, writing_folder
from rlhf.training.config import MergeConfig
from rlhf.training.models import load_policy


def run(config: MergeConfig, folder: RunFolder) -> dict[str, Any]:
    """Where the model lies, and how many bytes its files have."""
    folder.phase("loading")
    model, tokenizer = load_policy(
        config.model, device=torch.device("cpu"), dtype=getattr(torch, config.dtype)
    )
    if folder.should_stop():
        raise Stopped
    folder.phase("saving")
    target = folder.path / config.output
    with writing_folder(target) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return {
        "output": str(target),
        "bytes": sum(file.stat().st_size for file in target.iterdir()),
    }
