"""Files and their SHA-256: recorded when they are made, checked before they are used."""

import hashlib
import json
import os

import pytest

from rlhf.training.artifacts import RunError
from rlhf.training.hashes import HASHES, check_inputs, files_in, find_problems, sha256_of

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model" / "members").mkdir(parents=True)
    (tmp_path / "model" / "members" / "head").write_bytes(b"abc")
    (tmp_path / "model" / "config.json").write_bytes(b"")
    return tmp_path / "model"


def test_all_files_of_a_folder_are_listed_by_their_path_in_it(model):
    assert files_in(model) == {
        "config.json": {"sha256": hashlib.sha256().hexdigest(), "bytes": 0},
        "members/head": {"sha256": ABC, "bytes": 3},
    }


def test_a_folder_as_it_was_has_no_problems(model):
    expected = files_in(model)
    (model / ".nfs0001").write_text("what a file system leaves")
    (model / "empty").mkdir()

    assert list(find_problems(model, expected)) == []


def test_a_file_that_was_added_is_a_problem_as_loaders_take_what_they_find(model):
    expected = files_in(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "members" / "2").symlink_to(model)

    assert list(find_problems(model, expected)) == [
        f"{model}/chat_template.jinja was added",
        f"{model}/members/2 was added",
    ]
    assert list(find_problems(model, expected, may_hold_more=True)) == []


def test_each_file_that_is_not_what_it_was_is_a_sentence(model):
    expected = files_in(model)
    (model / "config.json").write_bytes(b"{}")
    (model / "members" / "head").unlink()

    assert list(find_problems(model, expected)) == [
        f"{model}/config.json has changed: it has 2 bytes, and had 0",
        f"{model}/members/head is missing: its SHA-256 was {ABC}",
    ]


def test_a_file_is_not_read_twice_unless_it_is_to_be_read_afresh(model, monkeypatch):
    head = model / "members" / "head"
    sha256_of(head)
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashlib.sha256(b"afresh"))

    assert sha256_of(head) == ABC
    assert sha256_of(head, fresh=True) == hashlib.sha256(b"afresh").hexdigest()


def test_a_file_is_read_again_though_its_size_and_time_are_what_they_were(model):
    head = model / "members" / "head"
    before = head.stat()
    sha256_of(head)
    head.write_bytes(b"xyz")
    os.utime(head, ns=(before.st_atime_ns, before.st_mtime_ns))
    while head.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of the file system ticks
        os.utime(head, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert sha256_of(head) == hashlib.sha256(b"xyz").hexdigest()


def test_a_run_does_not_begin_with_other_files(folder, model):
    expected = {str(model): files_in(model), "data": {"data.jsonl": {"sha256": ABC}}}
    (folder.path / HASHES).write_text(json.dumps(expected))
    (folder.path / "data").mkdir()
    (folder.path / "data" / "data.jsonl").write_bytes(b"abc")
    check_inputs(folder)

    (model / "members" / "head").write_bytes(b"abC")
    with pytest.raises(RunError, match=f"{model}/members/head has changed: its SHA-256 is"):
        check_inputs(folder)


def test_a_run_does_not_begin_with_more_files(folder, model):
    (folder.path / HASHES).write_text(json.dumps({str(model): files_in(model)}))
    (model / "model-2.safetensors").write_bytes(b"more weights")

    with pytest.raises(RunError, match=f"{model}/model-2.safetensors was added"):
        check_inputs(folder)
