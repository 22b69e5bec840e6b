"""Files out: exports, frozen and downloaded. What else is made of them is in `exporting`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.decorators import api_view, renderer_classes
from rest_framework.exceptions import APIException
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import Refused
from annotator.api.exporting import (
    ExportJobSerializer,
    NewExportSerializer,
    filters_of,
    job_answer,
)
from annotator.api.fields import asked_by, read
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented, text_parameter
from annotator.audit import Action, record
from annotator.export_jobs import ExportJob
from annotator.exporting import NotExported
from annotator.exports import derived, jobs
from annotator.hashes import FileChanged, check_file
from annotator.models import Export, Role
from annotator.views.exporting import CHANGED, EXPORT_FILES

BLOCK_BYTES = 2**16


class ExportSerializer(serializers.ModelSerializer):
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    is_tainted = serializers.BooleanField(
        default=False, help_text="It carries votes that were withdrawn later."
    )

    class Meta:
        model = Export
        fields = [
            "id", "round_number", "n_rows", "n_judgments", "sha256", "is_tainted", "created_by",
            "created",
        ]  # fmt: skip


class WholeExportSerializer(ExportSerializer):
    manifest = serializers.DictField()

    class Meta(ExportSerializer.Meta):
        fields = [*ExportSerializer.Meta.fields, "manifest"]


@documented("list_exports", "Exports", answer=ExportSerializer, is_list=True)
@documented("create_export", "Freeze the votes as they are now; 202 where the worker does it, as there "
            "are many", method="POST", body=NewExportSerializer, answer=WholeExportSerializer,
            status=201, also={202: ExportJobSerializer}, creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def exports(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        rows = project.exports.with_taint().select_related("created_by")
        return page_of(request, rows, ExportSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NewExportSerializer, request.data)
    besides = {name: sent.pop(name) for name in ("use_rulings", "licence")}
    try:
        made = jobs.freeze(project, request.user, filters_of(sent), **besides)
    except NotExported as error:
        raise Refused(error) from error
    if isinstance(made, ExportJob):
        return job_answer(request, made)
    return Response(WholeExportSerializer(made).data, status=201)


@documented("get_export", "An export with its manifest", answer=WholeExportSerializer)
@api_view()
def export(request: Request, slug: str, pk: int) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    rows = project.exports.with_taint().select_related("created_by")
    return Response(WholeExportSerializer(get_object_or_404(rows, pk=pk)).data)


# --- the file of an export ----------------------------------------------------------------------------
class AnyRenderer(BaseRenderer):
    """So that any `Accept` that a download tool sends will do; the view answers by itself."""

    media_type = "*/*"
    format = "file"


class NoSuchRange(APIException):
    status_code = 416


FILES = [*EXPORT_FILES, *derived.made_names()]


class FileAsked(serializers.Serializer):
    name = serializers.ChoiceField(choices=FILES, default="data.jsonl")


RANGE = OpenApiParameter(
    "Range", {"type": "string"}, OpenApiParameter.HEADER,
    description="One range of bytes, as in `bytes=1000-`, to go on with a download.",
)  # fmt: skip
BYTES = "application/octet-stream"  # whatever the format: a part of a file is no JSON


@documented(
    "download_export",
    "A file of an export, or a range of it",
    query=[text_parameter("name", enum=FILES, default="data.jsonl"), RANGE],
    also={(status, BYTES): OpenApiTypes.BINARY for status in (200, 206)},
)
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def export_data(request: Request, slug: str, pk: int) -> HttpResponse | StreamingHttpResponse:
    project = get_access(request, slug, Role.REVIEWER).project
    export = get_object_or_404(project.exports, pk=pk)
    name = asked_by(request, FileAsked)["name"]
    try:
        file = _opened(export, name)
    except FileNotFoundError as error:
        raise Http404(f"Export {pk} has no file {name}, or it was not made yet.") from error
    except FileChanged as changed:
        raise Refused(changed) from changed
    record(request.user, Action.DOWNLOADED, export, project=project, file=name)
    return _send(file, request.headers.get("Range", ""), f"{project.slug}-export-{pk}-{name}")


def _opened(export: Export, name: str) -> IO[bytes]:
    """Raises FileNotFoundError, and FileChanged if it is not what was frozen, or made of that."""
    if name in EXPORT_FILES:
        check_file(export, name)
        return (export.folder / name).open("rb")
    file = derived.path_of(export, name).open("rb")
    if not derived.is_as_made(export, name):
        file.close()
        raise FileChanged(f"{name} {CHANGED}: ask for it to be made anew.")
    return file


def _send(file: IO[bytes], asked: str, filename: str) -> StreamingHttpResponse:
    size = file.seek(0, 2)
    file.seek(0)
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", asked.strip())
    response: StreamingHttpResponse
    if found is None or found[0] == "bytes=-":
        response = FileResponse(file, as_attachment=True, filename=filename, content_type=BYTES)
    else:
        start, end = _range(found[1], found[2], size)
        if start > end:
            file.close()
            raise NoSuchRange(f"The file has {size} bytes.")
        file.seek(start)
        response = StreamingHttpResponse(
            _blocks(file, end - start + 1), status=206, content_type=BYTES
        )
        response["Content-Length"] = str(end - start + 1)
        response["Content-Range"] = f"bytes {start}-{end}/{size}"
    response["Accept-Ranges"] = "bytes"
    return response


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte. Example: of 10 bytes "-3" is 7 to 9, and "4-" is 4 to 9."""
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last or size), size - 1)


def _blocks(file: IO[bytes], left: int) -> Iterator[bytes]:
    with file:
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            left -= len(block)
            yield block
