"""Files made of an export: whole or not there, always the same, and from what was frozen alone."""

import csv
import hashlib
import json
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.exporting import create_export
from annotator.exports.derived import NotDerived, derive, hash_of, is_as_made
from annotator.exports.files import BATCH_BYTES, Lines, tables, write_csv
from annotator.exports.schemas import arrow_schema
from annotator.exports.shapes import KTO, REWARD, SHAPES, VOTES
from annotator.formats.reading import open_rows
from annotator.models import Assignment, Judgment
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def export():
    """One comparison for training, with two votes, and one that is held out."""
    project = ProjectFactory(overlap=2)
    for split, texts in (("train", ["Yes ✓", "No"]), ("test", ["Oui", "Non"])):
        comparison = ComparisonFactory(project=project, prompt__split=split, texts=texts)
        make_judgment(comparison, UserFactory(), [1], [0])
    make_judgment(comparison, UserFactory())
    return create_export(project)


def jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- what is frozen -------------------------------------------------------------------------------
def test_a_record_has_all_that_was_said_by_the_places_of_the_answers():
    project = ProjectFactory(protocol={"rationale": "optional", "flags": ["x"]})
    comparison = ComparisonFactory(project=project, texts=["a", "b"])
    a, b = comparison.completions.order_by("pk").values_list("pk", flat=True)
    said = make_judgment(
        comparison, UserFactory(), [1], [0], order=[b, a], rationale="So.", flags={str(b): ["x"]},
        seconds=4.0,
    )  # fmt: skip
    Assignment.objects.update(first_interaction_ms=1500, ui_version="0.1.0, 1a2b3c4")

    export = create_export(project)

    (record,) = jsonl(export.folder / "votes.jsonl")
    assert record == {
        "prompt": comparison.prompt.messages,
        "completions": ["a", "b"],
        "sources": ["import", "import"],
        "truncated": [False, False],
        "judgments": [
            {
                "annotator": str(said.annotator_id),
                "verdict": "ranking",
                "ranking": [[1], [0]],
                "strength": None,
                "strength_of": None,
                "is_pick": False,
                "criteria": [],
                "reasons": [],
                "rationale": "So.",
                "flags": [[], ["x"]],
                "spans": [],
                "rewrite": "",
                "order": [1, 0],
                "seconds": 4.0,
                "first_interaction_ms": 1500,
                "ui_version": "0.1.0, 1a2b3c4",
                "guideline_version": 1,
                "given": said.created.isoformat(timespec="seconds"),
                "judgment": said.pk,
                "showing": said.assignment_id,
            }
        ],
        "rulings": [],
        "split": "train",
        "comparison": comparison.pk,
        "prompt_key": comparison.prompt.key,
        "round": 1,
        "arm": "",
    }


def test_what_happens_in_the_database_later_alters_no_file(export):
    Judgment.objects.update(ranking=[], voided="2026-01-01T00:00:00Z")

    labels = [row["label"] for row in jsonl(derive(export, "kto", "jsonl"))]

    assert labels == [False, True, False]  # of the held-out ones, one is half bad: left out


# --- formats --------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES)
def test_parquet_has_the_rows_and_types_of_the_shape(export, shape):
    table = pq.read_table(derive(export, shape, "parquet"))

    assert table.schema == arrow_schema(SHAPES[shape].columns)
    assert table.to_pylist() == jsonl(derive(export, shape, "jsonl"))


def test_a_list_that_is_empty_in_all_rows_keeps_its_type(export):
    schema = pq.read_schema(derive(export, "reward", "parquet"))

    assert schema.field("chosen_flags").type == pa.list_(pa.string())


def test_csv_has_lists_as_json_and_no_formulas(tmp_path):
    columns = {"text": "string", "votes": ["int64"], "ok": "bool", "share": "float64"}
    with Lines(tmp_path / "rows.jsonl") as lines:
        lines.write([{"text": "=1+1, “ü”\n", "votes": [1, 2], "ok": True, "share": None}])

    write_csv(tmp_path / "rows.jsonl", columns, tmp_path / "rows.csv")

    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [list(columns), ["'=1+1, “ü”\n", "[1, 2]", "true", ""]]


def test_raw_votes_call_people_otherwise_in_each_export(export):
    again = create_export(export.project)
    frozen = jsonl(export.folder / "votes.jsonl")
    numbers = [vote["annotator"] for record in frozen for vote in record["judgments"]]

    called = [row["annotator"] for row in jsonl(derive(export, "votes", "jsonl"))]
    called_later = [row["annotator"] for row in jsonl(derive(again, "votes", "jsonl"))]

    assert len(set(called)) == len(set(numbers)) == 3
    assert set(called).isdisjoint([*numbers, *called_later])


def test_a_dataset_is_packed_with_a_folder_for_each_split(export):
    with zipfile.ZipFile(derive(export, "votes", "datasets")) as archive:
        files = sorted(archive.namelist())

    assert files == [
        "dataset_dict.json",
        *(
            f"{split}/{name}"
            for split in ("test", "train")
            for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json")
        ),
    ]


