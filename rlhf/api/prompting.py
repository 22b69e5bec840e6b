"""Prompt versions and collections of documents."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import Refused
from annotator.api.fields import Body, Text, Whole, form_errors, read, row_id, serializer_of
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented
from annotator.models import Project, Role
from rlhf.api.models import ModelVersionSerializer
from rlhf.documents import OVERLAP, SIZE, Document, DocumentsRefused, create_collection
from rlhf.models import DocumentCollection, ModelKind, ModelVersion
from rlhf.prompt_forms import PromptForm
from rlhf.prompting import PromptRefused, create_prompt_version, prompting_in
from rlhf.training.artifacts import RunError
from rlhf.training.retrieval_metrics import Relevant

MOST_DOCUMENTS = 10_000
TITLE, TEXT = 200, 5_000_000  # characters

NEW_PROMPT = serializer_of(
    PromptForm,
    "NewPromptVersion",
    without=["examples", "token"],
    examples=serializers.ListField(
        child=row_id(), required=False, help_text="Completions, for “hand”, in this order."
    ),
)


class PromptingSerializer(serializers.Serializer):
    """What is put around each question."""

    system = serializers.CharField()
    template = serializers.CharField()
    selection = serializers.CharField()
    examples = serializers.ListField(child=serializers.DictField())
    shots = serializers.IntegerField()
    budget_tokens = serializers.IntegerField()
    passages = serializers.IntegerField()


@documented("list_prompt_versions", "Prompt versions", answer=ModelVersionSerializer, is_list=True)
@documented("create_prompt_version", "Put instructions, examples and passages around a policy",
            method="POST", body=NEW_PROMPT, answer=ModelVersionSerializer, status=201,
            creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def prompt_versions(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        rows = project.model_versions.filter(kind=ModelKind.PROMPT).select_related("project")
        return page_of(request, rows, ModelVersionSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NEW_PROMPT, request.data)
    shown = {bound.name: bound.value() for bound in PromptForm(project)}
    values = {name: value for name, value in {**shown, **sent}.items() if value is not None}
    form = PromptForm(project, _as_sent(values))
    if not form.is_valid():
        raise form_errors(form)
    try:
        version = create_prompt_version(
            project, form.draft, name=form.cleaned_data["name"], user=request.user
        )
    except PromptRefused as refusal:
        raise Refused(refusal) from refusal
    return Response(ModelVersionSerializer(version).data, status=201)


def _as_sent(values: dict[str, Any]) -> dict[str, Any]:
    """Rows by their number, as a form has them."""
    return {
        name: value.pk if isinstance(value, ModelVersion) else value
        for name, value in values.items()
    }


@documented("get_prompting", "What a prompt version puts around each question",
            answer=PromptingSerializer)  # fmt: skip
@api_view()
def prompting(request: Request, pk: int) -> Response:
    rows = ModelVersion.objects.filter(
        project__in=Project.objects.reviewed_by(request.user), kind=ModelKind.PROMPT
    )
    try:
        return Response(PromptingSerializer(prompting_in(get_object_or_404(rows, pk=pk)).to_dict()).data)  # fmt: skip
    except RunError as error:
        raise Refused(error) from error


# --- documents ------------------------------------------------------------------------------------
class CollectionSerializer(serializers.ModelSerializer):
    run = serializers.IntegerField(source="run_id", allow_null=True, help_text="Of its embeddings.")
    details = serializers.DictField(help_text="Sizes, sources, and how well passages are found.")

    class Meta:
        model = DocumentCollection
        fields = ["id", "name", "number", "n_documents", "n_passages", "run", "details", "created"]


class DocumentSerializer(Body):
    title = Text(max_length=TITLE, allow_blank=True, required=False, default="")
    text = Text(max_length=TEXT, allow_blank=True)


class RelevantSerializer(Body):
    question = Text(max_length=TEXT)
    relevant = serializers.ListField(
        child=Text(max_length=TITLE + 20),
        allow_empty=False,
        help_text="Titles of documents, or names of passages as “title#2”.",
    )


class NewCollectionSerializer(Body):
    name = Text(max_length=100)
    documents = serializers.ListField(
        child=DocumentSerializer(), allow_empty=False, max_length=MOST_DOCUMENTS
    )
    relevant = serializers.ListField(child=RelevantSerializer(), required=False, default=list)
    size = Whole(min_value=50, max_value=20_000, default=SIZE, help_text="Characters of a passage.")
    overlap = Whole(min_value=0, max_value=10_000, default=OVERLAP)


@documented("list_collections", "Collections of documents", answer=CollectionSerializer, is_list=True)  # fmt: skip
@documented("create_collection", "Freeze documents as the next version of a collection",
            method="POST", body=NewCollectionSerializer, answer=CollectionSerializer, status=201,
            creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def collections(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        return page_of(request, project.collections.all(), CollectionSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(NewCollectionSerializer, request.data)
    try:
        collection = create_collection(
            project,
            sent["name"],
            [Document(each["title"], each["text"]) for each in sent["documents"]],
            size=sent["size"],
            overlap=sent["overlap"],
            relevant=[Relevant(each["question"], each["relevant"]) for each in sent["relevant"]],
            sources=["API"],
            user=request.user,
        )
    except DocumentsRefused as refusal:
        raise Refused(refusal) from refusal
    return Response(CollectionSerializer(collection).data, status=201)
