"""A file is read for its hash once, and again as soon as it may be another one."""

import hashlib
import os
from pathlib import Path

import pytest

from annotator.hashes import sha256_of


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"abc")
    return path


def test_a_file_is_not_read_twice(path, monkeypatch):
    first = sha256_of(path)
    monkeypatch.setattr(Path, "open", lambda *args: 1 / 0)

    assert sha256_of(path) == first == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_was_replaced_is_read_again_though_it_looks_the_same(path):
    stat = path.stat()
    sha256_of(path)
    other = path.with_name("other")
    other.write_bytes(b"xyz")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)

    assert sha256_of(path) == hashlib.sha256(b"xyz").hexdigest()
