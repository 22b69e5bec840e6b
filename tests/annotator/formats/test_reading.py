"""Files as they come: each format gives its rows, and what is damaged or hostile gives a sentence."""

import csv
import gzip
import io
import json
import re
import struct
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.formats import tables
from annotator.formats.entries import MAX_ROW_BYTES
from annotator.formats.reading import Row, Unreadable, open_rows, read_lines

ROWS = [{"prompt": "Hi!", "chosen": "yes", "rejected": "no"}, {"prompt": "Ho!"}]
MIB = 2**20


def rows_of(content, **options):
    return open_rows(io.BytesIO(content), **options)


def records(content, **options):
    with rows_of(content, **options) as rows:
        return [row.record for row in rows]


def json_lines(rows=ROWS):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows=ROWS, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


CSV = 'prompt,chosen,rejected\nHi!,yes,no\n"Ho!",,\n'


# --- what is read -------------------------------------------------------------------------------
FORMATS = {
    "jsonl": json_lines(),
    "json": json.dumps(ROWS, indent=2).encode(),
    "csv": CSV.encode(),
    "parquet": parquet(),
}


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_seen_in_the_bytes(format, packed):
    rows = rows_of(packed(FORMATS[format]))

    assert rows.format == format
    assert [row.record for row in rows] == ROWS


@pytest.mark.parametrize("content", [CSV.replace(",", "\t"), CSV.replace(",", ";"), "\ufeff" + CSV])
def test_tables_are_separated_as_their_first_line_is(content):
    rows = rows_of(content.encode())

    assert rows.columns == ("prompt", "chosen", "rejected")
    assert [row.record for row in rows] == ROWS


def test_rows_say_where_they_are():
    assert [row.place for row in rows_of(b'{"a": 1}\n\n{"b": 2}')] == ["line 1", "line 3"]
    assert [row.place for row in rows_of(b"[{}, {}]")] == ["row 1", "row 2"]
    assert [row.place for row in rows_of(b'a\n"x\ny"\n\nz\n')] == ["row 2", "row 4"]
    assert [row.place for row in rows_of(parquet())] == ["row 1", "row 2"]


def test_cells_may_hold_line_ends_quotes_and_messages():
    messages = [{"role": "user", "content": 'Say "Hi", please'}]
    quoted = json.dumps(messages).replace('"', '""')

    assert records(f'prompt,text\n"{quoted}","a\nb, ""c"""\n'.encode()) == [
        {"prompt": messages, "text": 'a\nb, "c"'}
    ]


def test_a_cell_in_brackets_is_a_text_where_it_is_no_messages():
    assert records(b'prompt\n"[1, 2]"\n[broken\n') == [{"prompt": "[1, 2]"}, {"prompt": "[broken"}]


def test_a_folder_that_datasets_has_saved(tmp_path):
    write_folder(tmp_path, ROWS)

    rows = open_rows(tmp_path)

    assert (rows.format, rows.columns) == ("datasets", ("prompt", "chosen", "rejected"))
    assert list(rows) == [Row("row 1", 1, ROWS[0]), Row("row 2", 2, ROWS[1])]


def write_folder(folder, rows, filename="data-00000-of-00001.arrow"):
    """As `Dataset.save_to_disk` does, which takes seconds to import."""
    write_arrow(folder, pa.Table.from_pylist(rows), filename)


def write_arrow(folder, table, filename="data-00000-of-00001.arrow", **options):
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.ipc.new_stream(path, table.schema, **options) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": filename}]}))


