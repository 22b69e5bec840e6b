"""The answers that a PPO run learned from, as its folder keeps them: found, sorted, paged.

    rollouts/step-00007.jsonl   {"id": prompt, "completion", "score", "kl", "n_tokens", …} a line

Nothing is indexed: one pass over the files of the steps asked for keeps a few numbers of each
line, and only the texts of the page that is shown are read again. For 32,000 answers that is a
third of a second; an index would have to be kept true while a run goes on and when it is resumed.
Runs that did not report length and repetition have None for them, and so has the disagreement of a
reward model that has one member.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.alarms import FIRST_STEPS, KL_YELLOW
from rlhf.events import NO_NAN

SUSPICIOUS_LENGTH = 2.0  # times the first steps' mean
SUSPICIOUS_REPETITION = 0.3

ORDERS = {
    "newest": "Newest first",
    "score-high": "Highest score",
    "score-low": "Lowest score",
    "kl-high": "Highest KL",
    "kl-low": "Lowest KL",
    "n_tokens-high": "Longest",
    "n_tokens-low": "Shortest",
    "repetition-high": "Most repetition",
    "disagreement-high": "Members disagree most",
}


class Line(NamedTuple):
    """The numbers of one answer, and where its text is."""

    step: int
    place: int  # in the step's file
    prompt: Any  # its id
    score: float | None
    kl: float | None
    n_tokens: int | None
    repetition: float | None
    disagreement: float | None
    truncated: bool
    is_suspicious: bool


class Found(NamedTuple):
    """A line with its texts."""

    line: Line
    messages: list[dict[str, str]]  # of the prompt; empty if it is not known any more
    completion: str

    @property
    def prompt(self) -> str:
        return as_text(self.messages)


def as_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as one text; who speaks is said only where there are several turns."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(
        f"{message['role'].capitalize()}: {message['content']}" for message in messages
    )


class Baseline(NamedTuple):
    """What a run's answers were like in its first steps."""

    score: float  # its 75th percentile
    n_tokens: float  # its mean


@dataclass(frozen=True)
class Choice:
    """Which answers are asked for. `text` is looked for in prompt and answer, in any case."""

    first: int | None = None  # steps
    last: int | None = None
    order: str = "newest"
    text: str = ""
    suspicious: bool = False


# --- files ------------------------------------------------------------------------------------
def steps_of(folder: Path) -> dict[int, Path]:
    """The files of a run's rollouts by step, ascending."""
    files = sorted((folder / "rollouts").glob("step-*.jsonl"))
    return {int(file.stem.removeprefix("step-")): file for file in files}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a step. One that is being written at the moment is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(NO_NAN.decode(line))
        except ValueError:
            continue
    return rows


def read_prompts(folder: Path) -> Iterator[tuple[Any, list[dict[str, str]]]]:
    """Id and messages of each prompt, one at a time: a run may have been given 100 MB of them."""
    try:
        with (folder / "prompts.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                yield row["id"], row["messages"]
    except FileNotFoundError:
        return


# --- what is suspicious -----------------------------------------------------------------------
def baseline_of(files: Iterable[Path]) -> Baseline:
    """Of the first steps' files; infinite where nothing is known, so that nothing exceeds it.

    The 75th percentile of n scores is the one at place ⌈0.75·n⌉ of the sorted ones.
    """
    rows = [row for file in files for row in read_rows(file)]
    scores = sorted(row["score"] for row in rows if row.get("score") is not None)
    lengths = [row["n_tokens"] for row in rows if row.get("n_tokens") is not None]
    return Baseline(
        score=scores[math.ceil(0.75 * len(scores)) - 1] if scores else math.inf,
        n_tokens=sum(lengths) / len(lengths) if lengths else math.inf,
    )


def is_suspicious(row: dict[str, Any], baseline: Baseline) -> bool:
    """The score is high for this run, and KL, length or repetition runs away."""

    def exceeds(name: str, limit: float) -> bool:
        value = row.get(name)
        return value is not None and value > limit

    return exceeds("score", baseline.score) and (
        exceeds("kl", KL_YELLOW)
        or exceeds("n_tokens", SUSPICIOUS_LENGTH * baseline.n_tokens)
        or exceeds("repetition", SUSPICIOUS_REPETITION)
    )


def suspicion_in_words() -> str:
    return (
        f"Suspicious is an answer whose score is above the 75th percentile of the first "
        f"{FIRST_STEPS} steps while its KL is above {KL_YELLOW:g} nats, or it is more than "
        f"{SUSPICIOUS_LENGTH:g} times as long as those steps' mean, or more than "
        f"{SUSPICIOUS_REPETITION:.0%} of its runs of three tokens are repeated."
    )


# --- finding ----------------------------------------------------------------------------------
def find_lines(folder: Path, choice: Choice) -> list[Line]:
    """The lines that fit, in the order asked for."""
    files = steps_of(folder)
    baseline = baseline_of(list(files.values())[:FIRST_STEPS])
    fits = _text_filter(folder, choice.text)
    lines = []
    for step, file in files.items():
        if (choice.first or 0) <= step <= (choice.last or math.inf):
            for place, row in enumerate(read_rows(file)):
                line = _line(step, place, row, baseline)
                if (line.is_suspicious or not choice.suspicious) and fits(row):
                    lines.append(line)
    return _sorted(lines, choice.order)


def _text_filter(folder: Path, text: str) -> Callable[[dict[str, Any]], bool]:
    wanted = text.casefold()
    if not wanted:
        return lambda row: True
    prompts = {
        key
        for key, messages in read_prompts(folder)
        if any(wanted in message["content"].casefold() for message in messages)
    }
    return lambda row: row["id"] in prompts or wanted in row["completion"].casefold()


def _line(step: int, place: int, row: dict[str, Any], baseline: Baseline) -> Line:
    return Line(
        step,
        place,
        row["id"],
        row.get("score"),
        row.get("kl"),
        row.get("n_tokens"),
        row.get("repetition"),
        row.get("disagreement"),
        bool(row.get("truncated")),
        is_suspicious(row, baseline),
    )


def _sorted(lines: list[Line], order: str) -> list[Line]:
    """By a number, high or low first and unknown ones last; else the newest step first."""
    lines.sort(key=lambda line: (-line.step, line.place))
    name, _, direction = order.partition("-")
    if order == "newest":
        return lines
    sign = -1 if direction == "high" else 1

    def key(line: Line) -> float:
        value = getattr(line, name)
        return math.inf if value is None else sign * value

    return sorted(lines, key=key)


def read_answers(folder: Path, lines: Iterable[Line]) -> Iterator[Found]:
    """The texts of these lines: of a page, so that few files are opened."""
    lines = list(lines)
    files = steps_of(folder)
    asked = {line.prompt for line in lines}
    prompts = {key: messages for key, messages in read_prompts(folder) if key in asked}
    rows: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line.step not in rows:
            rows[line.step] = read_rows(files[line.step])
        if line.place < len(rows[line.step]):  # a resumed run may write the step again just now
            text = rows[line.step][line.place]["completion"]
            yield Found(line, prompts.get(line.prompt, []), text)
