"""Where something comes from, and what carries it: the JSON of the page of a lineage."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.schema import documented
from annotator.models import Role
from rlhf import lineage
from rlhf.lineage_pages import KINDS

KIND = OpenApiParameter(
    "kind", {"type": "string", "enum": list(KINDS)}, OpenApiParameter.PATH, description="Of what."
)


class LineageSerializer(serializers.Serializer):
    of = serializers.CharField(help_text="The key of what was asked for, as in `version-7`.")
    nodes = serializers.ListField(
        child=serializers.DictField(), help_text="Each with its `id`, kind, name and facts."
    )
    edges = serializers.ListField(
        child=serializers.DictField(), help_text="From `source` to `target`, with its `role`."
    )
    back = serializers.ListField(
        child=serializers.CharField(), help_text="Keys of what it comes from, its own among them."
    )
    forward = serializers.ListField(
        child=serializers.CharField(), help_text="Keys of what carries it."
    )


@documented("get_lineage", "Where it comes from and what carries it; people are numbers",
            answer=LineageSerializer, query=[KIND])  # fmt: skip
@api_view()
def lineage_of(request: Request, slug: str, kind: str, pk: int) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    found = lineage.find(project, kind, pk)
    if found is None:
        raise Http404(f"This project has no {kind} {pk}.")
    return Response(lineage.as_json(found))
