"""Downloads of a model version: its adapter, its weights, each as a tar with the model card.

A tar needs no index at its end and nothing of weights can be compressed, so it is streamed as its files
are read, and its size is known before.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf.models import ModelKind, ModelVersion
from rlhf.training.artifacts import read_json
from rlhf.training.hashes import Files

CHUNK = 2**20  # bytes
BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)

# What a model folder may hold for its readers, and nothing that was put beside it.
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
CARD = "README.md"


class Changed(Exception):
    """A file became shorter while it was read."""


class Entry(NamedTuple):
    """One file of an archive: a file on disk, or a text."""

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


# --- what belongs to a version ----------------------------------------------------------------
def adapter_entries(version: ModelVersion) -> list[Entry]:
    """The adapter as peft reads it, with what a reward model keeps beside it. The adapters that it was
    trained on top of come along, in the order in which they are added: parents/1-NAME/, …"""
    entries = folder_entries(Path(version.path), version.files)
    for number, parent in enumerate(adapters_below(version), 1):
        below = f"parents/{number}-{parent.name}/"
        entries += folder_entries(Path(parent.path), parent.files, below)
    return entries


def adapters_below(version: ModelVersion) -> list[ModelVersion]:
    """The policies that are adapters between a version and its whole base, oldest first."""
    below: list[ModelVersion] = []
    parent = _made_from(version)
    while parent is not None and not parent.is_whole_model:
        below.insert(0, parent)
        parent = parent.parent
    return below


def base_of(version: ModelVersion) -> ModelVersion:
    """The whole model that its adapters are on; itself if it is one."""
    if version.is_whole_model:
        return version
    below = adapters_below(version)
    lowest = below[0].parent if below else _made_from(version)
    assert lowest is not None
    return lowest


def _made_from(version: ModelVersion) -> ModelVersion | None:
    return (version.base if version.kind == ModelKind.REWARD else None) or version.parent


def weights_folder(version: ModelVersion) -> Path | None:
    """Where it lies as one whole model; None if nobody has merged it yet, or it has no files here."""
    folder = Path(version.path) if version.is_whole_model else version.merged_folder
    return folder if (folder / "config.json").is_file() else None


def folder_entries(folder: Path, recorded: Files, prefix: str = "") -> list[Entry]:
    """The model's files, members of an ensemble included, in the order of their names; of those that were
    recorded when it was made no others."""
    files = {file for pattern in PATTERNS for file in folder.glob(pattern)}
    files |= {file for pattern in PATTERNS for file in folder.glob(f"members/*/{pattern}")}
    names = {str(file.relative_to(folder)): file for file in sorted(files)}
    return [
        Entry(prefix + name, file) for name, file in names.items() if name in (recorded or names)
    ]


def is_adapter(version: ModelVersion) -> bool:
    return (Path(version.path) / "adapter_config.json").is_file()


def delete_merged(version: ModelVersion) -> None:
    """Only what can be made again: never the version's own files."""
    shutil.rmtree(version.merged_folder, ignore_errors=True)


def portable(entries: Sequence[Entry], base_name: str) -> list[Entry]:
    """With the base's name where peft wrote the path it had on this machine."""
    return [_portable(entry, base_name) for entry in entries]


def _portable(entry: Entry, base_name: str) -> Entry:
    if not entry.name.endswith("adapter_config.json") or isinstance(entry.source, bytes):
        return entry
    config = read_json(entry.source) | {"base_model_name_or_path": base_name}
    return Entry(entry.name, json.dumps(config, indent=2).encode())


# --- tar --------------------------------------------------------------------------------------
def tar_size(top: str, entries: Sequence[Entry]) -> int:
    sizes = [len(_header(top, entry)) + _padded(entry.size) for entry in entries]
    return sum(sizes) + len(END)


def tar_of(top: str, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The archive, piece by piece: all files lie in a folder `top`. Raises Changed."""
    for entry in entries:
        header, size = _header(top, entry), entry.size
        yield header
        yield from _content(entry, size)
        yield b"\0" * (_padded(size) - size)
    yield END


def _header(top: str, entry: Entry) -> bytes:
    info = tarfile.TarInfo(f"{top}/{entry.name}")
    info.size = entry.size
    if isinstance(entry.source, Path):
        info.mtime = int(entry.source.stat().st_mtime)
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    """The next multiple of a block. Example: 513 -> 1024."""
    return -(-size // BLOCK) * BLOCK


def _content(entry: Entry, size: int) -> Iterator[bytes]:
    opened = (
        io.BytesIO(entry.source) if isinstance(entry.source, bytes) else entry.source.open("rb")
    )
    with opened as file:
        while size:
            chunk = file.read(min(CHUNK, size))
            if not chunk:
                raise Changed(f"{entry.name} has become shorter while it was downloaded")
            size -= len(chunk)
            yield chunk
