"""Prompts, completions and comparisons, for reviewers; admins add to them."""

from __future__ import annotations

import json
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api import fields
from annotator.api.errors import Refused, invalid
from annotator.api.fields import Body, asked_by, read, row_id
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented, number_parameter, text_parameter
from annotator.formats.shapes import entry_of
from annotator.importing import ImportRefused, add_completion, add_prompt, import_jsonl
from annotator.models import (
    Comparison,
    ComparisonCompletion,
    Completion,
    Project,
    Prompt,
    Purpose,
    Role,
    Split,
    canonical_key,
    comparison_key,
)
from annotator.taking_back import check_settled
from annotator.views.review import chosen_of

MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "additionalProperties": False,
    "properties": {
        "role": {"type": "string", "enum": ["system", "user", "assistant"]},
        "content": {"type": "string"},
    },
}


@extend_schema_field(
    {"oneOf": [{"type": "string"}, {"type": "array", "items": MESSAGE, "minItems": 1}]}
)
class PromptField(serializers.JSONField):
    """Text, or messages that end with the user's."""


class MessageSerializer(serializers.Serializer):
    role = serializers.CharField()
    content = serializers.CharField()


# --- prompts --------------------------------------------------------------------------------------
class PromptSerializer(serializers.ModelSerializer):
    messages = MessageSerializer(many=True)

    class Meta:
        model = Prompt
        fields = ["id", "messages", "split", "key", "created"]


class NewPromptSerializer(Body):
    prompt = PromptField(help_text="Text, or messages that end with the user's.")


@documented(
    "list_prompts",
    "Prompts",
    answer=PromptSerializer,
    query=[text_parameter("split", enum=Split.values)],
    is_list=True,
)
@documented(
    "add_prompt",
    "A prompt; 200 if it is there already",
    method="POST",
    body=NewPromptSerializer,
    answer=PromptSerializer,
    status=201,
    also={200: PromptSerializer},
    creates=True,
)
@api_view(["GET", "POST"])
@once
def prompts(request: Request, slug: str) -> Response:
    if request.method == "GET":
        rows = get_access(request, slug, Role.REVIEWER).project.prompts.all()
        asked = asked_by(request, PromptsAsked)
        return page_of(request, rows.filter(**asked), PromptSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NewPromptSerializer, request.data)
    try:
        prompt, is_new = add_prompt(project, sent["prompt"])
    except ValueError as error:
        raise invalid({"prompt": f"{error}."}) from error
    return Response(PromptSerializer(prompt).data, status=201 if is_new else 200)


class PromptsAsked(serializers.Serializer):
    split = serializers.ChoiceField(choices=Split.choices, required=False)


# --- completions ----------------------------------------------------------------------------------
class CompletionSerializer(serializers.ModelSerializer):
    prompt = serializers.IntegerField(source="prompt_id")

    class Meta:
        model = Completion
        fields = ["id", "prompt", "text", "source", "is_truncated", "created"]


class NewCompletionSerializer(Body):
    prompt = row_id(help_text="Number of the prompt.")
    text = fields.Text(allow_blank=True)
    source = fields.Text(
        max_length=200, default="import", help_text="Which model wrote it, or where it is from."
    )
    is_truncated = fields.Flag(default=False, help_text="Cut off at the length limit.")


class CompletionsAsked(serializers.Serializer):
    prompt = fields.number()
    source = serializers.CharField(required=False, max_length=200)


@documented(
    "list_completions",
    "Completions with their sources",
    answer=CompletionSerializer,
    query=[number_parameter("prompt"), text_parameter("source", minLength=1, maxLength=200)],
    is_list=True,
)
@documented(
    "add_completion",
    "A completion of a prompt; 200 if it is there already",
    method="POST",
    body=NewCompletionSerializer,
    answer=CompletionSerializer,
    status=201,
    also={200: CompletionSerializer},
    creates=True,
)
@api_view(["GET", "POST"])
@once
def completions(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        asked = asked_by(request, CompletionsAsked)
        rows = Completion.objects.filter(prompt__project=project, **asked)
        return page_of(request, rows, CompletionSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NewCompletionSerializer, request.data)
    prompt = project.prompts.filter(pk=sent.pop("prompt")).first()
    if prompt is None:
        raise invalid({"prompt": "There is no such prompt in this project."})
    completion, is_new = add_completion(prompt, **sent)
    return Response(CompletionSerializer(completion).data, status=201 if is_new else 200)


# --- comparisons ----------------------------------------------------------------------------------
class ComparedSerializer(serializers.ModelSerializer):
    class Meta:
        model = Completion
        fields = ["id", "text", "source", "is_truncated"]


class ComparisonSerializer(serializers.ModelSerializer):
    prompt = PromptSerializer()
    completions = serializers.SerializerMethodField(help_text="In the order stored.")
    arm = serializers.CharField(help_text="Of the order of questions: active, random or empty.")
    expected = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        help_text="Of a known answer, the ranking that is right: completions in groups of ties.",
    )

    class Meta:
        model = Comparison
        fields = [
            "id", "prompt", "completions", "round_number", "purpose", "origin", "overlap", "taken",
            "priority", "arm", "hold", "held_until", "expected", "explanation", "created",
        ]  # fmt: skip

    @extend_schema_field(ComparedSerializer(many=True))
    def get_completions(self, comparison: Comparison) -> Any:
        entries = comparison.entries.all()
        return ComparedSerializer([entry.completion for entry in entries], many=True).data


