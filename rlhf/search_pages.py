"""The trials of a search on its run's page: their table and picture, and what can be done with them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.defaultfilters import filesizeformat
from django.views.decorators.http import require_POST, require_safe

from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Role
from rlhf.models import Run, RunKind
from rlhf.search_picture import draw
from rlhf.searching import SearchRefused, delete_files, promote, trials_of
from rlhf.training.search_config import config_tried
from rlhf.training.search_space import parse_space, types_of, varied


def context_of(run: Run) -> dict[str, Any]:
    """What a run's page needs besides, if the run is a search."""
    if run.kind != RunKind.SEARCH or (found := trials_of(run)) is None:
        return {}
    types = types_of(config_tried(run.config["tries"]))
    space = varied(parse_space(run.config["space"], types))
    return {"trials": found, "picture": draw(found, space)}


@require_safe
@login_required
def trials(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, run = _get_search(request, slug, pk, Role.REVIEWER)
    context = {**access._asdict(), "run": run, **context_of(run)}
    return render(request, "rlhf/_trials.html", context)


@require_POST
@login_required
def promote_trial(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_search(request, slug, pk, Role.ADMIN)
    asked = request.POST.get("trial", "")
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 5 else None
    try:
        return redirect(promote(run, number, request.user))
    except SearchRefused as refusal:
        messages.error(request, str(refusal))
    return redirect(run)


@require_POST
@login_required
def delete_trials(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, run = _get_search(request, slug, pk, Role.ADMIN)
    try:
        freed = delete_files(run, request.user)
    except SearchRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"Deleted: {filesizeformat(freed)} are free again.")
    return redirect(run)


def _get_search(request: HtmxRequest, slug: str, pk: int, at_least: Role) -> tuple[Access, Run]:
    access = get_access(request, slug, at_least)
    rows = access.project.runs.filter(kind=RunKind.SEARCH).select_related("policy", "project")
    return access, get_object_or_404(rows, pk=pk)
