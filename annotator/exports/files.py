"""Files of rows: written line by line, and turned into other formats in batches.

Every format is made from JSON lines, whose types are given by the columns, so that memory does not
grow with the rows and an empty list keeps its type.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from annotator.exports.schemas import Type, arrow_schema, features_of
from annotator.models import Split

BATCH_ROWS = 2000
BATCH_BYTES = 8 * 2**20
CHUNK = 2**20
ARROW_FILE = "data-00000-of-00001.arrow"  # as `datasets` calls it
SPLITS = tuple(Split.values)
# A spreadsheet takes a cell that begins so for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(NamedTuple):
    title: str
    suffix: str
    content_type: str


FORMATS = {
    "jsonl": Format("JSONL", "jsonl", "application/x-ndjson"),
    "csv": Format("CSV", "csv", "text/csv; charset=utf-8"),
    "parquet": Format("Parquet", "parquet", "application/vnd.apache.parquet"),
    "datasets": Format("datasets", "datasets.zip", "application/zip"),
}


class Lines:
    """A file of JSON lines that is on the disk when the block ends, and its SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.n = 0

    def __enter__(self) -> Lines:
        self.file = self.path.open("wb", buffering=CHUNK)
        return self

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            line = encode(row) + b"\n"
            self.digest.update(line)
            self.file.write(line)
            self.n += 1

    def __exit__(self, *error: object) -> None:
        with self.file:
            flush_to_disk(self.file)


def encode(value: Any) -> bytes:
    """What `json.dumps` gives with ensure_ascii=False, in a fraction of its time.

    So the same votes have the hash that they had before. Only fractions below 0.0001 and numbers from
    1e16 on are written otherwise, with the same value: 0.00001 rather than 1e-05.
    """
    return msgspec.json.format(_compact(value), indent=0)


_compact = msgspec.json.Encoder().encode


def flush_to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(json.loads, file)


# --- formats --------------------------------------------------------------------------------------
def convert(lines: Path, columns: dict[str, Type], format_name: str, target: Path) -> None:
    """Write the rows of a file of JSON lines to `target` in a format other than that."""
    if format_name == "csv":
        write_csv(lines, columns, target)
    elif format_name == "parquet":
        write_parquet(lines, columns, target)
    else:
        folder = target.with_name(f"{target.name}.unpacked")
        write_dataset(lines, columns, folder)
        pack(folder, target)
        shutil.rmtree(folder)


def write_csv(lines: Path, columns: dict[str, Type], target: Path) -> None:
    """Lists and objects are JSON in their cell."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in read_lines(lines):
            writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return encode(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def write_parquet(lines: Path, columns: dict[str, Type], target: Path) -> None:
    import pyarrow.parquet  # noqa: PLC0415  (see schemas.arrow_schema)

    schema = arrow_schema(columns)
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for table in tables(lines, schema):
            writer.write_table(table)


def write_parquet_splits(lines: Path, columns: dict[str, Type], folder: Path) -> list[str]:
    """One file for each split that has rows, `train.parquet` say; gives the splits."""
    import pyarrow.parquet  # noqa: PLC0415

    def opened(split: str, schema: Any) -> Any:
        return pyarrow.parquet.ParquetWriter(
            folder / f"{split}.parquet", schema, compression="zstd"
        )

    return _write_splits(lines, columns, opened)


def write_dataset(lines: Path, columns: dict[str, Type], folder: Path) -> None:
    """A folder that `datasets.load_from_disk` reads as a DatasetDict.

    Each split is a folder with an Arrow stream and two files that say what is in it.
    """
    import pyarrow as pa  # noqa: PLC0415

    def opened(split: str, schema: Any) -> Any:
        (folder / split).mkdir()
        return pa.ipc.new_stream(folder / split / ARROW_FILE, schema)

    folder.mkdir()
    splits = _write_splits(lines, columns, opened)
    info = {
        "citation": "",
        "description": "",
        "features": features_of(columns),
        "homepage": "",
        "license": "",
    }
    for split in splits:
        _write_json(folder / split / "state.json", _state(split, folder))
        _write_json(folder / split / "dataset_info.json", info)
    _write_json(folder / "dataset_dict.json", {"splits": splits})


def _write_splits(
    lines: Path, columns: dict[str, Type], opened: Callable[[str, Any], Any]
) -> list[str]:
    """Rows go to the writer of their split, which is opened with its first rows; gives the splits."""
    import pyarrow.compute as pc  # noqa: PLC0415

    schema = arrow_schema(columns)
    writers: dict[str, Any] = {}
    for table in tables(lines, schema):
        for split in SPLITS:
            rows = table.filter(pc.equal(table["split"], split))
            if rows.num_rows:
                writer = writers.get(split) or writers.setdefault(split, opened(split, schema))
                writer.write_table(rows)
    for writer in writers.values():
        writer.close()
    return [split for split in SPLITS if split in writers]


def _state(split: str, folder: Path) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": ARROW_FILE}],
        "_fingerprint": sha256_of(folder / split / ARROW_FILE)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def tables(lines: Path, schema: Any) -> Iterator[Any]:
    """The rows as Arrow tables of BATCH_ROWS at most."""
    import pyarrow.json  # noqa: PLC0415

    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    with lines.open("rb") as file:
        while batch := _some_lines(file):
            reading = pyarrow.json.ReadOptions(block_size=len(batch) + 1, use_threads=False)
            table = pyarrow.json.read_json(pyarrow.BufferReader(batch), reading, options)
            yield table.select(schema.names).replace_schema_metadata(schema.metadata)


def _some_lines(file: Any) -> bytes:
    """The next lines, together hardly more than BATCH_BYTES; empty at the end."""
    found: list[bytes] = []
    size = 0
    for line in islice(file, BATCH_ROWS):
        found.append(line)
        size += len(line)
        if size >= BATCH_BYTES:
            break
    return b"".join(found)


def pack(folder: Path, target: Path) -> None:
    """A zip file; the same files always give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder))
            info = zipfile.ZipInfo(name)  # 1980: not the time at which it was packed
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as packed:
                shutil.copyfileobj(source, packed, CHUNK)
