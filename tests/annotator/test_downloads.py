"""Parts of files."""

import pytest
from django.test import RequestFactory

from annotator.downloads import send_file


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"0123456789")
    return path


def sent(file, **headers):
    request = RequestFactory().get("/", headers=headers)
    response = send_file(request, file, "rows.jsonl", "application/x-ndjson", "abc")
    return response, b"".join(response)


def test_without_a_range_the_whole_file_is_sent_and_parts_are_offered(file):
    response, content = sent(file)

    assert (response.status_code, content) == (200, b"0123456789")
    assert (response["Accept-Ranges"], response["ETag"]) == ("bytes", '"abc"')
    assert response["Content-Length"] == "10"


@pytest.mark.parametrize(
    ("asked", "content", "range_sent"),
    [
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
def test_a_range_is_a_part(file, asked, content, range_sent):
    response, found = sent(file, Range=asked)

    assert (response.status_code, found) == (206, content)
    assert response["Content-Range"] == range_sent
    assert response["Content-Length"] == str(len(content))
    assert response["Content-Disposition"] == 'attachment; filename="rows.jsonl"'


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_with_nothing_in_it_says_how_long_the_file_is(file, asked):
    response, _ = sent(file, Range=asked)

    assert (response.status_code, response["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=5-3", f"bytes={'9' * 5000}-"]
)
def test_what_is_not_understood_gives_the_whole_file(file, asked):
    response, content = sent(file, Range=asked)

    assert (response.status_code, content) == (200, b"0123456789")


@pytest.mark.parametrize(("tag", "status"), [('"abc"', 206), ('"old"', 200)])
def test_a_part_of_another_version_is_not_sent(file, tag, status):
    response, _ = sent(file, **{"Range": "bytes=2-4", "If-Range": tag})

    assert response.status_code == status
