"""The routes from one export's votes to a policy, side by side."""

from __future__ import annotations

from django.shortcuts import get_object_or_404
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.fields import asked_by, number
from annotator.api.schema import documented, number_parameter
from annotator.models import Export, Role
from rlhf.api.models import WinRateSerializer
from rlhf.routes import exports_with_routes, starts_of


class RouteSerializer(serializers.Serializer):
    label = serializers.CharField()
    run = serializers.IntegerField(source="run.pk")
    policy = serializers.IntegerField(
        source="version.pk", default=None, allow_null=True, help_text="Null: nothing was trained."
    )
    evaluation = serializers.IntegerField(
        source="evaluation.pk", default=None, allow_null=True, help_text="Its run."
    )
    win_rate = WinRateSerializer(allow_null=True, help_text="Against the start.")
    reward = serializers.FloatField(
        allow_null=True,
        help_text="Score less that of the start, in standard deviations of the reward model alone.",
    )
    reward_by = serializers.IntegerField(
        source="reward_by.pk", default=None, allow_null=True, help_text="That reward model."
    )
    kl = serializers.FloatField(allow_null=True, help_text="Nats per answer, from the start.")
    kl_se = serializers.FloatField(allow_null=True, help_text="Standard error of kl.")
    length = serializers.FloatField(allow_null=True, help_text="Tokens per answer.")
    minutes = serializers.FloatField(allow_null=True, help_text="0: nothing was trained.")
    answer_seconds = serializers.FloatField(
        allow_null=True, help_text="To write an answer in the evaluation; of the best of n, all n."
    )
    reward_minutes = serializers.FloatField(allow_null=True, help_text="Of its reward model.")
    memory_mib = serializers.IntegerField(allow_null=True)


class StartSerializer(serializers.Serializer):
    policy = serializers.IntegerField(source="policy.pk")
    routes = RouteSerializer(many=True)


class RoutesSerializer(serializers.Serializer):
    export = serializers.IntegerField(allow_null=True, help_text="Null: none to learn from yet.")
    starts = StartSerializer(many=True)


class RoutesAsked(serializers.Serializer):
    export = number(1)


@documented(
    "get_routes",
    "What was made of an export's votes, route by route; of the newest, if none is named",
    answer=RoutesSerializer,
    query=[number_parameter("export", "Its number.", minimum=1)],
)
@api_view()
def routes(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    asked = asked_by(request, RoutesAsked).get("export")
    export: Export | None
    if asked:
        export = get_object_or_404(project.exports, pk=asked)
    else:
        export = next(iter(exports_with_routes(project)), None)
    found = {"export": export and export.pk, "starts": starts_of(export) if export else []}
    return Response(RoutesSerializer(found).data)
