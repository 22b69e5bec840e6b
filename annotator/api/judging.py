"""Comparing by program: what is handed out, what is said of it. Blind, as the page is.

Answers are named by their place from left to right, never by number: numbers follow the order in
which they were made, and would tell who made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from annotator import assignment as queue
from annotator.access import Access, get_access
from annotator.api import fields
from annotator.api.auth import MayAnnotate
from annotator.api.content import MessageSerializer
from annotator.api.errors import Conflict, Refused, invalid
from annotator.api.fields import Body, asked_by, read, row_id
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented, number_parameter, text_parameter
from annotator.models import Assignment, Judgment, Verdict
from annotator.protocols import MAX_RATIONALE, MAX_REWRITE, Said
from annotator.views.comparing import seconds_since, shown_now

Place = fields.Whole  # of an answer, from 0 at the left


def ranking(**kwargs: Any) -> serializers.ListField:
    place = Place(min_value=0, max_value=8)
    group = serializers.ListField(child=place, min_length=1, max_length=9)
    return serializers.ListField(child=group, max_length=9, **kwargs)


# --- what is handed out -----------------------------------------------------------------------------
class AnswerSerializer(serializers.Serializer):
    place = serializers.IntegerField(help_text="From 0, at the left.")
    text = serializers.CharField()


class AssignmentSerializer(serializers.ModelSerializer):
    prompt = MessageSerializer(many=True, source="comparison.prompt.messages")
    answers = serializers.SerializerMethodField()
    shown = serializers.SerializerMethodField(
        help_text="When it was shown, signed: send it back, so that the time it took is right."
    )
    protocol = serializers.DictField(help_text="What is asked; what it does not name is default.")

    class Meta:
        model = Assignment
        fields = [
            "id", "prompt", "answers", "protocol", "payload_hash", "shown", "guideline_version",
            "lease_until",
        ]  # fmt: skip

    @extend_schema_field(AnswerSerializer(many=True))
    def get_answers(self, assignment: Assignment) -> list[dict[str, Any]]:
        completions = queue.shown(assignment)
        return [{"place": place, "text": each.text} for place, each in enumerate(completions)]

    def get_shown(self, assignment: Assignment) -> str:
        return shown_now(assignment)


REASONS = [
    "available", "not_qualified", "qualification_failed", "qualification_lacks_answers", "paused",
    "quota_reached", "daily_quota_reached", "nothing_imported", "held_by_others", "held_back",
    "all_done",
]  # fmt: skip


class NextSerializer(serializers.Serializer):
    assignment = AssignmentSerializer(allow_null=True, help_text="Null: there is none for now.")
    reason = serializers.ChoiceField(choices=REASONS, help_text="Why there is one, or none.")
    until = serializers.DateTimeField(
        allow_null=True, help_text="When there may be something again, if that is known."
    )


# --- what is said -----------------------------------------------------------------------------------
class SpanSerializer(Body):
    answer = Place(min_value=0, max_value=8, help_text="Its place.")
    start = fields.Whole(min_value=0, max_value=10**7, help_text="In characters of the text.")
    end = fields.Whole(min_value=1, max_value=10**7)
    label = fields.Text(max_length=60)


class CriterionSerializer(Body):
    ranking = ranking()
    strength = fields.Whole(min_value=1, max_value=4, allow_null=True, default=None)


def first_interaction() -> Place:
    return fields.Whole(
        min_value=0, max_value=10**9, allow_null=True, default=None,
        help_text="Milliseconds from the moment it was to be seen to the first key, click, scroll or "
        "touch. Left out if nobody measured it.",
    )  # fmt: skip


class VerdictSerializer(Body):
    payload_hash = fields.Text(max_length=64, help_text="Of the assignment: what it is about.")
    shown = fields.Text(required=False, allow_blank=True, max_length=200)
    first_interaction_ms = first_interaction()
    verdict = fields.Word(choices=[Verdict.RANKING, Verdict.ALL_BAD, Verdict.UNRANKABLE])
    ranking = ranking(
        default=list, help_text="Places in groups of ties, best first. [[1], [0]]: the second."
    )
    strength = fields.Whole(min_value=1, max_value=4, allow_null=True, default=None)
    criteria = serializers.DictField(child=CriterionSerializer(), default=dict)
    rationale = fields.Text(allow_blank=True, default="", max_length=MAX_RATIONALE)
    reasons = serializers.ListField(child=fields.Text(max_length=60), default=list, max_length=9)
    flags = serializers.DictField(
        child=serializers.ListField(child=fields.Text(max_length=60), max_length=5),
        default=dict,
        help_text='By place: {"0": ["unsafe"]}.',
    )
    spans = serializers.ListField(child=SpanSerializer(), default=list, max_length=1000)
    rewrite = fields.Text(allow_blank=True, default="", max_length=MAX_REWRITE)


class SkipSerializer(Body):
    payload_hash = fields.Text(max_length=64)
    shown = fields.Text(required=False, allow_blank=True, max_length=200)
    first_interaction_ms = first_interaction()


class UndoSerializer(Body):
    judgment = row_id(help_text="The one to take back: sent twice, it takes back no other.")


class JudgmentSerializer(serializers.ModelSerializer):
    """By place. Reviewers also see whose it is, and which completions were where."""

    ranking = ranking(help_text="Places in groups of ties, best first.")
    criteria = serializers.DictField()
    flags = serializers.DictField()
    spans = serializers.ListField(child=serializers.DictField())
    reasons = serializers.ListField(child=serializers.CharField())
    assignment = serializers.IntegerField(source="assignment_id")
    supersedes = serializers.IntegerField(source="supersedes_id", allow_null=True)
    first_interaction_ms = serializers.IntegerField(
        source="assignment.first_interaction_ms",
        allow_null=True,
        help_text="Of the showing; null if it was not measured.",
    )
    ui_version = serializers.CharField(
        source="assignment.ui_version", help_text="Which version of the server showed it."
    )

    class Meta:
        model = Judgment
        fields = [
            "id", "assignment", "verdict", "ranking", "strength", "strength_of", "criteria",
            "rationale", "reasons", "flags", "spans", "rewrite", "seconds", "first_interaction_ms",
            "ui_version", "guideline_version", "supersedes", "voided", "created",
        ]  # fmt: skip

    def to_representation(self, judgment: Judgment) -> dict[str, Any]:
        shown = super().to_representation(judgment)
        place = {pk: place for place, pk in enumerate(judgment.assignment.order)}
        shown["ranking"] = _places(judgment.ranking, place)
        shown["criteria"] = {
            key: {**said, "ranking": _places(said["ranking"], place)}
            for key, said in judgment.criteria.items()
        }
        shown["flags"] = {str(place[int(pk)]): flags for pk, flags in judgment.flags.items()}
        shown["spans"] = [
            {"answer": place[span["completion"]], **_without_completion(span)}
            for span in judgment.spans
        ]
        return shown


class ReviewedJudgmentSerializer(JudgmentSerializer):
    annotator = serializers.CharField(source="annotator.username", required=False)
    comparison = serializers.IntegerField(source="comparison_id", required=False)
    order = serializers.ListField(
        child=serializers.IntegerField(),
        source="assignment.order",
        required=False,
        help_text="The completions from left to right.",
    )

    class Meta(JudgmentSerializer.Meta):
        fields = [*JudgmentSerializer.Meta.fields, "annotator", "comparison", "order", "is_repeat"]
        extra_kwargs = {"is_repeat": {"required": False}}


def _places(groups: list[list[int]], place: Mapping[int, int]) -> list[list[int]]:
    return [sorted(place[pk] for pk in group) for group in groups]


def _without_completion(span: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in span.items() if name != "completion"}


# --- views ------------------------------------------------------------------------------------------
@documented("next_assignment", "What to judge now: what you hold, or the next", method="POST",
            answer=NextSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@permission_classes([IsAuthenticated, MayAnnotate])
@once
def next_assignment(request: Request, slug: str) -> Response:
    access = get_access(request, slug)
    return _next(access, request, queue.claim(access.project, request.user))


def _next(access: Access, request: Request, assignment: Assignment | None) -> Response:
    if assignment is not None:
        shown = AssignmentSerializer(assignment).data
        return Response({"assignment": shown, "reason": "available", "until": None})
    state = queue.why_nothing(access.project, request.user)
    return Response({"assignment": None, "reason": state.reason, "until": state.until})


@documented("judge_assignment", "Say which answer is better", method="POST",
            body=VerdictSerializer, answer=JudgmentSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@permission_classes([IsAuthenticated, MayAnnotate])
@once
def judge(request: Request, slug: str, pk: int) -> Response:
    assignment = _own_assignment(request, slug, pk)
    sent = read(VerdictSerializer, request.data)
    return _record(assignment, _said(sent, assignment.order), sent)


@documented("skip_assignment", "Leave it to others", method="POST",
            body=SkipSerializer, answer=JudgmentSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@permission_classes([IsAuthenticated, MayAnnotate])
@once
def skip(request: Request, slug: str, pk: int) -> Response:
    assignment = _own_assignment(request, slug, pk)
    return _record(assignment, {"verdict": Verdict.SKIPPED}, read(SkipSerializer, request.data))


def _own_assignment(request: Request, slug: str, pk: int) -> Assignment:
    access = get_access(request, slug)
    rows = Assignment.objects.select_related("comparison__prompt")
    mine = rows.filter(project=access.project, annotator=request.user)
    assignment = get_object_or_404(mine, pk=pk)
    assignment.project, assignment.annotator = access.project, request.user
    return assignment


def _record(
    assignment: Assignment, said: Said | dict[str, Any], sent: Mapping[str, Any]
) -> Response:
    seconds = seconds_since(sent.get("shown", ""), assignment)
    try:
        judgment = queue.record(
            assignment,
            **said,
            payload_hash=sent["payload_hash"],
            seconds=seconds,
            first_interaction_ms=sent["first_interaction_ms"],
        )
    except queue.NotRecorded as error:
        raise Refused(error) from error
    return Response(JudgmentSerializer(judgment).data)


def _said(sent: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """By completion, as judgments are kept. Raises ValidationError for places that are not there."""

    def ids(groups: list[list[int]]) -> list[list[int]]:
        return [[_at(place, order) for place in group] for group in groups]

    return {
        **{name: sent[name] for name in ("strength", "rationale", "reasons", "rewrite")},
        "verdict": Verdict(sent["verdict"]),
        "ranking": ids(sent["ranking"]),
        "criteria": {
            key: {"ranking": ids(said["ranking"]), "strength": said["strength"]}
            for key, said in sent["criteria"].items()
        },
        "flags": {str(_at(place, order)): flags for place, flags in sent["flags"].items()},
        "spans": [
            {
                "completion": _at(span["answer"], order),
                **{name: span[name] for name in ("start", "end", "label")},
            }
            for span in sent["spans"]
        ],
    }


def _at(place: int | str, order: list[int]) -> int:
    known = {str(n): pk for n, pk in enumerate(order)}
    if str(place) not in known:
        raise invalid({"ranking": f"There is no answer at place {place}: 0 to {len(order) - 1}."})
    return known[str(place)]


@documented("undo_judgment", "Take back your last verdict; it is handed to you again",
            method="POST", body=UndoSerializer, answer=NextSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@permission_classes([IsAuthenticated, MayAnnotate])
@once
def undo(request: Request, slug: str) -> Response:
    access = get_access(request, slug)
    asked = read(UndoSerializer, request.data)["judgment"]
    mine = Judgment.objects.filter(project=access.project, annotator=request.user)
    judgment = get_object_or_404(mine, pk=asked)
    try:
        again = queue.undo_last(access.project, request.user, judgment_id=asked)
    except queue.NotUndone as error:
        raise Refused(f"{error}{_instead_of(judgment)}") from error
    if again is None and judgment.voided is None:
        sentence = "It is not your last verdict: only that one can be taken back."
        raise Conflict(sentence + _instead_of(judgment))
    return _next(access, request, again or queue.claim(access.project, request.user))


def _instead_of(judgment: Judgment) -> str:
    """Which one to name, where it is another."""
    last = queue.last_judgment(judgment.project, judgment.annotator)
    if last is None or last == judgment:
        return ""
    return f" The last that you can take back is judgment {last.pk}."


# --- judgments --------------------------------------------------------------------------------------
class JudgmentsAsked(serializers.Serializer):
    annotator = serializers.CharField(required=False, max_length=150)
    comparison = fields.number()
    in_force = serializers.ChoiceField(choices=["true", "false"], required=False)


@documented(
    "list_judgments",
    "Judgments: your own, or everybody's for reviewers",
    answer=ReviewedJudgmentSerializer,
    query=[
        text_parameter("annotator", "User name; for reviewers.", minLength=1, maxLength=150),
        number_parameter("comparison", "For reviewers."),
        text_parameter(
            "in_force", "False: those that were taken back or changed.", enum=["true", "false"]
        ),
    ],
    is_list=True,
)
@api_view()
def judgments(request: Request, slug: str) -> Response:
    access = get_access(request, slug)
    asked = asked_by(request, JudgmentsAsked)
    rows = Judgment.objects.filter(project=access.project).select_related("assignment")
    if in_force := asked.pop("in_force", ""):
        rows = rows.filter(voided__isnull=in_force == "true")
    if access.is_reviewer:
        return page_of(request, _chosen(rows, asked), ReviewedJudgmentSerializer)
    if asked:
        raise invalid(dict.fromkeys(asked, "Only reviewers may ask for this."))
    return page_of(request, rows.filter(annotator=request.user), JudgmentSerializer)


def _chosen(rows: QuerySet[Judgment], asked: Mapping[str, Any]) -> QuerySet[Judgment]:
    if "annotator" in asked:
        rows = rows.filter(annotator__username=asked["annotator"])
    if "comparison" in asked:
        rows = rows.filter(comparison=asked["comparison"])
    return rows.select_related("annotator")