def zipped(folder):
    """All of a folder, as a browser can send it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return file.getvalue()


@pytest.mark.parametrize("splits", [["."], ["train", "test"]])
def test_a_saved_folder_may_be_packed_with_all_its_splits(tmp_path, splits):
    for split in splits:
        (tmp_path / split).mkdir(exist_ok=True)
        write_folder(tmp_path / split, ROWS)

    with rows_of(zipped(tmp_path)) as rows:
        found = list(rows)

    assert (rows.format, rows.columns) == ("datasets", ("prompt", "chosen", "rejected"))
    assert [row.record for row in found] == ROWS * len(splits)
    assert [row.place for row in found] == [f"row {n}" for n in range(1, len(found) + 1)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda content: content[:-9], "a zip archive or a spreadsheet"),
        (lambda content: content[:60] + b"xxxx" + content[64:], "damaged or incomplete"),
        (lambda content: content.replace(b"state.json", b"State.json"), "a zip archive or"),
        (gzip.compress, "a zip archive or a spreadsheet"),
    ],
)
def test_a_packed_folder_that_is_none_gets_a_sentence(tmp_path, spoil, words):
    write_folder(tmp_path, ROWS)

    with pytest.raises(Unreadable, match=words):
        rows_of(spoil(zipped(tmp_path)))


def test_a_packed_folder_keeps_to_the_limit_and_to_its_place(tmp_path):
    write_folder(tmp_path, ROWS)
    (tmp_path / "data.bin").write_bytes(bytes(MIB))
    content = zipped(tmp_path)
    names = {b"data.bin": b"../../da"}

    with pytest.raises(Unreadable, match="larger than"):
        rows_of(content, max_bytes=MIB)
    for name, hostile in names.items():
        content = content.replace(name, hostile)
    assert len(list(rows_of(content))) == 2


def test_an_open_file_that_cannot_go_back_is_read_too():
    class Pipe(io.BufferedReader):
        def seekable(self):
            return False

    for content in FORMATS.values():
        assert [row.record for row in open_rows(Pipe(io.BytesIO(content)))] == ROWS


def test_an_empty_file_has_no_rows():
    assert records(b"") == records(b"\n \n") == records(b"[]") == records(b"prompt\n") == []


# --- bad rows: the others are read ----------------------------------------------------------------
BAD_ROWS = {
    b'{"a": 1}\n{"a": "caf\xe9"}\n{"a": 2}\n': "not UTF-8: byte 0xe9 at position 11",
    b'{"a": 1}\n' + b"[" * 100_000 + b'\n{"a": 2}\n': "broken JSON: nested too deeply",
    b'{"a": 1}\n{"a":' + b"[" * 101 + b"]" * 101 + b'}\n{"a": 2}\n': "deeply, beyond 100 levels",
    b'{"a": 1}\n"a"\n{"a": 2}\n': 'a line must be an object like {"prompt": …}, not "a"',
    b'{"a": 1}\n' + b"x" * (3 * MIB) + b'\n{"a": 2}\n': "the line is longer than 1,048,576 bytes",
    b'[{"a": 1}, 7, {"a": 2}]': 'a line must be an object like {"prompt": …}, not 7',
    b"a\n1\n\xe9\n2\n": '"a" is not UTF-8: byte 0xe9; save the file as UTF-8',
    b"a,b\n1,1\n1,2,3\n2,2\n": "the row has 3 cells, but there are 2 columns",
    b'a\n1\n"x"y\n2\n': "broken CSV: ',' expected after '\"'",
    b"a\n1\n" + b"x" * (3 * MIB) + b"\n2\n": "the row is longer than 1,048,576 bytes, or a quoted",
}


@pytest.mark.parametrize("content", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_explained_and_the_next_one_read(content):
    before, bad, after = records(content)

    assert BAD_ROWS[content] in str(bad)
    assert isinstance(bad, ValueError)
    assert [int(record["a"]) for record in (before, after)] == [1, 2]


def test_a_row_of_a_table_is_no_larger_than_a_line():
    assert [
        str(record)[:40] for record in records(parquet([{"a": "x" * 2 * MIB}, {"a": "y"}]))
    ] == [
        "the row is longer than 1,048,576 bytes",
        "{'a': 'y'}",
    ]


# --- damaged and hostile files: nothing more is read ------------------------------------------------
UNREADABLE = {
    "zip": (b"PK\x03\x04" + bytes(100), "a zip archive or a spreadsheet: unpack it, or save"),
    "web page": (b"<!DOCTYPE html><script>alert(1)</script>", "the file is a web page or XML"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(9), "the file is a picture; it must be JSON lines"),
    "UTF-16": ('{"prompt": "Hi!"}'.encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
    "binary": (b"\x7fELF" + bytes(100), "the file is not text; it must be JSON lines"),
    "packed twice": (gzip.compress(gzip.compress(b"{}")), "packed with gzip twice: unpack it once"),
    "only the head of gzip": (gzip.compress(b"{}")[:5], "the file is damaged: "),
    "truncated gzip": (gzip.compress(json_lines() * 9)[:-9], "damaged from here on: Compressed file"),
    "gzip with other bytes": (gzip.compress(b"{}\n")[:-8] + bytes(8), "damaged from here on: CRC"),
    "truncated Parquet": (parquet()[:-9], "the file is damaged or incomplete: "),
    "Parquet without its middle": (
        parquet([{"a": "x" * 999}] * 99)[:40] + parquet([{"a": "x" * 999}] * 99)[90:],
        "the file is damaged or incomplete",
    ),
    "a list that ends early": (b'[{"a": 1}, {"a"', "row 2: broken JSON: Expecting ':' delimiter"),
    "a list without an end": (b'[{"a": 1}', 'row 1: broken JSON: a "," should come here; the file ends'),
    "a list without commas": (b"[{} {}]", 'row 1: broken JSON: a "," should come here; found "{"'),
    "a list and more": (b"[{}] {}", 'there is more after the end of the list: "{"'),
    "a deep list": (b"[" * 100_000, "row 1: broken JSON: nested too deeply"),
    "an endless item": (b'["' + b"x" * (3 * MIB), "row 1: the row is longer than 1,048,576 bytes"),
    "a list in Latin 1": (b'[{"a": "caf\xe9 au lait"}]', "not UTF-8 here or soon after: byte 0xe9"),
    "digits": (b"[" + b"9" * 5000 + b"]", "row 1: broken JSON: Exceeds the limit"),
    "a column twice": (b"a,b,a\n", 'two columns are called "a": rename one of them'),
    "a column without a name": (b"a,,b\n", "column 2 has no name"),
    "names in Latin 1": (b"caf\xe9,b\n", "the names of the columns are not UTF-8"),
    "names without an end": (b'"a,b\n' * 9, "row 1: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_gets_a_sentence(kind):
    content, words = UNREADABLE[kind]

    with pytest.raises(Unreadable) as refused:
        list(rows_of(content))

    assert words in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_bomb_ends_where_the_limit_is():
    bombs = [b" " * MIB, b"{}\n" * MIB, b"[" + b" " * MIB, b"a\n" * MIB]

    for bomb in bombs:
        with pytest.raises(
            Unreadable, match=r"larger than 0\.03125 MiB; split it, or use import_c"
        ):
            list(rows_of(gzip.compress(bomb), max_bytes=2**15))


def test_a_parquet_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(tables, "SMALL", MIB)
    bomb = parquet([{"a": "x" * MIB}] * 8, compression="zstd", use_dictionary=False)

    with pytest.raises(Unreadable, match=r"the file would unpack to 8 MiB, [0-9,]+ times its size"):
        rows_of(bomb)
    with pytest.raises(Unreadable, match="larger than 2 MiB"):
        rows_of(bomb, max_bytes=2 * MIB)


@pytest.fixture
def pool():
    """Knows how much of Arrow's memory was in use at once."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


