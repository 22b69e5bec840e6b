"""A folder that `datasets` has saved, packed as a zip file: as our own exports give it, and as a browser
can send it. No pyarrow here: the web process looks whether it is one."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

STATE = "state.json"
MAX_DIRECTORY = 2**20  # bytes of the list of what is in it, which zipfile reads whole
END = b"PK\x05\x06"  # of that list, and how large the end is without a comment
END_BYTES = 22
LOCATOR_BYTES = 20  # before it, of a file beyond 4 GiB, which this is not for
MAX_COMMENT = 2**16
LONGEST_NAME = 60  # characters, whose bytes each file system takes


def holds_folder(file: IO[bytes]) -> bool:
    """Whether it is a zip file with such a folder in it. It is left at its beginning."""
    if not file.seekable() or not _is_small(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return bool(folders_in(archive))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    finally:
        file.seek(0)


def _is_small(file: IO[bytes]) -> bool:
    """Whether the list of its contents may be read whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_BYTES - MAX_COMMENT))
    tail = file.read()
    file.seek(0)
    is_plain = tail[-END_BYTES:].startswith(END) and tail.endswith(b"\0\0")
    at = len(tail) - END_BYTES if is_plain else tail.rfind(END)
    is_beyond = tail[max(0, at - LOCATOR_BYTES) :].startswith(b"PK\x06\x07")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    return at >= 0 and not is_beyond and directory <= MAX_DIRECTORY


def folders_in(archive: zipfile.ZipFile) -> dict[str, list[zipfile.ZipInfo]]:
    """The files of each folder that was saved, by its path; of a DatasetDict one for each split.

    Example: {"train": [state.json, data-00000-of-00001.arrow], "test": […]}
    """
    files: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        if not info.is_dir() and _name(info) not in ("", "..") and len(_name(info)) <= LONGEST_NAME:
            files.setdefault(str(PurePosixPath(info.filename).parent), []).append(info)
    return {
        folder: infos
        for folder, infos in sorted(files.items())
        if any(_name(info) == STATE for info in infos)
    }


def unpack(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], target: Path) -> None:
    """Into a new folder, by their last names alone: nothing leads out of it. Of each no more comes than
    it says to hold."""
    target.mkdir()
    for info in infos:
        with archive.open(info) as packed, (target / _name(info)).open("wb") as file:
            shutil.copyfileobj(packed, file)


def _name(info: zipfile.ZipInfo) -> str:
    return PurePosixPath(info.filename).name
