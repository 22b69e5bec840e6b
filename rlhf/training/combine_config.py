"""What the run *combine adapters* is told, and how parts are written: a weight and a name per line.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.training.config_base import LONGEST_NAME, Config, _require, is_one_line

# peft's own, by its names: see docs/parameters.md for what each does and who published it.
WAYS = (
    "cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties",
    "dare_ties_svd", "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
Part = dict[str, Any]  # {"version": name, "weight": 0.5, "adapters": [folder, …]}
MOST_PARTS = 16


@dataclass(frozen=True)
class CombineConfig(Config):
    model: dict[str, Any]  # a ModelRef: the base of all parts
    parts: list[Part]
    way: str = "cat"  # how the parts become one
    rank: int | None = None  # of the result, for the ways by SVD; None: the largest of the parts
    density: float = 0.5  # share of numbers that pruning keeps
    name: str = ""  # of the new version; empty: by its run
    seed: int = 0  # of what DARE drops

    def __post_init__(self) -> None:
        _require(
            is_one_line(self.name, LONGEST_NAME),
            f"name={self.name!r} must be one line of at most {LONGEST_NAME} characters",
        )
        _require(self.way in WAYS, f"way={self.way!r} must be one of {WAYS}")
        check_parts(self.parts)
        rank = self.rank
        _require(rank is None or rank >= 1, f"rank={rank} must be at least 1, or None")
        _require(
            rank is None or self.way.endswith("svd"),
            f"rank={rank} is for the ways by SVD; way={self.way!r} has a rank of its own",
        )
        _require(0 < self.density <= 1, f"density={self.density} must be in (0, 1]")


def check_parts(parts: Sequence[Part]) -> None:
    _require(bool(parts), "there is nothing to combine: name the policies and their weights")
    _require(len(parts) <= MOST_PARTS, f"{len(parts)} parts are more than {MOST_PARTS}")
    names = [part["version"] for part in parts]
    for name in names:
        _require(names.count(name) == 1, f"{name} stands there twice: add its weights up")
    _require(any(part["weight"] for part in parts), "all weights are 0, which leaves the base")


def parse_parts(text: str) -> list[Part]:
    """One part per line that is not empty. Raises ValueError with the line's number.

    Example: "0.7 policy-r1-v3" -> [{"version": "policy-r1-v3", "weight": 0.7}]
    """
    parts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        weight, _, name = line.strip().partition(" ")
        parts.append({"version": name.strip(), "weight": _weight(weight, number)})
        _require(bool(name.strip()), f"line {number}: {line.strip()!r} names no policy")
    check_parts(parts)
    return parts


def _weight(text: str, number: int) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    _require(
        math.isfinite(weight),
        f"line {number} begins with {text!r}, which is no number: write a weight, a space and a name",
    )
    return weight


def format_parts(parts: Sequence[Part]) -> str:
    """What `parse_parts` reads."""
    return "\n".join(f"{part['weight']:g} {part['version']}" for part in parts)
