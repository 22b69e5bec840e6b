"""The models that the model server holds: each base once, with the adapters of all its versions.

A version is `{"base": folder, "adapters": [folder, …]}`. Its adapters are added up, not merged, so
that versions of one base differ only by which of them are active: going from one to another loads an
adapter at most, never the base. Virtual tokens are keys and values that are computed once. What cannot be
added to weights that others use, factors of IA³ and DoRA on top of another adapter, is merged into a copy
of the base that the version has for itself.
"""

from __future__ import annotations

import ctypes
import gc
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel, PeftType
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError
from rlhf.training.import_model import count_parameters
from rlhf.training.models import (
    check_folders,
    default_device,
    default_dtype,
    load_policy,
    stop_ids,
)
from rlhf.training.virtual_tokens import (
    adapter_config,
    is_virtual,
    n_virtual_tokens,
    prefix_of,
)

MARGIN = 1.2  # what loading needs beside the weights


class NoRoom(RunError):
    """The model does not fit into memory beside those that are in use."""


class Base:
    """A base in memory, and the adapters on it that were asked for so far.

    `merged` are those that its weights have already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        merged: Collection[str] = (),
    ) -> None:
        self.model: nn.Module = model
        self.tokenizer = tokenizer
        self.merged = merged
        self._prefixes: dict[str, DynamicCache] = {}  # of virtual tokens, by folder
        self.stop = stop_ids(model, tokenizer)
        config = model.config.get_text_config()
        self.context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._names: dict[str, str] = {}  # of the adapters in peft, by folder
        self._numbers = count()
        self._active: list[str] = []

    def use(self, adapters: Collection[str]) -> nn.Module:
        """The model with exactly these adapters active; those that are new are loaded."""
        known = {*self._names, *self._prefixes, *self.merged}
        for folder in adapters:
            if folder in known:
                continue
            if is_virtual(folder):
                self._load_prefix(folder, [each for each in adapters if each != folder])
            else:
                self._load(folder)
        names = [self._names[folder] for folder in adapters if folder in self._names]
        if isinstance(self.model, PeftModel) and names != self._active:
            self.model.base_model.set_adapter(names, inference_mode=True)
            self._active = names
        return self.model

    def prefix(self, adapters: Sequence[str]) -> DynamicCache | None:
        """Keys and values of the version's virtual tokens, which are the last of its adapters."""
        return self._prefixes.get(adapters[-1]) if adapters else None

    def context_for(self, adapters: Sequence[str]) -> int | None:
        """Tokens of messages and answer together; None: as many as there is memory for."""
        if self.context_tokens is None:
            return None
        return self.context_tokens - n_virtual_tokens(adapters)

    def _load_prefix(self, folder: str, below: Collection[str]) -> None:
        """Computed with the adapters that they were learned on. The wrapper that peft makes for it
        changes nothing in the model, and is not kept."""
        model = self.use(below)
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        prefix = prefix_of(PeftModel.from_pretrained(plain, folder).to(plain.device).eval())
        assert prefix is not None
        self._prefixes[folder] = prefix

    def _load(self, folder: str) -> None:
        name = f"adapter-{next(self._numbers)}"
        if isinstance(self.model, PeftModel):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft warns of every adapter after the first
                self.model.load_adapter(folder, adapter_name=name)
        else:
            self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name)
            self._active = [name]  # peft turns the first one on
        self.model.requires_grad_(False)
        self.model.eval()
        self._names[folder] = name


class Models:
    """The bases in memory, the least recently used first."""

    def __init__(self, free_bytes: Callable[[], int] | None = None) -> None:
        self._free_bytes = free_bytes or free_memory
        self._bases: dict[str, Base] = {}

    def base_of(self, reference: dict[str, Any], in_use: Collection[str] = ()) -> Base:
        """The version's base, loaded if need be; others that are not in use make room for it.

        Raises NoRoom if memory does not suffice, RunError if files are missing.
        """
        check_folders(reference)
        key = key_of(reference)
        if key in self._bases:
            self._bases[key] = self._bases.pop(key)  # now the most recently used
        else:
            self._make_room(reference["base"], in_use)
            merged = merged_of(reference)
            loaded = load_policy({"base": reference["base"], "adapters": merged})
            self._bases[key] = Base(*loaded, merged)
        return self._bases[key]

    def _make_room(self, folder: str, in_use: Collection[str]) -> None:
        needed = needed_bytes(folder)
        while (free := self._free_bytes()) < needed:
            spare = [name for name in self._bases if name not in in_use]
            if not spare:
                raise NoRoom(
                    f"The model {Path(folder).name} needs about {needed // 2**20} MiB of memory, and "
                    f"{free // 2**20} MiB are free: wait until less runs on this machine."
                )
            del self._bases[spare[0]]
            give_back_memory()


def merged_of(reference: dict[str, Any]) -> list[str]:
    """The adapters that have to be merged before the version can be served; none, if it can share its
    base with others."""
    weights = [folder for folder in reference["adapters"] if not is_virtual(folder)]
    configs = [adapter_config(folder) for folder in weights]
    are_lora = all(config.get("peft_type") == PeftType.LORA for config in configs)
    has_dora = any(config.get("use_dora") for config in configs)
    return [] if are_lora and not (has_dora and len(configs) > 1) else weights


def key_of(reference: dict[str, Any]) -> str:
    """What is in memory for a version: the same for all that share their base."""
    return "\n".join([reference["base"], *merged_of(reference)])


def needed_bytes(folder: str) -> int:
    device = default_device()
    return int(count_parameters(Path(folder)) * default_dtype(device).itemsize * MARGIN)


def free_memory() -> int:
    """Bytes on the device that models are loaded to."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def give_back_memory() -> None:
    """What was freed goes back to the system: allocators keep it otherwise."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
