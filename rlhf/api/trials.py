"""The trials of a search."""

from __future__ import annotations

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import Refused
from annotator.api.fields import Body, Whole, read
from annotator.api.once import once
from annotator.api.paging import PARAMETERS, page_of_list, pages_of
from annotator.api.schema import documented
from annotator.models import Role
from rlhf.api.datasets import DatasetSerializer
from rlhf.api.models import ModelVersionSerializer
from rlhf.models import Dataset, Run, RunKind
from rlhf.searching import SearchRefused, delete_files, promote, trials_of


class TrialSerializer(serializers.Serializer):
    number = serializers.IntegerField(help_text="From 0.")
    state = serializers.ChoiceField(choices=["running", "complete", "pruned", "fail"])
    values = serializers.DictField(help_text="Of the settings that vary.")
    value = serializers.FloatField(allow_null=True, help_text="Of the metric: the last, or so far.")
    seconds = serializers.FloatField()
    error = serializers.CharField()
    is_best = serializers.BooleanField()
    has_files = serializers.BooleanField()
    model = serializers.IntegerField(
        source="version.pk", allow_null=True, default=None, help_text="The version made of it."
    )
    dataset = serializers.IntegerField(
        source="dataset.pk", allow_null=True, default=None, help_text="The same of a distillation."
    )


class TrialsSerializer(pages_of(TrialSerializer)):  # type: ignore[misc]  # made at run time
    """A page of them, and what is said of all."""

    metric = serializers.CharField()
    direction = serializers.ChoiceField(choices=["minimize", "maximize"])
    importance = serializers.DictField(
        child=serializers.FloatField(), help_text="Of each setting; empty: unknown."
    )


class PromotedSerializer(Body):
    trial = Whole(min_value=0, max_value=999, required=False, help_text="Without: the best.")


class DeletedSerializer(serializers.Serializer):
    freed = serializers.IntegerField(help_text="Bytes.")


@documented("list_trials", "The trials of a search, the first one first", answer=TrialsSerializer,
            query=PARAMETERS)  # fmt: skip
@api_view()
def trials(request: Request, slug: str, pk: int) -> Response:
    run = _get_search(request, slug, pk)
    found = trials_of(run)
    if found is None:
        raise Refused(f"{run} has not begun: there is no trial yet.")
    answer = page_of_list(request, found.rows, TrialSerializer)
    answer.data |= {
        "metric": found.metric,
        "direction": found.direction,
        "importance": dict(found.importance),
    }
    return answer


MADE = PolymorphicProxySerializer(
    "PromotedTrial", [ModelVersionSerializer, DatasetSerializer], resource_type_field_name=None
)


@documented("promote_trial", "Make a model version of a trial, or a dataset; twice is the same one",
            method="POST", body=PromotedSerializer, answer=MADE, creates=True)  # fmt: skip
@api_view(["POST"])
@once
def promote_trial(request: Request, slug: str, pk: int) -> Response:
    run = _get_search(request, slug, pk, Role.ADMIN)
    number = read(PromotedSerializer, request.data).get("trial")
    try:
        made = promote(run, number, request.user)
    except SearchRefused as refusal:
        raise Refused(refusal) from refusal
    if isinstance(made, Dataset):
        return Response(DatasetSerializer(made).data)
    return Response(ModelVersionSerializer(made).data)


@documented("delete_trials", "Delete the files of all trials that are no model version",
            method="POST", answer=DeletedSerializer)  # fmt: skip
@api_view(["POST"])
def delete_trials(request: Request, slug: str, pk: int) -> Response:
    run = _get_search(request, slug, pk, Role.ADMIN)
    try:
        return Response({"freed": delete_files(run, request.user)})
    except SearchRefused as refusal:
        raise Refused(refusal) from refusal


def _get_search(request: Request, slug: str, pk: int, at_least: Role = Role.REVIEWER) -> Run:
    project = get_access(request, slug, at_least).project
    rows = project.runs.filter(kind=RunKind.SEARCH).select_related("policy", "project")
    return get_object_or_404(rows, pk=pk)
