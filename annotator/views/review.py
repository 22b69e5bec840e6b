"""What reviewers look at: prompts, comparisons with who said what, agreement."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.db.models import Model, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render

from annotator.access import HtmxRequest, get_access
from annotator.agreement import alpha, annotator_statistics
from annotator.models import Judgment, Purpose, Role, Split, Verdict

PAGE_SIZE = 50


class Page(NamedTuple):
    """Rows after or before a key: no row is counted, however many there are."""

    rows: list[Any]
    older: int | None  # pk to go on from
    is_first: bool


def page_of(queryset: QuerySet[Any], before: str) -> Page:
    """The newest rows, or those older than the pk `before`."""
    queryset = queryset.order_by("-pk")
    if before.isdecimal():
        queryset = queryset.filter(pk__lt=int(before))
    rows: list[Model] = list(queryset[: PAGE_SIZE + 1])
    older = rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None
    return Page(rows[:PAGE_SIZE], older, not before)


@login_required
def prompts(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.prompts.all()
    if (split := request.GET.get("split", "")) in Split.values:
        rows = rows.filter(split=split)
    context = {
        "project": project,
        "role": role,
        "page": page_of(rows, request.GET.get("before", "")),
        "split": split,
    }
    return render(request, "annotator/prompts.html", context)


@login_required
def comparisons(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    rows = project.comparisons.select_related("prompt")
    chosen = {name: request.GET.get(name, "") for name in ("purpose", "round", "state")}
    if chosen["purpose"] in Purpose.values:
        rows = rows.filter(purpose=chosen["purpose"])
    if chosen["round"].isdecimal():
        rows = rows.filter(round_number=int(chosen["round"]))
    if chosen["state"] == "open":
        rows = rows.open()
    context = {
        "project": project,
        "role": role,
        "page": page_of(rows, request.GET.get("before", "")),
        "chosen": chosen,
    }
    return render(request, "annotator/comparisons.html", context)


@login_required
def comparison(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """A comparison with its sources and everything that was said of it, withdrawn or not."""
    project, role = get_access(request, slug, Role.REVIEWER)
    found = get_object_or_404(project.comparisons.select_related("prompt"), pk=pk)
    entries = found.entries.select_related("completion")
    said = found.judgments.select_related("annotator").order_by("pk")
    lettered = list(zip("ABCDEFGHI", entries, strict=False))
    letters = {entry.completion_id: letter for letter, entry in lettered}
    context = {
        "project": project,
        "role": role,
        "comparison": found,
        "answers": [(letter, entry.completion) for letter, entry in lettered],
        "judgments": [(judgment, in_words(judgment, letters)) for judgment in said],
    }
    return render(request, "annotator/comparison.html", context)


def in_words(judgment: Judgment, letters: dict[int, str]) -> str:
    """Example: [[7], [8, 9]] -> "A > B = C"."""
    if judgment.verdict != Verdict.RANKING:
        return judgment.get_verdict_display()
    return " > ".join(" = ".join(sorted(letters[pk] for pk in group)) for group in judgment.ranking)


@login_required
def agreement(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    context = {
        "project": project,
        "role": role,
        "alpha": alpha(project),
        "statistics": annotator_statistics(project),
    }
    return render(request, "annotator/agreement.html", context)
