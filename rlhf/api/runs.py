"""Runs: launched with the forms that the pages show, watched, stopped, resumed."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import PolymorphicProxySerializer
from rest_framework import serializers
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.auth import HasScope
from annotator.api.errors import Refused, invalid
from annotator.api.fields import Word, asked_by, form_errors, number, read, serializer_of
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented, number_parameter, text_parameter
from annotator.models import Project, Role
from rlhf import charts, rounds, screening
from rlhf import runs as run_control
from rlhf.forms import FORMS, RunForm
from rlhf.launching import form_with
from rlhf.models import Metrics, Run, RunKind, Sample, Status
from rlhf.outlooks import figures_of


def _figure(help_text: str) -> serializers.FloatField:
    return serializers.FloatField(allow_null=True, default=None, help_text=help_text)


class RunSerializer(serializers.ModelSerializer):
    policy = serializers.IntegerField(source="policy_id", allow_null=True)
    rival = serializers.IntegerField(source="rival_id", allow_null=True)
    reward_model = serializers.IntegerField(source="reward_model_id", allow_null=True)
    base = serializers.IntegerField(source="base_id", allow_null=True)
    judge = serializers.IntegerField(source="judge_id", allow_null=True)
    export = serializers.IntegerField(source="export_id", allow_null=True)
    created_by = serializers.CharField(source="created_by.username", allow_null=True, default=None)
    outputs = serializers.SerializerMethodField(help_text="Model versions that it made.")
    is_active = serializers.BooleanField(help_text="Queued, running or stopping.")

    class Meta:
        model = Run
        fields = [
            "id", "kind", "round_number", "status", "is_active", "phase", "step", "total_steps",
            "eta_seconds", "error", "policy", "rival", "reward_model", "base", "judge", "export",
            "outputs",
            "created_by", "created", "started", "finished",
        ]  # fmt: skip

    def get_outputs(self, run: Run) -> list[int]:
        return [version.pk for version in run.outputs.all()]


class WholeRunSerializer(RunSerializer):
    config = serializers.DictField(help_text="All its settings.")
    estimate = serializers.DictField(help_text="What it was expected to take; empty: unknown.")
    result = serializers.DictField()
    screening = serializers.ListField(
        child=serializers.DictField(),
        help_text="Which screening the data of a training run passed, and what was left out.",
    )
    outdated = serializers.SerializerMethodField(
        help_text="Of a screening: what it has not seen, such as newer held-out prompts; else empty."
    )
    alarms = serializers.ListField(child=serializers.DictField())
    is_silent = serializers.BooleanField(help_text="It has not reported for minutes.")
    is_unwatched = serializers.BooleanField(help_text="Nobody copies its reports now.")

    class Meta(RunSerializer.Meta):
        fields = [
            *RunSerializer.Meta.fields,
            "config", "estimate", "result", "screening", "outdated", "alarms", "is_silent", "is_unwatched",
        ]  # fmt: skip

    def get_outdated(self, run: Run) -> str:
        is_screening = run.kind == RunKind.SCREEN and run.status == Status.SUCCEEDED
        return screening.outdated_by(run) if is_screening else ""


class SuiteAfterSerializer(serializers.Serializer):
    max_prompts = serializers.IntegerField(allow_null=True, help_text="At most; null: all.")
    seconds = _figure("Null: nobody can say.")
    money = _figure("All of it, with the hours if these are known. Null: nobody can say.")
    spent = _figure("What endpoints would be paid, of that.")
    currency = serializers.CharField(default="")
    elsewhere = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="The endpoints that it asks."
    )
    problem = serializers.CharField(default="", help_text="Why it will not start, as things are.")


class EstimateSerializer(serializers.Serializer):
    minutes = _figure("Null: nobody can say.")
    memory_mib = _figure("At most; 0: next to nothing.")
    tokens_read = _figure("Without learning from them.")
    tokens_generated = _figure("Written.")
    tokens_trained = _figure("Learned from, each as often as there are epochs.")
    spent = _figure("What endpoints would be paid.")
    charged = _figure("For tokens of models that have a price.")
    money = _figure("All of it, with the hours if these are known. Null: nothing has a price.")
    currency = serializers.CharField(default="", help_text="A label; nothing is converted.")
    earlier_took = _figure("Such runs, by what had been estimated of them: the median.")
    device = serializers.CharField(default="", help_text="On which it was measured.")
    assumes = serializers.CharField(default="", help_text="Of how much text.")
    notes = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="What is left out."
    )
    reason = serializers.CharField(default="", help_text="Why there is no estimate.")
    suite = SuiteAfterSerializer(
        allow_null=True,
        default=None,
        help_text="Of the evaluation suite that follows by itself. Null: none does.",
    )


class MetricsSerializer(serializers.ModelSerializer):
    values = serializers.DictField(child=serializers.FloatField(allow_null=True))

    class Meta:
        model = Metrics
        fields = ["step", "values"]


class SampleSerializer(serializers.ModelSerializer):
    class Meta:
        model = Sample
        fields = ["step", "index", "prompt", "completion", "score"]


class LogSerializer(serializers.Serializer):
    text = serializers.CharField(help_text="The last lines.")


class RunsAsked(serializers.Serializer):
    kind = serializers.ChoiceField(choices=RunKind.choices, required=False)
    status = serializers.ChoiceField(choices=Status.choices, required=False)


# --- launch ---------------------------------------------------------------------------------------
NEW_RUNS = {
    str(kind): serializer_of(
        form,
        f"New{''.join(word.capitalize() for word in kind.split('_'))}Run",
        without=["token"],
        kind=Word(choices=[(str(kind), RunKind(kind).label)]),
    )
    for kind, form in FORMS.items()
}
NEW_RUN = PolymorphicProxySerializer(
    component_name="NewRun", serializers=NEW_RUNS, resource_type_field_name="kind"
)


@documented(
    "list_runs",
    "Runs",
    answer=RunSerializer,
    query=[
        text_parameter("kind", enum=RunKind.values),
        text_parameter("status", enum=Status.values),
    ],
    is_list=True,
)
@documented(
    "launch_run",
    "Queue a run; what is not named is as on the page",
    method="POST",
    body=NEW_RUN,
    answer=WholeRunSerializer,
    status=201,
    creates=True,
)
@api_view(["GET", "POST"])
@once
def runs(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        asked = asked_by(request, RunsAsked)
        return page_of(request, _shown(project).filter(**asked), RunSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    form = _form_of(project, request)
    run = _launch(project, form.kind, form, request)
    return Response(WholeRunSerializer(run).data, status=201)


@documented(
    "estimate_run",
    "What a run would take, in time, memory, tokens and money",
    method="POST",
    body=NEW_RUN,
    answer=EstimateSerializer,
)
@api_view(["POST"])
@permission_classes([IsAuthenticated, HasScope])  # to read: it changes nothing
def estimate(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.ADMIN).project
    try:
        return Response(EstimateSerializer(figures_of(_form_of(project, request))).data)
    except run_control.RunRefused as refusal:
        raise Refused(refusal) from refusal


def _form_of(project: Project, request: Request) -> RunForm:
    """The page's form with what was sent. Raises invalid."""
    kind = _kind_of(request.data)
    settings = read(NEW_RUNS[kind], request.data)
    del settings["kind"]
    form = form_with(project, RunKind(kind), settings)
    if not form.is_valid():
        raise form_errors(form)
    return form


