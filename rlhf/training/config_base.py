"""What all configurations of runs share, and what is checked of several. No torch here."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, ClassVar, Self


class Config:
    """Reading and writing that all run kinds share."""

    RETIRED: ClassVar[tuple[str, ...]] = ()  # settings of older versions, which mean nothing now

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        values = {name: value for name, value in values.items() if name not in cls.RETIRED}
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


LONGEST_NAME = 100  # of what a run makes
JOINERS = str.maketrans("", "", "\u200c\u200d")  # in words of Persian and Hindi, and in emoji


def is_one_line(name: str, longest: int) -> bool:
    """Whether a name holds no line end and no control character. Without any it is one, too."""
    return len(name) <= longest and name.translate(JOINERS).isprintable()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
