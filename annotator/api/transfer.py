"""Files out: exports, frozen and downloaded. What else is made of them is in `exporting`."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from pathlib import Path

from django.http import Http404, HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.decorators import api_view, renderer_classes
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
from annotator.api.problems import no_such_range
from annotator.api.schema import documented, text_parameter
from annotator.audit import Action, record
from annotator.downloads import send_file
from annotator.export_jobs import ExportJob
from annotator.exporting import NotExported
from annotator.exports import derived, jobs
from annotator.hashes import FileChanged, check_file, sha256_of
from annotator.models import Export, Role
from annotator.views.exporting import CHANGED, EXPORT_FILES


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


FILES = [*EXPORT_FILES, *derived.made_names()]


class FileAsked(serializers.Serializer):
    name = serializers.ChoiceField(choices=FILES, default="data.jsonl")


_header = partial(OpenApiParameter, type=OpenApiTypes.STR, location=OpenApiParameter.HEADER)
RANGES = [
    _header(
        "Range", description="One range of bytes, as in `bytes=1000-`, to go on with a download."
    ),
    _header(
        "If-Range", description="The `ETag` of the part that is there: of another file all is sent."
    ),
    _header("ETag", response=[200, 206], description="The SHA-256 of the whole file, in quotes."),
    _header("Accept-Ranges", response=[200, 206], description="`bytes`"),
    _header("Content-Range", response=[206], description="As in `bytes 1000-1999/2000`."),
]
BYTES = "application/octet-stream"  # whatever the format: a part of a file is no JSON


def send_in_parts(
    request: Request, path: Path, name: str, sha256: str, content_type: str = BYTES
) -> HttpResponseBase:
    """What the pages send, with a problem in words for a range that there is none of. Raises
    FileNotFoundError."""
    response = send_file(request, path, name, content_type, sha256)
    if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return no_such_range(response["Content-Range"])
    return response


@documented(
    "download_export",
    "A file of an export, or a range of it",
    query=[text_parameter("name", enum=FILES, default="data.jsonl"), *RANGES],
    also={(status, BYTES): OpenApiTypes.BINARY for status in (200, 206)},
)
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def export_data(request: Request, slug: str, pk: int) -> HttpResponseBase:
    project = get_access(request, slug, Role.REVIEWER).project
    export = get_object_or_404(project.exports, pk=pk)
    name = asked_by(request, FileAsked)["name"]
    try:
        path, sha256 = _checked(export, name)
        response = send_in_parts(request, path, f"{project.slug}-export-{pk}-{name}", sha256)
    except FileNotFoundError as error:
        raise Http404(f"Export {pk} has no file {name}, or it was not made yet.") from error
    except FileChanged as changed:
        raise Refused(changed) from changed
    record(request.user, Action.DOWNLOADED, export, project=project, file=name)
    return response


def _checked(export: Export, name: str) -> tuple[Path, str]:
    """The file with its SHA-256. Raises FileNotFoundError, and FileChanged if it is not what was frozen,
    or made of that."""
    if name in EXPORT_FILES:
        check_file(export, name)
        return export.folder / name, sha256_of(export.folder / name)
    path = derived.path_of(export, name)
    if path.is_file() and not derived.is_as_made(export, name):
        raise FileChanged(f"{name} {CHANGED}: ask for it to be made anew.")
    return path, derived.hash_of(export, name)
