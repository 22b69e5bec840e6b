"""What an export is to hold, what that costs, and what the worker makes of it: files, comparisons."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from annotator.access import get_access
from annotator.api import fields
from annotator.api.auth import HasScope
from annotator.api.errors import Refused, invalid
from annotator.api.fields import MOST, Body, asked_by, read
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented, number_parameter
from annotator.export_jobs import LOST, ExportJob
from annotator.exporting import MAX_LICENCE
from annotator.exports import derived, jobs
from annotator.exports.costs import costs_of
from annotator.exports.filters import Filters
from annotator.hashes import FileChanged
from annotator.models import Export, Project, Role, User

MOST_NAMED = 1000  # people, sources, … of one condition
LONGEST_NAME = 200

_ROUND = {"min_value": 1, "max_value": 2**31 - 1, "required": False, "allow_null": True}
_DAY = {"required": False, "allow_null": True}
_LIST = {"required": False, "max_length": MOST_NAMED}


# --- what is sent ---------------------------------------------------------------------------------
class ConditionsSerializer(Body):
    """Conditions that all must hold, named as under `filters` in a manifest."""

    first_round = fields.Whole(**_ROUND)
    last_round = fields.Whole(**_ROUND)
    since = serializers.DateField(**_DAY, help_text="The day of a vote, by the server's time zone.")
    until = serializers.DateField(**_DAY, help_text="With this day.")
    annotators = serializers.ListField(
        child=fields.row_id(), **_LIST, help_text="Only votes of these, by number as in exports."
    )
    without = serializers.ListField(child=fields.row_id(), **_LIST, help_text="No votes of these.")
    guideline_versions = serializers.ListField(
        child=fields.Whole(min_value=1, max_value=2**31 - 1), **_LIST
    )
    sources = serializers.ListField(
        child=fields.Text(max_length=LONGEST_NAME),
        **_LIST,
        help_text="Only comparisons all of whose answers come from these.",
    )
    criteria = serializers.ListField(
        child=fields.Text(max_length=LONGEST_NAME),
        **_LIST,
        help_text="Keys. Only votes that say something of one of these.",
    )
    min_rankings = fields.Whole(
        min_value=1, max_value=2**31 - 1, required=False, allow_null=True,
        help_text="Of a comparison.",
    )  # fmt: skip
    min_agreement = fields.Number(
        min_value=0.5, max_value=1, required=False, allow_null=True, help_text="Of a comparison."
    )


class NewExportSerializer(ConditionsSerializer):
    round_number = fields.Whole(
        min_value=1, max_value=2**31 - 1, required=False,
        help_text="The same as `last_round`; the older name.",
    )  # fmt: skip
    use_rulings = fields.Flag(
        default=False, help_text="Each reviewer's ruling counts as one more vote."
    )
    licence = fields.Text(
        max_length=MAX_LICENCE,
        default="",
        allow_blank=True,
        help_text="For whoever gets the files.",
    )


def filters_of(sent: dict[str, Any]) -> Filters:
    """Raises ValidationError."""
    if "round_number" in sent:
        if sent.get("last_round") is not None:
            raise invalid({"round_number": "This is `last_round` by its older name: send one."})
        sent["last_round"] = sent.pop("round_number")
    for name in ("annotators", "without"):
        _check_people(name, sent.get(name, []))
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in sent.items()
    }
    try:
        return Filters(**given)
    except ValueError as error:
        raise invalid({"non_field_errors": [str(error)]}) from error


def _check_people(field: str, pks: list[int]) -> None:
    known = set(User.objects.filter(pk__in=pks).values_list("pk", flat=True))
    if unknown := [str(pk) for pk in pks if pk not in known]:
        raise invalid({field: f"There is nobody with the number {', '.join(unknown)}."})


# --- what is answered -----------------------------------------------------------------------------
class FilterCostSerializer(serializers.Serializer):
    title = serializers.CharField()
    n_votes = serializers.IntegerField(help_text="That it would leave out by itself.")
    n_comparisons = serializers.IntegerField()
    is_estimate = serializers.BooleanField()


class FilterCostsSerializer(serializers.Serializer):
    n_votes = serializers.IntegerField(help_text="Without any condition.")
    n_comparisons = serializers.IntegerField()
    costs = FilterCostSerializer(many=True)
    kept_votes = serializers.IntegerField(help_text="By all conditions together.")
    kept_comparisons = serializers.IntegerField()
    is_estimate = serializers.BooleanField(help_text="From comparisons drawn at random.")


class ExportJobSerializer(serializers.ModelSerializer):
    is_active = serializers.SerializerMethodField(
        help_text="It waits for the worker, or is done now."
    )
    error = serializers.SerializerMethodField(help_text="A sentence; empty: none so far.")
    export = serializers.IntegerField(
        source="export_id", allow_null=True, help_text="Which it made, or is about."
    )
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    link = serializers.SerializerMethodField(help_text="Of itself.")

    class Meta:
        model = ExportJob
        fields = [
            "id", "kind", "name", "export", "is_active", "error", "created_by", "created", "started",
            "finished", "link",
        ]  # fmt: skip

    def get_is_active(self, job: ExportJob) -> bool:
        return job.finished is None and not job.is_lost

    def get_error(self, job: ExportJob) -> str:
        return job.error or (LOST if job.is_lost else "")

    @extend_schema_field(serializers.URLField())
    def get_link(self, job: ExportJob) -> str:
        args = [job.project.slug, job.pk]
        found: str = reverse("api:export_job", args, request=self.context["request"])
        return found


class ExportFileSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="As a download and `POST files/` take it.")
    shape = serializers.CharField()
    format = serializers.CharField()
    size = serializers.IntegerField(allow_null=True, help_text="Bytes; null: not made yet.")
    sha256 = serializers.CharField(help_text="Empty: not made yet.")
    why_not = serializers.CharField(help_text="Why this export cannot give it; usually empty.")


class ExportFilesSerializer(serializers.Serializer):
    files = ExportFileSerializer(many=True)


class NewFileSerializer(Body):
    name = fields.Word(choices=derived.made_names(), help_text="As in `kto.parquet`.")


class ChangedSerializer(serializers.Serializer):
    n = serializers.IntegerField()
    rows = serializers.ListField(
        child=serializers.DictField(), help_text="The first 100, as excerpts."
    )


class ComparedExportsSerializer(serializers.Serializer):
    before = serializers.IntegerField()
    after = serializers.IntegerField()
    added = ChangedSerializer()
    removed = ChangedSerializer()
    changed = ChangedSerializer(help_text="Other votes on the same pair.")
    same = serializers.IntegerField()


class CompareAsked(serializers.Serializer):
    before = serializers.IntegerField(min_value=1, max_value=MOST)


# --- addresses ------------------------------------------------------------------------------------
@documented("count_export", "What an export would hold, and what each condition leaves out",
            method="POST", body=ConditionsSerializer, answer=FilterCostsSerializer)  # fmt: skip
@api_view(["POST"])
@permission_classes([IsAuthenticated, HasScope])  # to read: it changes nothing
def costs(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    filters = filters_of(read(ConditionsSerializer, request.data))
    return Response(FilterCostsSerializer(costs_of(project, filters)).data)


@documented("list_export_jobs", "What the worker was asked of exports",
            answer=ExportJobSerializer, is_list=True)  # fmt: skip
@api_view()
def export_jobs(request: Request, slug: str) -> Response:
    return page_of(request, _jobs(request, slug), ExportJobSerializer)


@documented("get_export_job", "How far it is", answer=ExportJobSerializer)
@api_view()
def export_job(request: Request, slug: str, pk: int) -> Response:
    return job_answer(request, get_object_or_404(_jobs(request, slug), pk=pk), status=200)


@documented("list_export_files", "Each shape in each format, made or not",
            answer=ExportFilesSerializer)  # fmt: skip
@documented("make_export_file", "Have a file made, or made anew if it has changed", method="POST",
            body=NewFileSerializer, answer=ExportJobSerializer, status=202, creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def export_files(request: Request, slug: str, pk: int) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    export = _export(project, pk)
    if request.method == "POST":
        name = read(NewFileSerializer, request.data)["name"]
        if reason := derived.why_not(export, derived.names()[name][0]):
            raise Refused(reason)
        return job_answer(request, jobs.ask_for_file(export, request.user, name))
    files = [
        {**file._asdict(), "why_not": why_not, "sha256": _hash(export, file)}
        for _, _, why_not, of_shape in derived.all_files(export)
        for file in of_shape
    ]
    return Response(ExportFilesSerializer({"files": files}).data)


def _hash(export: Export, file: derived.Derived) -> str:
    if file.size is None:
        return ""
    return export.sha256 if file.is_frozen else derived.hash_of(export, file.name)


@documented("compare_exports", "What differs from another export; 202 where the worker compares them",
            answer=ComparedExportsSerializer, also={202: ExportJobSerializer},
            query=[number_parameter("before", "Number of the other, most often the older one.",
                                    required=True)])  # fmt: skip
@api_view()
def compare(request: Request, slug: str, pk: int) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    before = _export(project, asked_by(request, CompareAsked)["before"])
    try:
        found = jobs.compare(before, _export(project, pk), request.user)
    except FileNotFoundError as error:
        raise Refused("The files of one of the two are missing.") from error
    except FileChanged as changed:
        raise Refused(changed) from changed
    if isinstance(found, ExportJob):
        return job_answer(request, found)
    return Response(ComparedExportsSerializer(found).data)


def _export(project: Project, pk: int) -> Export:
    found: Export = get_object_or_404(project.exports.select_related("project"), pk=pk)
    return found


def _jobs(request: Request, slug: str) -> Any:
    project = get_access(request, slug, Role.REVIEWER).project
    return project.export_jobs.select_related("project", "created_by")


def job_answer(request: Request, job: ExportJob, status: int = 202) -> Response:
    return Response(ExportJobSerializer(job, context={"request": request}).data, status=status)
