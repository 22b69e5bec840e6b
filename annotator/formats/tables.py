"""Parquet files, and folders that `datasets` has saved, in batches. Imported only where one is met."""

from __future__ import annotations

import json
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotator.formats.entries import MAX_ROW_BYTES, excerpt
from annotator.formats.reading import Row, Rows, Unreadable, too_large
from annotator.formats.zips import folders_in, unpack

BATCH_ROWS = 64  # of which each may have a MiB
MAX_GROWTH = 1000  # times the packed size; a file of preferences grows tenfold
SMALL = 64 * 2**20  # bytes, which may be anything before
NUMBER_BYTES = 8
TYPES = pa.types
TEXTS = (TYPES.is_string, TYPES.is_large_string, TYPES.is_binary, TYPES.is_large_binary)
LISTS = (TYPES.is_list, TYPES.is_large_list, TYPES.is_fixed_size_list)
VIEWS = (
    TYPES.is_string_view, TYPES.is_binary_view, TYPES.is_list_view, TYPES.is_large_list_view,
    TYPES.is_run_end_encoded, TYPES.is_union,
)  # fmt: skip
DAMAGED = "the file is damaged or incomplete"


def open_parquet(file: IO[bytes], name: str = "", max_bytes: int | None = None) -> Rows:
    n_packed = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        metadata = pq.read_metadata(file)
        texts = _texts(metadata)
        parquet = pq.ParquetFile(file, metadata=metadata, read_dictionary=texts, pre_buffer=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{DAMAGED}: {_first_line(error)}") from error
    _check_size(_unpacked_bytes(metadata), n_packed, max_bytes)
    columns = _columns(parquet.schema_arrow)
    for field in parquet.schema_arrow:
        _check_type(field.name, field.type, may_be_text=False)
    batches = parquet.iter_batches(batch_size=BATCH_ROWS)
    return Rows("parquet", _read(batches), name=name, columns=columns)


def _texts(metadata: Any) -> list[str]:
    """The paths of what holds texts or bytes. A text that comes often is kept once in the file, and as
    a dictionary also in memory: read plainly, a few bytes would become gigabytes."""
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    paths = [column.path for column in columns]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise Unreadable(f"two columns are called {excerpt(twice[0])}: rename one of them")
    if sum(column.length for column in columns) > MAX_ROW_BYTES:  # of those of a fixed length
        raise Unreadable(f"each row is longer than {MAX_ROW_BYTES:,} bytes")
    for chunk in _chunks(metadata):
        if "DELTA_BYTE_ARRAY" in chunk.encodings:
            raise Unreadable(
                f"the column {excerpt(chunk.path_in_schema)} is encoded as DELTA_BYTE_ARRAY, which "
                "may unpack to anything: write the file with another encoding"
            )
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _chunks(metadata: Any) -> Iterator[Any]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_columns != metadata.num_columns:
            raise Unreadable(f"{DAMAGED}: a part of it has {group.num_columns} columns")
        yield from map(group.column, range(group.num_columns))


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
    """Of lists, at least what their items take: a number that comes a million times is kept once."""
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    n_bytes = [
        max(column.length, NUMBER_BYTES) * (column.max_repetition_level > 0) for column in columns
    ]
    return sum(
        max(chunk.total_uncompressed_size, chunk.num_values * n_bytes[number % len(n_bytes)])
        for number, chunk in enumerate(_chunks(metadata))  # by place: its own path may be another
    )


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
    """As `datasets` writes it. What it would never write may unpack to anything, and is refused."""
    try:
        if _is_compressed(path):
            raise Unreadable(
                f"{path.name} is compressed inside, as `datasets` never saves it: save it again with "
                "save_to_disk"
            )
        stream = pa.ipc.open_stream(pa.memory_map(str(path)))
        for field in stream.schema:
            _check_type(field.name, field.type)
        return stream
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise Unreadable(f"{path.name}: {DAMAGED}: {_first_line(error)}") from error


def _is_compressed(path: Path) -> bool:
    """Whether a batch is, by its description: nothing is unpacked to see it."""
    messages = iter(pa.ipc.MessageReader.open_stream(pa.memory_map(str(path))))
    return any(_says_compression(message.type, message.metadata) for message in messages)


def _says_compression(kind: str, described: Any) -> bool:
    """By the fourth field of a RecordBatch, which is the third of a Message, or the second of a
    DictionaryBatch, which then is. https://github.com/apache/arrow/blob/main/format/Message.fbs"""
    if kind not in ("record batch", "dictionary"):
        return False
    batch = _table(described, _field(described, _table(described, 0), 2))
    if kind == "dictionary":
        batch = _table(described, _field(described, batch, 1))
    return bool(_field(described, batch, 3))


def _table(described: Any, place: int) -> int:
    """Where the table of a flatbuffer lies that is named at a place."""
    return place + struct.unpack_from("<I", described, place)[0]


def _field(described: Any, table: int, number: int) -> int:
    """Where a field of it lies, counted from 0; 0 if it is not given."""
    fields = table - struct.unpack_from("<i", described, table)[0]
    at = 4 + 2 * number
    if at >= struct.unpack_from("<H", described, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", described, fields + at)[0]
    return table + offset if offset else 0


def _batches(path: Path) -> Iterator[Any]:
    """Checked before anything is read of them: where a text begins and how long it is stands in the file,
    and Arrow believes it. That takes a tenth of the time that reading does."""
    n_bits = 8 * path.stat().st_size
    for batch in _open_arrow(path):
        batch.validate(full=True)
        if batch.num_rows > n_bits:  # of columns that take no place
            raise Unreadable(f"{path.name}: {DAMAGED}: it says to have {batch.num_rows:,} rows")
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _columns(schema: Any) -> tuple[str, ...]:
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise Unreadable(f"two columns are called {excerpt(twice[0])}: rename one of them")
    return tuple(schema.names)


def _check_type(column: str, kind: Any, *, may_be_text: bool = True) -> None:
    """Raises Unreadable where the size of what a column holds cannot be told before it is unpacked."""
    stored = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if _is_view(stored) or (_is_text(stored) and not may_be_text):
        raise Unreadable(
            f"the column {excerpt(column)} is of the type {kind}, which may unpack to anything: save "
            "it as plain text"
        )
    if TYPES.is_dictionary(stored):
        _check_type(column, stored.value_type)
    elif TYPES.is_nested(stored):
        for number in range(stored.num_fields):
            _check_type(column, stored.field(number).type, may_be_text=may_be_text)


def _is_text(kind: Any) -> bool:
    return any(is_it(kind) for is_it in TEXTS)


def _is_view(kind: Any) -> bool:
    """One value of it may stand in any number of rows."""
    return any(is_it(kind) for is_it in VIEWS)


def _n_bytes(array: Any) -> int:
    """Before it is unpacked: of a dictionary each value as often as it comes."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _n_bytes(array.storage)
    if TYPES.is_dictionary(kind):
        return array.indices.nbytes + _n_named(array)
    if TYPES.is_struct(kind):
        return sum(map(_n_bytes, array.flatten()))
    if TYPES.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(_n_bytes(part.slice(first, last - first)) for part in (array.keys, array.items))
    if any(is_it(kind) for is_it in LISTS):
        return _n_bytes(array.flatten())
    return array.nbytes


def _n_named(array: Any) -> int:
    """Bytes of the values of a dictionary that the array names."""
    if _is_text(array.dictionary.type):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0
    return len(array) * _n_bytes(array.dictionary)


def _n_bytes_of(batch: Any) -> int:
    return sum(map(_n_bytes, batch.columns))


def _read(batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            is_small = _n_bytes_of(batch) <= MAX_ROW_BYTES
            for offset in range(batch.num_rows if not is_small else 1):
                part = batch if is_small else batch.slice(offset, 1)
                is_read = is_small or _n_bytes_of(part) <= MAX_ROW_BYTES
                for record in _records(part) if is_read else [None]:
                    number += 1
                    yield Row(f"row {number}", number, _record(record))
    except Unreadable:
        raise
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # a date that is none, …
        place = f"row {number + 1}"
        raise Unreadable(
            f"{DAMAGED} from here on: {_first_line(error)}", place, number + 1
        ) from error


def _records(batch: Any) -> list[dict[str, Any]]:
    """Of few bytes: dictionaries are unpacked first, which is faster."""
    columns = [
        column.dictionary_decode() if TYPES.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()


def _record(record: dict[str, Any] | None) -> dict[str, Any] | ValueError:
    if record is None:
        return ValueError(f"the row is longer than {MAX_ROW_BYTES:,} bytes")
    return {name: value for name, value in record.items() if value is not None}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
