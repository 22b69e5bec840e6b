"""The trials of a search as parallel coordinates: an upright line per setting, a line across per trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf.searching import Row, Trials
from rlhf.training.search_space import Choice, Dimension, Range, format_value

TOP, BOTTOM, HEIGHT = 44, 224, 240
MARGIN, STEP = 70, 150  # from the edge to the first axis, and from one axis to the next


class Tick(NamedTuple):
    y: str  # coordinate
    label: str


class Axis(NamedTuple):
    x: str
    label: str
    ticks: list[Tick]


class Line(NamedTuple):
    points: str  # of an SVG polyline
    state: str  # "complete" or "pruned"
    is_best: bool
    title: str


class Picture(NamedTuple):
    width: int
    height: int
    axes: list[Axis]
    lines: list[Line]  # the best last, so that it lies above the others


def draw(trials: Trials, space: Sequence[Dimension]) -> Picture | None:
    """None while fewer than two trials have come to their end: there is nothing to compare."""
    values = [row.value for row in trials.rows if row.state == "complete" and row.value is not None]
    if len(values) < 2:
        return None
    best_is_low = trials.direction == "minimize"
    outcome = Range(trials.metric, min(values), max(values))
    axes = [_axis(number, dimension) for number, dimension in enumerate(space)]
    last = _axis(len(space), outcome)
    if best_is_low:  # the best is on top
        last = last._replace(
            ticks=[
                Tick(_y(1 - place), t.label)
                for place, t in zip((0.0, 1.0), last.ticks, strict=True)
            ]
        )
    drawn = [
        row for row in trials.rows if row.state in ("complete", "pruned") and row.value is not None
    ]
    lines = [_line(row, space, outcome, best_is_low) for row in drawn]
    lines.sort(key=lambda line: (line.is_best, line.state == "complete"))
    width = 2 * MARGIN + STEP * len(space)
    return Picture(width, HEIGHT, [*axes, last], lines)


def _axis(number: int, dimension: Dimension) -> Axis:
    places = dimension.values if isinstance(dimension, Choice) else dimension.ends
    ticks = [Tick(_y(place_of(dimension, value)), _label(value)) for value in places]
    return Axis(_x(number), dimension.name, ticks)


def _line(row: Row, space: Sequence[Dimension], outcome: Range, best_is_low: bool) -> Line:
    values: Mapping[str, Any] = row.values
    places = [place_of(each, values[each.name]) for each in space]
    assert row.value is not None
    at = min(1.0, max(0.0, place_of(outcome, row.value)))  # one that was ended early may lie beyond
    places.append(1 - at if best_is_low else at)
    points = " ".join(f"{_x(number)},{_y(place)}" for number, place in enumerate(places))
    settings = ", ".join(f"{each.name} {_label(values[each.name])}" for each in space)
    return Line(points, row.state, row.is_best, f"{row.name}: {settings}; {row.value:.4g}")


def place_of(dimension: Dimension, value: Any) -> float:
    """From 0, the lowest, to 1. Example: 1e-4 in 1e-5 .. 1e-3 log -> 0.5"""
    if isinstance(dimension, Choice):
        return dimension.values.index(value) / max(1, len(dimension.values) - 1)
    low, high = dimension.ends
    if dimension.is_log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def _x(number: int) -> str:
    return str(MARGIN + STEP * number)


def _y(place: float) -> str:
    return f"{BOTTOM - place * (BOTTOM - TOP):.1f}"


def _label(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)
