"""Datasets as what a run learns from: refused if they cannot be, and put into its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from annotator.hashes import FileChanged
from annotator.models import Project
from rlhf.models import Dataset, DatasetKind, RunKind
from rlhf.training.demonstrations import read_rows
from rlhf.training.hashes import Files, find_problems, in_a_sentence

HASHED_AT_LAUNCH = 16 * 2**20  # bytes; of larger files the run's process sees to it


def check_datasets(project: Project, run_kind: str, datasets: Iterable[Dataset]) -> str:
    """Why a run cannot learn from these, as a sentence; empty if it can."""
    kinds = set()
    for dataset in datasets:
        kinds.add(dataset.kind)
        if dataset.project_id != project.pk:
            return f"{dataset} is no dataset of this project."
        if run_kind == RunKind.DOMAIN and dataset.kind != DatasetKind.TEXT:
            return (
                f"“{dataset}” holds demonstrations, and domain tuning learns from running text: choose "
                "a dataset of text, or start supervised fine-tuning."
            )
        if not dataset.data.is_file():
            return f"The files of the dataset “{dataset}” are missing from {dataset.path}."
        if problem := problem_with(dataset, hash_up_to=HASHED_AT_LAUNCH):
            return problem
    if run_kind == RunKind.SUPERVISED and kinds == {DatasetKind.TEXT}:
        return (
            "There is no answer to learn to write: choose a dataset of demonstrations too, or start "
            "domain tuning."
        )
    return ""


def problem_with_held_out(datasets: Iterable[Dataset]) -> str:
    """Why nothing could be measured that a run does not learn from, as a sentence; empty if it can."""
    datasets = list(datasets)
    if any(map(has_held_out, datasets)):
        return ""
    names = " and ".join(f"“{dataset}”" for dataset in datasets)
    return (
        f"No row of {names} is held out, so nothing could tell which trial is better: choose one more "
        "dataset that has held-out rows, or make one again, of more rows if it has few."
    )


def has_held_out(dataset: Dataset) -> bool:
    """Of those that do not say how many rows are held out, the file is read up to the first."""
    n_rows = dataset.details.get("held_out_rows")
    if n_rows is not None:
        return n_rows > 0
    return next(read_rows(dataset.data, "test"), None) is not None


def problem_with(dataset: Dataset, *, hash_up_to: int | None = None) -> str:
    """A sentence if its files are not what was frozen; else empty."""
    problems = list(find_problems(Path(dataset.path), dataset.files, hash_up_to=hash_up_to))
    if not problems:
        return ""
    return f"The dataset “{dataset}” is not what was frozen: {in_a_sentence(problems)}."


def check_frozen(dataset: Dataset) -> None:
    """Raises FileChanged if it is not what was frozen: for whoever reads all of it right away."""
    if problem := problem_with(dataset):
        raise FileChanged(problem)


def folder_name(dataset: Dataset) -> str:
    """Where it lies in a run's folder. Example: "datasets/7"."""
    return f"datasets/{dataset.pk}"


def references_of(datasets: Iterable[Dataset]) -> list[dict[str, str]]:
    """As a run's configuration names them."""
    return [{"name": each.name, "folder": folder_name(each)} for each in datasets]


def hashes_of_datasets(datasets: Iterable[Dataset]) -> dict[str, Files]:
    """What the run's process checks before it begins."""
    return {folder_name(each): each.files for each in datasets}


def link_datasets(datasets: Iterable[Dataset], folder: Path) -> None:
    """Put them into the run's folder, so that it can be repeated from there."""
    for dataset in datasets:
        target = folder / folder_name(dataset)
        target.mkdir(parents=True)
        link_or_copy(dataset.data, target / dataset.data.name)


def link_or_copy(source: Path, target: Path) -> None:
    """By a second name, where the file system can: what is frozen is as good as a copy."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
