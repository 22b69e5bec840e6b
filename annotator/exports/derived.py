"""Files that are made of an export when somebody asks for them: every shape in every format.

They lie in the export's folder under `derived/`, each beside its SHA-256, which is signed with the
server's secret: whoever changes both is found out. They are made of the frozen files alone, and always come out the same, so an export stays one export whatever it is used for.
Where a row of them is what one person said, it has a name that is drawn for this export alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from django.utils.crypto import constant_time_compare, salted_hmac

from annotator.exports.files import FORMATS, Lines, convert, read_lines, sha256_of
from annotator.exports.shapes import SHAPES, Row, Shape
from annotator.hashes import hashes_of
from annotator.hashes import sha256_of as checked_hash
from annotator.models import Export

SHA256_LENGTH = 64  # in hexadecimal
NO_VOTES = (
    "Export {pk} was made before single votes were frozen with exports, so it gives only the shapes "
    "reward and dpo. Export again for the others."
)


class NotDerived(Exception):
    """The message is a sentence for the admin."""


class Derived(NamedTuple):
    """A file of an export in one shape and format; `size` is None while it has not been made."""

    shape: str
    format: str
    name: str
    size: int | None
    is_frozen: bool  # it is data.jsonl itself


def file_name(shape: str, format_name: str) -> str:
    """Example: "kto.parquet". It is no frozen file's: those and these are asked for by name alike."""
    name = f"{shape}.{FORMATS[format_name].suffix}"
    return f"raw-{name}" if name == SHAPES[shape].source else name


def names() -> dict[str, tuple[str, str]]:
    """Each file name with its shape and format."""
    return {file_name(shape, of): (shape, of) for shape in SHAPES for of in FORMATS}


def made_names() -> list[str]:
    """Of those that are made: all but the frozen file's."""
    return [name for name, of in names().items() if not is_the_frozen_file(*of)]


def path_of(export: Export, name: str) -> Path:
    return export.folder / "derived" / name


def hash_of(export: Export, name: str) -> str:
    """Of a file that has been made; empty if it was not written here. Raises FileNotFoundError."""
    said = path_of(export, f"{name}.sha256").read_bytes()
    sha256 = said[:SHA256_LENGTH].decode(errors="replace")
    is_ours = constant_time_compare(said, _signed(export, name, sha256))
    return sha256 if is_ours else ""


def _signed(export: Export, name: str, sha256: str) -> bytes:
    """What lies beside a file, as `sha256sum -c` reads it: for that the last line is a comment."""
    about = f"{export.pk}/{name} {sha256}"
    signature = salted_hmac("file made of an export", about, algorithm="sha256").hexdigest()
    return f"{sha256}  {name}\n# {signature}\n".encode()


def is_as_made(export: Export, name: str) -> bool:
    """Whether the file is there, and is what was made. It is read anew where it was touched."""
    try:
        return checked_hash(path_of(export, name)) == hash_of(export, name)
    except FileNotFoundError:
        return False


def why_not(export: Export, shape: str) -> str:
    """Why the export cannot give this shape; empty if it can."""
    if SHAPES[shape].source == "votes.jsonl" and not export.manifest.get("votes"):
        return NO_VOTES.format(pk=export.pk)
    return ""


def all_files(export: Export) -> list[tuple[str, Shape, str, list[Derived]]]:
    """Of each shape, its key, why the export cannot give it, and its file in each format."""
    return [
        (key, shape, why_not(export, key), [_derived(export, key, of) for of in FORMATS])
        for key, shape in SHAPES.items()
    ]


def _derived(export: Export, shape: str, format_name: str) -> Derived:
    is_frozen = is_the_frozen_file(shape, format_name)
    name = "data.jsonl" if is_frozen else file_name(shape, format_name)
    path = export.folder / name if is_frozen else path_of(export, name)
    size = path.stat().st_size if path.is_file() else None
    return Derived(shape, format_name, name, size, is_frozen)


def is_the_frozen_file(shape: str, format_name: str) -> bool:
    return SHAPES[shape].rows is None and format_name == "jsonl"


def derive(export: Export, shape: str, format_name: str) -> Path:
    """The file, made if it is not there yet, or not what it was.

    Raises NotDerived, or OSError if the disk is full.
    """
    if is_the_frozen_file(shape, format_name):
        return _checked_source(export, shape)
    target = path_of(export, file_name(shape, format_name))
    if not is_as_made(export, target.name):
        with aside(export, target.name) as unfinished:
            if format_name == "jsonl":
                _write_rows(export, shape, unfinished)
            else:
                lines = derive(export, shape, "jsonl")
                convert(lines, SHAPES[shape].columns, format_name, unfinished)
    return target


def _write_rows(export: Export, shape: str, target: Path) -> None:
    rows_of = SHAPES[shape].rows
    assert rows_of is not None
    source = _checked_source(export, shape)
    rows: Iterator[Row] = chain.from_iterable(map(rows_of, read_lines(source)))
    more = SHAPES[shape].more_rows
    if more in hashes_of(export):
        more_rows = read_lines(_checked(export, more))
        rows = merge(rows, more_rows, key=itemgetter("comparison"))
    with Lines(target) as lines:
        lines.write(_anonymous(export, row) for row in rows)
    if not lines.n:
        raise NotDerived(f"Export {export.pk} has no rows in the shape {shape}.")


def _anonymous(export: Export, row: Row) -> Row:
    """With a name in place of a person's number that nobody can trace back, nor find in another export."""
    if not row.get("annotator"):
        return row
    return row | {"annotator": pseudonym(export.pk, row["annotator"])}


@lru_cache(maxsize=10_000)
def pseudonym(export: int, annotator: str) -> str:
    """Always the same in one export; made with the server's secret."""
    salt = f"annotator of export {export}"
    return f"a{salted_hmac(salt, annotator, algorithm='sha256').hexdigest()[:12]}"


def _checked_source(export: Export, shape: str) -> Path:
    """The frozen file that the shape is made of, if it is still what was frozen."""
    if reason := why_not(export, shape):
        raise NotDerived(reason)
    return _checked(export, SHAPES[shape].source)


def _checked(export: Export, name: str) -> Path:
    frozen = hashes_of(export)[name]
    path = export.folder / name
    if not path.is_file():
        raise NotDerived(f"The files of export {export.pk} are missing from {export.folder}.")
    if (now := checked_hash(path)) != frozen:
        raise NotDerived(
            f"{name} of export {export.pk} has changed since it was frozen: its SHA-256 is "
            f"{now[:12]}…, not {frozen[:12]}…. Nothing is made of it."
        )
    return path


@contextmanager
def aside(export: Export, name: str) -> Iterator[Path]:
    """A path to write to, which becomes the file of that name, with its hash beside it, if all goes well."""
    target = path_of(export, name)
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=target.parent) as folder:
        unfinished = Path(folder) / name
        yield unfinished
        side = unfinished.with_name(f"{name}.sha256")
        side.write_bytes(_signed(export, name, sha256_of(unfinished)))
        os.replace(side, target.with_name(side.name))
        os.replace(unfinished, target)
