"""What reviewers say of when a comparison is asked, and admins of what is right."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.forms import GoldForm, HoldForm, PriorityForm
from annotator.gold import make_gold
from annotator.models import CHANGE_LIMIT, Comparison, ComparisonQuerySet, Role
from annotator.reviewing import EXAMPLE_HOLD
from annotator.views.review import FILTERS, chosen_of, comparison_page

NO_PRIORITY = "A priority is a whole number from -100 to 100."


@require_POST
@login_required
def change_comparisons(request: HtmxRequest, slug: str) -> HttpResponse:
    """Priority of, or an end of the holds on, all comparisons of the filter that the page showed."""
    project, _ = get_access(request, slug, Role.REVIEWER)
    chosen = {name: request.POST.get(name, "") for name in FILTERS}
    rows = chosen_of(project, chosen)
    form = PriorityForm(request.POST)
    if "ask" in request.POST:
        n = rows.exclude(hold=EXAMPLE_HOLD).ask_all_the_same()
        record(request.user, Action.RELEASED, project, project=project, comparisons=n, **chosen)
        messages.success(request, f"{n:,} of them {_are(n)} asked now. {_more(n)}")
    elif form.is_valid():
        priority = form.cleaned_data["priority"]
        n = rows.set_priority(priority)
        counts = {"comparisons": n, "priority": priority}
        record(request.user, Action.CHANGED, project, project=project, **counts, **chosen)
        messages.success(request, f"{n:,} of them {_are(n)} of priority {priority} now. {_more(n)}")
    else:
        messages.error(request, NO_PRIORITY)
    keep = urlencode({name: value for name, value in chosen.items() if value})
    return redirect(f"{reverse('annotator:comparisons', args=[slug])}?{keep}")


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _more(n: int) -> str:
    return "There are more: do it again." if n == CHANGE_LIMIT else ""


# --- one comparison ---------------------------------------------------------------------------
def _one(request: HtmxRequest, slug: str, pk: int) -> ComparisonQuerySet:
    project, _ = get_access(request, slug, Role.REVIEWER)
    get_object_or_404(project.comparisons, pk=pk)
    return Comparison.objects.filter(pk=pk)


def _record(request: HtmxRequest, action: Action, rows: ComparisonQuerySet, **details: Any) -> None:
    found = rows.select_related("project").get()
    record(request.user, action, found, project=found.project, **details)


@require_POST
@login_required
@transaction.atomic
def set_priority(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    rows, form = _one(request, slug, pk), PriorityForm(request.POST)
    if form.is_valid():
        priority = form.cleaned_data["priority"]
        rows.set_priority(priority)
        _record(request, Action.CHANGED, rows, priority=priority)
        messages.success(request, "Saved.")
    else:
        messages.error(request, NO_PRIORITY)
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
@transaction.atomic
def hold_comparison(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    rows, form = _one(request, slug, pk), HoldForm(request.POST)
    if not form.is_valid():
        access = get_access(request, slug, Role.REVIEWER)
        return comparison_page(request, access, pk, status=422, hold=form)
    hold = {name: form.cleaned_data[name] for name in ("reason", "until")}
    if rows.exclude(hold=EXAMPLE_HOLD).hold_back(**hold):
        _record(request, Action.HELD, rows, **hold)
        messages.success(request, "Held back: nobody is asked it for now.")
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
@transaction.atomic
def ask_comparison(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """End the hold. That of a worked example ends with its ruling."""
    rows = _one(request, slug, pk)
    if rows.exclude(hold=EXAMPLE_HOLD).ask_all_the_same():
        _record(request, Action.RELEASED, rows)
        messages.success(request, "It is asked now.")
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
def make_known(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Make a known answer of a comparison, or change what is expected of one."""
    access = get_access(request, slug, Role.ADMIN)
    found = get_object_or_404(access.project.comparisons.select_related("prompt"), pk=pk)
    completions = [entry.completion for entry in found.entries.select_related("completion")]
    form = GoldForm(completions, found.expected, data=request.POST)
    if not form.is_valid():
        return comparison_page(request, access, pk, status=422, gold=form)
    explanation = form.cleaned_data["explanation"]
    known = make_gold(found, form.expected(), explanation, request.user)
    messages.success(request, "Its answer is known now, and it is asked as the settings say.")
    return redirect("annotator:comparison", slug, known.pk)
