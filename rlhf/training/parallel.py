"""One run in several processes, on one machine or on many: data parallelism.

`accelerate launch` starts the processes; without it there is one, and all of this does nothing.
Each holds all models. It writes and scores its share of every rollout and adds up its share of
every gradient; what is shared in between keeps the weights of all processes equal to the last bit.

A request to stop reaches the processes at different moments. None may leave while others wait for
it, so they agree where they exchange something anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from rlhf.training.artifacts import Stopped

T = TypeVar("T")


@cache
def processes() -> PartialState:
    """Who takes part. The first call connects them."""
    return PartialState(cpu=not torch.cuda.is_available())


def count() -> int:
    return int(processes().num_processes)


def rank() -> int:
    return int(processes().process_index)


def share(items: Sequence[T] | Tensor) -> Sequence[T] | Tensor:
    """This process's part of what there is to do: consecutive items, as many as the others'.

    Example: of five items, the first of two processes gets two and the second three.
    """
    n = len(items)
    return items[rank() * n // count() : (rank() + 1) * n // count()]


def gather(part: T | None) -> list[T]:
    """The parts of all processes, in the order of the shares. Raises Stopped in all of them if one
    has none, because it was asked to stop."""
    parts = gather_object([part])
    if any(part is None for part in parts):
        raise Stopped
    return list(parts)


def sum_gradients(parameters: Iterable[nn.Parameter], *, is_stopped: bool) -> None:
    """Replace each gradient by the sum over the processes.

    Raises Stopped in all of them if one has stopped before its gradient was complete.
    """
    if count() > 1:
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in parameters if p.requires_grad
        ]
        flag = gradients[0].new_tensor([float(is_stopped)])
        flat = torch.cat([flag, *(gradient.flatten() for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        is_stopped = bool(flat[0])
        summed = flat[1:].split([gradient.numel() for gradient in gradients])
        for parameter, gradient, total in zip(parameters, gradients, summed, strict=True):
            parameter.grad = total.view_as(gradient)
    if is_stopped:
        raise Stopped


def add_up(values: dict[str, float]) -> dict[str, float]:
    """The sum over the processes of each value."""
    parts = gather(values)
    return {name: sum(part[name] for part in parts) for name in values}