def test_a_text_that_comes_often_is_kept_once(pool):
    """4 MiB in each of 64 rows, which would be 256 MiB."""
    texts = pa.DictionaryArray.from_arrays([0] * 64 + [1], ["x" * 4 * MIB, "z"])
    bomb = io.BytesIO()
    pq.write_table(pa.table({"a": texts}), bomb, compression="zstd", store_schema=False)

    first, *_, last = records(bomb.getvalue())

    assert (str(first), last) == ("the row is longer than 1,048,576 bytes", {"a": "z"})
    assert len(bomb.getvalue()) < 4096
    assert pool.max_memory() < 64 * MIB


@pytest.mark.parametrize(
    ("items", "options", "sentence"),
    [
        (["x" * 99] * 9, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
         'the column "a" is encoded as DELTA_BYTE_ARRAY, which may unpack to anything'),
        (pa.array(["{}"], pa.json_()), {},
         'the column "a" is of the type extension<arrow.json>, which may unpack to anything'),
        ([[7] * MIB], {"compression": "zstd"}, "the file would unpack to 8 MiB"),
        (pa.array([bytes(2 * MIB)], pa.binary(2 * MIB)), {}, "each row is longer than 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_parquet_that_may_unpack_to_anything_is_refused(monkeypatch, items, options, sentence):
    monkeypatch.setattr(tables, "SMALL", MIB)
    file = io.BytesIO()
    pq.write_table(pa.table({"a": items}), file, **options)

    with pytest.raises(Unreadable, match=re.escape(sentence)):
        records(file.getvalue())


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_saved_folder_may_not_be_compressed_inside(tmp_path, compression, kind, is_zipped):
    bomb = pa.table({"a": pa.array(["x" * MIB], kind)})
    write_arrow(tmp_path, bomb, options=pa.ipc.IpcWriteOptions(compression=compression))

    with pytest.raises(Unreadable, match=r"data-00000-of-00001\.arrow is compressed inside, as "):
        open_rows(io.BytesIO(zipped(tmp_path)) if is_zipped else tmp_path)


def test_a_saved_folder_may_have_a_dictionary_but_no_views(tmp_path):
    texts = ["x" * 2 * MIB, "y", "y", None]
    write_arrow(tmp_path, pa.table({"a": pa.array(texts).dictionary_encode()}))

    assert [str(row.record)[:11] for row in open_rows(tmp_path)] == [
        "the row is ", "{'a': 'y'}", "{'a': 'y'}", "{}"
    ]  # fmt: skip

    write_arrow(tmp_path, pa.table({"a": pa.array(texts, pa.string_view())}))
    with pytest.raises(Unreadable, match='the column "a" is of the type string_view'):
        open_rows(tmp_path)


def arrow(table):
    """The bytes of a file in such a folder."""
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def packed_folder(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        archive.writestr("data.arrow", content)
    return file.getvalue()


@pytest.mark.parametrize("places", [(0, 2**30, 6), (0, 6, 3), (0, -9, 6), (0, 3, 2**30)])
def test_a_saved_folder_is_not_believed_where_its_texts_begin(places):
    """Arrow would read what lies elsewhere in memory, or beyond it."""
    content = arrow(pa.table({"a": ["one", "two"]}))
    hostile = content.replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", *places))

    with pytest.raises(Unreadable, match="row 1: the file is damaged or incomplete from here on: "):
        records(packed_folder(hostile))


def test_a_saved_folder_may_not_have_rows_without_end():
    nulls = pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])  # which take no place

    with pytest.raises(Unreadable, match="it says to have 2,147,483,647 rows"):
        records(packed_folder(arrow(pa.table({"a": nulls}))))


def test_a_date_that_no_calendar_has_gets_a_sentence():
    table = pa.table({"a": pa.array([2**31 - 1], pa.date32())})
    file = io.BytesIO()
    pq.write_table(table, file)

    for content in (packed_folder(arrow(table)), file.getvalue()):
        with pytest.raises(Unreadable, match="row 1: the file is damaged or incomplete"):
            records(content)


@pytest.mark.parametrize("content", [b'{"a": "', b"[", b'a\n"', b"a\n", b'[{"a": "', b'"a'])
def test_memory_is_bounded_whatever_a_file_does(content):
    """20 MiB of one thing, from a file that makes them up."""
    tracemalloc.start()
    with suppress(Unreadable):
        for _ in open_rows(io.BufferedReader(Endless(content, b"x"))):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 12 * MAX_ROW_BYTES


class Endless(io.RawIOBase):
    """Content, and then 20 MiB of one byte."""

    def __init__(self, content, byte):
        self.left = [content, *[byte * MIB] * 20]

    def readable(self):
        return True

    def readinto(self, buffer):
        piece, self.left[:1] = self.left[0][: len(buffer)], [self.left[0][len(buffer) :]]
        if not self.left[0]:
            self.left = self.left[1:] or [b""]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("{", "is no folder that `datasets` has saved"),
        ('{"_data_files": 3}', "is no folder that `datasets` has saved"),
        ('{"_data_files": [{"filename": "../secret"}]}', 'outside of the folder: "../secret"'),
        ('{"_data_files": [{"filename": "gone"}]}', "gone: the file is damaged or incomplete"),
    ],
)
def test_a_folder_that_datasets_did_not_save(tmp_path, state, words):
    (tmp_path / "state.json").write_text(state)

    with pytest.raises(Unreadable, match=words):
        open_rows(tmp_path)


