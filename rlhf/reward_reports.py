"""The report of a reward model as its page shows it: sentences, two diagrams, the worst mistakes.

What is in `result["report"]` comes from rlhf/training/reward_report.py. Runs from before there was
one have none. Diagrams are drawn here, as coordinates for an SVG, so that they need no script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.learning_curves import curve_of
from rlhf.models import Run
from rlhf.rollouts import as_text
from rlhf.searching import TrialRun
from rlhf.templatetags.quantities import decimals, percent

Rate = Mapping[str, Any]  # n, value, low, high; the last three None where n is 0

AGREEMENT = {
    "unanimous": "All votes agree (two or more)",
    "most": "At least two thirds agree",
    "split": "Fewer than two thirds agree",
    "single": "A single vote",
}


def report_of(run: Run | TrialRun) -> dict[str, Any] | None:
    return run.result.get("report")


# --- in words ---------------------------------------------------------------------------------
def summary(run: Run | TrialRun) -> str:
    """The sentence that somebody needs first; empty for a run without a report."""
    report = report_of(run)
    if report is None:
        return ""
    accuracy, people = report["accuracy"], report["people"]
    if not accuracy["n"]:
        return (
            "No pair that people decided was held out, so nobody knows how often it agrees with "
            "them: judge comparisons of more prompts."
        )
    pairs = "1 held-out pair" if accuracy["n"] == 1 else f"{accuracy['n']:,} held-out pairs"
    among = (
        "how often people agree among themselves is not known"
        if people["value"] is None
        else f"people agree among themselves in {percent(people['value'])}"
    )
    return (
        f"On {pairs} it agrees with people in {in_words(accuracy)}; “the longer one wins” gets "
        f"{percent(report['longer']['value'])}; {among}."
    )


def in_words(rate: Rate) -> str:
    """Example: "66 % (53 to 76 %)"."""
    return f"{percent(rate['value'])} ({100 * rate['low']:.0f} to {percent(rate['high'])})"


def cautions(report: Mapping[str, Any]) -> list[str]:
    """What forbids to believe the accuracy, one sentence each."""
    accuracy, longer = report["accuracy"], report["longer"]["value"]
    if accuracy["value"] is None:
        return []
    found = []
    if accuracy["low"] <= 0.5:
        found.append(
            "It may be no better than a coin toss: the interval of its accuracy reaches down to "
            f"{percent(accuracy['low'])}."
        )
    by_length = max(longer, 1 - longer)
    if 0.5 < accuracy["low"] <= by_length:
        name = "longer" if longer > 0.5 else "shorter"
        found.append(
            f"It is not proven to be better than length alone: “the {name} one wins” gets "
            f"{percent(by_length)} on the same pairs."
        )
    if n := report.get("duplicates", {}).get("same_prompt"):
        found.append(
            f"{n:,} held-out pair{'s have' if n > 1 else ' has'} a prompt that it has learnt from, "
            "so that its accuracy on new prompts may be lower."
        )
    return found


def verdict_on_temperature(temperature: float | None) -> str:
    """Example: 1.8 -> "It is surer than it should be"."""
    if temperature is None:
        return ""
    if temperature > 1.1:
        return "it is surer than it should be"
    if temperature < 0.9:
        return "it could be surer than it is"
    return "it is about as sure as it should be"


# --- diagrams ---------------------------------------------------------------------------------
WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 338, 10, 198  # of the area for values; outside stand the labels


class Tick(NamedTuple):
    at: str  # coordinate
    label: str


class Dot(NamedTuple):
    x: str
    y: str
    low: str  # ends of its interval
    high: str


class Diagram(NamedTuple):
    """Coordinates of an SVG of WIDTH x HEIGHT. A value of 0 to 1 is up, as a share."""

    title: str
    dots: list[Dot]
    reference: str  # points of the line to compare with
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str

    @property
    def line(self) -> str:
        return " ".join(f"{dot.x},{dot.y}" for dot in self.dots)


class Axis(NamedTuple):
    low: float
    high: float

    def place(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{LEFT + share * (RIGHT - LEFT):.1f}"


def height_of(share: float) -> str:
    return f"{BOTTOM - share * (BOTTOM - TOP):.1f}"


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> Diagram | None:
    """What it predicted against what people did; None without bins."""
    if not bins:
        return None
    axis = Axis(0.5, 1.0)
    points = [(each["predicted"], each["observed"], each["low"], each["high"]) for each in bins]
    return Diagram(
        title="Predicted and observed share of votes",
        dots=_dots(axis, points),
        reference=_line(axis, (0.5, 0.5), (1.0, 1.0)),
        x_ticks=[Tick(axis.place(x / 10), f"{10 * x} %") for x in range(5, 11)],
        y_ticks=_shares(),
        x_title="predicted share of votes for the answer it prefers",
    )


def learning_diagram(curve: Sequence[Mapping[str, Any]]) -> Diagram | None:
    """Held-out accuracy against votes learnt from; None if it is known of fewer than two points."""
    points = [
        (each["n_votes"], each["accuracy"], each["accuracy_low"], each["accuracy_high"])
        for each in curve
        if each["accuracy"] is not None
    ]
    if len(points) < 2:
        return None
    axis = Axis(0, max(n for n, *_ in points))
    return Diagram(
        title="Accuracy on held-out pairs by votes learnt from",
        dots=_dots(axis, points),
        reference=_line(axis, (0, 0.5), (axis.high, 0.5)),
        x_ticks=[
            Tick(axis.place(n), f"{n:,}") for n in _apart([0, *(n for n, *_ in points)], axis)
        ],
        y_ticks=_shares(),
        x_title="votes learnt from",
    )


def _dots(axis: Axis, points: Iterable[tuple[float, float, float, float]]) -> list[Dot]:
    return [
        Dot(axis.place(x), height_of(y), height_of(low), height_of(high))
        for x, y, low, high in points
    ]


def _line(axis: Axis, *points: tuple[float, float]) -> str:
    return " ".join(f"{axis.place(x)},{height_of(y)}" for x, y in points)


def _shares() -> list[Tick]:
    return [Tick(height_of(y / 4), f"{25 * y} %") for y in range(5)]


def _apart(numbers: Sequence[int], axis: Axis) -> list[int]:
    """From the largest down, without those whose label would run into the next one's."""
    kept: list[int] = []
    for n in reversed(numbers):
        if not kept or kept[-1] - n >= 0.12 * (axis.high - axis.low):
            kept.append(n)
    return kept[::-1]


