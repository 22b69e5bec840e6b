"""Files in: sent, then followed while the worker opens them, checks them and imports them."""

from __future__ import annotations

import json
from typing import Any

from django.http import FileResponse, Http404
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import api_view, parser_classes, renderer_classes
from rest_framework.fields import empty
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.utils import html

from annotator.access import get_access
from annotator.api import fields
from annotator.api.content import MessageSerializer
from annotator.api.errors import Refused
from annotator.api.fields import Body, read
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.parsers import JSONParser, UploadParser
from annotator.api.schema import documented
from annotator.api.transfer import AnyRenderer
from annotator.formats.shapes import check_mapping
from annotator.imports import jobs
from annotator.imports.forms import check_hub_id, check_judge
from annotator.imports.models import Import, State
from annotator.imports.preview import ShownRow, preview_of
from annotator.imports.uploads import LimitedUpload
from annotator.models import Message, Role, User

MAX_COLUMNS_LENGTH = 2000  # characters, of the names of the columns that make one field


# --- what is sent ---------------------------------------------------------------------------------
class Columns(serializers.DictField):
    """An object; in a form, where all is text, its JSON."""

    child = fields.Text(max_length=MAX_COLUMNS_LENGTH)
    default_error_messages = {"not_a_dict": 'Send a JSON object like {{"prompt": "question"}}.'}

    def get_value(self, dictionary: Any) -> Any:
        value = dictionary.get(self.field_name, empty)
        if value is empty or not html.is_html_input(dictionary):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value  # it is no object, and refused as that

    def to_internal_value(self, data: Any) -> dict[str, str]:
        mapping: dict[str, str] = super().to_internal_value(data)
        try:
            check_mapping(mapping)
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error
        return mapping


OVERLAP = {
    "required": False, "min_value": 1, "max_value": 100,
    "help_text": "Of new comparisons; else the project's.",
}  # fmt: skip
SKIP_BAD_ROWS = {
    "default": False, "help_text": "Leave out bad rows, instead of refusing the file.",
}  # fmt: skip
IS_CHECK = {"default": False, "help_text": "Say what would be imported, and import nothing."}


class ChoicesSerializer(Body):
    mapping = Columns(
        required=False,
        help_text='Which column is what: {"prompt": "question", "completions": "answer_a,answer_b"}. '
        "Not needed for shapes that are recognised.",
    )
    judge = fields.Text(
        required=False,
        allow_blank=True,
        max_length=150,
        validators=[*User._meta.get_field("username").validators, check_judge],
        help_text="Whose votes known choices become: a user that stands for the file. "
        "Not given: people are asked as if nothing was known.",
    )


class NewFileImportSerializer(ChoicesSerializer):
    """Fields of a form with a file in it."""

    file = serializers.FileField(
        help_text="JSON lines, a JSON list, CSV, TSV or Parquet, also packed with gzip; or a zip file of a "
        "folder that `datasets` has saved.",
    )
    overlap = serializers.IntegerField(**OVERLAP)
    skip_bad_rows = serializers.BooleanField(**SKIP_BAD_ROWS)
    is_check = serializers.BooleanField(**IS_CHECK)


class NewImportSerializer(ChoicesSerializer):
    """Rows as text; or a dataset on the hub, which the server loads by itself. One of the two."""

    text = fields.Text(
        required=False, help_text="Rows as they would stand in a file: JSON lines, CSV or TSV."
    )
    hub_id = fields.Text(
        required=False,
        max_length=200,
        validators=[check_hub_id],
        help_text="OWNER/NAME on huggingface.co, like Anthropic/hh-rlhf; with @test for that split.",
    )
    overlap = fields.Whole(**OVERLAP)
    skip_bad_rows = fields.Flag(**SKIP_BAD_ROWS)
    is_check = fields.Flag(**IS_CHECK)

    def validate(self, sent: dict[str, Any]) -> dict[str, Any]:
        if ("text" in sent) == ("hub_id" in sent):
            raise serializers.ValidationError({"hub_id": "Send this, or `text`; one of the two."})
        return sent


