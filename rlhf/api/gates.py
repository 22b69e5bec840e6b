"""Gates, and which policy is current."""

from __future__ import annotations

from typing import Any

from django.shortcuts import get_object_or_404
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access
from annotator.api.errors import Refused
from annotator.api.fields import Body, Text, Whole, Word, form_errors, read, serializer_of
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented
from annotator.models import Project, Role
from rlhf import gating
from rlhf.current import current_policy, newest_promotion
from rlhf.forms.gate import GateForm
from rlhf.gate_models import STATUSES, Gate, Promotion
from rlhf.rounds import current_number
from rlhf.runs import RunRefused


class GateSerializer(serializers.ModelSerializer):
    candidate = serializers.IntegerField(source="candidate_id")
    incumbent = serializers.IntegerField(source="incumbent_id")
    run = serializers.IntegerField(source="run_id", help_text="Which writes the answers.")
    decided_by = serializers.CharField(
        source="decided_by.username", allow_null=True, default=None, help_text="Null: the votes."
    )
    found = serializers.DictField(help_text="What the votes said when they decided.")
    is_open = serializers.BooleanField()

    class Meta:
        model = Gate
        fields = [
            "id", "candidate", "incumbent", "run", "alpha", "margin", "budget", "votes_per_pair",
            "same_share", "state", "is_open", "decision", "decided_by", "reason", "found",
            "created", "opened", "decided",
        ]  # fmt: skip


class SameSerializer(serializers.Serializer):
    votes = serializers.IntegerField()
    ties = serializers.IntegerField()
    first_wins = serializers.IntegerField(help_text="Of the answer that is stored first.")
    left_wins = serializers.IntegerField(help_text="Of the answer that was shown on the left.")


class WholeGateSerializer(GateSerializer):
    votes = serializers.IntegerField(help_text="So far, on pairs of both policies.")
    pairs = serializers.IntegerField(help_text="Of these, how many have all their votes.")
    mean = serializers.FloatField(allow_null=True, help_text="Win probability of the candidate.")
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    same = SameSerializer(help_text="Pairs of the incumbent with itself.")
    promotion = serializers.IntegerField(
        help_text="Number of the one that holds now; `after`, for whoever overrules."
    )

    note = serializers.CharField(
        help_text="Why it does not go on, and what to do; empty if all is well."
    )

    class Meta(GateSerializer.Meta):
        fields = [
            *GateSerializer.Meta.fields, "votes", "pairs", "mean", "low", "high", "same",
            "promotion", "note",
        ]  # fmt: skip


class PromotionSerializer(serializers.ModelSerializer):
    version = serializers.IntegerField(source="version_id")
    gate = serializers.IntegerField(source="gate_id", allow_null=True)
    user = serializers.CharField(source="user.username", allow_null=True, default=None)

    class Meta:
        model = Promotion
        fields = ["number", "version", "gate", "user", "reason", "created"]


class CurrentSerializer(serializers.Serializer):
    model_version = serializers.IntegerField(allow_null=True)
    promotion = PromotionSerializer(allow_null=True, help_text="Null: there was no gate yet.")


class OverruleSerializer(Body):
    decision = Word(choices=["promote", "reject"])
    reason = Text(max_length=1000)
    was = Word(
        required=False,
        default="",
        choices=STATUSES,
        help_text="Its decision as you saw it, or “open” or “stopped”. Refused if it is another by now.",
    )
    after = Whole(
        required=False,
        default=None,
        min_value=1,
        max_value=2**31 - 1,
        help_text="Number of the promotion that held when you looked. Refused if another one does.",
    )


class RollBackSerializer(Body):
    to = Whole(min_value=1, max_value=2**31 - 1, help_text="Number of the promotion to go back to.")
    after = Whole(min_value=1, max_value=2**31 - 1, help_text="Number of the one that holds.")
    reason = Text(required=False, default="", allow_blank=True, max_length=1000)


NewGateSerializer = serializer_of(GateForm, "NewGate", without=["token"])


