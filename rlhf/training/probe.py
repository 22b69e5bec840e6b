"""How fast a model is on this machine, and how large: seconds and bytes that a run's cost is made of.

The same functions are timed that PPO calls: `sample`, the layers, the vocabulary head, merging an
adapter. What one layer costs is told apart from the head, so that runs with adapters on some layers
only can be estimated. rlhf/estimates.py puts the numbers together.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psutil
import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunFolder, Stopped
from rlhf.training.config import ProbeConfig
from rlhf.training.forward import (
    Batch,
    backbone_of,
    collate,
    hidden_states,
    layers_of,
    token_logprobs,
    vocabulary_head,
)
from rlhf.training.generate import sample
from rlhf.training.models import (
    adapter_parameters,
    encode,
    load_policy,
    lora_config,
    merged_adapter,
    use_adapter,
)

RANK = 16
ROWS, PROMPT_TOKENS, COMPLETION_TOKENS = 4, 16, 48  # of the batch that the layers are timed with
DECODED = 3  # tokens of each answer, from prompts of one token
FEW, MANY = 4, 32  # answers decoded together
SECONDS, ATTEMPTS = 1.5, 5  # for each of the things timed; twice at least
ENGLISH = (
    "The weather was fine, so we took the early train to the coast and walked along the beach. "
    "Could you tell me which of these two plans you would choose, and why? Please keep it short."
)


def run(config: ProbeConfig, folder: RunFolder) -> dict[str, Any]:
    """The run: a model in, its probe out."""
    return {"probe": measure(config.model, folder)}


def measure(reference: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """All that `estimates.Probe` holds, and where, when and with what it was measured.

    Raises Stopped if that is asked for, RunError if the model's files are missing.
    """
    folder.phase("loading the model")
    began = time.monotonic()
    base, tokenizer = load_policy(reference)
    load_seconds = time.monotonic() - began
    n_parameters = sum(parameter.numel() for parameter in base.parameters())
    model = get_peft_model(base, lora_config(base, RANK), adapter_name="policy")
    model.eval()
    cache_bytes = _cache_bytes(model)  # a first use: before it, weights may still lie in their file
    folder.phase("measuring its speed")
    return {
        "load_seconds": load_seconds,
        "resident_mib": _resident_bytes(base.device) / 2**20,
        "cache_bytes": cache_bytes,  # per token
        **_sizes(model, n_parameters),
        **_text(tokenizer),
        **_seconds(model, folder),
        **_place(base.device),
    }


# --- where -----------------------------------------------------------------------------------
def _place(device: torch.device) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if is_gpu else "CPU",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _resident_bytes(device: torch.device) -> int:
    """Of the process, or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


# --- how large -------------------------------------------------------------------------------
def _sizes(model: PeftModel, n_parameters: int) -> dict[str, Any]:
    backbone, head = backbone_of(model), vocabulary_head(model)
    layers = layers_of(backbone)[1]
    of_adapter = sum(parameter.numel() for parameter in adapter_parameters(model, "policy"))
    in_layers = sum(p.numel() for name, p in layers.named_parameters() if ".lora_" not in name)
    return {
        "parameters": n_parameters,
        "layers": len(layers),
        "hidden_size": head.in_features,
        "vocabulary": head.out_features,
        "element_bytes": head.weight.element_size(),
        "layer_parameters": in_layers / len(layers),
        "adapter_parameters": of_adapter / len(layers) / RANK,  # of a layer, per rank
        "activation_bytes": _activation_bytes(model),  # per token and trained layer
    }


