"""Candidates side by side, and the answers behind each figure."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.models import Role
from rlhf import suites

QUESTIONS_PER_PAGE = 10


@require_safe
@login_required
def candidates(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    project = access.project
    table = suites.table_of(project, _versions(request))
    context = {
        **access._asdict(),
        "table": table,
        "board": suites.leaderboard_of(project),
        "missing": suites.missing_suites(project),
        "after_training": suites.runs_after_training(project),
        "alarms": [(each, alarm) for each in table.candidates for alarm in each.run.alarms],
    }
    return render(request, "rlhf/candidates.html", context)


@require_safe
@login_required
def candidate_answers(request: HtmxRequest, slug: str) -> HttpResponse:
    """What stands behind the figures: all answers to a prompt beside each other, or texts."""
    access = get_access(request, slug, Role.REVIEWER)
    table = suites.table_of(access.project, _versions(request))
    metric = suites.metric_named(request.GET.get("metric", ""), table.candidates)
    if not table.candidates:
        raise Http404("no suite has run")
    gone: list[Any] = []
    rows: list[Any]
    if metric and metric.of_text:
        rows, gone = suites.texts_behind(table.candidates)
    elif metric and metric.of_task:
        rows, gone = suites.task_answers_behind(table.candidates, metric)
    else:
        rows, gone = suites.answers_behind(table.candidates)
    context = {
        **access._asdict(),
        "table": table,
        "metric": metric,
        "gone": gone,
        "page": Paginator(rows, QUESTIONS_PER_PAGE).get_page(request.GET.get("page")),
    }
    return render(request, "rlhf/candidate_answers.html", context)


@require_POST
@login_required
def change_suites(request: HtmxRequest, slug: str) -> HttpResponse:
    """Whether every policy that training makes is evaluated by itself."""
    project, _ = get_access(request, slug, Role.ADMIN)
    wanted = "after_training" in request.POST
    suites.run_after_training(project, wanted=wanted)
    record(request.user, Action.CHANGED, project, project=project, suite_after_training=wanted)
    messages.success(
        request,
        "A suite will run after each training that makes a policy."
        if wanted
        else "Suites run only when somebody starts one.",
    )
    return redirect("rlhf:candidates", slug)


def _versions(request: HtmxRequest) -> list[int]:
    """Those that the address names: `?version=3&version=7`."""
    given = request.GET.getlist("version")
    return [int(pk) for pk in given if pk.isascii() and pk.isdigit() and len(pk) < 10]
