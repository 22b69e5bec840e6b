"""Model versions and rounds."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.decorators import api_view, renderer_classes
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import Refused
from annotator.api.fields import Body, Whole, asked_by, read
from annotator.api.once import once
from annotator.api.paging import Pages, page_of
from annotator.api.schema import documented, text_parameter
from annotator.api.transfer import AnyRenderer
from annotator.models import Project, Role
from rlhf import rounds
from rlhf.integrity import FilesChanged
from rlhf.model_pages import archive
from rlhf.models import ModelKind, ModelVersion
from rlhf.runs import RunRefused


class ModelVersionSerializer(serializers.ModelSerializer):
    project = serializers.CharField(source="project.slug")
    parent = serializers.IntegerField(source="parent_id", allow_null=True)
    run = serializers.IntegerField(source="run_id", allow_null=True, help_text="Which made it.")
    facts = serializers.DictField()

    class Meta:
        model = ModelVersion
        fields = ["id", "project", "name", "kind", "parent", "run", "facts", "created"]


class ModelsAsked(serializers.Serializer):
    kind = serializers.ChoiceField(choices=ModelKind.choices, required=False)


@documented(
    "list_models",
    "Model versions",
    answer=ModelVersionSerializer,
    query=[text_parameter("kind", enum=ModelKind.values)],
    is_list=True,
)
@api_view()
def models(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    asked = asked_by(request, ModelsAsked)
    rows = project.model_versions.select_related("project").filter(**asked)
    return page_of(request, rows, ModelVersionSerializer)


@documented("get_model", "A model version", answer=ModelVersionSerializer)
@api_view()
def model(request: Request, pk: int) -> Response:
    reviewed = Project.objects.reviewed_by(request.user)
    rows = ModelVersion.objects.select_related("project").filter(project__in=reviewed)
    return Response(ModelVersionSerializer(get_object_or_404(rows, pk=pk)).data)


class FilesAsked(serializers.Serializer):
    part = serializers.ChoiceField(choices=["adapter", "weights"], default="adapter")


@documented(
    "download_model",
    "Its adapter or its weights as a tar with the model card, for admins",
    query=[text_parameter("part", enum=["adapter", "weights"], default="adapter")],
    also={(200, "application/x-tar"): OpenApiTypes.BINARY},
)
@api_view()
@renderer_classes([JSONRenderer, AnyRenderer])
def model_files(request: Request, pk: int) -> HttpResponseBase:
    administered = Project.objects.administered_by(request.user)
    rows = ModelVersion.objects.select_related("project", "run", "parent")
    version = get_object_or_404(rows.filter(project__in=administered), pk=pk)
    part = read(FilesAsked, request.query_params)["part"]
    try:
        return archive(version, part, request.user)
    except FilesChanged as changed:
        raise Refused(changed) from changed


# --- rounds ---------------------------------------------------------------------------------------
class AgreementSerializer(serializers.Serializer):
    value = serializers.FloatField(allow_null=True)
    reason = serializers.CharField(help_text="Why there is none.")


class WinRateSerializer(serializers.Serializer):
    rate = serializers.FloatField(allow_null=True, help_text="Of the new policy; null: none yet.")
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    wins = serializers.IntegerField()
    losses = serializers.IntegerField()
    ties = serializers.IntegerField()
    all_bad = serializers.IntegerField()
    undecided = serializers.IntegerField()


class RoundSerializer(serializers.Serializer):
    number = serializers.IntegerField()
    policy = serializers.IntegerField(source="policy.pk")
    votes = serializers.IntegerField(allow_null=True, help_text="Null: too long ago to count.")
    agreement = AgreementSerializer(allow_null=True)
    reward_model = serializers.IntegerField(
        source="reward_model.pk", allow_null=True, default=None, help_text="Its run."
    )
    ppo = serializers.IntegerField(
        source="ppo.pk", allow_null=True, default=None, help_text="Its run."
    )
    new_policy = serializers.IntegerField(source="new_policy.pk", allow_null=True, default=None)
    evaluate = serializers.IntegerField(
        source="evaluate.pk", allow_null=True, default=None, help_text="Its run."
    )
    win_rate = WinRateSerializer(allow_null=True)


class NextRoundSerializer(Body):
    after = Whole(min_value=1, max_value=2**31 - 1, help_text="The round that is over.")


@documented("list_rounds", "Rounds, the newest first", answer=RoundSerializer, is_list=True)
@documented("start_round", "The next round, from what PPO made in this one; once a gate has decided, "
            "from the current policy", method="POST", body=NextRoundSerializer,
            answer=RoundSerializer, status=201, creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def project_rounds(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        pages: Any = Pages()
        pages.ordering = ("-number",)
        found = pages.paginate_queryset(project.rounds.select_related("policy"), request)
        rows = rounds.rows_of(project, found)
        return pages.get_paginated_response(RoundSerializer(rows, many=True).data)
    project = get_access(request, slug, Role.ADMIN).project
    after = read(NextRoundSerializer, request.data)["after"]
    try:
        rounds.start_next_round(project, request.user, after=after)
    except RunRefused as refusal:
        raise Refused(refusal) from refusal
    newest = rounds.rounds_of(project)
    if not newest or newest[0].number <= after:
        raise Refused(f"Round {after} is not the one that is under way.")
    return Response(RoundSerializer(newest[0]).data, status=201)
