"""Pages of policies elsewhere: adding one, changing its limits, trying it. For admins."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError
from django.db.models import ProtectedError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.models import Project, Role
from rlhf.endpoint_forms import AddEndpointForm, ChangeEndpointForm
from rlhf.endpoints import (
    EndpointRefused,
    Trial,
    add_endpoint,
    check_version,
    key_of,
    models_at,
    spent_on,
    try_endpoint,
)
from rlhf.models import ModelKind, ModelVersion

UNPROCESSABLE = 422


@sensitive_post_parameters("key")
@login_required
def new_endpoint(request: HtmxRequest, slug: str) -> HttpResponse:
    """The form; a POST adds the endpoint, or tries it, or lists its models, as the button says."""
    project, _ = get_access(request, slug, Role.ADMIN)
    if request.method != "POST":
        return _render_new(request, project, AddEndpointForm(project))
    form = AddEndpointForm(project, request.POST)
    asked = request.POST.get("do")
    if asked == "models":
        return _render_new(request, project, form, **_models(form))
    if not form.is_valid():
        trial = {"trial": Trial(error=_complaints(form))} if asked == "try" else {}
        return _render_new(request, project, form, status=UNPROCESSABLE, **trial)
    values = form.cleaned_data
    endpoint = form.save(commit=False)
    if asked == "try":
        return _render_new(request, project, form, trial=try_endpoint(endpoint, values["key"]))
    try:
        version = add_endpoint(project, values["name"], endpoint, values["key"])
    except IntegrityError:  # the same form twice at once
        form.add_error("name", "This project has a model of that name: choose another one.")
        return _render_new(request, project, form, status=UNPROCESSABLE)
    messages.success(request, f"{version} can now write answers: “Generate” asks it.")
    return redirect(version)


def _models(form: AddEndpointForm) -> dict[str, Any]:
    endpoint = form.without_model()
    if endpoint is None:
        return {"trial": Trial(error=_complaints(form, "address", "key"))}
    try:
        models = models_at(endpoint, form.cleaned_data["key"])
    except EndpointRefused as refusal:
        return {"trial": Trial(error=str(refusal))}
    form.errors.clear()  # what is still missing is not what was asked about
    return {"models": models, "has_models": True}


def _complaints(form: AddEndpointForm, *names: str) -> str:
    """In one line, for where the fields stay as they are."""
    wrong = [name for name in form.errors if name in names or not names]
    return " ".join(
        f"{form[name].label}: {' '.join(map(str, form.errors[name]))}" for name in wrong
    )


def _render_new(
    request: HtmxRequest, project: Project, form: AddEndpointForm, status: int = 200, **found: Any
) -> HttpResponse:
    context = {"project": project, "role": Role.ADMIN, "form": form, **found}
    template = "rlhf/_trial.html" if request.htmx and found else "rlhf/new_endpoint.html"
    return render(request, template, context, status=status)


@sensitive_post_parameters("key")
@login_required
def endpoint(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, version = _get_version(request, slug, pk)
    form = ChangeEndpointForm(request.POST or None, instance=version.endpoint)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved: runs that start from now on keep to it.")
        return redirect(version)
    context = {
        "project": project,
        "role": Role.ADMIN,
        "version": version,
        "form": form,
        "spent": spent_on(version.endpoint),
    }
    status = UNPROCESSABLE if form.is_bound else 200
    return render(request, "rlhf/endpoint.html", context, status=status)


@require_POST
@login_required
def ask_endpoint(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """One short question, as a run would ask it."""
    project, version = _get_version(request, slug, pk)
    try:
        check_version(version)
        trial = try_endpoint(version.endpoint, key_of(version.endpoint))
    except EndpointRefused as refusal:
        trial = Trial(error=str(refusal))
    if request.htmx:
        return render(request, "rlhf/_trial.html", {"project": project, "trial": trial})
    if trial.error:
        messages.error(request, trial.error)
    else:
        messages.success(request, f"It answered in {trial.seconds:.1f} seconds: {trial.answer}")
    return redirect(version)


@require_POST
@login_required
def remove_endpoint(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Only one that has written nothing: what is in the lineage stays."""
    _, version = _get_version(request, slug, pk)
    try:
        version.delete()
    except ProtectedError:
        messages.error(request, f"{version} was used by runs, and stays so that one can see which.")
        return redirect(version)
    messages.success(request, f"{version} is removed, with its key.")
    return redirect("rlhf:model_versions", slug)


def _get_version(request: HtmxRequest, slug: str, pk: int) -> tuple[Project, ModelVersion]:
    project, _ = get_access(request, slug, Role.ADMIN)
    rows = project.model_versions.filter(kind=ModelKind.ENDPOINT).select_related("endpoint")
    return project, get_object_or_404(rows, pk=pk)
