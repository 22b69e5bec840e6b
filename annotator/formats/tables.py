"""Parquet files, and folders that `datasets` has saved, in batches. Imported only where one is met."""

from __future__ import annotations

import json
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotator.formats.entries import MAX_ROW_BYTES, excerpt
from annotator.formats.reading import Row, Rows, Unreadable, too_large
from annotator.formats.zips import folders_in, unpack

BATCH_ROWS = 64  # of which each may have a MiB
MAX_GROWTH = 1000  # times the packed size; a file of preferences grows tenfold
SMALL = 64 * 2**20  # bytes, which may be anything before
DAMAGED = "the file is damaged or incomplete"


def open_parquet(file: IO[bytes], name: str = "", max_bytes: int | None = None) -> Rows:
    n_packed = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"{DAMAGED}: {_first_line(error)}") from error
    _check_size(_unpacked_bytes(parquet.metadata), n_packed, max_bytes)
    columns = _columns(parquet.schema_arrow)
    batches = parquet.iter_batches(batch_size=BATCH_ROWS)
    return Rows("parquet", _read(batches), name=name, columns=columns)


def _check_size(n_bytes: int, n_packed: int, max_bytes: int | None) -> None:
    """Raises Unreadable for what is too large unpacked, or is made to look small."""
    if max_bytes is not None and n_bytes > max_bytes:
        raise Unreadable(too_large(max_bytes))
    if n_bytes > max(SMALL, MAX_GROWTH * n_packed):
        raise Unreadable(
            f"the file would unpack to {n_bytes / 2**20:,.0f} MiB, {n_bytes // n_packed:,} times its "
            "size, which no file of preferences does"
        )


def _unpacked_bytes(metadata: Any) -> int:
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return sum(group.total_byte_size for group in groups)


def open_folder(folder: Path, name: str = "") -> Rows:
    """What `Dataset.save_to_disk` leaves: state.json, and files of Arrow's stream format."""
    if (folder / "dataset_dict.json").exists():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise Unreadable(
            f"the folder holds {len(splits)} datasets, {', '.join(splits)}: name one of them, as in "
            f"{folder / splits[0] if splits else folder}"
        )
    try:
        state = json.loads((folder / "state.json").read_bytes())
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(
            f"{folder} is no folder that `datasets` has saved with save_to_disk: its state.json "
            f"cannot be read ({_first_line(error)})"
        ) from error
    if outside := [file for file in names if not _lies_in(folder, file)]:
        raise Unreadable(f"state.json names a file outside of the folder: {excerpt(outside[0])}")
    paths = [folder / file for file in names]
    columns = _columns(_open_arrow(paths[0]).schema) if paths else ()
    batches = (batch for path in paths for batch in _batches(path))
    return Rows("datasets", _read(batches), name=name, columns=columns)


def open_zip(file: IO[bytes], name: str = "", max_bytes: int | None = None) -> Rows:
    """Such a folder, packed as a zip file; of several splits all rows, one split after the other."""
    n_packed = file.seek(0, os.SEEK_END)
    file.seek(0)
    unpacked = tempfile.TemporaryDirectory()
    try:
        with zipfile.ZipFile(file) as archive:
            folders = folders_in(archive)
            _check_size(
                sum(info.file_size for infos in folders.values() for info in infos),
                n_packed,
                max_bytes,
            )
            targets = [Path(unpacked.name) / str(number) for number in range(len(folders))]
            for target, infos in zip(targets, folders.values(), strict=True):
                unpack(archive, infos, target)
        splits = [open_folder(target) for target in targets]
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        unpacked.cleanup()
        raise Unreadable(f"{DAMAGED}: {_first_line(error)}") from error
    except BaseException:
        unpacked.cleanup()
        raise
    columns = tuple(dict.fromkeys(column for split in splits for column in split.columns))
    rows = _numbered(row for split in splits for row in split)
    return Rows("datasets", rows, name=name, columns=columns, close=unpacked.cleanup)


def _numbered(rows: Iterable[Row]) -> Iterator[Row]:
    """Through all splits."""
    for number, row in enumerate(rows, 1):
        yield row._replace(place=f"row {number}", number=number)


def _lies_in(folder: Path, name: str) -> bool:
    """Under a plain name, and as no link to elsewhere."""
    return Path(name).name == name and (folder / name).resolve().is_relative_to(folder.resolve())


def _open_arrow(path: Path) -> Any:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(f"{path.name}: {DAMAGED}: {_first_line(error)}") from error


def _batches(path: Path) -> Iterator[Any]:
    for batch in _open_arrow(path):
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _columns(schema: Any) -> tuple[str, ...]:
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise Unreadable(f"two columns are called {excerpt(twice[0])}: rename one of them")
    return tuple(schema.names)


def _read(batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            is_small = batch.nbytes <= MAX_ROW_BYTES
            for offset in range(batch.num_rows if not is_small else 1):
                part = batch if is_small else batch.slice(offset, 1)
                for record in part.to_pylist() if part.nbytes <= MAX_ROW_BYTES else [None]:
                    number += 1
                    yield Row(f"row {number}", number, _record(record))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        place = f"row {number + 1}"
        raise Unreadable(
            f"{DAMAGED} from here on: {_first_line(error)}", place, number + 1
        ) from error


def _record(record: dict[str, Any] | None) -> dict[str, Any] | ValueError:
    if record is None:
        return ValueError(f"the row is longer than {MAX_ROW_BYTES:,} bytes")
    return {name: value for name, value in record.items() if value is not None}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
