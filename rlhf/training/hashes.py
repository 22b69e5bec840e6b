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

# path -> (which file it is, and since when; SHA-256): a model is read for it once per process.
_known: dict[Path, tuple[tuple[int, ...], str]] = {}


def sha256_of(path: Path, *, fresh: bool = False) -> str:
    """Of a file's content; not read again while it is the same file, unless it is to be `fresh`.

    Raises OSError.
    """
    identity = _identity(path)
    known = _known.get(path)
    if known and not fresh and known[0] == identity:
        return known[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _known[path] = identity, digest
    return digest


def _identity(path: Path) -> tuple[int, ...]:
    """Another one once the file was written or replaced: a program can set back the time of its content,
    and not that of its inode."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def files_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Example: {"members/1/head.safetensors": {"sha256": "9f86…", "bytes": 4608}, …}"""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in paths
    }


def find_problems(
    folder: Path,
    expected: Files,
    *,
    hash_up_to: int | None = None,
    fresh: bool = False,
    may_hold_more: bool = False,
) -> Iterator[str]:
    """A sentence for each file that is not what is expected, or is there besides: who loads a folder
    takes what lies in it.

    Of files of more than `hash_up_to` bytes only the size is looked at. Where no size is expected, none
    is checked. Nothing is said of a folder of which no file is known.
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
    if expected and not may_hold_more:
        yield from (f"{path} was added" for path in _others(folder, expected))


def _others(folder: Path, expected: Files) -> Iterator[Path]:
    """Links to folders are among them. Hidden files are not: systems leave them, and nothing loads them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        is_folder = path.is_dir() and not path.is_symlink()
        if str(name) not in expected and not is_hidden and not is_folder:
            yield path


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
