"""The confidence sequence of a gate as a picture: coordinates for an SVG, so that it needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlhf.reward_reports import LEFT, RIGHT, Axis, Tick, height_of
from rlhf.sequential import EVEN, Point


class SequenceChart(NamedTuple):
    """Of 360 x 240, as all diagrams. A win probability of 0 to 1 is up."""

    line: str  # points of the mean
    band: str  # corners of what is not excluded
    even: str  # height of one half
    wanted: str  # height of what was asked for
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    last: Point

    @property
    def left(self) -> int:
        return LEFT

    @property
    def right(self) -> int:
        return RIGHT


def chart_of(points: Sequence[Point], margin: float) -> SequenceChart | None:
    """None before there is a point. One point alone is drawn from the beginning on."""
    if not points:
        return None
    axis = Axis(0, points[-1].n)
    start = [Point(0, points[0].mean, 0.0, 1.0)]  # nothing is excluded yet
    drawn = [*start, *points]
    ceiling = [(axis.place(point.n), height_of(point.high)) for point in drawn]
    floor = [(axis.place(point.n), height_of(point.low)) for point in reversed(drawn)]
    return SequenceChart(
        line=" ".join(f"{axis.place(point.n)},{height_of(point.mean)}" for point in points),
        band=" ".join(f"{x},{y}" for x, y in [*ceiling, *floor]),
        even=height_of(EVEN),
        wanted=height_of(EVEN + margin),
        x_ticks=[Tick(axis.place(n), f"{n:,}") for n in _ticks(points[-1].n)],
        y_ticks=[Tick(height_of(share / 4), f"{25 * share} %") for share in range(5)],
        last=points[-1],
    )


def _ticks(n: int) -> list[int]:
    """Example: 203 -> [0, 51, 102, 152, 203]; 3 -> [0, 1, 2, 3]."""
    parts = min(n, 4)
    return [round(n * i / parts) for i in range(parts + 1)]
