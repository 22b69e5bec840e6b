"""What came of a search: its trials, and the best of them as a model version or, of distillations, a dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from django.db import transaction

from annotator.audit import Action, record
from annotator.models import User, canonical_key
from rlhf.collecting import unused_name
from rlhf.distilling import dataset_of_trial
from rlhf.models import Dataset, ModelKind, ModelVersion, Run, RunKind
from rlhf.runs import launch_suite
from rlhf.training.artifacts import read_json
from rlhf.training.hashes import find_problems, in_a_sentence
from rlhf.training.search_config import TABLE, TRIALS
from rlhf.training.search_space import format_value


class SearchRefused(Exception):
    """It cannot be done with this search. The message is a sentence for the admin."""


class Row(NamedTuple):
    """A trial, as the page shows it."""

    number: int
    state: str  # "running", "complete", "pruned" or "fail"
    settings: list[str]  # in the order of Trials.names, in words
    values: dict[str, Any]
    value: float | None
    seconds: float
    error: str
    has_files: bool
    is_best: bool
    made: ModelVersion | Dataset | None  # of what it wrote

    @property
    def name(self) -> str:
        """As people count."""
        return f"trial {self.number + 1}"

    @property
    def version(self) -> ModelVersion | None:
        return self.made if isinstance(self.made, ModelVersion) else None

    @property
    def dataset(self) -> Dataset | None:
        """With a copy of what the trial wrote."""
        return self.made if isinstance(self.made, Dataset) else None


class Trials(NamedTuple):
    metric: str
    direction: str
    names: list[str]  # of the settings that vary
    rows: list[Row]
    importance: list[tuple[str, float]]  # the largest first; empty if nobody can say

    @property
    def best(self) -> Row | None:
        return next((row for row in self.rows if row.is_best), None)

    @property
    def deletable(self) -> list[Row]:
        """With files that are no model version's."""
        return [row for row in self.rows if row.has_files and row.version is None]


class TrialRun(NamedTuple):
    """What a trial has left in its folder, by the names that a run of its own would have it under."""

    kind: str
    config: dict[str, Any]
    result: dict[str, Any]
    folder: Path


def trial_run(run: Run, number: int) -> TrialRun | None:
    """None if there is no such trial, or it has not come to its end."""
    folder = _folder(run, number)
    try:
        config, result = (read_json(folder / name) for name in ("config.json", "result.json"))
    except FileNotFoundError:
        return None
    return TrialRun(run.config["tries"], config["config"], result, folder)


def trials_of(run: Run) -> Trials | None:
    """None while there is no table yet."""
    try:
        table = read_json(run.folder / TABLE)
    except FileNotFoundError:
        return None
    names = list(dict.fromkeys(name for trial in table["trials"] for name in trial["values"]))
    made = {each.details.get("trial"): each for each in _made_of(run)}
    best = _best(table)
    rows = [
        Row(
            trial["number"],
            trial["state"],
            [_in_words(trial["values"], name) for name in names],
            trial["values"],
            trial["value"],
            trial["seconds"],
            trial["error"],
            _artifact(run, trial["number"]).is_dir(),
            trial["number"] == best,
            made.get(trial["number"]),
        )
        for trial in table["trials"]
    ]
    return Trials(
        table["metric"], table["direction"], names, rows, list(table["importance"].items())
    )


def _made_of(run: Run) -> Iterable[ModelVersion | Dataset]:
    return run.datasets_made.all() if _writes_rows(run) else run.outputs.all()


def _writes_rows(run: Run) -> bool:
    return run.config["tries"] == RunKind.DISTILL


def _best(table: dict[str, Any]) -> int | None:
    complete = [trial for trial in table["trials"] if trial["state"] == "complete"]
    sign = 1 if table["direction"] == "minimize" else -1
    best = min(complete, key=lambda trial: sign * trial["value"], default=None)
    return best["number"] if best else None


def _in_words(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)


def _folder(run: Run, number: int) -> Path:
    return run.folder / TRIALS / str(number)


