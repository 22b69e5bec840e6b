"""Which parameters of a policy move in supervised, domain and preference runs.

Flat fields, so that forms, commands and the API give them like any other setting. `parameters.py` does
what they say. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.training.config_base import LONGEST_NAME, Config, _require, is_one_line

METHODS = ("lora", "full", "ia3", "prompt", "prefix")
VIRTUAL = ("prompt", "prefix")  # learn tokens that nobody reads, before each prompt; no weights
ANCHORS = ("none", "l2_sp", "kl")


@dataclass(frozen=True)
class ParameterSettings(Config):
    method: str = "lora"
    lora_rank: int = 16
    dora: bool = False  # weight-decomposed LoRA, Liu et al. 2024
    rslora: bool = False  # scale alpha/√r instead of alpha/r, Kalajdzievski 2023
    four_bit: bool = False  # QLoRA: the base in NF4; needs CUDA and bitsandbytes
    adapter_layers: int | None = None  # only this many top layers move; None: all
    unfreeze_every: float | None = None  # epochs after which one more layer moves, from the top
    virtual_tokens: int = 16  # of prompt and prefix tuning
    anchor: str = "none"  # a pull towards the starting weights ("l2_sp") or distribution ("kl")
    anchor_coefficient: float = 0.0  # of half the squared way, or of nats per token
    name: str = ""  # of the new version; empty: by its run

    def __post_init__(self) -> None:
        _require(self.method in METHODS, f"method={self.method!r} must be one of {METHODS}")
        _require(self.anchor in ANCHORS, f"anchor={self.anchor!r} must be one of {ANCHORS}")
        _require(self.lora_rank >= 1, f"lora_rank={self.lora_rank} must be at least 1")
        top = self.adapter_layers
        _require(
            top is None or top >= 1,
            f"adapter_layers={top} must be at least 1, or None for all layers",
        )
        every = self.unfreeze_every
        _require(every is None or every > 0, f"unfreeze_every={every} must be above 0, or None")
        _require(
            self.virtual_tokens >= 1, f"virtual_tokens={self.virtual_tokens} must be at least 1"
        )
        _require(
            self.anchor_coefficient >= 0,
            f"anchor_coefficient={self.anchor_coefficient} must be at least 0",
        )
        _require(
            is_one_line(self.name, LONGEST_NAME),
            f"name={self.name!r} must be one line of at most {LONGEST_NAME} characters",
        )
        self._check_combinations()

    def _check_combinations(self) -> None:
        """What is set would otherwise be passed over in silence."""
        for name in ("dora", "rslora", "four_bit"):
            _require(
                self.method == "lora" or not getattr(self, name),
                f"{name} is an option of LoRA: it does not go with method={self.method!r}",
            )
        for name in ("adapter_layers", "unfreeze_every"):
            value = getattr(self, name)
            _require(
                value is None or self.method not in VIRTUAL,
                f"{name}={value} is about layers, and method={self.method!r} moves none of them: leave "
                "it empty",
            )
        coefficient = self.anchor_coefficient
        _require(
            (self.anchor == "none") == (coefficient == 0),
            f"anchor={self.anchor!r} and anchor_coefficient={coefficient} do not fit: a pull needs both, "
            "none needs neither",
        )
