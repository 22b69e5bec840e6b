"""What a screening has put into quarantine, and what is decided of it."""

from __future__ import annotations

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.decorators import api_view, renderer_classes
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import invalid
from annotator.api.fields import Body, Text, Word, asked_by, read
from annotator.api.paging import page_of
from annotator.api.schema import documented, text_parameter
from annotator.api.transfer import AnyRenderer
from annotator.models import Role
from rlhf import quarantine, screening
from rlhf.models import QuarantinedRow, Run, RunKind
from rlhf.screening_views import findings_file
from rlhf.training.screen_config import CLASSES


class QuarantinedRowSerializer(serializers.ModelSerializer):
    decided_by = serializers.CharField(source="decided_by.username", allow_null=True, default=None)

    class Meta:
        model = QuarantinedRow
        fields = ["id", "key", "code", "is_released", "reason", "decided_by", "decided"]


class FindingsAsked(serializers.Serializer):
    code = serializers.ChoiceField(choices=list(CLASSES), required=False)
    state = serializers.ChoiceField(choices=list(screening.STATES), required=False)


class DecisionSerializer(Body):
    to = Word(choices=[("release", "Release"), ("quarantine", "Put back")])
    reason = Text(max_length=500, help_text="It is kept with the decision.")
    keys = serializers.ListField(
        child=Text(max_length=80),
        required=False,
        max_length=1000,
        help_text="Rows, with all that was found in them.",
    )
    code = Word(
        choices=[(code, found.label) for code, found in CLASSES.items()],
        required=False,
        help_text="Instead of rows: all findings of this class.",
    )


class DecidedSerializer(serializers.Serializer):
    changed = serializers.IntegerField(help_text="Findings that were in the other state before.")


@documented("list_quarantined", "What it has put into quarantine, released or not",
            answer=QuarantinedRowSerializer, is_list=True)  # fmt: skip
@documented("decide_quarantined", "Release rows, or put them into quarantine again", method="POST",
            body=DecisionSerializer, answer=DecidedSerializer)  # fmt: skip
@api_view(["GET", "POST"])
def quarantined(request: Request, slug: str, pk: int) -> Response:
    run = _get_screening(request, slug, pk)
    if request.method == "GET":
        return page_of(
            request, run.quarantined.select_related("decided_by"), QuarantinedRowSerializer
        )
    sent = read(DecisionSerializer, request.data)
    try:
        n = quarantine.decide(
            run,
            request.user,
            released=sent["to"] == "release",
            reason=sent["reason"],
            keys=sent.get("keys", []),
            code=sent.get("code", ""),
        )
    except ValueError as error:
        raise invalid({"non_field_errors": [str(error)]}) from error
    return Response({"changed": n})


@documented(
    "download_findings",
    "All that it has found, as JSON lines",
    query=[
        text_parameter("code", enum=list(CLASSES)),
        text_parameter("state", enum=list(screening.STATES)),
    ],
    also={(200, "application/jsonl"): OpenApiTypes.BINARY},
)
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def findings(request: Request, slug: str, pk: int) -> HttpResponseBase:
    run = _get_screening(request, slug, pk)
    asked = asked_by(request, FindingsAsked)
    return findings_file(run, request.user, asked.get("code", ""), asked.get("state", ""))


def _get_screening(request: Request, slug: str, pk: int) -> Run:
    project = get_access(request, slug, Role.REVIEWER).project
    return get_object_or_404(project.runs, pk=pk, kind=RunKind.SCREEN)
