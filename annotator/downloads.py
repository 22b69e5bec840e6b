"""Files for the browser, also from somewhere in the middle, so that a broken download can go on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase

ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def send_file(
    request: HttpRequest, path: Path, name: str, content_type: str, sha256: str
) -> HttpResponseBase:
    """The file, or the part of it that the header Range asks for (RFC 9110, section 14).

    Several ranges, or one that is not understood, give the whole file, as the RFC allows; so does a
    range of another version of it (If-Range). Raises FileNotFoundError.
    """
    file = path.open("rb")
    size = path.stat().st_size
    tag = f'"{sha256}"'
    wanted = _range_in(request.headers.get("Range", ""))
    if request.headers.get("If-Range", tag) != tag:
        wanted = None
    response: HttpResponseBase
    if wanted is None:
        response = FileResponse(file, as_attachment=True, filename=name, content_type=content_type)
    else:
        first, last = _limits(*wanted, size)
        if first > last:
            file.close()
            response = HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
        else:
            file.seek(first)
            response = FileResponse(
                _Part(file, last + 1 - first),
                as_attachment=True,
                filename=name,
                content_type=content_type,
                status=206,
            )
            response["Content-Range"] = f"bytes {first}-{last}/{size}"
            response["Content-Length"] = str(last + 1 - first)
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = tag
    return response


def _range_in(header: str) -> tuple[str, str] | None:
    """Its two ends; None if it asks for no range, or for one that ends before it begins."""
    found = ONE_RANGE.fullmatch(header)
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    return None if first and last and int(last) < int(first) else (first, last)


def _limits(first: str, last: str, size: int) -> tuple[int, int]:
    """The first and the last byte; the first is the greater one if there is nothing to send.

    Example: of 10 bytes, "2-" are 2 to 9, and "-3" are 7 to 9.
    """
    if not first:
        return max(0, size - int(last)) if int(last) else size, size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


class _Part:
    """The next `left` bytes of an open file."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self.file, self.left = file, left

    def read(self, n: int = -1) -> bytes:
        n = self.left if n < 0 else min(n, self.left)
        found = self.file.read(n)
        self.left -= len(found)
        return found

    def close(self) -> None:
        self.file.close()
