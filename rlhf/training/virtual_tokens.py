"""Policies of prompt and prefix tuning: what they learned are keys and values before each prompt.

Their weights are those of the policy below, so nothing can be merged. To a decoder both are the same: a
cache that holds the virtual tokens already when the prompt comes. Prefix tuning learned that cache
itself; what prompt tuning learned, embeddings, passes through the layers once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import nn
from transformers import DynamicCache

from rlhf.training.artifacts import read_json
from rlhf.training.forward import backbone_of

VIRTUAL_TYPES = (PeftType.PROMPT_TUNING, PeftType.PREFIX_TUNING)


def adapter_config(folder: str) -> dict[str, Any]:
    """What peft wrote beside the adapter's weights; empty if nothing is there."""
    path = Path(folder) / "adapter_config.json"
    return read_json(path) if path.is_file() else {}


def is_virtual(folder: str) -> bool:
    """Whether the adapter is virtual tokens, and no change of weights."""
    return adapter_config(folder).get("peft_type") in VIRTUAL_TYPES


def n_virtual_tokens(adapters: Sequence[str]) -> int:
    """How many places of the context they take."""
    return sum(adapter_config(folder).get("num_virtual_tokens") or 0 for folder in adapters)


@torch.no_grad()
def prefix_of(model: nn.Module) -> DynamicCache | None:
    """Keys and values of the model's virtual tokens, one row; None if it has none."""
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return None
    if model.peft_type == PeftType.PREFIX_TUNING:
        return model.get_prompt(1)
    cache = DynamicCache()
    embeddings = model.get_prompt(1).to(model.dtype)  # (1, virtual tokens, D)
    backbone_of(model)(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
    return cache


def begun(prefix: DynamicCache | None, rows: int) -> DynamicCache:
    """A cache of so many rows that begins with the prefix, of which it has copies."""
    cache = DynamicCache()
    for number, layer in enumerate(prefix.layers if prefix else ()):
        keys, values = (states.expand(rows, -1, -1, -1) for states in (layer.keys, layer.values))
        cache.update(keys, values, number)
    return cache
