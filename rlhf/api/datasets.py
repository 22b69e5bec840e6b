"""Datasets: made from a file or an export, listed, looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.decorators import api_view, parser_classes, renderer_classes
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils import html

from annotator.access import get_access
from annotator.api import fields
from annotator.api.errors import Refused
from annotator.api.fields import Body, asked_by, read
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.parsers import JSONParser, UploadParser
from annotator.api.schema import documented, text_parameter
from annotator.api.transfer import RANGES, AnyRenderer, send_in_parts
from annotator.audit import Action, record
from annotator.imports.uploads import LimitedUpload
from annotator.models import Project, Role
from rlhf.dataset_reading import Source
from rlhf.datasets import DatasetRefused
from rlhf.making_datasets import TAKEN, dataset_of_export, dataset_of_files
from rlhf.models import Dataset, DatasetKind
from rlhf.training.hashes import find_problems

NDJSON = "application/x-ndjson"
NAME_LENGTH = Dataset._meta.get_field("name").max_length


class DatasetSerializer(serializers.ModelSerializer):
    project = serializers.CharField(source="project.slug")
    sha256 = serializers.SerializerMethodField(help_text="Of data.jsonl.")
    run = serializers.IntegerField(source="run_id", allow_null=True, help_text="Which made it.")
    export = serializers.IntegerField(
        source="export_id", allow_null=True, help_text="Which it was made of."
    )
    details = serializers.DictField()
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)

    class Meta:
        model = Dataset
        fields = [
            "id", "project", "name", "kind", "n_rows", "n_bytes", "sha256", "origin", "details",
            "run", "export", "created_by", "created",
        ]  # fmt: skip

    def get_sha256(self, dataset: Dataset) -> str:
        return str(dataset.files.get("data.jsonl", {}).get("sha256", ""))


class DatasetsAsked(serializers.Serializer):
    kind = serializers.ChoiceField(choices=DatasetKind.choices, required=False)


class NewFileDatasetSerializer(Body):
    """Fields of a form with a file in it."""

    name = fields.Text(max_length=NAME_LENGTH)
    file = serializers.FileField(help_text="As on the page: JSON lines, CSV, Parquet, .txt, .md.")
    kind = serializers.ChoiceField(choices=DatasetKind.choices, default=DatasetKind.DEMONSTRATIONS)
    column = fields.Text(
        required=False, max_length=200, help_text="Where the text stands in rows of text."
    )


class NewExportDatasetSerializer(Body):
    """The votes of an export."""

    name = fields.Text(max_length=NAME_LENGTH)
    export = fields.row_id()
    taken = fields.Word(
        choices=[(name, name) for name in TAKEN],
        default="both",
        help_text="Rewrites, the best answers, or both.",
    )


@documented(
    "list_datasets",
    "Datasets",
    answer=DatasetSerializer,
    query=[text_parameter("kind", enum=DatasetKind.values)],
    is_list=True,
)
@documented("create_dataset", "Send a file, or name an export, of which a dataset is made: all of it "
            "or nothing", method="POST",
            body={"multipart/form-data": NewFileDatasetSerializer,
                  "application/json": NewExportDatasetSerializer},
            answer=DatasetSerializer, status=201, creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@parser_classes([UploadParser, JSONParser])
@once
def datasets(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        asked = asked_by(request, DatasetsAsked)
        rows = project.datasets.select_related("project", "created_by").filter(**asked)
        return page_of(request, rows, DatasetSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    make = _of_file if html.is_html_input(request.data) else _of_export
    try:
        made = make(project, request)
    except DatasetRefused as refusal:
        raise Refused(refusal) from refusal
    except OSError as error:
        raise Refused(f"The server could not keep it: {error.strerror or error}.") from error
    return Response(DatasetSerializer(made).data, status=201)


def _of_file(project: Project, request: Request) -> Dataset:
    for handler in request.upload_handlers:
        if isinstance(handler, LimitedUpload) and handler.problem:
            raise Refused(handler.problem)
    sent = read(NewFileDatasetSerializer, request.data)
    file: TemporaryUploadedFile = sent["file"]
    return dataset_of_files(
        project, sent["name"], DatasetKind(sent["kind"]),
        [Source(file.name or "file", Path(file.temporary_file_path()))],
        user=request.user, column=sent.get("column", ""), max_bytes=settings.IMPORT_MAX_BYTES,
    )  # fmt: skip


def _of_export(project: Project, request: Request) -> Dataset:
    sent = read(NewExportDatasetSerializer, request.data)
    export = get_object_or_404(project.exports, pk=sent["export"])
    return dataset_of_export(project, sent["name"], export, sent["taken"], user=request.user)


@documented("get_dataset", "A dataset", answer=DatasetSerializer)
@api_view()
def dataset(request: Request, slug: str, pk: int) -> Response:
    return Response(DatasetSerializer(_get(request, slug, pk)).data)


@documented("download_dataset", "Its rows as JSON lines, or a range of the file", query=RANGES,
            also={(status, NDJSON): OpenApiTypes.STR for status in (200, 206)})  # fmt: skip
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def dataset_file(request: Request, slug: str, pk: int) -> HttpResponseBase:
    found = _get(request, slug, pk)
    if problems := list(find_problems(Path(found.path), found.files)):
        raise Refused(f"{problems[0]}.")
    sha256 = found.files["data.jsonl"]["sha256"]
    name = f"{slug}-dataset-{pk}.jsonl"
    response = send_in_parts(request, found.data, name, sha256, NDJSON)
    record(request.user, Action.DOWNLOADED, found, project=found.project)
    return response


def _get(request: Request, slug: str, pk: int) -> Any:
    project = get_access(request, slug, Role.REVIEWER).project
    return get_object_or_404(project.datasets.select_related("project", "created_by"), pk=pk)
