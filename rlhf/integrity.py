"""Whether the files of models and exports are what they were when they were made.

Before a run is launched, small files are hashed and large ones measured, because somebody waits for
the page; the run's process hashes all of them before it loads one. Downloads and the model server ask
`refuse_changed`. The button of a lineage's page has the worker read everything anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone
from django_q.tasks import async_task

from annotator.audit import Action, record
from annotator.hashes import MANIFEST, hashes_of, is_manifest_as_frozen
from annotator.models import Export, Project, User
from rlhf.lineage import Graph
from rlhf.models import FileCheck, ModelKind, ModelVersion, RunKind, Status
from rlhf.training.hashes import Files, find_problems, in_a_sentence

HASHED_AT_LAUNCH = 16 * 2**20  # bytes; of larger files the run's process sees to it


class FilesChanged(Exception):
    """Files are not what they were. The message is a sentence for whoever wants to use them."""


# --- before use -------------------------------------------------------------------------------
def folders_of(version: ModelVersion) -> list[str]:
    """All folders that are read to load a version: its own, and those that it stands on. None of a
    policy elsewhere."""
    if version.kind == ModelKind.ENDPOINT:
        return []
    if version.kind == ModelKind.PROMPT:
        collection = version.details.get("collection_folder")
        own = [version.path, *([collection] if collection else [])]
        return [*folders_of(version.writer), *own]
    reference = version.reference()
    return list(dict.fromkeys([reference["base"], *reference["adapters"], version.path]))


def recorded(project: Project, folders: Iterable[str]) -> dict[str, Files]:
    """The files of these folders, of those that have them recorded; two queries at most."""
    wanted = set(folders)
    versions = project.model_versions.filter(path__in=wanted).exclude(files={})
    known = dict(versions.order_by("pk").values_list("path", "files"))
    if others := wanted - known.keys():
        collections = project.collections.filter(path__in=others)
        known |= dict(collections.order_by("pk").values_list("path", "files"))
    return known


def files_of_export(export: Export) -> Files:
    return {name: {"sha256": sha256} for name, sha256 in hashes_of(export).items()}


def problems_of_export(
    export: Export, *, hash_up_to: int | None = None, fresh: bool = False
) -> Iterator[str]:
    """As `find_problems` does, of its manifest too, whose hash nobody knows. What is made of an export
    lies beside it, and a run gets those files alone of which it is known what they were."""
    known = files_of_export(export)
    yield from find_problems(
        export.folder, known, hash_up_to=hash_up_to, fresh=fresh, may_hold_more=True
    )
    path = export.folder / MANIFEST
    try:
        if not is_manifest_as_frozen(export):
            yield f"{path} has changed: the database has kept another one"
    except FileNotFoundError:
        yield f"{path} is missing"
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"


def merged_files(version: ModelVersion) -> Files:
    """The files of its merged weights, as the last run that wrote them says; empty if it does not say."""
    runs = version.runs_from.filter(kind=RunKind.MERGE, status=Status.SUCCEEDED)
    last = runs.order_by("-finished", "-pk").first()
    files: Files = last.result.get("files", {}) if last else {}
    return files


def refuse_changed(
    version: ModelVersion, *, hash_up_to: int | None = None, merged: bool = False
) -> None:
    """Raises FilesChanged if a file of the version, or of one that it stands on, is not what it was; with
    `merged` also one of its merged weights.

    What this process has hashed already costs a look at each file's inode.
    """
    expected = recorded(version.project, folders_of(version))
    if merged:
        expected[str(version.merged_folder)] = merged_files(version)
    problems = [
        problem
        for folder, files in expected.items()
        for problem in find_problems(Path(folder), files, hash_up_to=hash_up_to)
    ]
    if problems:
        raise FilesChanged(
            f"The files of {version} are not what they were: {in_a_sentence(problems)}."
        )


# --- on demand --------------------------------------------------------------------------------
def ask_for_check(project: Project, key: str, user: User) -> FileCheck:
    """Have the worker check all files of a lineage; nothing new if it is about to."""
    with transaction.atomic():
        check, is_new = FileCheck.objects.select_for_update().get_or_create(
            project=project, key=key
        )
        if check.is_under_way and not is_new:
            return check
        check.asked, check.finished = timezone.now(), None
        check.save(update_fields=["asked", "finished"])
        record(user, Action.CHECKED, check, project=project)
        transaction.on_commit(partial(_send, check.pk), robust=True)
    return check


def _send(check_pk: int) -> None:
    async_task("rlhf.tasks.check_files", check_pk)


def carry_out(check: FileCheck, graph: Graph) -> None:
    """Read all files of the versions and exports of the graph, and keep what was found."""
    found: dict[str, Any] = {"problems": [], "not_recorded": [], "n_files": 0, "n_bytes": 0}
    exports = check.project.exports.filter(pk__in=_numbers(graph, "export"))
    for export in exports.order_by("pk"):
        found["problems"] += problems_of_export(export, fresh=True)
        _count(export.folder, [*files_of_export(export), MANIFEST], found)
    for dataset in check.project.datasets.filter(pk__in=_numbers(graph, "dataset")).order_by("pk"):
        _look(Path(dataset.path), dataset.files, found)
    versions = check.project.model_versions.filter(pk__in=_numbers(graph, "version"))
    for version in versions.order_by("pk"):
        if version.kind == ModelKind.ENDPOINT:
            found["not_recorded"].append(f"{version.name} (lives elsewhere)")
        elif version.files:
            _look(Path(version.path), version.files, found)
        else:
            found["not_recorded"].append(version.name)
        if version.merged_folder.is_dir():
            _look(version.merged_folder, merged_files(version), found)
    FileCheck.objects.filter(pk=check.pk).update(finished=timezone.now(), **found)


def _numbers(graph: Graph, kind: str) -> list[int]:
    """Example: of the keys "export-3" and "version-7", [7] for "version"."""
    split = [key.split("-", 1) for key in graph.nodes]
    return [int(number) for found, number in split if found == kind]


def _look(folder: Path, files: Files, found: dict[str, Any]) -> None:
    found["problems"] += find_problems(folder, files, fresh=True)
    _count(folder, files, found)


def _count(folder: Path, files: Collection[str], found: dict[str, Any]) -> None:
    there = [folder / name for name in files if (folder / name).is_file()]
    found["n_files"] += len(files)
    found["n_bytes"] += sum(path.stat().st_size for path in there)
