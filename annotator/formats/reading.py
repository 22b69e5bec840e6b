"""The rows of a file, one after the other, whatever they are packed in. Nothing is read whole.

What a file is, is seen in its first bytes and not in its name: JSON lines, a JSON list, CSV or TSV,
Parquet, or a folder that `datasets` has saved; the first four may be packed with gzip, the folder as
a zip file. A row that cannot be read is given as the sentence that says why; what ends the reading is
`Unreadable`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from annotator.formats.entries import MAX_ROW_BYTES, check_depth, excerpt
from annotator.formats.zips import holds_folder
from annotator.jsonl import broken, fields_of, parse_object

HEAD_BYTES = 8192
CHUNK_BYTES = 2**16
DELIMITERS = ",\t;"
HUB = "hub:"
ZIP = b"PK\x03\x04"
# What people mistake for a file of rows, by how it begins.
NOT_ROWS = {
    ZIP: "a zip archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"%PDF": "a PDF file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"BZh": "packed with bzip2: unpack it, or pack it with gzip",
    b"\xfd7zXZ": "packed with xz: unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard: unpack it, or pack it with gzip",
    b"SQLite format": "a database: import what was exported from it",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"<": "a web page or XML",
}
SUPPORTED = (
    "JSON lines, a JSON list, CSV, Parquet, or one of these packed with gzip; or a zip file of a folder "
    "that `datasets` has saved"
)


class Row(NamedTuple):
    place: str  # "line 7", or "row 7" where rows are not lines
    number: int
    record: dict[str, Any] | ValueError  # fields that are null are left out


class Unreadable(ValueError):
    """Nothing can be read from `place` on."""

    def __init__(self, message: str, place: str = "", number: int = 0) -> None:
        self.message, self.place, self.number = message, place, number
        super().__init__(f"{place}: {message}" if place else message)


class Rows:
    """The rows of a file, read once. Where they have columns, `columns` names them."""

    def __init__(
        self,
        format: str,
        rows: Iterator[Row],
        *,
        name: str = "",
        columns: tuple[str, ...] = (),
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.format = format  # "jsonl", "json", "csv", "parquet", "datasets"
        self.name = name
        self.columns = columns
        self.close = close
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_rows(
    source: str | Path | IO[bytes], name: str = "", *, max_bytes: int | None = None
) -> Rows:
    """The rows of a file, an open file, a folder saved by `datasets`, or hub:OWNER/NAME[@SPLIT].

    A file may unpack to `max_bytes`. Raises Unreadable, here or while the rows are read, and
    OSError if there is no such file.
    """
    if isinstance(source, str) and source.startswith(HUB):
        from annotator.formats.hub import open_hub  # noqa: PLC0415  (hundreds of MiB)

        return open_hub(source.removeprefix(HUB))
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            from annotator.formats.tables import open_folder  # noqa: PLC0415  (50 MiB)

            return open_folder(path, name or path.name)
        file: IO[bytes] = path.open("rb")
        try:
            rows = _open_file(file, name or path.name, max_bytes)
        except BaseException:
            file.close()
            raise
        close_rows = rows.close

        def close() -> None:
            close_rows()
            file.close()

        rows.close = close
        return rows
    return _open_file(source, name, max_bytes)


def _open_file(file: IO[bytes], name: str, max_bytes: int | None) -> Rows:
    file, head = unpacked(file)
    is_packed = isinstance(file, gzip.GzipFile)  # which cannot be read from its end
    if head.startswith(ZIP) and not is_packed and holds_folder(file):
        from annotator.formats.tables import open_zip  # noqa: PLC0415  (50 MiB)

        return open_zip(file, name, max_bytes)
    for beginning, what in NOT_ROWS.items():
        if head.startswith(beginning):
            raise Unreadable(f"the file is {what}; it must be {SUPPORTED}")
    if head.startswith(b"PAR1"):
        from annotator.formats.tables import open_parquet  # noqa: PLC0415  (50 MiB)

        return open_parquet(_seekable(file, max_bytes), name, max_bytes)
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if first in (b"{", b""):
        return Rows("jsonl", read_json_lines(read_lines(file, max_bytes)), name=name)
    if first == b"[":
        return Rows("json", read_json_list(file, max_bytes), name=name)
    if b"\0" in head:
        raise Unreadable(f"the file is not text; it must be {SUPPORTED}, and text in UTF-8")
    return open_csv(read_lines(file, max_bytes), name)


# --- bytes ------------------------------------------------------------------------------------
def unpacked(file: IO[bytes]) -> tuple[IO[bytes], bytes]:
    """The file, unpacked if it is gzip, and how it begins."""
    head = _head(file)
    if not head.startswith(b"\x1f\x8b"):
        return file, head
    packed = gzip.GzipFile(fileobj=file)
    try:
        head = packed.peek(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"the file is damaged: {error}") from error
    if head.startswith(b"\x1f\x8b"):
        raise Unreadable("the file is packed with gzip twice: unpack it once")
    return packed, head  # type: ignore[return-value]


def _head(file: Any) -> bytes:
    if not file.seekable():
        return file.peek(HEAD_BYTES)
    head = file.read(HEAD_BYTES)
    file.seek(-len(head), 1)
    return head


def _seekable(file: IO[bytes], max_bytes: int | None) -> IO[bytes]:
    """Parquet is read from its end: what comes in a stream goes to a temporary file first."""
    is_packed = isinstance(file, gzip.GzipFile)
    if file.seekable() and not is_packed:
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115  (read as long as the rows are)
    for piece in _pieces(file, max_bytes):
        copy.write(piece)
    copy.seek(0)
    return copy


def _pieces(file: IO[bytes], max_bytes: int | None) -> Iterator[bytes]:
    n_bytes = 0
    try:
        while piece := file.read(CHUNK_BYTES):
            n_bytes += len(piece)
            if max_bytes is not None and n_bytes > max_bytes:
                raise Unreadable(too_large(max_bytes))
            yield piece
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"the file is damaged after {n_bytes:,} bytes: {error}") from error


def read_lines(file: IO[bytes], max_bytes: int | None = None) -> Iterator[bytes]:
    """The lines of a file. Of a line that is too long, only the beginning.

    Raises Unreadable if the file is damaged, or if it unpacks to more than `max_bytes`.
    """
    number = n_bytes = 0
    is_continued = False
    try:
        while piece := file.readline(MAX_ROW_BYTES + 1):
            number += not is_continued
            n_bytes += len(piece)
            if max_bytes is not None and n_bytes > max_bytes:
                raise Unreadable(too_large(max_bytes), f"line {number}", number)
            if not is_continued:
                yield piece
            is_continued = not piece.endswith(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        message = f"the file is damaged from here on: {error}"
        raise Unreadable(message, f"line {number + 1}", number + 1) from error


def too_large(max_bytes: int) -> str:
    return f"the file is larger than {max_bytes / 2**20:g} MiB; split it, or use import_comparisons"


# --- JSON -------------------------------------------------------------------------------------
def read_json_lines(lines: Iterator[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record: dict[str, Any] | ValueError
        try:
            record = parse_object(line)
        except ValueError as error:
            record = error
        yield Row(f"line {number}", number, record)


def read_json_list(file: IO[bytes], max_bytes: int | None = None) -> Iterator[Row]:
    """The items of a file that is one JSON list, of which one item at a time is held.

    After a mistake nobody can say where the next item begins, so there it ends.
    """
    items = _JsonItems(_pieces(file, max_bytes))
    items.expect("[")
    number = 0
    while items.look() != "]":
        if number:
            items.expect(",")
        number += 1
        items.place = f"row {number}"
        value = items.next_value()
        record: dict[str, Any] | ValueError
        try:
            record = fields_of(value)
        except ValueError as error:
            record = error
        yield Row(items.place, number, record)
    items.expect("]")
    if items.look():
        raise Unreadable(f"there is more after the end of the list: {excerpt(items.look())}")


class _JsonItems:
    """Text that arrives in pieces, read value by value."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.text, self.at = "", 0
        self.is_whole = False  # all pieces have arrived
        self.place = ""

    def look(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            if rest := WHITE_SPACE.match(self.text, self.at):
                self.at = rest.end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        found = self.look()
        if found != character:
            what = f"found {excerpt(found)}" if found else "the file ends: it is incomplete"
            raise Unreadable(f'broken JSON: a "{character}" should come here; {what}', self.place)
        self.at += 1

    def next_value(self) -> Any:
        self.look()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.is_whole:  # else a number may go on
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self.is_whole:
                    raise Unreadable(broken(error), self.place) from None
            except (ValueError, RecursionError) as error:
                what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise Unreadable(f"broken JSON: {what}", self.place) from None
            if len(self.text) - self.at > MAX_ROW_BYTES:
                raise Unreadable(
                    f"the row is longer than {MAX_ROW_BYTES:,} bytes, or its JSON is broken: it "
                    f"begins with {excerpt(self.text[self.at : self.at + 30])}",
                    self.place,
                )
            self.more()

    def more(self) -> bool:
        """At least as much again as there is, so that a long value is not tried too often."""
        pieces = [self.text[self.at :]]
        wanted = len(pieces[0]) + 1
        while wanted > 0 and not self.is_whole:
            piece = next(self.pieces, b"")
            self.is_whole = not piece
            try:
                pieces.append(self.decode(piece, self.is_whole))
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise Unreadable(
                    f"not UTF-8 here or soon after: byte 0x{byte:02x}; save the file as UTF-8",
                    self.place,
                ) from None
            wanted -= len(pieces[-1])
        text = "".join(pieces)
        is_more = len(text) > len(pieces[0])
        self.text, self.at = text, 0
        return is_more


DECODER = json.JSONDecoder()
WHITE_SPACE = re.compile(r"[ \t\r\n]+")


# --- CSV --------------------------------------------------------------------------------------
def open_csv(lines: Iterator[bytes], name: str = "") -> Rows:
    """CSV with a line of names; separated by commas, tabs or semicolons, as that line shows."""
    csv.field_size_limit(MAX_ROW_BYTES)
    first = next(lines, b"")
    header = first.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    unquoted = re.sub(r'"[^"]*"', "", header)
    delimiter = max(DELIMITERS, key=unquoted.count)
    cells = _Cells(_put_back(header.encode("utf-8", "surrogateescape"), lines), delimiter)
    columns = cells.next_row()
    if isinstance(columns, ValueError):
        raise Unreadable(str(columns), "row 1", 1)
    columns = [column.strip() for column in columns or []]
    _check_columns(columns)
    return Rows("csv", _read_csv(cells, columns), name=name, columns=tuple(columns))


def _put_back(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from lines


def _check_columns(columns: list[str]) -> None:
    for number, column in enumerate(columns, 1):
        if NOT_UTF8.search(column) or "\0" in column:
            raise Unreadable("the names of the columns are not UTF-8: save the file as UTF-8")
        if column in columns[: number - 1]:
            raise Unreadable(f"two columns are called {excerpt(column)}: rename one of them")
        if not column:
            raise Unreadable(f"column {number} has no name: the first line must name all columns")


class _Cells:
    """The rows of a CSV file as lists of cells, none of them larger than a row may be."""

    def __init__(self, lines: Iterator[bytes], delimiter: str) -> None:
        self.lines = lines
        self.n_bytes = 0
        self.reader = csv.reader(self, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """A line for the csv module, which joins those of a quoted cell."""
        line = next(self.lines)
        self.n_bytes += len(line)
        if self.n_bytes > MAX_ROW_BYTES:
            raise ValueError(
                f"the row is longer than {MAX_ROW_BYTES:,} bytes, or a quoted cell is not closed"
            )
        return line.decode("utf-8", "surrogateescape")

    def next_row(self) -> list[str] | ValueError | None:
        """None at the end."""
        self.n_bytes = 0
        try:
            return next(self.reader, None)
        except csv.Error as error:
            return ValueError(
                f"broken CSV: {error}; a cell that holds quotes, line ends or the separator must "
                "stand in quotes, with each quote in it doubled"
            )
        except Unreadable:
            raise
        except ValueError as error:
            return error


def _read_csv(cells: _Cells, columns: list[str]) -> Iterator[Row]:
    number = 1  # the names
    while (row := cells.next_row()) is not None:
        number += 1
        if row == []:  # an empty line
            continue
        record = row if isinstance(row, ValueError) else _csv_record(row, columns)
        yield Row(f"row {number}", number, record)


def _csv_record(row: list[str], columns: list[str]) -> dict[str, Any] | ValueError:
    if len(row) != len(columns):
        cells = f"{len(row)} cell{'s' * (len(row) != 1)}"
        return ValueError(f"the row has {cells}, but there are {len(columns)} columns")
    for column, cell in zip(columns, row, strict=True):
        if not cell.isascii() and (found := NOT_UTF8.search(cell)):
            byte = ord(found[0]) - 0xDC00
            return ValueError(f'"{column}" is not UTF-8: byte 0x{byte:02x}; save the file as UTF-8')
    return {column: _cell(cell) for column, cell in zip(columns, row, strict=True) if cell}


NOT_UTF8 = re.compile("[\ud800-\udfff]")


def _cell(cell: str) -> Any:
    """A cell may hold messages as JSON; everything else is the text that it is."""
    if not cell.startswith("["):
        return cell
    try:
        value = json.loads(cell)
        check_depth(value)
    except (ValueError, RecursionError):
        return cell
    is_messages = bool(value) and all(
        isinstance(item, dict) and item.keys() >= {"role", "content"} for item in value
    )
    return value if is_messages else cell