def _kind_of(data: Any) -> str:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in NEW_RUNS:
        raise invalid({"kind": f"One of {', '.join(NEW_RUNS)}."})
    return kind


def _launch(project: Project, kind: str, form: RunForm, request: Request) -> Run:
    try:
        return run_control.launch(
            project,
            kind,
            form.settings,
            user=request.user,
            round_number=rounds.current_number(project),
            **form.named_arguments,
        )
    except run_control.RunRefused as refusal:
        raise Refused(refusal) from refusal


# --- one run --------------------------------------------------------------------------------------
@documented("get_run", "A run with its settings and its result", answer=WholeRunSerializer)
@api_view()
def run(request: Request, slug: str, pk: int) -> Response:
    return Response(WholeRunSerializer(_get_run(request, slug, pk)).data)


@documented("stop_run", "Ask it to save and end", method="POST", answer=WholeRunSerializer)
@api_view(["POST"])
def stop(request: Request, slug: str, pk: int) -> Response:
    run = _get_run(request, slug, pk, Role.ADMIN)
    run_control.request_stop(run, request.user)
    return Response(WholeRunSerializer(_get_run(request, slug, pk)).data)


@documented("resume_run", "Go on from its last checkpoint", method="POST",
            answer=WholeRunSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@once
def resume(request: Request, slug: str, pk: int) -> Response:
    run = _get_run(request, slug, pk, Role.ADMIN)
    try:
        run_control.resume(run, request.user)
    except run_control.RunRefused as refusal:
        raise Refused(refusal) from refusal
    return Response(WholeRunSerializer(_get_run(request, slug, pk)).data)


class MetricsAsked(serializers.Serializer):
    after = number(0)


class SamplesAsked(serializers.Serializer):
    step = number(0)


@documented(
    "list_metrics",
    "What it reported, step by step",
    answer=MetricsSerializer,
    query=[number_parameter("after", "Only steps after this one.", minimum=0)],
    is_list=True,
)
@api_view()
def metrics(request: Request, slug: str, pk: int) -> Response:
    rows = _get_run(request, slug, pk).metrics.all()
    asked = asked_by(request, MetricsAsked)
    if "after" in asked:
        rows = rows.filter(step__gt=asked["after"])
    return page_of(request, rows, MetricsSerializer, order="step")


@documented(
    "list_samples",
    "Answers that it showed, step by step",
    answer=SampleSerializer,
    query=[number_parameter("step", minimum=0)],
    is_list=True,
)
@api_view()
def samples(request: Request, slug: str, pk: int) -> Response:
    rows = _get_run(request, slug, pk).samples.filter(**asked_by(request, SamplesAsked))
    return page_of(request, rows, SampleSerializer, order="pk")


@documented("get_log", "The end of its log", answer=LogSerializer)
@api_view()
def log(request: Request, slug: str, pk: int) -> Response:
    run = _get_run(request, slug, pk)
    return Response({"text": charts.log_tail(run.folder / "log.txt")})


def _shown(project: Project) -> QuerySet[Run]:
    return project.runs.select_related("created_by").prefetch_related("outputs")


def _get_run(request: Request, slug: str, pk: int, at_least: Role = Role.REVIEWER) -> Run:
    return get_object_or_404(_shown(get_access(request, slug, at_least).project), pk=pk)
