"""What runs of DPO and KTO are told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf.training.config_base import _require
from rlhf.training.parameter_settings import ParameterSettings

DPO_LOSSES = ("sigmoid", "ipo", "hinge", "robust", "apo_zero", "sigmoid_norm")
KTO_LOSSES = ("kto", "apo_zero_unpaired")
VOTES = ("majority", "each")
ANSWERS_AT_ONCE = 16  # written together when the result is measured; the first ones are shown


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(ParameterSettings):
    """Learning from the votes of an export without a reward model and without sampling."""

    model: dict[str, Any]  # the starting policy, which is also the reference
    data: str = "data"  # folder with data.jsonl and manifest.json
    epochs: int = 1
    batch_size: int = 8  # pairs per optimiser step
    micro_batch_size: int = 4  # of them, per forward and backward
    learning_rate: float = 5e-5  # LoRA needs about 10x the rate of full fine-tuning
    warmup_steps: float = 0.1  # share of the optimiser steps; then linear to 0
    max_grad_norm: float = 1.0
    beta: float = 0.1  # the higher, the nearer it stays to the reference
    max_tokens: int = 1024  # prompt + completion; longer pairs are left out and counted
    min_pairs: int = 20  # to learn from, decided and short enough; with fewer it does not start
    samples: int = 64  # answers that measure the KL; the first ones are shown
    max_new_tokens: int = 64  # of those
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "epochs", "batch_size", "micro_batch_size", "max_tokens", "min_pairs", "samples",
            "max_new_tokens",
        ):  # fmt: skip
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        _require(
            self.batch_size % self.micro_batch_size == 0,
            f"micro_batch_size={self.micro_batch_size} must divide batch_size={self.batch_size}",
        )
        for name in ("beta", "temperature", "max_grad_norm"):
            value = getattr(self, name)
            _require(value > 0, f"{name}={value} must be above 0")
        rate, warmup = self.learning_rate, self.warmup_steps
        _require(0 < rate < 1, f"learning_rate={rate} must be between 0 and 1")
        _require(
            0 <= warmup <= 1, f"warmup_steps={warmup} is a share of the optimiser steps: 0 to 1"
        )
        _require(
            self.anchor != "kl",
            "anchor='kl' is for runs that have no KL of their own: here beta holds the policy near "
            "the reference",
        )


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PreferenceConfig):
    """Direct preference optimisation, Rafailov et al. 2023; of TRL's losses those for pairs."""

    loss: str = "sigmoid"
    label_smoothing: float = 0.0  # for "robust": how often a vote is the wrong way round
    votes: str = "majority"  # a pair as most say it; or "each" vote as a pair of its own

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.loss in DPO_LOSSES, f"loss={self.loss!r} must be one of {DPO_LOSSES}")
        _require(self.votes in VOTES, f"votes={self.votes!r} must be one of {VOTES}")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 0.5, f"label_smoothing={smoothing} must be in [0, 0.5)")
        _require(
            smoothing == 0 or self.loss == "robust",
            f"label_smoothing={smoothing} is for loss='robust': {self.loss!r} does not use it",
        )


@dataclass(frozen=True, kw_only=True)
class KTOConfig(PreferenceConfig):
    """Kahneman-Tversky optimisation, Ethayarajh et al. 2024: answers that are good or bad, each alone."""

    loss: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.loss in KTO_LOSSES, f"loss={self.loss!r} must be one of {KTO_LOSSES}")
        _require(
            self.loss != "kto" or self.micro_batch_size >= 2,
            "micro_batch_size=1 is too small for KTO, whose KL is measured among the answers of a "
            "micro-batch: 2 at least",
        )
        for name in ("desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"{name}={value} must be at least 0")
