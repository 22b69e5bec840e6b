"""How far votes can be trusted, and which source is ahead: what the worker computed last."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.schema import documented
from annotator.models import Project, Role
from annotator.quality import keeping


class FiguresSerializer(serializers.Serializer):
    """docs/quality.md says what each of the figures means."""

    as_of = serializers.DateTimeField(
        allow_null=True, help_text="Votes up to this time are in the figures; null: none yet."
    )
    is_stale = serializers.BooleanField(help_text="Something was said since.")
    is_computing = serializers.BooleanField()
    error = serializers.CharField(help_text="Why they could not be computed; usually empty.")


class QualitySerializer(FiguresSerializer):
    figures = serializers.DictField()


class SourceSerializer(serializers.Serializer):
    source = serializers.CharField()
    n_votes = serializers.IntegerField()
    wins = serializers.DictField(help_text="Share of its votes that it won, with its interval.")
    strength = serializers.DictField(help_text="Bradley-Terry, with its interval.")
    controlled = serializers.DictField(help_text="The same with length and style held equal.")


class LeaderboardSerializer(FiguresSerializer):
    rows = SourceSerializer(many=True, help_text="The best first.")
    style = serializers.DictField()
    groups = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField()),
        help_text="Sources that no vote compares with those of another group.",
    )
    n_left_out = serializers.IntegerField(help_text="Sources with fewer votes than those shown.")
    reason = serializers.CharField(help_text="Why there are no rows.")


@documented("get_quality", "Figures of agreement, annotators and models", answer=QualitySerializer)
@documented("refresh_quality", "Have the figures computed anew", method="POST",
            answer=QualitySerializer, status=202)  # fmt: skip
@api_view(["GET", "POST"])
def quality(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    if request.method == "POST":
        keeping.ask(project)
    figures = _figures(project)
    return Response(
        QualitySerializer(figures).data, status=202 if request.method == "POST" else 200
    )


@documented("get_leaderboard", "Sources of answers, the best first", answer=LeaderboardSerializer)
@api_view()
def leaderboard(request: Request, slug: str) -> Response:
    figures = _figures(get_access(request, slug, Role.REVIEWER).project)
    empty = {"rows": [], "style": {}, "groups": [], "n_left_out": 0}
    empty["reason"] = "Nothing has been computed yet."
    board = figures["figures"].get("leaderboard", {})
    return Response(LeaderboardSerializer(figures | empty | board).data)


def _figures(project: Project) -> dict[str, Any]:
    report = keeping.report_of(project)
    return {
        "as_of": report.as_of if report else None,
        "is_stale": keeping.is_stale(report),
        "is_computing": bool(report and report.asked),
        "error": report.error if report else "",
        "figures": report.figures if report else {},
    }