def test_a_packed_dataset_can_be_read_again(export):
    with open_rows(derive(export, "reward", "datasets")) as rows:
        answers = {row.record["chosen"][0]["content"] for row in rows}

    assert answers == {row["chosen"][0]["content"] for row in jsonl(export.folder / "data.jsonl")}


def test_a_line_longer_than_a_batch_is_read(tmp_path):
    long = dict.fromkeys(KTO) | {"source": "x" * (BATCH_BYTES + 1)}
    with Lines(tmp_path / "rows.jsonl") as lines:
        lines.write([long, long])

    found = [len(table) for table in tables(tmp_path / "rows.jsonl", arrow_schema(KTO))]

    assert found == [1, 1]


# --- files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("format_name", ["jsonl", "csv", "parquet", "datasets"])
def test_a_file_is_made_once_with_its_hash_and_always_the_same(export, format_name):
    path = derive(export, "kto", format_name)
    content, made = path.read_bytes(), path.stat().st_mtime_ns
    assert derive(export, "kto", format_name).stat().st_mtime_ns == made

    path.unlink()
    again = derive(export, "kto", format_name)

    assert again.read_bytes() == content
    assert hash_of(export, again.name) == hashlib.sha256(content).hexdigest()
    names = {file.name.partition(".sha256")[0] for file in path.parent.iterdir()}
    assert names == {"kto.jsonl", path.name}


def test_what_lies_beside_a_file_is_read_by_sha256sum(export):
    path = derive(export, "kto", "jsonl")

    command = ["sha256sum", "--check", "--strict", "kto.jsonl.sha256"]
    done = subprocess.run(command, cwd=path.parent, check=True, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("kto.jsonl: OK\n", "")


def test_a_file_that_was_changed_together_with_its_hash_is_made_anew(export):
    path = derive(export, "kto", "jsonl")
    content, side = path.read_bytes(), path.with_name("kto.jsonl.sha256")
    signed, other = side.read_text(), content.replace(b"true", b"null")
    path.write_bytes(other)
    side.write_text(hashlib.sha256(other).hexdigest() + signed[64:])

    assert (is_as_made(export, path.name), hash_of(export, path.name)) == (False, "")
    assert derive(export, "kto", "jsonl").read_bytes() == content
    assert side.read_text() == signed


@pytest.mark.parametrize("damage", [b"", b"\xff", b"0" * 64 + b"  kto.jsonl\n"])
def test_a_file_whose_hash_was_not_written_here_is_not_what_was_made(export, damage):
    path = derive(export, "kto", "jsonl")
    path.with_name("kto.jsonl.sha256").write_bytes(damage)

    assert not is_as_made(export, path.name)


def test_pairs_as_json_lines_are_the_frozen_file_itself(export):
    assert derive(export, "reward", "jsonl") == export.folder / "data.jsonl"


@pytest.mark.parametrize(("shape", "frozen"), [("dpo", "data.jsonl"), ("kto", "votes.jsonl")])
def test_nothing_is_made_of_a_file_that_has_changed(export, shape, frozen):
    with (export.folder / frozen).open("a") as file:
        file.write("\n")

    with pytest.raises(NotDerived, match=rf"{frozen} of export {export.pk} has changed since"):
        derive(export, shape, "parquet")
    assert list((export.folder / "derived").iterdir()) == []


def test_an_export_of_before_votes_were_frozen_says_what_it_cannot_give(export):
    (export.folder / "votes.jsonl").unlink()
    del export.manifest["votes"]

    with pytest.raises(NotDerived, match="gives only the shapes reward and dpo"):
        derive(export, "kto", "jsonl")
    assert len(jsonl(derive(export, "dpo", "jsonl"))) == 2


def test_an_early_export_lacks_columns_and_gives_pairs_all_the_same(export):
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected", "p_chosen", "split")}
            for row in jsonl(export.folder / "data.jsonl")]  # fmt: skip
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (export.folder / "data.jsonl").write_bytes(content)
    export.sha256 = hashlib.sha256(content).hexdigest()

    table = pq.read_table(derive(export, "reward", "parquet"))

    assert table.schema == arrow_schema(REWARD)
    assert table["votes"].to_pylist() == [None, None]


def test_the_web_process_does_not_load_pyarrow():
    """50 MiB that only the worker and commands need."""
    code = "import django, sys; django.setup(); import config.urls; print('pyarrow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "False\n"


def test_columns_of_raw_votes_are_those_of_the_record(export):
    """So that a new one cannot be forgotten."""
    (record, _) = jsonl(export.folder / "votes.jsonl")

    in_record = {*record, *record["judgments"][0]} - {"judgments", "rulings"}
    assert in_record == set(VOTES) - {"outcome", "shown", "is_repeat", "expected"}
