"""Which settings a search varies and which it fixes, in lines. Pure functions, no torch.

learning_rate = 1e-5 .. 1e-3 log      # a range; log: as many trials per factor as per factor
lora_rank in 4, 8, 16                 # a choice
epochs = 2                            # the same in every trial
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from rlhf.training.config_base import Config

# Texts that name files and folders of a run, which the launch fills in.
FILES = (
    "accelerate_config",
    "base",
    "data",
    "held_out",
    "model",
    "output",
    "prompts",
    "reward_model",
)
MOST = 2**53  # beyond, not every whole number is a float, in which samplers compute
HOW_TO = "write NAME = LOW .. HIGH, NAME = LOW .. HIGH log, NAME in A, B, C or NAME = VALUE"


class Range(NamedTuple):
    """Any number from `low` to `high`; whole ones if these two are."""

    name: str
    low: float
    high: float
    is_log: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        return value is not None and self.low <= value <= self.high


class Choice(NamedTuple):
    """One of these values; of a single one, always that."""

    name: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    def holds(self, value: Any) -> bool:
        return value in self.values


Dimension = Range | Choice
Types = Mapping[str, tuple[type, ...]]  # {"lora_rank": (int,), "target_kl": (float, NoneType)}


def types_of(config: type[Config]) -> dict[str, tuple[type, ...]]:
    """The settings that can be varied, each a single value: no lists, models, files."""
    hints = get_type_hints(config)
    found = {field.name: hints[field.name] for field in fields(config)}  # type: ignore[arg-type]
    types = {name: get_args(hint) or (hint,) for name, hint in found.items()}
    single = {bool, int, float, str, NoneType}
    return {
        name: allowed
        for name, allowed in types.items()
        if set(allowed) <= single and name not in FILES
    }


def usual_of(config: type[Config]) -> dict[str, Any]:
    """What the settings that can be varied are if nobody says anything, in the order of the configuration."""
    defaults = {field.name: field.default for field in fields(config)}  # type: ignore[arg-type]
    return {name: defaults[name] for name in types_of(config)}


# --- lines to dimensions ----------------------------------------------------------------------
def parse_space(text: str, types: Types) -> list[Dimension]:
    """One dimension per line that is not empty. Raises ValueError that names the line.

    Example: "lora_rank in 4, 8" -> [Choice("lora_rank", (4, 8))]
    """
    space: list[Dimension] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (stripped := line.partition("#")[0].strip()):
            continue
        try:
            found = _parse_line(stripped, types)
            if found.name in (each.name for each in space):
                raise ValueError(f"{found.name} is given twice")
        except ValueError as error:
            raise ValueError(f"line {number} of the space: {error}") from None
        space.append(found)
    if not varied(space):
        raise ValueError(f"nothing varies in the space: {HOW_TO}")
    return space


def varied(space: Sequence[Dimension]) -> list[Dimension]:
    return [each for each in space if isinstance(each, Range) or len(each.values) > 1]


def fixed(space: Sequence[Dimension]) -> dict[str, Any]:
    """Example: "epochs = 2" -> {"epochs": 2}"""
    return {
        each.name: each.values[0]
        for each in space
        if isinstance(each, Choice) and len(each.values) == 1
    }


def _parse_line(line: str, types: Types) -> Dimension:
    parts = re.fullmatch(r"(\w+)\s*(=|\bin\b)\s*(.+)", line)
    if parts is None:
        raise ValueError(f"“{line}” is no setting: {HOW_TO}")
    name, sign, rest = parts.groups()
    if name not in types:
        raise ValueError(
            f"there is no setting {name!r} to vary; there are {', '.join(sorted(types))}"
        )
    if sign == "in":
        return _choice(name, rest, types[name])
    if ".." in rest:
        return _range(name, rest, types[name])
    return Choice(name, (_value(name, rest, types[name]),))


def _choice(name: str, rest: str, types: tuple[type, ...]) -> Choice:
    values = tuple(_value(name, word.strip(), types) for word in rest.split(","))
    if len(set(values)) < len(values):
        raise ValueError(f"{name} has a value twice: {rest}")
    return Choice(name, values)


def _range(name: str, rest: str, types: tuple[type, ...]) -> Range:
    if not {int, float} & set(types):
        raise ValueError(f"{name} is no number: write {name} in A, B")
    words, log = re.subn(r"\s+log$", "", rest)
    numbers = tuple(kind for kind in types if kind is not NoneType)
    low, high = (_value(name, word.strip(), numbers) for word in words.split("..", 1))
    if not low < high:
        raise ValueError(f"{name} = {rest}: the first number must be below the second")
    if log and low <= 0:
        raise ValueError(f"{name} = {rest}: a range with log must begin above 0")
    return Range(name, low, high, bool(log))


def _value(name: str, word: str, types: tuple[type, ...]) -> Any:
    if NoneType in types and word == "none":
        return None
    kind = next(kind for kind in types if kind is not NoneType)
    if kind is str and word:
        return word
    if kind is bool and word in ("true", "false"):
        return word == "true"
    try:
        value = kind(word) if kind in (int, float) else None
    except ValueError:
        value = None
    if isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{name} must be a whole number between -{MOST} and {MOST}")
    if value is None or not math.isfinite(value):
        raise ValueError(f"{name} must be {in_words(types)}, not {word!r}")
    return value


def in_words(types: tuple[type, ...]) -> str:
    """Example: (int, NoneType) -> "a whole number or none"."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    kind = next(kind for kind in types if kind is not NoneType)
    return f"{words[kind]} or none" if NoneType in types else words[kind]


# --- and back ---------------------------------------------------------------------------------
def format_space(space: Sequence[Dimension]) -> str:
    """What `parse_space` reads."""
    return "\n".join(_format_line(each) for each in space)


def _format_line(dimension: Dimension) -> str:
    if isinstance(dimension, Range):
        log = " log" if dimension.is_log else ""
        return f"{dimension.name} = {dimension.low!r} .. {dimension.high!r}{log}"
    words = [format_value(value) for value in dimension.values]
    if len(words) == 1:
        return f"{dimension.name} = {words[0]}"
    return f"{dimension.name} in {', '.join(words)}"


def format_value(value: Any) -> str:
    """Example: None -> "none", True -> "true", 1e-05 -> "1e-05"."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)
