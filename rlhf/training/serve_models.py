"""The models that the model server holds: each base once, with the adapters of all its versions.

A version is `{"base": folder, "adapters": [folder, …]}`. Its adapters are added up, not merged, so
that versions of one base differ only by which of them are active.
"""

from __future__ import annotations

import ctypes
import gc
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError
from rlhf.training.import_model import count_parameters
from rlhf.training.models import (
    check_folders,
    default_device,
    default_dtype,
    load_policy,
    stop_ids,
)

MARGIN = 1.2  # what loading needs beside the weights


class NoRoom(RunError):
    """The model does not fit into memory beside those that are in use."""


class Base:
    """A base in memory, and the adapters on it that were asked for so far."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: nn.Module = model
        self.tokenizer = tokenizer
        self.stop = stop_ids(model, tokenizer)
        config = model.config.get_text_config()
        self.context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._names: dict[str, str] = {}  # of the adapters in peft, by folder
        self._numbers = count()
        self._active: list[str] = []

    def use(self, adapters: Collection[str]) -> nn.Module:
        """The model with exactly these adapters active; those that are new are loaded."""
        for folder in adapters:
            if folder not in self._names:
                self._load(folder)
        names = [self._names[folder] for folder in adapters]
        if isinstance(self.model, PeftModel) and names != self._active:
            self.model.base_model.set_adapter(names, inference_mode=True)
            self._active = names
        return self.model

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
        folder = reference["base"]
        if folder in self._bases:
            self._bases[folder] = self._bases.pop(folder)  # now the most recently used
        else:
            self._make_room(folder, in_use)
            self._bases[folder] = Base(*load_policy({"base": folder, "adapters": []}))
        return self._bases[folder]

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
