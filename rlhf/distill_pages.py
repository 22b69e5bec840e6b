"""The demonstrations that a distillation has written, to be read before anybody learns from them."""

from __future__ import annotations

from itertools import islice
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from annotator.access import HtmxRequest, get_access
from annotator.models import Role
from rlhf.dataset_inputs import HASHED_AT_LAUNCH, problem_with
from rlhf.distilling import (
    ORDERS,
    REHEARSAL,
    TEACHER,
    demonstration,
    demonstrations_of,
    histogram_of,
)
from rlhf.generation import read_lines
from rlhf.models import Run, RunKind

PER_PAGE = 20
ON_RUN_PAGE = 3


def context_of(run: Run) -> dict[str, Any]:
    """What a run's page needs besides, if the run is a distillation that has made a dataset."""
    dataset = run.datasets_made.first() if run.kind == RunKind.DISTILL else None
    if dataset is None:
        return {}
    is_changed = problem_with(dataset, hash_up_to=HASHED_AT_LAUNCH)
    first = [] if is_changed else islice(read_lines(dataset.data), ON_RUN_PAGE)
    return {
        "dataset": dataset,
        "histogram": histogram_of(run),
        "first_demonstrations": [demonstration(row) for row in first],
    }


@require_safe
@login_required
def demonstrations(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    run = get_object_or_404(access.project.runs.filter(kind=RunKind.DISTILL), pk=pk)
    dataset = get_object_or_404(run.datasets_made.all())
    source, order = request.GET.get("source", ""), request.GET.get("order", "")
    source = source if source in (TEACHER, REHEARSAL) else ""
    order = order if order in ORDERS else "written"
    if problem := problem_with(dataset, hash_up_to=HASHED_AT_LAUNCH):
        messages.error(request, problem)
    rows = [] if problem else demonstrations_of(dataset, source=source, order=order)
    page = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    context = {
        **access._asdict(),
        "run": run,
        "dataset": dataset,
        "sources": [("", "Both"), (TEACHER, "The teacher"), (REHEARSAL, "The student (rehearsal)")],
        "source": source,
        "orders": ORDERS.items(),
        "order": order,
        "page": page,
        "demonstrations": [demonstration(row) for row in page],
    }
    return render(request, "rlhf/demonstrations.html", context)