def _artifact(run: Run, number: int) -> Path:
    return _folder(run, number) / "artifact"


# --- promoting --------------------------------------------------------------------------------
def promote(
    run: Run, number: int | None = None, user: User | None = None
) -> ModelVersion | Dataset:
    """A model version of what a trial made, the best one's if no number is given; twice is the same one.
    A suite follows if it is a policy, as after a training. Of a distillation it is a dataset.

    Raises SearchRefused.
    """
    made = _promoted(run, number, user)
    if isinstance(made, ModelVersion) and made.kind == ModelKind.POLICY:
        launch_suite(made)
    return made


@transaction.atomic
def _promoted(run: Run, number: int | None, user: User | None) -> ModelVersion | Dataset:
    Run.objects.select_for_update().get(pk=run.pk)  # so that two people make one version
    row = _trial(run, number)
    if row.made is not None:
        return row.made
    if row.state != "complete" or not row.has_files:
        raise SearchRefused(
            f"{row.name.capitalize()} has no files to make anything of: "
            + ("they were deleted." if row.state == "complete" else "it did not come to its end.")
        )
    made = _made(run, row)
    folder = _artifact(run, row.number)
    kept = run.result.get("made", {}).get(str(row.number))  # none while the search goes on
    if kept and kept != canonical_key(made["files"]):
        raise SearchRefused(
            f"{row.name.capitalize()} is not what was made: its list of files changed."
        )
    if problems := list(find_problems(folder, made["files"])):
        raise SearchRefused(
            f"{row.name.capitalize()} is not what was made: {in_a_sentence(problems)}."
        )
    if _writes_rows(run):
        best_of = made["details"]["settings"]["completions_per_prompt"]
        return dataset_of_trial(run, row.number, folder.parent, best_of, user, row.values)
    is_reward = run.config["tries"] == RunKind.REWARD_MODEL
    kind, stem = (ModelKind.REWARD, "reward") if is_reward else (ModelKind.POLICY, "policy")
    version = ModelVersion.objects.create(
        project=run.project,
        name=unused_name(run.project, f"{stem}-r{run.round_number}-v{run.pk}-t{row.number + 1}"),
        kind=kind,
        parent=run.policy,
        run=run,
        path=str(folder),
        **made,
    )
    record(user, Action.ADDED, version, project=run.project, trial=row.number + 1)
    return version


def _trial(run: Run, number: int | None) -> Row:
    trials = trials_of(run)
    if trials is None:
        raise SearchRefused(f"{run} has not begun: there is no trial yet.")
    if number is None:
        if trials.best is None:
            raise SearchRefused(f"No trial of {run} has come to its end yet.")
        return trials.best
    if not 0 <= number < len(trials.rows):
        raise SearchRefused(f"{run} has no trial {number + 1}.")
    return trials.rows[number]


def _made(run: Run, row: Row) -> dict[str, Any]:
    """What the trial says of itself; its report stays in its folder, for its page."""
    folder = _folder(run, row.number)
    result = read_json(folder / "result.json")
    files = result.pop("files", {})
    settings = read_json(folder / "config.json")["config"]
    details = {name: value for name, value in result.items() if name not in ("status", "report")}
    found = {"trial": row.number, "seconds": row.seconds, "settings": settings, **row.values}
    return {"files": files, "details": {**details, **found}}


# --- room on the disk -------------------------------------------------------------------------
def delete_files(run: Run, user: User | None = None) -> int:
    """Delete what all trials made but those that are model versions; how many bytes that gave back.

    Raises SearchRefused while the search goes on.
    """
    if run.is_active:
        raise SearchRefused(f"{run} goes on: stop it first, or wait until it ends.")
    trials = trials_of(run)
    doomed = [_artifact(run, row.number) for row in trials.deletable] if trials else []
    freed = sum(
        file.stat().st_size for path in doomed for file in path.rglob("*") if file.is_file()
    )
    for path in doomed:
        shutil.rmtree(path)
    if doomed:
        record(user, Action.DELETED, run, project=run.project, file=f"{len(doomed)} trials")
    return freed
