"""Writing the frozen text that supervised and domain tuning learn from."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from annotator.audit import Action, record
from annotator.models import Export, Project, User
from rlhf.models import Dataset, DatasetKind, Run
from rlhf.training.config_base import is_one_line
from rlhf.training.hashes import files_in

Row = dict[str, Any]  # {"messages": [{"role", "content"}, …]} or {"text": …}; more keys are kept


class DatasetRefused(Exception):
    """A dataset cannot be made. The message is a sentence for the admin."""


def create_dataset(
    project: Project,
    name: str,
    kind: DatasetKind,
    rows: Iterable[Row],
    *,
    origin: str,
    details: dict[str, Any] | None = None,
    user: User | None = None,
    run: Run | None = None,
    export: Export | None = None,
) -> Dataset:
    """Write the rows, one after another, and freeze them. `origin` says in words where they come from.

    Raises DatasetRefused if there are none, or the project has the name already; whatever `rows` raises
    passes through, and nothing is left behind.
    """
    refuse_taken(project, name)
    folder = Path(settings.DATASETS_DIR) / str(uuid.uuid4())
    folder.mkdir(parents=True)
    try:
        n_rows = _write(folder / "data.jsonl", rows)
        if not n_rows:
            raise DatasetRefused(f"“{name}” would be empty: there is no row to learn from.")
        files = files_in(folder)
        with transaction.atomic():
            dataset = Dataset.objects.create(
                project=project,
                name=name,
                kind=kind,
                path=str(folder),
                n_rows=n_rows,
                n_bytes=files["data.jsonl"]["bytes"],
                files=files,
                origin=origin,
                details=details or {},
                run=run,
                export=export,
                created_by=user,
            )
            record(user, Action.CREATED, dataset, project=project, rows=n_rows, origin=origin)
            return dataset
    except IntegrityError:  # the same name twice at once
        shutil.rmtree(folder, ignore_errors=True)
        refuse_taken(project, name)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def refuse_taken(project: Project, name: str) -> None:
    """Raises DatasetRefused if no dataset can have this name, or one of the project has it."""
    longest = Dataset._meta.get_field("name").max_length or 0
    if not name.strip() or not is_one_line(name, longest):
        raise DatasetRefused(f"The name of a dataset is one line of 1 to {longest} characters.")
    if project.datasets.filter(name=name).exists():
        raise DatasetRefused(f"This project has a dataset “{name}” already: take another name.")


def _write(path: Path, rows: Iterable[Row]) -> int:
    n_rows = 0
    with path.open("wb") as file:
        for row in rows:
            n_rows += 1
            try:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            except (
                UnicodeEncodeError
            ):  # of a JSON escape: half of a pair that stands for one character
                raise DatasetRefused(
                    f"Row {n_rows} holds half of a character (a lone surrogate, such as \\ud83d), which "
                    "no text file can hold: take it out."
                ) from None
    return n_rows