@documented("list_gates", "Gates, the newest first", answer=GateSerializer, is_list=True)
@documented("open_gate", "Test a policy against the current one; what is not named is as on the page",
            method="POST", body=NewGateSerializer, answer=WholeGateSerializer, status=201,
            creates=True)  # fmt: skip
@api_view(["GET", "POST"])
@once
def gates(request: Request, slug: str) -> Response:
    if request.method == "GET":
        project = get_access(request, slug, Role.REVIEWER).project
        return page_of(request, project.gates.select_related("decided_by"), GateSerializer)
    project = get_access(request, slug, Role.ADMIN).project
    form = GateForm(
        project, {**GateForm(project).as_sent(), **read(NewGateSerializer, request.data)}
    )
    if not form.is_valid():
        raise form_errors(form)
    try:
        gate = gating.open_gate(
            project, user=request.user, round_number=current_number(project), **form.order
        )
    except (gating.GateRefused, RunRefused) as refusal:
        raise Refused(refusal) from refusal
    return Response(_as_json(gate), status=201)


@documented("get_gate", "A gate and how it stands", answer=WholeGateSerializer)
@api_view()
def gate(request: Request, slug: str, pk: int) -> Response:
    return Response(_as_json(_get_gate(request, slug, pk)))


@documented("stop_gate", "End it without a decision", method="POST", answer=WholeGateSerializer)
@api_view(["POST"])
def stop(request: Request, slug: str, pk: int) -> Response:
    gate = _get_gate(request, slug, pk, Role.ADMIN)
    gating.stop(gate, request.user)
    return Response(_as_json(_get_gate(request, slug, pk)))


@documented("overrule_gate", "Decide in the votes' stead", method="POST", body=OverruleSerializer,
            answer=WholeGateSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@once
def overrule(request: Request, slug: str, pk: int) -> Response:
    gate = _get_gate(request, slug, pk, Role.ADMIN)
    said = read(OverruleSerializer, request.data)
    try:
        gating.overrule(gate, user=request.user, **said)
    except gating.GateRefused as refusal:
        raise Refused(refusal) from refusal
    return Response(_as_json(gate))


@documented("get_current", "The current policy", answer=CurrentSerializer)
@api_view()
def current(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    return Response(_current(project))


@documented("list_promotions", "What was current, the newest first", answer=PromotionSerializer,
            is_list=True)  # fmt: skip
@api_view()
def promotions(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.REVIEWER).project
    return page_of(request, project.promotions.select_related("user"), PromotionSerializer)


@documented("roll_back", "Make current what was current once", method="POST",
            body=RollBackSerializer, answer=CurrentSerializer, creates=True)  # fmt: skip
@api_view(["POST"])
@once
def roll_back(request: Request, slug: str) -> Response:
    project = get_access(request, slug, Role.ADMIN).project
    said = read(RollBackSerializer, request.data)
    to = get_object_or_404(project.promotions.select_related("version"), number=said["to"])
    try:
        gating.roll_back(project, to, request.user, after=said["after"], reason=said["reason"])
    except gating.GateRefused as refusal:
        raise Refused(refusal) from refusal
    return Response(_current(project))


def _current(project: Project) -> Any:
    version = current_policy(project)
    found = {"model_version": version and version.pk, "promotion": newest_promotion(project)}
    return CurrentSerializer(found).data


def _as_json(gate: Gate) -> Any:
    standing = gating.standing_of(gate)
    point = gating.point_of(gate, standing)
    figures = {
        "votes": standing.votes,
        "pairs": standing.full,
        **{name: getattr(point, name, None) for name in ("mean", "low", "high")},
        "same": standing.same._asdict(),
        "promotion": gating.newest_number(gate.project),
        "note": gating.note_on(gate, standing),
    }
    return {**GateSerializer(gate).data, **figures}


def _get_gate(request: Request, slug: str, pk: int, at_least: Role = Role.REVIEWER) -> Gate:
    rows = get_access(request, slug, at_least).project.gates.select_related(
        "project", "candidate", "incumbent", "run__project", "decided_by"
    )
    return get_object_or_404(rows, pk=pk)