def test_a_folder_of_splits_asks_for_one(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write_folder(tmp_path / split, ROWS)
    (tmp_path / "dataset_dict.json").write_text("{}")

    with pytest.raises(Unreadable, match="holds 2 datasets, test, train: name one of them"):
        open_rows(tmp_path)


@pytest.mark.parametrize("address", ["hub:", "hub:a b/c", "hub:../../etc/passwd", "hub:name"])
def test_an_address_on_the_hub_has_an_owner_and_a_name(address):
    with pytest.raises(Unreadable, match="must look like hub:OWNER/NAME"):
        open_rows(address)


def hub(monkeypatch, load_dataset):
    """In place of the library, which takes seconds to import and the network to ask."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_a_dataset_on_the_hub_is_streamed(monkeypatch):
    def load_dataset(*asked, **options):
        assert asked == ("hf://datasets/owner/name", "config")
        assert options == {"split": "test", "streaming": True}
        return Streamed([*ROWS, {"prompt": "Hm?", "chosen": None}])

    class Streamed(list):
        column_names = ("prompt", "chosen", "rejected")

        def decode(self, enable):
            assert not enable  # pictures
            return self

    hub(monkeypatch, load_dataset)

    rows = open_rows("hub:owner/name/config@test")

    assert rows.columns == ("prompt", "chosen", "rejected")
    assert [row.record for row in rows] == [*ROWS, {"prompt": "Hm?"}]


def test_without_a_way_to_the_hub_there_is_one_sentence(monkeypatch):
    def load_dataset(*asked, **options):
        raise ConnectionError(
            "Couldn't reach 'owner/name' on the Hub (ConnectTimeout)\nTraceback …"
        )

    hub(monkeypatch, load_dataset)

    with pytest.raises(Unreadable) as refused:
        open_rows("hub:owner/name")

    assert str(refused.value) == (
        "the dataset owner/name cannot be read from the hub: Couldn't reach 'owner/name' on the Hub "
        "(ConnectTimeout). Without a way to the hub, save it elsewhere with save_to_disk and import "
        "the folder"
    )


# --- lines ------------------------------------------------------------------------------------
def test_an_endless_line_is_cut():
    content = b"a\n" + b"x" * (3 * MAX_ROW_BYTES) + b"\nb"

    first, long, last = read_lines(io.BytesIO(content))

    assert (first, len(long), last) == (b"a\n", MAX_ROW_BYTES + 1, b"b")


# --- properties ---------------------------------------------------------------------------------
DAMAGED = [(content, bytes) for content in FORMATS.values()]
DAMAGED += [(arrow(pa.Table.from_pylist(ROWS)), packed_folder)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DAMAGED), st.data())
def test_a_damaged_file_is_read_or_refused(kind, data):
    """Cut off anywhere, or with other bytes anywhere: a sentence, never another error."""
    content, packed = kind
    at = data.draw(st.integers(0, len(content)))
    put_in = data.draw(st.binary(max_size=4))
    end = data.draw(st.just(at + len(put_in)) | st.integers(at, len(content)))
    damaged = content[:at] + put_in + content[end:]

    with suppress(Unreadable):
        for record in records(packed(damaged)):
            assert isinstance(record, dict | ValueError)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), min_size=1, max_size=5))
def test_rows_come_out_as_they_went_in(rows):
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows([row["a"], row["b"]] for row in rows)

    assert records(json_lines(rows)) == rows
    assert records(json.dumps(rows).encode()) == rows
    assert records(parquet(rows)) == rows
    assert records(table.getvalue().encode()) == rows