# --- texts ------------------------------------------------------------------------------------
class Mistake(NamedTuple):
    """A held-out pair that it orders against the people, with its texts."""

    prompt: str
    chosen: str
    rejected: str
    chosen_tokens: int
    rejected_tokens: int
    difference: float  # score of the rejected one less that of the chosen one
    votes: str


def mistakes_of(run: Run | TrialRun) -> list[Mistake]:
    """Those of the report whose texts the run's folder still has, the worst first."""
    found = (report_of(run) or {}).get("mistakes", [])
    rows = held_out_rows(run.folder / "data" / "data.jsonl", {each["place"] for each in found})
    return [_mistake(each, rows[each["place"]]) for each in found if each["place"] in rows]


def _mistake(found: Mapping[str, Any], row: Mapping[str, Any]) -> Mistake:
    chosen, rejected = (row[name][0]["content"] for name in ("chosen", "rejected"))
    p_chosen = row.get("p_chosen", 1.0)
    if p_chosen < 0.5:
        chosen, rejected, p_chosen = rejected, chosen, 1 - p_chosen
    return Mistake(
        as_text(row["prompt"]),
        chosen,
        rejected,
        found["chosen_tokens"],
        found["rejected_tokens"],
        -found["margin"],
        votes_in_words(p_chosen, row.get("n_judgments", 1)),
    )


def votes_in_words(p_chosen: float, n: int) -> str:
    """Example: 0.75, 4 -> "3 of 4 votes"; a tie is half a vote for either."""
    return f"{round(p_chosen * n, 1):g} of {n} vote{'' if n == 1 else 's'}"


def held_out_rows(path: Path, places: set[int]) -> dict[int, dict[str, Any]]:
    """The held-out rows of data.jsonl at these places; none if the file is gone."""
    try:
        with path.open(encoding="utf-8") as file:
            held_out = (row for row in map(json.loads, file) if row.get("split") == "test")
            return dict(_at(places, held_out))
    except (OSError, ValueError):
        return {}


def _at(places: set[int], rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    last = max(places, default=-1)
    for place, row in enumerate(rows):
        if place > last:
            return
        if place in places:
            yield place, row


# --- the page ---------------------------------------------------------------------------------
def page_of(run: Run | TrialRun) -> dict[str, Any]:
    """What the page shows of a run that has a report."""
    report = run.result["report"]
    curve = run.result.get("learning_curve") or []
    calibration = report["calibration"]
    return {
        "report": report,
        "ties": run.config.get("ties"),
        "summary": summary(run),
        "cautions": cautions(report),
        "agreement": [
            {**each, "label": AGREEMENT.get(each["level"], each["level"])}
            for each in report["by_agreement"]
        ],
        "margins": [
            {
                **each,
                "label": f"{decimals(each['margin_low'])} to {decimals(each['margin_high'])}",
            }
            for each in report["by_margin"]
        ],
        "lengths": [
            {**each, "label": f"The chosen one is {each['chosen']}"} for each in report["by_length"]
        ],
        "calibration": calibration,
        "is_sure": verdict_on_temperature(calibration["temperature"]),
        "reliability": reliability_diagram(calibration["bins"]),
        "curve": curve,
        "learning": learning_diagram(curve),
        "forecast": curve_of(run) if run.result.get("forecast") else None,
        "mistakes": mistakes_of(run),
        "duplicates": report.get("duplicates"),
        "split_prompts": run.result.get("split_prompts"),
        "group_tokens": run.config.get("micro_batch_tokens"),
        "has_uncompared_arms": run.result.get("has_arms") and run.result.get("arms") is None,
    }
