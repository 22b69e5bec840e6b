"""What a distillation has written, as a dataset; and how its page shows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from annotator.models import Project, Split, User
from rlhf.dataset_reading import key_of
from rlhf.datasets import Row, create_dataset
from rlhf.generation import read_lines
from rlhf.models import Dataset, DatasetKind, Run
from rlhf.training.demonstrations import HELD_OUT_PERCENT

TEACHER, REHEARSAL = "teacher", "rehearsal"  # sources of rows


def store_demonstrations(run: Run) -> dict[str, Any]:
    """A dataset of the run's rows, each with who wrote it."""
    name = f"distilled-r{run.round_number}-v{run.pk}"
    best_of = run.config["completions_per_prompt"]
    own = f", with rehearsal by {run.rival}" if run.result.get("n_rehearsal") else ""
    dataset = _dataset_of(run, run.folder, name, best_of, str(run), own, run.created_by, {})
    return {"dataset": dataset.pk}


def dataset_of_trial(
    run: Run, number: int, folder: Path, best_of: int, user: User | None, values: dict[str, Any]
) -> Dataset:
    """The same of what a trial of a search has written; `values` are those of the settings that vary."""
    name = f"distilled-r{run.round_number}-v{run.pk}-t{number + 1}"
    details = {"trial": number, **values}
    said = f"{run}, trial {number + 1}"
    return _dataset_of(run, folder, name, best_of, said, "", user, details)


def _dataset_of(
    run: Run, folder: Path, name: str, best_of: int, said: str, own: str, user: User | None,
    details: dict[str, Any],
) -> Dataset:  # fmt: skip
    picked = f"the best of {best_of} answers of" if best_of > 1 else "answers of"
    path = folder / "artifact" / "data.jsonl"
    held_out = _held_out_in(path)
    n_held_out = sum(_key(row) in held_out for row in read_lines(path))
    return create_dataset(
        run.project,
        unused_name(run.project, name),
        DatasetKind.DEMONSTRATIONS,
        _rows(run, path, held_out),
        origin=f"{said}: {picked} {run.policy}{own}"[:300],
        details={
            "teacher": str(run.policy),
            "best_of": best_of,
            "held_out_rows": n_held_out,
            **details,
        },
        user=user,
        run=run,
    )


def _rows(run: Run, path: Path, held_out: set[str]) -> Iterator[Row]:
    names = {TEACHER: str(run.policy), REHEARSAL: str(run.rival)}
    for row in read_lines(path):
        split = Split.TEST if _key(row) in held_out else Split.TRAIN
        yield {**row, "written_by": names[row["source"]], "split": str(split)}


def _key(row: Row) -> str:
    return key_of(row["messages"])


# --- what is held out -------------------------------------------------------------------------
def _held_out_in(path: Path) -> set[str]:
    """Keys of the prompts whose rows nothing is to learn from."""
    keys = defaultdict[str, set[str]](set)
    for row in read_lines(path):
        keys[row["source"]].add(_key(row))
    return held_out_of(keys[TEACHER], keys[REHEARSAL])


def held_out_of(taught: set[str], rehearsed: set[str]) -> set[str]:
    """About a tenth of the prompts, the same ones whatever the others are. Where there are two, some are
    held out, of the teacher's if these are two, and some are not."""
    n = len(taught)
    of_teacher = _lowest(taught, least=min(1, n - 1), most=n - 1)
    return of_teacher | _lowest(rehearsed, least=0 if of_teacher else 1, most=len(rehearsed))


def _lowest(keys: Iterable[str], *, least: int, most: int) -> set[str]:
    """Of the keys those that are held out, or more or fewer of the nearest."""
    ordered = sorted(keys, key=_place_of)
    n = sum(_place_of(key) < HELD_OUT_PERCENT / 100 for key in ordered)
    return set(ordered[: max(least, min(n, most))])


def _place_of(key: str) -> float:
    """From 0 to 1, by other digits than those that make a prompt of the project one for training
    (`Project.split_of`): by these all that is taught lies on one side."""
    return int(key[8:16], 16) / 16**8


def unused_name(project: Project, name: str) -> str:
    """The name itself, or with -2, -3, … where the project has a dataset of that name."""
    taken = set(project.datasets.filter(name__startswith=name).values_list("name", flat=True))
    names = (name if n == 1 else f"{name}-{n}" for n in count(1))
    return next(each for each in names if each not in taken)


class Demonstration(NamedTuple):
    prompt: list[dict[str, str]]
    answer: str
    source: str
    written_by: str
    score: float | None
    mean_score: float | None  # of all answers to the prompt
    best_of: int


ORDERS = {"written": "As written", "lowest": "Lowest score first", "highest": "Highest score first"}


def demonstrations_of(dataset: Dataset, *, source: str = "", order: str = "written") -> list[Row]:
    """The rows of a source, or of both; those without a score last, unless they are as written."""
    rows = [row for row in read_lines(dataset.data) if source in ("", row["source"])]
    if order == "written":
        return rows
    sign = 1 if order == "lowest" else -1
    scored = [row for row in rows if row.get("score") is not None]
    others = [row for row in rows if row.get("score") is None]
    return [*sorted(scored, key=lambda row: sign * row["score"]), *others]


def demonstration(row: Row) -> Demonstration:
    *prompt, answer = row["messages"]
    return Demonstration(
        prompt,
        answer["content"],
        row["source"],
        row["written_by"],
        row.get("score"),
        row.get("mean_score"),
        row.get("best_of", 1),
    )


# --- the histogram ----------------------------------------------------------------------------
class Bar(NamedTuple):
    x: str  # coordinates in a picture of WIDTH x HEIGHT
    y: str
    width: str
    height: str
    title: str


class Histogram(NamedTuple):
    every: list[Bar]  # answers of the teacher
    chosen: list[Bar]  # those that were picked
    low: float
    high: float


WIDTH, HEIGHT, GAP = 400, 140, 2


def histogram_of(run: Run) -> Histogram | None:
    """None where nothing was scored."""
    found = run.result.get("scores")
    if not found:
        return None
    counts, low, high = found["counts"], found["low"], found["high"]
    most = max(counts["all"])
    bars = {name: list(_bars(of_name, most, low, high)) for name, of_name in counts.items()}
    return Histogram(bars["all"], bars["chosen"], low, high)


def _bars(counts: list[int], most: int, low: float, high: float) -> Iterator[Bar]:
    step, width = (high - low) / len(counts), WIDTH / len(counts)
    for place, n in enumerate(counts):
        height = HEIGHT * n / most
        title = f"{low + place * step:.2f} to {low + (place + 1) * step:.2f}: {n:,}"
        yield Bar(
            f"{place * width:.1f}",
            f"{HEIGHT - height:.1f}",
            f"{width - GAP:.1f}",
            f"{height:.1f}",
            title,
        )