# --- what is answered -----------------------------------------------------------------------------
class ProgressSerializer(serializers.Serializer):
    phase = serializers.CharField(
        help_text="Empty at first, then `reading`, then `storing` or `counting`."
    )
    done = serializers.IntegerField()
    total = serializers.IntegerField(help_text="0: not known.")
    unit = serializers.CharField(help_text="`rows` or `bytes`.")


class CountsSerializer(serializers.Serializer):
    """How many rows of each kind are new."""

    prompts = serializers.IntegerField()
    completions = serializers.IntegerField()
    comparisons = serializers.IntegerField()
    judgments = serializers.IntegerField()
    known_answers = serializers.IntegerField(help_text="Of the comparisons.")
    held = serializers.IntegerField(help_text="Of the comparisons: held back by screening.")
    duplicates = serializers.IntegerField(help_text="Rows whose content was there already.")


class BadRowSerializer(serializers.Serializer):
    place = serializers.CharField(help_text="As in `line 3`.")
    column = serializers.CharField(help_text="Empty: the row as a whole.")
    value = serializers.CharField(help_text="Its beginning.")
    message = serializers.CharField(help_text="What is wrong, and what would be right.")


class ReportSerializer(serializers.Serializer):
    counts = CountsSerializer(
        allow_null=True, default=None, help_text="Null: it has not ended well, or not at all yet."
    )
    stays = serializers.CharField(
        default="",
        help_text="Of one that did not come to its end: what of it is there nevertheless.",
    )
    n_bad = serializers.IntegerField(default=0, help_text="Bad rows that were found.")
    bad = BadRowSerializer(many=True, default=list, help_text="The first of them.")
    is_cut = serializers.BooleanField(default=False, help_text="There are more than were counted.")
    ignored = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="Columns that nothing was made of."
    )


class LinksSerializer(serializers.Serializer):
    self = serializers.URLField()
    page = serializers.URLField(help_text="For people.")
    cancel = serializers.URLField(allow_null=True, help_text="Null: it has ended.")
    skipped = serializers.URLField(allow_null=True, help_text="Null: there is no such list.")


class ImportSerializer(serializers.ModelSerializer):
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    mapping = serializers.DictField(child=serializers.CharField())
    columns = serializers.ListField(child=serializers.CharField())
    is_active = serializers.BooleanField(help_text="Being opened, queued or running.")
    is_overdue = serializers.BooleanField(
        help_text="It waits for longer than a worker that is running and free would let it."
    )
    progress = ProgressSerializer()
    report = ReportSerializer()
    links = serializers.SerializerMethodField()

    class Meta:
        model = Import
        fields = [
            "id", "state", "is_active", "is_overdue", "name", "hub_id", "size", "format", "columns",
            "mapping", "overlap", "skip_bad_rows", "judge", "is_check", "progress", "report", "error",
            "created_by", "created", "started", "finished", "links",
        ]  # fmt: skip

    @extend_schema_field(LinksSerializer)
    def get_links(self, import_: Import) -> dict[str, str | None]:
        request = self.context["request"]
        args = [import_.project.slug, import_.pk]
        links = {
            "self": reverse("api:import", args, request=request),
            "page": request.build_absolute_uri(import_.get_absolute_url()),
            "cancel": None,
            "skipped": None,
        }
        if import_.is_active:
            links["cancel"] = reverse("api:cancel_import", args, request=request)
        if import_.skipped_file.is_file():
            links["skipped"] = reverse("api:skipped_rows", args, request=request)
        return links


class SampleAnswerSerializer(serializers.Serializer):
    text = serializers.CharField()
    source = serializers.CharField()
    is_truncated = serializers.BooleanField()
    mark = serializers.CharField(help_text="What the row says of it, as `Chosen`; empty: nothing.")


