"""Whether the files of an export are what was exported, asked before anybody is given one.

`rlhf/training/hashes.py` does the same for models; neither may import the other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from annotator.models import Export

# path -> (time of change, size, SHA-256): a large file is read for it once per process.
_known: dict[Path, tuple[int, int, str]] = {}


class FileChanged(Exception):
    """A file is not what was exported. The message is a sentence for whoever wants it."""


def sha256_of(path: Path) -> str:
    """Of a file's content; not read again while its time of change and size are the same. Raises OSError."""
    stat = path.stat()
    known = _known.get(path)
    if known and known[:2] == (stat.st_mtime_ns, stat.st_size):
        return known[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _known[path] = (stat.st_mtime_ns, stat.st_size, digest)
    return digest


def hashes_of(export: Export) -> dict[str, str]:
    """The files of an export whose SHA-256 the database knows."""
    known = {"data.jsonl": export.sha256}
    for name in ("votes", "demonstrations"):
        if sha256 := export.manifest.get(name, {}).get("sha256"):
            known[f"{name}.jsonl"] = sha256
    return known


def check_file(export: Export, name: str) -> None:
    """Raises FileChanged if the file is not what was exported, and OSError if it is not there."""
    expected = hashes_of(export).get(name)
    if expected is None:
        return
    found = sha256_of(export.folder / name)
    if found != expected:
        raise FileChanged(
            f"{name} of export {export.pk} has changed since it was frozen: its SHA-256 is {found}, "
            f"and was {expected}. Restore it from a backup, or make a new export."
        )
