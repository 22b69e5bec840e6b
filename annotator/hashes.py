"""Whether the files of an export are what was exported, asked before anybody is given one.

`rlhf/training/hashes.py` does the same for models; neither may import the other.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from annotator.models import Export

MANIFEST = "manifest.json"

# path -> (which file it is, and since when; SHA-256): a large file is read for it once per process.
_known: dict[Path, tuple[tuple[int, ...], str]] = {}


class FileChanged(Exception):
    """A file is not what was exported. The message is a sentence for whoever wants it."""


def sha256_of(path: Path) -> str:
    """Of a file's content; not read again while it is the same file. Raises OSError."""
    identity = _identity(path)
    known = _known.get(path)
    if known and known[0] == identity:
        return known[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _known[path] = identity, digest
    return digest


def _identity(path: Path) -> tuple[int, ...]:
    """Another one once the file was written or replaced, whatever time it was given after that."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hashes_of(export: Export) -> dict[str, str]:
    """The files of an export whose SHA-256 the database knows."""
    known = {"data.jsonl": export.sha256}
    for name in ("votes", "showings", "demonstrations"):
        if sha256 := export.manifest.get(name, {}).get("sha256"):
            known[f"{name}.jsonl"] = sha256
    return known


def is_manifest_as_frozen(export: Export) -> bool:
    """Whether manifest.json says what the database has kept of it. Raises OSError.

    It cannot have its own hash in it, and PostgreSQL does not keep the order of its keys, so what it
    says is compared and not its bytes.
    """
    try:
        return bool(json.loads((export.folder / MANIFEST).read_bytes()) == export.manifest)
    except ValueError:  # no JSON, or no text at all
        return False


def check_file(export: Export, name: str) -> None:
    """Raises FileChanged if the file is not what was exported, and OSError if it is not there, or was
    not when the export was frozen."""
    if name == MANIFEST:
        if not is_manifest_as_frozen(export):
            raise FileChanged(
                f"{MANIFEST} of export {export.pk} has changed since it was frozen: the database has "
                "kept another one. Restore it from a backup, or make a new export."
            )
        return
    expected = hashes_of(export).get(name)
    if expected is None:
        raise FileNotFoundError(f"Export {export.pk} was frozen without {name}.")
    found = sha256_of(export.folder / name)
    if found != expected:
        raise FileChanged(
            f"{name} of export {export.pk} has changed since it was frozen: its SHA-256 is {found}, "
            f"and was {expected}. Restore it from a backup, or make a new export."
        )