class NewComparisonSerializer(Body):
    """A line of an import file; or `completion_ids`, of completions that are there."""

    completion_ids = serializers.ListField(
        child=row_id(), min_length=2, max_length=9, required=False,
        help_text="Of one prompt. Nothing else but `overlap` then stands beside it.",
    )  # fmt: skip
    overlap = fields.Whole(min_value=1, max_value=100, required=False)
    prompt = PromptField(required=False, help_text="Text, or messages that end with the user's.")
    completions = serializers.ListField(
        child=fields.Text(allow_blank=True), min_length=2, max_length=9, required=False
    )
    sources = serializers.ListField(child=fields.Text(max_length=200), required=False)
    truncated = serializers.ListField(child=fields.Flag(), required=False)
    expected = serializers.ListField(
        child=serializers.ListField(child=fields.Whole(min_value=0, max_value=8), min_length=1),
        required=False,
        help_text="Makes it a known answer: the places of `completions` in groups of ties, best "
        "first.",
    )
    explanation = fields.Text(required=False, allow_blank=True)


class ComparisonsAsked(serializers.Serializer):
    purpose = serializers.ChoiceField(choices=Purpose.choices, required=False)
    round = fields.number()
    prompt = fields.number()
    state = serializers.ChoiceField(choices=["open", "held"], required=False)


@documented(
    "list_comparisons",
    "Comparisons with their completions and sources",
    answer=ComparisonSerializer,
    query=[
        text_parameter("purpose", enum=Purpose.values),
        number_parameter("round"),
        number_parameter("prompt"),
        text_parameter("state", "Open: somebody is still needed. Held: nobody is asked.",
                       enum=["open", "held"]),
    ],
    is_list=True,
)  # fmt: skip
@documented(
    "add_comparison",
    "A comparison; 200 if it is there already",
    method="POST",
    body=NewComparisonSerializer,
    answer=ComparisonSerializer,
    status=201,
    also={200: ComparisonSerializer},
    creates=True,
)
@api_view(["GET", "POST"])
@once
def comparisons(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        asked = asked_by(request, ComparisonsAsked)
        chosen = {name: str(asked.get(name, "")) for name in ComparisonsAsked().fields}
        return page_of(request, _whole(chosen_of(project, chosen)), ComparisonSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NewComparisonSerializer, request.data)
    add = _add_from_ids if "completion_ids" in sent else _add_from_texts
    pk, is_new = add(project, request, sent)
    comparison = _whole(project.comparisons.all()).get(pk=pk)
    return Response(ComparisonSerializer(comparison).data, status=201 if is_new else 200)


@documented("get_comparison", "A comparison", answer=ComparisonSerializer)
@api_view()
def comparison(request: Request, slug: str, pk: int) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    found = get_object_or_404(_whole(project.comparisons.all()), pk=pk)
    return Response(ComparisonSerializer(found).data)


def _whole(rows: QuerySet[Comparison]) -> QuerySet[Comparison]:
    """With all that is shown of them, in three queries."""
    entries = ComparisonCompletion.objects.order_by("position").select_related("completion")
    return rows.select_related("prompt").prefetch_related(Prefetch("entries", entries))


def _add_from_texts(project: Project, request: Request, sent: dict[str, Any]) -> tuple[int, bool]:
    """As the line of a file: the same checks, and nothing is there twice."""
    overlap = sent.pop("overlap", None)
    line = json.dumps(sent).encode()
    try:
        entry = entry_of(sent)
    except ValueError as error:
        raise Refused(f"{error}.") from error
    if not entry.answers:
        raise invalid({"completions": "A comparison needs 2 to 9 completions."})
    try:
        report = import_jsonl(project, [line], user=request.user, overlap=overlap, may_wait=False)
    except ImportRefused as refused:
        raise Refused(refused) from refused
    purpose = Purpose.TRAINING if entry.expected is None else Purpose.GOLD
    texts = [answer.text for answer in entry.answers]
    key = comparison_key(canonical_key(entry.messages), purpose, texts)
    return project.comparisons.get(key=key).pk, report.comparisons > 0


def _add_from_ids(project: Project, request: Request, sent: dict[str, Any]) -> tuple[int, bool]:
    if others := set(sent) - {"completion_ids", "overlap"}:
        raise invalid(dict.fromkeys(others, "This cannot stand beside completion_ids."))
    ids = sent["completion_ids"]
    mine = Completion.objects.filter(prompt__project=project).select_related("prompt__project")
    found = mine.in_bulk(ids)
    if missing := [str(pk) for pk in ids if pk not in found]:
        names = ", ".join(missing)
        raise invalid({"completion_ids": f"This project has no completion {names}."})
    return _compare(project, [found[pk] for pk in ids], sent.get("overlap"))


def _compare(
    project: Project, completions: list[Completion], overlap: int | None
) -> tuple[int, bool]:
    try:
        new = Comparison.objects.create_from(
            completions, overlap=overlap, round_number=project.latest_round()
        )
    except ValueError as error:
        raise invalid({"completion_ids": f"{error}."}) from error
    if new is not None:
        return new.pk, True
    texts = [completion.text for completion in completions]
    key = comparison_key(completions[0].prompt.key, Purpose.TRAINING, texts)
    known = project.comparisons.filter(key=key).first()
    if known is None:
        raise invalid({"completion_ids": "Two of them are the same text: nothing to compare."})
    check_settled(known, project)
    return known.pk, False
