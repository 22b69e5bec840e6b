"""The playground: an admin asks two policies the same, side by side.

The page speaks to the models as any other client of `chat_completions` does.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from annotator.access import HtmxRequest, get_access
from annotator.models import Project, Role
from rlhf import model_server
from rlhf.models import ModelKind, ModelVersion


class VersionField(forms.ModelChoiceField):
    """Each option is worth the address at which the version is asked."""

    def prepare_value(self, value: Any) -> Any:
        pk = value.pk if isinstance(value, ModelVersion) else value
        return reverse("rlhf:chat_completions", args=[pk]) if pk else pk

    def label_from_instance(self, version: Any) -> str:
        return str(version) if version.is_asked_here else f"{version} (elsewhere)"


class PlaygroundForm(forms.Form):
    """What the page sends with each message. It is read by the script alone."""

    left = VersionField(ModelVersion.objects.none(), label="On the left", empty_label=None)
    right = VersionField(
        ModelVersion.objects.none(), label="On the right", required=False, empty_label="nobody"
    )
    temperature = forms.FloatField(min_value=0, max_value=2, initial=0.7)
    top_p = forms.FloatField(label="Top p", min_value=0, max_value=1, initial=1)
    max_tokens = forms.IntegerField(label="Longest answer", min_value=1, initial=256)
    seed = forms.IntegerField(required=False, min_value=0)
    system = forms.CharField(
        label="System message",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"}),
    )

    def __init__(self, policies: QuerySet[ModelVersion], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_suffix = ""
        for name, step in (("temperature", "0.1"), ("top_p", "0.05")):
            self.fields[name].widget.attrs["step"] = step
        for name in ("left", "right"):
            field = self.fields[name]
            assert isinstance(field, VersionField)
            field.queryset = policies

    def versions(self) -> list[forms.BoundField]:
        return [self["left"], self["right"]]

    def sampling(self) -> list[forms.BoundField]:
        return [self[name] for name in ("temperature", "top_p", "max_tokens", "seed")]


@require_safe
@login_required
@never_cache
def playground(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug, Role.ADMIN)
    policies = versions_asked(access.project)
    left, right = pair_to_compare(access.project, request.GET.get("model", ""))
    form = PlaygroundForm(policies, initial={"left": left, "right": right})
    context = {
        **access._asdict(),
        "form": form,
        "has_policies": left is not None,
        "has_elsewhere": policies.filter(kind=ModelKind.ENDPOINT).exists(),
        "is_running": model_server.is_running(),
    }
    return render(request, "rlhf/playground.html", context)


def versions_asked(project: Project) -> QuerySet[ModelVersion]:
    """Policies, here and elsewhere, and prompt versions of them."""
    kinds = [ModelKind.POLICY, ModelKind.ENDPOINT, ModelKind.PROMPT]
    return project.model_versions.filter(kind__in=kinds).select_related("parent")


def pair_to_compare(
    project: Project, asked: str = ""
) -> tuple[ModelVersion | None, ModelVersion | None]:
    """What it comes from, and the policy that is asked for, else the newest; alone if it is no child.
    One that lives elsewhere stands beside the newest that is here."""
    is_number = asked.isdecimal() and len(asked) < 10
    policies = versions_asked(project)
    chosen = policies.filter(pk=asked).first() if is_number else None
    here = policies.exclude(kind=ModelKind.ENDPOINT).first()
    newest = chosen or here or policies.first()
    if newest is not None and newest.kind == ModelKind.ENDPOINT:
        return (here, newest) if here else (newest, None)
    if newest is None or newest.parent is None:
        return newest, None
    return newest.parent, newest
