"""Datasets from what people have: files, pasted lines, folders, and the votes of an export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from annotator.exports.derived import NotDerived, derive
from annotator.models import Export, Project, User
from rlhf.dataset_reading import BadRows, Source, demonstration, read
from rlhf.datasets import DatasetRefused, create_dataset, refuse_taken
from rlhf.models import Dataset, DatasetKind

Row = dict[str, Any]

NAMES_IN_ORIGIN = 3
REWRITES, BEST = "rewrite", "best"  # kinds of rows in the shape `sft` of an export
TAKEN = {
    "both": (REWRITES, BEST),
    "rewrites": (REWRITES,),
    "best": (BEST,),
}
TAKEN_IN_WORDS = {
    "both": "rewrites and best answers",
    "rewrites": "rewrites",
    "best": "best answers",
}


def dataset_of_files(
    project: Project, name: str, kind: DatasetKind, sources: Sequence[Source], *,
    user: User | None = None, column: str = "", max_bytes: int | None = None,
) -> Dataset:  # fmt: skip
    """All rows of these files, or nothing. Raises DatasetRefused with what is wrong where, and OSError
    when the disk is full."""
    rows = read(sources, kind, project.split_of, column=column, max_bytes=max_bytes)
    return _create(project, name, kind, rows, origin=_origin(sources), user=user)


def dataset_of_export(
    project: Project, name: str, export: Export, taken: str = "both", *, user: User | None = None
) -> Dataset:
    """Demonstrations from what annotators wrote themselves, and the answers that did best; answers that
    were cut off are left out, because nobody should learn to end like that. Raises DatasetRefused."""
    refuse_taken(project, name)
    try:
        path = derive(export, "sft", "jsonl")
    except NotDerived as error:
        raise DatasetRefused(str(error)) from error
    left_out = {"cut_off": 0}

    def rows() -> Iterator[Row]:
        with path.open(encoding="utf-8") as file:
            for record in map(json.loads, file):
                if record["kind"] not in TAKEN[taken]:
                    continue
                if record["truncated"]:
                    left_out["cut_off"] += 1
                    continue
                yield {**demonstration(record, project.split_of), "kind": record["kind"]}

    origin = f"{TAKEN_IN_WORDS[taken]} of export {export.pk}"
    return _create(
        project, name, DatasetKind.DEMONSTRATIONS, rows(), origin=origin, user=user, export=export,
        left_out=left_out,
    )  # fmt: skip


def _create(
    project: Project, name: str, kind: DatasetKind, rows: Iterable[Row], *, origin: str,
    user: User | None, export: Export | None = None, left_out: dict[str, int] | None = None,
) -> Dataset:  # fmt: skip
    details: dict[str, Any] = {"held_out_rows": 0}
    if left_out is not None:
        details["left_out"] = left_out  # counted while the rows are written
    try:
        return create_dataset(
            project, name, kind, _counted(rows, details), origin=origin, details=details, user=user,
            export=export,
        )  # fmt: skip
    except BadRows as bad:
        raise DatasetRefused(str(bad)) from bad


def _counted(rows: Iterable[Row], details: dict[str, Any]) -> Iterator[Row]:
    for row in rows:
        details["held_out_rows"] += row["split"] == "test"
        yield row


def _origin(sources: Sequence[Source]) -> str:
    """Example: "a.jsonl, b.jsonl and 3 more files"."""
    names = ", ".join(source.name for source in sources[:NAMES_IN_ORIGIN])
    more = len(sources) - NAMES_IN_ORIGIN
    text = f"{names} and {more} more file{'s' * (more > 1)}" if more > 0 else names
    return text[:300]