@torch.no_grad()
def _cache_bytes(model: PeftModel) -> float:
    backbone, cache = backbone_of(model), DynamicCache()
    batch = _batch(model, ROWS)
    backbone(**batch.inputs, past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return held / batch.inputs["input_ids"].numel()


def _activation_bytes(model: PeftModel) -> float:
    """What a layer keeps of each token for the backward pass. The difference of two batches, so
    that what does not depend on their size, such as the merged weights, falls out."""
    few, many = (_batch(model, rows) for rows in (ROWS // 2, ROWS))
    with _using(model):
        kept = _saved_bytes(model, many) - _saved_bytes(model, few)
    tokens = many.inputs["input_ids"].numel() - few.inputs["input_ids"].numel()
    return kept / tokens / len(layers_of(backbone_of(model))[1])


def _saved_bytes(model: PeftModel, batch: Batch) -> int:
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = hidden_states(backbone_of(model), batch)  # alive, so that no address is used twice
    assert hidden.requires_grad
    return sum(saved.values())


def _text(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How many tokens a text of so many letters has: the web process has no tokenizer."""
    empty = encode(tokenizer, [{"role": "user", "content": ""}])
    tokens = tokenizer(ENGLISH, add_special_tokens=False)["input_ids"]
    return {"template_tokens": len(empty), "characters_per_token": len(ENGLISH) / len(tokens)}


# --- how fast --------------------------------------------------------------------------------
def _seconds(model: PeftModel, folder: RunFolder) -> dict[str, float]:
    backbone, head = backbone_of(model), vocabulary_head(model)
    n_layers = len(layers_of(backbone)[1])
    batch = _batch(model, ROWS)
    n_tokens = batch.inputs["input_ids"].numel()
    states = torch.randn(n_tokens, head.in_features).to(head.weight)
    targets = batch.inputs["input_ids"].flatten()
    one = collate([[0]], [[0]], head.weight.device)

    def forward() -> None:
        with torch.no_grad():
            hidden_states(backbone, batch)

    def train() -> None:
        hidden = hidden_states(backbone, batch)
        hidden.backward(torch.ones_like(hidden))
        model.zero_grad(set_to_none=True)

    def merge() -> None:
        with torch.no_grad(), _using(model):  # sums are made when a layer is first used
            hidden_states(backbone, one)

    def head_forward() -> None:
        with torch.no_grad():
            token_logprobs(states, head, targets, 1.0)

    def head_train() -> None:
        hidden = states.clone().requires_grad_()
        token_logprobs(hidden, head, targets, 1.0)[0].sum().backward()

    clock = partial(_clock, folder=folder, device=head.weight.device)
    with _using(model):
        few = clock(partial(_decode, model, FEW)) / DECODED
        many = clock(partial(_decode, model, MANY)) / DECODED
        per_answer = max(0.0, (many - few) / (MANY - FEW))
        found = {
            "decode_step": max(0.0, few - FEW * per_answer),  # whatever the number of answers
            "decode_token": per_answer,  # and for each answer besides
            "layer_forward": clock(forward) / n_tokens / n_layers,
            "layer_train": clock(train) / n_tokens / n_layers,
        }
    return {
        **found,
        "layer_merge": clock(merge) / n_layers,
        "head_forward": clock(head_forward) / n_tokens,
        "head_train": clock(head_train) / n_tokens,
    }


def _clock(work: Callable[[], None], *, folder: RunFolder, device: torch.device) -> float:
    """Seconds that the work takes: the best of a few times, after one to warm up.

    The best, because whatever else the machine does only ever adds to it.
    """
    best, began = float("inf"), time.monotonic()
    for attempt in range(ATTEMPTS):
        if folder.should_stop():
            raise Stopped
        started = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if attempt:
            best = min(best, time.monotonic() - started)
        if attempt and time.monotonic() - began > SECONDS:
            break
    return best


def _decode(model: PeftModel, rows: int) -> None:
    device = next(model.parameters()).device
    sample(
        model,
        _tokens(model, rows, 1),
        stop=set(),
        max_new_tokens=DECODED,
        temperature=1.0,
        generator=torch.Generator(device).manual_seed(0),
    )


# --- what it is measured with -----------------------------------------------------------------
def _using(model: PeftModel) -> AbstractContextManager[None]:
    """As PPO runs an adapter: merged in fp32."""
    is_exact = vocabulary_head(model).weight.dtype == torch.float32
    return merged_adapter(model, "policy") if is_exact else use_adapter(model, "policy")


def _batch(model: PeftModel, rows: int) -> Batch:
    device = next(model.parameters()).device
    prompts = _tokens(model, rows, PROMPT_TOKENS)
    return collate(prompts, _tokens(model, rows, COMPLETION_TOKENS), device)


def _tokens(model: PeftModel, rows: int, length: int) -> Sequence[list[int]]:
    """Any tokens do: what a layer costs does not depend on them."""
    ids = torch.arange(rows * length) * 7919 % vocabulary_head(model).out_features
    return ids.view(rows, length).tolist()
