"""Pages of screenings: the report with its quarantine, and the line above the button of a training run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseBase, QueryDict, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.models import Project, Role, User
from rlhf import quarantine, rounds, screening
from rlhf import runs as run_control
from rlhf.forms import RunForm, ScreenForm
from rlhf.models import QuarantinedRow, Run, RunKind
from rlhf.training.screen_config import CLASSES
from rlhf.training.screen_rows import PROMPT

FINDINGS_PER_PAGE = 20
CHOSEN = ["export", "datasets"]  # fields of the forms in which it is said what a run learns from


# --- the report -------------------------------------------------------------------------------
@require_safe
@login_required
def report(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    run = _get_screening(access.project, pk)
    code, state = _asked(request.GET)
    places = screening.places_of(run, code, state)
    page = Paginator(places, FINDINGS_PER_PAGE).get_page(request.GET.get("page"))
    counted = screening.newest(access.project, run.config["screened"])
    context = {
        **access._asdict(),
        "run": run,
        "screened": screening.in_words(run.config["screened"]),
        "counts": screening.counts_of(run),
        "is_there": screening.findings_path(run).exists(),
        "newer": counted if counted and counted.pk != run.pk else None,
        "outdated": screening.outdated_by(counted) if counted else "",
        "code": code,
        "state": state,
        "states": screening.STATES.items(),
        "page": page,
        "findings": screening.findings_at(run, page) if places else [],
    }
    return render(request, "rlhf/screening.html", context)


@require_POST
@login_required
def decide(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Release a row, or a class of findings; or put them into quarantine again."""
    project = get_access(request, slug, Role.REVIEWER).project
    run = _get_screening(project, pk)
    key = request.POST.get("key", "")
    is_release = request.POST.get("to") == "release"
    try:
        n = quarantine.decide(
            run,
            request.user,
            released=is_release,
            reason=request.POST.get("reason", ""),
            keys=[key] if key else [],
            code=request.POST.get("code", ""),
        )
    except ValueError as error:
        messages.error(request, str(error))
    else:
        done = "released" if is_release else "put into quarantine"
        findings = f"{n:,} finding{'' if n == 1 else 's'}"
        messages.success(request, f"{findings} {done}." if n else "That had been decided already.")
    back = QueryDict(request.POST.get("back", "")).urlencode()
    return redirect(reverse("rlhf:screening", args=[slug, pk]) + (f"?{back}" if back else ""))


@require_safe
@login_required
def download(request: HtmxRequest, slug: str, pk: int) -> HttpResponseBase:
    """The lines of findings.jsonl that the page shows, all of its pages."""
    project = get_access(request, slug, Role.REVIEWER).project
    return findings_file(_get_screening(project, pk), request.user, *_asked(request.GET))


def findings_file(run: Run, user: User, code: str, state: str) -> HttpResponseBase:
    """The lines that fit, one after another, with an entry in the audit log: they may hold personal data."""
    places = screening.places_of(run, code, state)
    with transaction.atomic():
        record(user, Action.DOWNLOADED, run, project=run.project, findings=len(places))
    lines = screening.lines_at(run, places) if places else iter(())
    name = f"findings-{run.pk}{f'-{code}' if code else ''}.jsonl"
    return StreamingHttpResponse(
        lines,
        content_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _get_screening(project: Project, pk: int) -> Run:
    return get_object_or_404(project.runs.select_related("created_by"), pk=pk, kind=RunKind.SCREEN)


def _asked(query: QueryDict) -> tuple[str, str]:
    code, state = query.get("code", ""), query.get("state", "")
    return (
        code if code in CLASSES else "",
        state if state in screening.STATES else "",
    )


# --- before a training run --------------------------------------------------------------------
class Standing(NamedTuple):
    """What is known of one thing that a run would learn from."""

    name: str
    label: str
    newest: Run | None
    active: Run | None
    n_out: int = 0  # rows in quarantine
    outdated: str = ""  # what the newest has not seen; empty: it has seen all


def standing_of(project: Project, name: str) -> Standing:
    run = screening.newest(project, name)
    rows = quarantine.in_quarantine(run) if run else QuarantinedRow.objects.none()
    if name == screening.PROJECT:  # whose answers nothing learns from, but those of an export
        rows = rows.filter(key__startswith=PROMPT)
    n_out = rows.order_by().values("key").distinct().count()
    label = screening.in_words(name)
    active, outdated = screening.active(project, name), screening.outdated_by(run) if run else ""
    return Standing(name, label[0].upper() + label[1:], run, active, n_out, outdated)


def line_of(project: Project, form: RunForm) -> dict[str, Any]:
    """For the form as it is shown: of the export, the datasets and the prompts that it would use."""
    names = [name for name in CHOSEN if name in form.fields]
    rows = {name: _numbers(form[name].value()) for name in names}
    return _line(project, form.kind, rows)


def _numbers(value: Any) -> list[int]:
    """The numbers of what a field holds: a row, several, or their numbers as text."""
    values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    found = [str(getattr(each, "pk", each)) for each in values]
    return [int(text) for text in found if text.isascii() and text.isdecimal() and len(text) < 10]


def _line(project: Project, kind: str, rows: dict[str, list[int]]) -> dict[str, Any]:
    names = [screening.name_of(e) for e in project.exports.filter(pk__in=rows.get("export", []))]
    datasets = project.datasets.filter(pk__in=rows.get("datasets", []))
    names += [screening.name_of(dataset) for dataset in datasets]
    if kind in quarantine.ASK_PROMPTS:
        names.append(screening.PROJECT)
    return {
        "standings": [standing_of(project, name) for name in names],
        "kind": kind,
        "screen_first": settings.SCREEN_FIRST,
    }


@require_safe
@login_required
def screening_line(request: HtmxRequest, slug: str, kind: str) -> HttpResponse:
    project = get_access(request, slug, Role.ADMIN).project
    return _render_line(request, project, kind, request.GET)


@require_POST
@login_required
def screen_now(request: HtmxRequest, slug: str, kind: str) -> HttpResponse:
    """Screen something with the usual settings, while a training run's form is being filled in."""
    project = get_access(request, slug, Role.ADMIN).project
    name = request.POST.get("screened", "")
    shown = ScreenForm(project, initial={"screened": name})
    form = shown.as_sent()
    problem = ""
    try:
        if not form.is_valid():
            raise run_control.RunRefused("That cannot be screened: choose one of the list.")
        run = screening.active(project, name) or run_control.launch(
            project,
            RunKind.SCREEN,
            form.settings,
            user=request.user,
            round_number=rounds.current_number(project),
        )
    except run_control.RunRefused as refusal:
        problem = str(refusal)
    if request.htmx:
        return _render_line(request, project, kind, request.POST, problem)
    if problem:
        messages.error(request, problem)
        return redirect("rlhf:new_run", slug, kind)
    return redirect(run)


def _render_line(
    request: HtmxRequest, project: Project, kind: str, sent: QueryDict, problem: str = ""
) -> HttpResponse:
    if kind not in quarantine.TRAINING:
        raise Http404("runs of this kind learn nothing")
    rows = {name: _numbers(sent.getlist(name)) for name in CHOSEN}
    context = {"project": project, **_line(project, kind, rows), "problem": problem}
    return render(request, "rlhf/_screening_line.html", context)
