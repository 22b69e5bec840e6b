"""The page that compares routes, and its button."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from annotator.access import HtmxRequest, get_access
from annotator.models import Role
from rlhf import rounds
from rlhf.models import ModelKind
from rlhf.routes import SORTS, evaluate, exports_with_routes, starts_of
from rlhf.runs import RunRefused


@require_safe
@login_required
def routes(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    exports = exports_with_routes(project)
    asked = request.GET.get("export", "")
    export = next(
        (each for each in exports if str(each.pk) == asked), exports[0] if exports else None
    )
    sort = request.GET.get("sort", "")
    sort = sort if sort in SORTS else "rate"
    context = {
        "project": project,
        "role": role,
        "exports": exports,
        "export": export,
        "starts": starts_of(export, sort) if export else [],
        "sort": sort,
        "sorts": SORTS.items(),
        "token": uuid.uuid4(),
    }
    return render(request, "rlhf/routes.html", context)


@require_POST
@login_required
def evaluate_route(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Launch the evaluation of a version against its start, and show its run."""
    project, _ = get_access(request, slug, Role.ADMIN)
    versions = project.model_versions.filter(kind=ModelKind.POLICY).select_related("parent")
    version = get_object_or_404(versions, pk=pk)
    try:
        run = evaluate(
            version, request.user, rounds.current_number(project), _token_of(request, pk)
        )
    except RunRefused as refusal:
        messages.error(request, str(refusal))
        return redirect("rlhf:routes", slug)
    return redirect(run)


def _token_of(request: HttpRequest, pk: int) -> uuid.UUID | None:
    """Drawn with the page, and another for each of its buttons: a double click starts one run."""
    try:
        return uuid.uuid5(uuid.UUID(request.POST.get("token", "")), str(pk))
    except ValueError:
        return None
