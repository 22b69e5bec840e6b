"""Files on their way from a browser to the disk, in pieces, and no further than the limit."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.core.files.uploadhandler import SkipFile, TemporaryFileUploadHandler
from django.http import HttpRequest

SPARE = 100 * 2**20  # bytes that stay free on the disk, for the database above all


class LimitedUpload(TemporaryFileUploadHandler):
    """Writes to a temporary file until something stands in the way, and then keeps nothing.

    `problem` says what. The rest of the request is read all the same: a browser shows no answer
    before it has sent everything.
    """

    def __init__(self, request: HttpRequest) -> None:
        super().__init__(request)
        self.problem = ""

    def handle_raw_input(
        self, input_data: Any, META: Any, content_length: int, *args: Any, **kwargs: Any
    ) -> None:
        self.content_length_of_request = content_length or 0

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().new_file(*args, **kwargs)
            free = shutil.disk_usage(self.file.temporary_file_path()).free
        except OSError as error:
            self._give_up(_not_written(error))
        if free - SPARE < self.content_length_of_request:
            self._give_up(
                f"The server's disk has no room for this file: {_mib(max(free - SPARE, 0))} MiB are "
                "left. Whoever runs the server must make room."
            )

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        limit = settings.IMPORT_MAX_BYTES
        if start + len(raw_data) > limit:
            self._give_up(
                f"The file has {_mib(self.content_length_of_request)} MiB; the limit here is "
                f"{_mib(limit)}. The command `manage.py import_comparisons` has none."
            )
        try:
            self.file.write(raw_data)
        except OSError as error:
            self._give_up(_not_written(error))

    def file_complete(self, file_size: int) -> UploadedFile | None:
        self.file.flush()
        return super().file_complete(file_size)

    def _give_up(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.upload_interrupted()
        raise SkipFile


def move_into(upload: TemporaryUploadedFile, path: Path) -> None:
    """A rename where the two are on one disk. The worker may be another user."""
    shutil.move(upload.temporary_file_path(), path)
    path.chmod(0o644)
    upload.close()


def _not_written(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The server's disk is full. Whoever runs the server must make room."
    return f"The server could not keep the file: {error.strerror}."


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f}"
