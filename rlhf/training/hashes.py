"""SHA-256 of the files that a run makes, and whether files that it uses are still what they were.

    hashes.json   {folder: {file: {"sha256": …, "bytes": …}}}   of all that the run reads, written at launch

A folder there is absolute, or below the run's own. No torch here: the web process uses this too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.training.artifacts import RunError, RunFolder, read_json

HASHES = "hashes.json"
PROBLEMS_SAID = 5

Files = Mapping[str, Mapping[str, Any]]  # {"model.safetensors": {"sha256": …, "bytes": …}}

# path -> (time of change, size, SHA-256): a model is read for it once per process, not once per use.
_known: dict[Path, tuple[int, int, str]] = {}


def sha256_of(path: Path, *, fresh: bool = False) -> str:
    """Of a file's content. Raises OSError.

    What this process has hashed already is not read again while the file's time of change and size are the same,
    unless it is to be `fresh`.
    """
    stat = path.stat()
    known = _known.get(path)
    if known and not fresh and known[:2] == (stat.st_mtime_ns, stat.st_size):
        return known[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _known[path] = (stat.st_mtime_ns, stat.st_size, digest)
    return digest


def files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Example: {"members/1/head.safetensors": {"sha256": "9f86…", "bytes": 4608}, …}"""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in paths
    }


def find_problems(
    folder: Path, expected: Files, *, hash_up_to: int | None = None, fresh: bool = False
) -> Iterator[str]:
    """A sentence for each file that is not what is expected. Files that are there besides do not matter.

    Of files of more than `hash_up_to` bytes only the size is looked at. Where no size is expected, none
    is checked.
    """
    for name, file in expected.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if "bytes" in file and size != file["bytes"]:
                yield f"{path} has changed: it has {size:,} bytes, and had {file['bytes']:,}"
                continue
            if hash_up_to is not None and size > hash_up_to:
                continue
            found = sha256_of(path, fresh=fresh)
        except FileNotFoundError:
            yield f"{path} is missing: its SHA-256 was {file['sha256']}"
        except OSError as error:
            yield f"{path} cannot be read: {error.strerror}"
        else:
            if found != file["sha256"]:
                yield f"{path} has changed: its SHA-256 is {found}, and was {file['sha256']}"


def in_a_sentence(problems: list[str]) -> str:
    more = len(problems) - PROBLEMS_SAID
    said = "; ".join(problems[:PROBLEMS_SAID])
    return f"{said}; and {more} more" if more > 0 else said


def check_inputs(folder: RunFolder) -> None:
    """Raises RunError if a file that the run is about to use is not what it was at the launch.

    A run of before there were such hashes has none, and one that is repeated by hand needs none.
    """
    if not (folder.path / HASHES).exists():
        return
    folder.phase("check files")
    problems = [
        problem
        for where, files in read_json(folder.path / HASHES).items()
        for problem in find_problems(folder.path / where, files)
    ]
    if problems:
        raise RunError(
            f"the run was not begun, because its files are not what they were: {in_a_sentence(problems)}"
        )
