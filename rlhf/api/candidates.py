"""Candidates side by side: the newest suite of each version."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.schema import documented
from annotator.models import Role
from rlhf import suites


class CandidateSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    name = serializers.CharField()
    run = serializers.IntegerField(help_text="Its suite.")
    is_comparable = serializers.BooleanField(
        help_text="Prompts, text and sampling are those of most others."
    )
    n_prompts = serializers.IntegerField(allow_null=True)
    texts = serializers.DictField(
        allow_null=True, help_text="Of general text: how many, and how many were learned from."
    )
    references = serializers.DictField(
        allow_null=True, help_text="Reference answers with a loss, and how many were too long."
    )
    windows = serializers.DictField(
        allow_null=True,
        help_text="Tokens of general text that were read at once, and how many texts took several.",
    )
    alarms = serializers.ListField(child=serializers.DictField())
    judge = serializers.DictField(
        allow_null=True, help_text="Which model judged, and how far it agrees with people."
    )
    people = serializers.DictField(allow_null=True, help_text="The newest blind evaluation.")


class WithoutSuiteSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    name = serializers.CharField()
    reason = serializers.CharField(
        help_text="Why its suite did not run; empty: none was asked for."
    )


class CandidatesSerializer(serializers.Serializer):
    candidates = CandidateSerializer(many=True)
    metrics = serializers.DictField(
        child=serializers.ListField(child=serializers.DictField()),
        help_text="By name, a figure per candidate: value, low, high, n, reason, mark.",
    )
    without_suite = WithoutSuiteSerializer(many=True)


@documented("get_candidates", "Versions side by side, by their suites", answer=CandidatesSerializer)
@api_view()
def candidates(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    return Response(suites.as_json(suites.table_of(project), suites.missing_suites(project)))
