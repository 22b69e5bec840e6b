"""What a supervised or domain run is told. No torch here: the web process builds and checks these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rlhf.training.config_base import _require
from rlhf.training.parameter_settings import ParameterSettings

MIXINGS = ("mixed", "alternating")
PROMPT_LEARNING = ("prompt", "prefix")


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig(ParameterSettings):
    """Defaults are for LoRA on one small box; docs/fine-tuning.md gives the source of each."""

    model: dict[str, Any]  # a ModelRef: the policy that learning starts from
    datasets: list[dict[str, str]] = field(default_factory=list)  # {"name", "folder"} each
    weights: dict[str, float] = field(default_factory=dict)  # how often an epoch shows each row of
    # the dataset of this name; once, where nothing is said
    mixing: str = "mixed"  # or "alternating": each step learns from one dataset
    epochs: int = 2
    batch_size: int = 16  # rows per optimiser step
    micro_batch_tokens: int = 1024  # per forward and backward: memory follows them
    learning_rate: float = 2e-4  # LoRA needs about 10x the rate of full fine-tuning
    warmup_steps: float = 0.05  # share of the optimiser steps; then linear to 0
    max_tokens: int = 1024  # longer conversations are left out and counted; text is cut into blocks
    packing: bool = False  # several conversations in one row, which do not see one another
    learning_curve: bool = False  # also train on 10, 25 and 50 % of the rows
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        rate, warmup = self.learning_rate, self.warmup_steps
        _require(0 < rate < 1, f"learning_rate={rate} must be between 0 and 1")
        _require(0 <= warmup <= 1, f"warmup_steps={warmup} is a share of the steps: 0 to 1")
        for name in ("epochs", "batch_size", "micro_batch_tokens"):
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        _require(self.max_tokens >= 2, f"max_tokens={self.max_tokens} must be at least 2")
        _require(self.mixing in MIXINGS, f"mixing={self.mixing!r} must be one of {MIXINGS}")
        _require(
            not self.packing or self.method not in PROMPT_LEARNING,
            f"packing does not go with method={self.method!r}: its virtual tokens would stand before "
            "the first conversation of a row only",
        )
        self._check_weights()

    def _check_weights(self) -> None:
        names = {each["name"] for each in self.datasets}
        for name, weight in self.weights.items():
            _require(
                math.isfinite(weight) and 0 < weight <= MOST_OFTEN,
                f"the weight {weight} of {name!r} must be above 0 and at most {MOST_OFTEN}: it says "
                "how often an epoch shows each row",
            )
            _require(
                not names or name in names,
                f"there is a weight for {name!r}, which is none of the chosen datasets: "
                f"{', '.join(sorted(names))}",
            )


MOST_OFTEN = 100


@dataclass(frozen=True, kw_only=True)
class DomainConfig(SupervisedConfig):
    """Continued pre-training on running text: all tokens count."""

    epochs: int = 1


def parse_weights(lines: str) -> dict[str, float]:
    """Example: "polite = 2" and "old mails = 0.5", a line each -> {"polite": 2.0, "old mails": 0.5}.

    The last equals sign counts: a name may have one. Raises ValueError with the line.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(lines.splitlines(), 1):
        if not line.strip():
            continue
        name, equals, value = line.rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not equals or not name.strip() or not math.isfinite(weight):
            raise ValueError(
                f"Line {number}: write NAME = NUMBER, as in “polite = 2”, not “{line.strip()}”."
            )
        if name.strip() in found:
            raise ValueError(f"Line {number}: “{name.strip()}” has a weight already.")
        found[name.strip()] = weight
    return found


def format_weights(weights: dict[str, float]) -> str:
    return "\n".join(f"{name} = {weight:g}" for name, weight in weights.items())
