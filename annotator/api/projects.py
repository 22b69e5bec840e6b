"""Projects: those one is in, a new one, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.forms.models import model_to_dict
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.access import get_access, may_create
from annotator.api import fields
from annotator.api.errors import invalid
from annotator.api.fields import form_errors, read, serializer_of
from annotator.api.once import once
from annotator.api.paging import page_of
from annotator.api.schema import documented
from annotator.forms import PauseForm, ProjectForm
from annotator.models import Membership, Project, Role
from annotator.protocols import from_json, to_json


class ProjectSerializer(serializers.ModelSerializer):
    """In the context: `roles`, those of who asks, by project."""

    role = serializers.SerializerMethodField(help_text="Yours.")

    class Meta:
        model = Project
        fields = [
            "slug", "name", "role", "guidelines", "guideline_version", "overlap", "lease_minutes",
            "paused", "pause_note", "created",
        ]  # fmt: skip

    @extend_schema_field(serializers.ChoiceField(choices=Role.choices))
    def get_role(self, project: Project) -> str:
        is_superuser = self.context["request"].user.is_superuser
        return Role.ADMIN if is_superuser else self.context["roles"][project.pk]


class SettingsSerializer(ProjectSerializer):
    """With what admins set, for them."""

    settings = serializers.SerializerMethodField(help_text="Empty for whoever is no admin.")
    latest_round = serializers.IntegerField(
        read_only=True, help_text="The latest round that has comparisons."
    )

    class Meta(ProjectSerializer.Meta):
        fields = [*ProjectSerializer.Meta.fields, "latest_round", "settings"]

    def get_settings(self, project: Project) -> dict[str, Any]:
        if self.get_role(project) != Role.ADMIN:
            return {}
        return {**model_to_dict(project, SETTINGS), "protocol": project.protocol}


SETTINGS = ProjectForm.Meta.fields


class Protocol(serializers.DictField):
    """A protocol as `docs/data-format.md` has it; what it does not name is as in the Arena's."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            self.fail("not_a_dict", input_type=type(data).__name__)
        try:
            return to_json(from_json(data))
        except ValueError as error:
            raise serializers.ValidationError(f"{error}.") from error


NewProjectSerializer = serializer_of(ProjectForm, "NewProject", without=["based_on"])
ChangedProjectSerializer = serializer_of(
    ProjectForm,
    "ChangedProject",
    without=["based_on"],
    based_on=fields.Whole(
        required=False,
        min_value=1,
        max_value=2**31 - 1,
        help_text="The version of the guidelines that yours are made from: refused if there is a "
        "newer one by then.",
    ),
    protocol=Protocol(required=False, help_text="What people are asked. Empty: as in the Arena."),
    paused=fields.Flag(required=False, help_text="Whether nobody is handed anything new."),
    pause_note=fields.Text(
        required=False, allow_blank=True, max_length=200, help_text="What annotators read then."
    ),
)


@documented("list_projects", "Projects you are in", answer=ProjectSerializer, is_list=True)
@documented(
    "create_project",
    "A new project, with you as its admin",
    method="POST",
    body=NewProjectSerializer,
    answer=SettingsSerializer,
    status=201,
    creates=True,
)
@api_view(["GET", "POST"])
@once
def projects(request: Request) -> Response:
    if request.method == "GET":
        rows = Project.objects.visible_to(request.user)
        return page_of(request, rows, ProjectSerializer, roles=_roles(request))
    if not may_create(request.user):
        raise PermissionDenied("Only who administers a project may make another.")
    sent = read(NewProjectSerializer, request.data)
    form = ProjectForm({**model_to_dict(Project(), SETTINGS), **sent})
    if not form.is_valid():
        raise form_errors(form)
    return _shown(request, form.create(request.user), status=201)


@documented("get_project", "A project", answer=SettingsSerializer)
@documented(
    "change_project",
    "Change settings; what is not named stays",
    method="PATCH",
    body=ChangedProjectSerializer,
    answer=SettingsSerializer,
)
@api_view(["GET", "PATCH"])
def project(request: Request, slug: str) -> Response:
    if request.method == "GET":
        return _shown(request, get_access(request, slug).project)
    project = get_access(request, slug, Role.ADMIN).project
    sent = read(ChangedProjectSerializer, request.data)
    pause = _pause_of(sent, project)
    form = ProjectForm({**model_to_dict(project, SETTINGS), **sent}, instance=project)
    if not form.is_valid():
        raise form_errors(form)
    project = form.save(author=request.user)
    if "protocol" in sent:
        project.set_protocol(sent["protocol"], request.user)
    if pause is not None:
        is_paused = sent.get("paused", project.paused)
        project.pause(pause, request.user) if is_paused else project.resume(request.user)
    return _shown(request, project)


def _pause_of(sent: dict[str, Any], project: Project) -> str | None:
    """The note, if anything is said about a pause."""
    if "paused" not in sent and "pause_note" not in sent:
        return None
    form = PauseForm({"note": sent.get("pause_note", project.pause_note)})
    if not form.is_valid():
        raise invalid({"pause_note": form.errors["note"]})
    note: str = form.cleaned_data["note"]
    return note


def _shown(request: Request, project: Project, status: int = 200) -> Response:
    context = {"request": request, "roles": _roles(request)}
    return Response(SettingsSerializer(project, context=context).data, status=status)


def _roles(request: Request) -> dict[int, str]:
    own = Membership.objects.filter(user=request.user)
    return dict(own.values_list("project_id", "role"))
