"""Hostile files and folders of rows: each is refused with a sentence, or does nothing."""

import gzip
import io
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.formats.reading import Unreadable, open_rows
from tests.hostile import Bomb, code

SECRET = {"prompt": "secret"}


@pytest.fixture
def marker(tmp_path):
    """A folder that only hostile code would make."""
    return tmp_path / "hostile-code-ran"


@pytest.fixture
def saved(tmp_path):
    """A folder that `datasets` has saved, beside files that are none of its business."""
    folder = tmp_path / "saved"
    folder.mkdir()
    write_arrow(folder / "data.arrow", pa.table({"prompt": ["Hi!"]}))
    write_arrow(tmp_path / "secret.arrow", pa.Table.from_pylist([SECRET]))
    name_files(folder, "data.arrow")
    return folder


def write_arrow(path, table):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def name_files(folder, *names):
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def records(source):
    with open_rows(source) as rows:
        return [row.record for row in rows]


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_pickle_is_no_file_of_rows(marker, protocol, packed):
    content = packed(pickle.dumps(Bomb(marker), protocol))

    with pytest.raises(Unreadable):
        records(io.BytesIO(content))

    assert not marker.exists()


def of_pickled_type(marker):
    """A column whose type says that its description is a pickle, as pyarrow once opened it."""
    described = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Bomb(marker)),
    }
    schema = pa.schema([pa.field("prompt", pa.string(), metadata=described)])
    return pa.table({"prompt": ["Hi!"]}, schema=schema)


def test_a_pickle_as_the_type_of_a_column_is_not_opened(saved, marker):
    write_arrow(saved / "data.arrow", of_pickled_type(marker))
    pq.write_table(of_pickled_type(marker), saved / "data.parquet")

    assert records(saved) == records(saved / "data.parquet") == [{"prompt": "Hi!"}]
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../secret.arrow", "{}/secret.arrow", "..", "sub/../../secret.arrow"])  # fmt: skip
def test_a_saved_folder_may_not_name_files_elsewhere(saved, tmp_path, name):
    name_files(saved, "data.arrow", name.format(tmp_path))

    with pytest.raises(Unreadable, match=r"state\.json names a file outside of the folder"):
        records(saved)


def test_a_link_out_of_a_saved_folder_is_refused(saved, tmp_path):
    (saved / "more.arrow").symlink_to(tmp_path / "secret.arrow")
    name_files(saved, "data.arrow", "more.arrow")

    with pytest.raises(Unreadable, match=r'outside of the folder: "more\.arrow"'):
        records(saved)


def test_code_and_pickles_beside_saved_rows_do_nothing(saved, marker):
    (saved / "saved.py").write_text(code(marker))
    (saved / "indices.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    image = {"_type": "Image"}
    (saved / "dataset_info.json").write_text(json.dumps({"features": {"prompt": image}}))

    assert records(saved) == [{"prompt": "Hi!"}]
    assert not marker.exists()


def test_what_rows_call_a_picture_is_not_opened(tmp_path):
    (tmp_path / "secret").write_text("secret")
    row = {"prompt": f"file://{tmp_path}/secret", "image": {"path": f"{tmp_path}/secret"}}
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    table = pa.Table.from_pylist([row]).replace_schema_metadata({"huggingface": json.dumps(features)})  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))

    assert records(tmp_path / "rows.parquet") == records(tmp_path / "rows.jsonl") == [row]


def test_parquet_may_not_keep_its_columns_in_another_file(tmp_path):
    described = []
    pq.write_table(
        pa.Table.from_pylist([SECRET]), tmp_path / "secret", metadata_collector=described
    )
    described[0].set_file_path("secret")
    described[0].write_metadata_file(tmp_path / "rows.parquet")

    with pytest.raises(Unreadable):
        records(tmp_path / "rows.parquet")


# --- the hub ----------------------------------------------------------------------------------
def test_a_name_on_the_hub_is_no_folder_of_this_machine(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var" / "exports").mkdir(parents=True)
    (tmp_path / "var" / "exports" / "data.jsonl").write_text(json.dumps(SECRET))

    with pytest.raises(Unreadable, match="Couldn't reach 'var/exports' on the Hub"):
        records("hub:var/exports")
