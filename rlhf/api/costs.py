"""What the runs of a project cost, by month and kind."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.schema import documented
from annotator.models import Role
from rlhf.costs import bill_of


class SumSerializer(serializers.Serializer):
    runs = serializers.IntegerField()
    hours = serializers.FloatField()
    tokens = serializers.IntegerField(help_text="Read and written by endpoints.")
    spent = serializers.FloatField(help_text="On endpoints.")
    charged = serializers.FloatField(help_text="For tokens of models that have a price.")
    written = serializers.IntegerField(help_text="Tokens, by models here.")
    learned = serializers.IntegerField(help_text="Tokens, by models here, in each epoch.")
    money = serializers.FloatField(help_text="All of it, with hours at their price.")


class CostSerializer(SumSerializer):
    month = serializers.CharField(help_text="As in 2026-11.")
    kind = serializers.CharField(help_text="Of run, as pages call it.")


class CostsSerializer(serializers.Serializer):
    currency = serializers.CharField(help_text="A label; nothing is converted.")
    per_hour = serializers.FloatField(help_text="0: hours are not counted.")
    rows = CostSerializer(many=True)
    total = SumSerializer()


@documented("get_costs", "What runs took and cost, by month and kind", answer=CostsSerializer)
@api_view()
def costs(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    return Response(CostsSerializer(bill_of(project)).data)
