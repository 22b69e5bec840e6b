"""What more data would bring, as a run's page shows it: the points, the law through them, its band.

The numbers are from rlhf/training/forecast.py, and lie in the run's result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf.models import Run, RunKind
from rlhf.searching import TrialRun
from rlhf.templatetags.quantities import percent, significant

LEFT, RIGHT, TOP, BOTTOM = 44.0, 338.0, 10.0, 198.0  # of the area for values, in 360 x 240
N_Y_TICKS = 4
SURE = 1.96  # standard errors


class Tick(NamedTuple):
    at: str  # coordinate
    label: str


class Dot(NamedTuple):
    x: str
    y: str
    low: str
    high: str


class CurveRow(NamedTuple):
    """A line of the table beside the picture."""

    label: str  # "25 %", or "4 times as many"
    size: float
    value: str
    low: str
    high: str
    is_forecast: bool


class LearningCurve(NamedTuple):
    title: str
    unit: str  # of the size: "rows" or "votes"
    dots: list[Dot]
    line: str  # points of the law; empty if there is none
    band: str  # polygon of its interval
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    rows: list[CurveRow]
    reason: str  # why there is no forecast
    sentence: str  # what the forecast says


class Point(NamedTuple):
    size: float
    value: float
    low: float
    high: float


def curve_of(run: Run | TrialRun) -> LearningCurve | None:
    """None if the run was not asked for one, or nothing was held out to measure it by."""
    points = _points(run)
    if len(points) < 2:
        return None
    law = run.result.get("forecast") or {"reason": ""}
    is_loss = run.kind != RunKind.REWARD_MODEL
    line = [_point(each) for each in law.get("line", [])]
    ahead = [(each["factor"], _point(each)) for each in law.get("ahead", [])]
    axes = _Axes([point for _, point in points] + line)
    show = significant if is_loss else percent
    unit = "rows" if is_loss else "votes"
    rows = [
        CurveRow(label, p.size, show(p.value), show(p.low), show(p.high), False)
        for label, p in points
    ]
    rows += [
        CurveRow(f"{factor} times as many", p.size, show(p.value), show(p.low), show(p.high), True)
        for factor, p in ahead
    ]
    return LearningCurve(
        title=f"Held-out {'loss' if is_loss else 'accuracy'} by {unit} learnt from",
        unit=unit,
        dots=[Dot(axes.x(p.size), axes.y(p.value), axes.y(p.low), axes.y(p.high)) for _, p in points],
        line=" ".join(f"{axes.x(p.size)},{axes.y(p.value)}" for p in line),
        band=" ".join(
            [f"{axes.x(p.size)},{axes.y(p.high)}" for p in line]
            + [f"{axes.x(p.size)},{axes.y(p.low)}" for p in reversed(line)]
        ),
        x_ticks=[Tick(axes.x(size), f"{size:,.0f}") for size in axes.sizes()],
        y_ticks=[Tick(axes.y(value), show(value)) for value in axes.values()],
        rows=rows,
        reason=law.get("reason", ""),
        sentence=_sentence(points[-1][1], ahead, unit, is_loss=is_loss),
    )  # fmt: skip


def _points(run: Run | TrialRun) -> list[tuple[str, Point]]:
    found = []
    for each in run.result.get("learning_curve") or []:
        label = percent(each["share"])
        off = SURE * (each.get("standard_error") or 0.0)
        if "loss" in each:
            point = Point(each["n_rows"], each["loss"], each["loss"] - off, each["loss"] + off)
        elif each["accuracy"] is None:
            continue
        elif "standard_error" in each:
            low, high = max(each["accuracy"] - off, 0.0), min(each["accuracy"] + off, 1.0)
            point = Point(each["n_votes"], each["accuracy"], low, high)
        else:  # of before the errors of the course were known
            point = Point(
                each["n_votes"], each["accuracy"], each["accuracy_low"], each["accuracy_high"]
            )
        found.append((label, point))
    return found


def _point(point: Mapping[str, float]) -> Point:
    return Point(point["size"], point["value"], point["low"], point["high"])


def _sentence(last: Point, ahead: Sequence[tuple[int, Point]], unit: str, *, is_loss: bool) -> str:
    if not ahead:
        return ""
    factor, point = ahead[0]
    what = "loss" if is_loss else "accuracy"
    show = significant if is_loss else percent
    says = (
        f"With {factor} times as many {unit}, a held-out {what} of {show(point.low)} to "
        f"{show(point.high)} is to be expected, after {show(last.value)} now."
    )
    has_gain = point.high < last.value if is_loss else point.low > last.value
    return says if has_gain else f"{says} It may be that nothing is gained."


class _Axes:
    """Sizes on a logarithmic scale, values on a linear one that holds all of them."""

    def __init__(self, points: Sequence[Point]) -> None:
        sizes = [max(point.size, 1.0) for point in points]
        self.first, self.last = min(sizes), max(max(sizes), min(sizes) * 1.01)
        low, high = min(p.low for p in points), max(p.high for p in points)
        margin = 0.05 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def x(self, size: float) -> str:
        share = math.log(max(size, 1.0) / self.first) / math.log(self.last / self.first)
        return f"{LEFT + share * (RIGHT - LEFT):.1f}"

    def y(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{BOTTOM - share * (BOTTOM - TOP):.1f}"

    def sizes(self) -> list[float]:
        """Four of them, evenly spaced in the picture."""
        ratio = self.last / self.first
        return [round(self.first * ratio ** (n / 3)) for n in range(4)]

    def values(self) -> list[float]:
        step = (self.high - self.low) / N_Y_TICKS
        return [self.low + step * (n + 0.5) for n in range(N_Y_TICKS)]