class SampleRowSerializer(serializers.Serializer):
    """A row as it is understood; or, with `problem`, what is wrong with it."""

    place = serializers.CharField()
    prompt = serializers.SerializerMethodField()
    completions = SampleAnswerSerializer(source="answers", many=True)
    note = serializers.CharField()
    problem = serializers.CharField()

    @extend_schema_field(MessageSerializer(many=True))
    def get_prompt(self, row: ShownRow) -> list[Message]:
        said = row.conversation
        return [*said.system, *said.earlier, said.last] if said else []


class WholeImportSerializer(ImportSerializer):
    sample = serializers.SerializerMethodField(help_text="The first rows; empty: not opened yet.")

    class Meta(ImportSerializer.Meta):
        fields = [*ImportSerializer.Meta.fields, "sample"]

    @extend_schema_field(SampleRowSerializer(many=True))
    def get_sample(self, import_: Import) -> Any:
        return SampleRowSerializer(preview_of(import_).rows, many=True).data


# --- addresses ------------------------------------------------------------------------------------
@documented("list_imports", "Imports", answer=ImportSerializer, is_list=True)
@documented("create_import", "Send a file or text, or name a dataset on the hub, to be imported",
            method="POST",
            body={"multipart/form-data": NewFileImportSerializer,
                  "application/json": NewImportSerializer},
            answer=WholeImportSerializer, status=202, creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@parser_classes([UploadParser, JSONParser])
@once
def imports(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.ADMIN).project
    if request.method == "GET":
        rows = project.imports.select_related("project", "created_by")
        return page_of(request, rows, ImportSerializer)
    choices = _sent(request)
    file, text, hub_id = (choices.pop(name, "") for name in ("file", "text", "hub_id"))
    try:
        import_ = jobs.receive(
            project,
            request.user,
            upload=file or None,
            text=text,
            hub_id=hub_id,
            choices=choices,
        )
    except jobs.NotReceived as error:
        raise Refused(error) from error
    if import_.state == State.REFUSED:  # at the first look: whoever sent it hears of it at once
        import_.delete_files()
        import_.delete()
        raise Refused(import_.error)
    return _answer(request, import_, status=202)


def _sent(request: Request) -> dict[str, Any]:
    """Raises Refused for a file that could not be kept, and ValidationError."""
    is_form = html.is_html_input(request.data)
    for handler in request.upload_handlers:
        if isinstance(handler, LimitedUpload) and handler.problem:
            raise Refused(handler.problem)
    return read(NewFileImportSerializer if is_form else NewImportSerializer, request.data)


@documented("get_import", "How far it is, and what came of it", answer=WholeImportSerializer)
@api_view()
def one_import(request: Request, slug: str, pk: int) -> Response:
    return _answer(request, _get(request, slug, pk))


@documented("cancel_import", "End it before its end: nothing is imported", method="POST",
            answer=WholeImportSerializer)  # fmt: skip
@api_view(["POST"])
def cancel_import(request: Request, slug: str, pk: int) -> Response:
    """One that runs ends within a second or so: until then it is still running."""
    import_ = _get(request, slug, pk)
    jobs.cancel(import_)
    return _answer(request, import_)


@documented("get_skipped_rows", "The bad rows, each with its reason, as CSV",
            also={(200, "text/csv"): OpenApiTypes.STR})  # fmt: skip
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def skipped_rows(request: Request, slug: str, pk: int) -> FileResponse:
    import_ = _get(request, slug, pk)
    try:
        file = import_.skipped_file.open("rb")
    except FileNotFoundError as error:
        raise Http404(
            "There is no list of skipped rows, or it was deleted with its file."
        ) from error
    name = f"{slug}-import-{pk}-skipped.csv"
    return FileResponse(file, as_attachment=True, filename=name, content_type="text/csv")


def _get(request: Request, slug: str, pk: int) -> Import:
    project = get_access(request, slug, Role.ADMIN).project
    rows = project.imports.select_related("project", "created_by")
    return get_object_or_404(rows, pk=pk)


def _answer(request: Request, import_: Import, status: int = 200) -> Response:
    shown = WholeImportSerializer(import_, context={"request": request})
    return Response(shown.data, status=status)
