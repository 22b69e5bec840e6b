"""The trunk's states, kept to be used again: what enters the lowest layer that learns.

Where adapters lie on the top k layers only, what enters layer L - k does not change in training. It is
computed once for every row and kept, in memory or, if it is large, in a file that has no name any more:
it goes when nobody uses it, however the process ends.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.training.artifacts import DISK_FULL, RunError
from rlhf.training.forward import layers_of, watching

MOST_IN_MEMORY = 2**30  # bytes; more go to a file


class TrunkStates:
    """Room for the states of a number of rows, on the CPU: up to (tokens, D) each."""

    def __init__(self, lengths: Sequence[int], like: Tensor, file: Path) -> None:
        """`like` has the size D and the dtype of a state. Raises RunError if the disk is full."""
        self.lengths = list(lengths)
        self.starts = torch.tensor([0, *accumulate(lengths)][:-1])
        shape = (sum(lengths), like.shape[-1])
        n_bytes = math.prod(shape) * like.element_size()
        self.is_mapped = n_bytes > MOST_IN_MEMORY
        if self.is_mapped:
            _reserve(file, n_bytes)
            flat = torch.from_file(str(file), True, math.prod(shape), dtype=like.dtype)
            file.unlink()
            self.states = flat.view(shape)
        else:
            self.states = torch.empty(shape, dtype=like.dtype)

    def __getitem__(self, row: int) -> Tensor:
        start = int(self.starts[row])
        return self.states[start : start + self.lengths[row]]

    def put(self, rows: Tensor, tokens: Tensor, states: Tensor) -> None:
        """One token's state of each of the rows, (B, D), at its place in the row."""
        self.states[self.starts[rows.cpu()] + tokens.cpu()] = states.to(self.states)


def _reserve(file: Path, n_bytes: int) -> None:
    """A page of a sparse file that cannot be written would kill the process without a word."""
    try:
        with file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
    except OSError as error:
        file.unlink(missing_ok=True)
        if error.errno != errno.ENOSPC:
            raise
        raise RunError(
            f"{n_bytes / 1e9:.1f} GB of disk space are needed in {file.parent} for the lower layers' "
            "states: make room, or switch reuse_trunk off",
            DISK_FULL,
        ) from error


class _Enough(Exception):
    """All that was asked for has been computed."""


@torch.no_grad()
def trunk_states(backbone: PreTrainedModel, k: int, inputs: Mapping[str, Tensor]) -> Tensor:
    """What enters the last k layers, (B, L, D). They are not run."""
    with watching(layers_of(backbone)[1][-k]) as watch:

        def leave(*_: object) -> None:
            raise _Enough

        # Hooks run in the order they were made: the states are kept by now.
        handle = layers_of(backbone)[1][-k].register_forward_pre_hook(leave)
        try:
            backbone(**inputs, use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
    assert watch is not None
    return watch.states
