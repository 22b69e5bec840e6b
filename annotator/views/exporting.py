"""Files out: freezing, what each export gives, and two of them beside each other."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.downloads import send_file
from annotator.export_jobs import ExportJob, JobKind
from annotator.exporting import NotExported, preview
from annotator.exports import derived, jobs
from annotator.exports.costs import costs_of
from annotator.exports.files import FORMATS
from annotator.exports.forms import ExportForm
from annotator.exports.words import filters_in_words
from annotator.hashes import FileChanged, check_file, sha256_of
from annotator.models import Export, Project, Role

CHANGED = "is not what was made of this export"
EXPORT_FILES = {
    "data.jsonl": "application/x-ndjson",
    "votes.jsonl": "application/x-ndjson",
    "showings.jsonl": "application/x-ndjson",
    "demonstrations.jsonl": "application/x-ndjson",
    "manifest.json": "application/json",
}


@login_required
def exports(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    form = ExportForm(project, request.GET if "preview" in request.GET else None)
    costs = costs_of(project, form.filters()) if form.is_bound and form.is_valid() else None
    return _exports_page(request, project, role, form, {"costs": costs})


def _exports_page(
    request: HtmxRequest,
    project: Project,
    role: Role,
    form: ExportForm,
    more: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    page = Paginator(project.exports.with_taint().select_related("created_by"), 30)
    context = {
        "project": project,
        "role": role,
        "preview": preview(project),
        "form": form,
        "page": page.get_page(request.GET.get("page")),
        **_freezing(project),
        **(more or {}),
    }
    return render(request, "annotator/exports.html", context, status=status)


def _freezing(project: Project) -> dict[str, Any]:
    """The newest job that freezes, if it is under way or went wrong."""
    newest = project.export_jobs.filter(kind=JobKind.FREEZE).select_related("export").first()
    return {"job": newest, "is_waiting": newest and not newest.finished and not newest.is_lost}


@login_required
def export_jobs(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    context = {"project": project, "role": role, **_freezing(project)}
    return render(request, "annotator/_export_job.html", context)


@require_POST
@login_required
def create_export(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.ADMIN)
    form = ExportForm(project, request.POST)
    if not form.is_valid():
        return _exports_page(request, project, role, form, status=422)
    filters, licence = form.filters(), form.cleaned_data["licence"]
    use_rulings = form.cleaned_data.get("use_rulings", False)
    try:
        made = jobs.freeze(project, request.user, filters, use_rulings=use_rulings, licence=licence)
    except NotExported as error:
        messages.error(request, str(error))
    else:
        if isinstance(made, Export):
            messages.success(request, f"Export {made.pk} is frozen: {made.n_rows} pairs.")
    return redirect("annotator:exports", project.slug)


# --- one export -----------------------------------------------------------------------------------
def _export(project: Project, pk: int) -> Export:
    return get_object_or_404(project.exports.with_taint().select_related("project"), pk=pk)


def _files(project: Project, role: Role, export: Export) -> dict[str, Any]:
    """What the table of its files shows."""
    of_files = export.jobs.filter(kind=JobKind.FILE)
    newest: dict[str, ExportJob] = {}
    for job in of_files.order_by("pk"):
        newest[job.name.partition("/")[2]] = job
    rows = []
    for _, shape, why_not, files in derived.all_files(export):
        cells = [{"file": file, "job": newest.get(file.name)} for file in files]
        rows.append({"shape": shape, "why_not": why_not, "cells": cells})
    is_waiting = any(not job.finished and not job.is_lost for job in newest.values())
    return {
        "project": project, "role": role, "export": export, "rows": rows,
        "formats": FORMATS.values(), "is_waiting": is_waiting,
    }  # fmt: skip


@login_required
def export(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    found = _export(project, pk)
    context = _files(project, role, found)
    context["filters"] = list(filters_in_words(project, found.manifest.get("filters", {})))
    context["others"] = project.exports.exclude(pk=pk)[:100]
    return render(request, "annotator/export.html", context)


@login_required
def export_files(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    context = _files(project, role, _export(project, pk))
    return render(request, "annotator/_export_files.html", context)


@require_POST
@login_required
def make_file(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    export = _export(project, pk)
    if (name := request.POST.get("name", "")) not in derived.names():
        raise Http404(f"There is no file {name}.")
    jobs.ask_for_file(export, request.user, name)
    if request.htmx:
        return render(request, "annotator/_export_files.html", _files(project, role, export))
    return redirect("annotator:export", project.slug, pk)


@login_required
def download_export(request: HtmxRequest, slug: str, pk: int, name: str) -> HttpResponseBase:
    project, _ = get_access(request, slug, Role.REVIEWER)
    export = get_object_or_404(project.exports, pk=pk)
    if name not in EXPORT_FILES:
        raise Http404
    path = export.folder / name
    filename, content_type = f"{project.slug}-export-{pk}-{name}", EXPORT_FILES[name]
    try:
        check_file(export, name)
        response = send_file(request, path, filename, content_type, sha256_of(path))
    except FileNotFoundError as error:
        raise Http404(f"The files of export {pk} are missing.") from error
    except FileChanged as changed:
        messages.error(request, str(changed))
        return redirect("annotator:exports", project.slug)
    record(request.user, Action.DOWNLOADED, export, project=project, file=name)
    return response


@login_required
def download_derived(request: HtmxRequest, slug: str, pk: int, name: str) -> HttpResponseBase:
    project, _ = get_access(request, slug, Role.REVIEWER)
    export = get_object_or_404(project.exports, pk=pk)
    if name not in derived.names():
        raise Http404
    _, of = derived.names()[name]
    if derived.path_of(export, name).is_file() and not derived.is_as_made(export, name):
        jobs.ask_for_file(export, request.user, name)
        messages.error(request, f"{name} {CHANGED}: it is being made anew.")
        return redirect("annotator:export", project.slug, pk)
    try:
        response = send_file(
            request,
            derived.path_of(export, name),
            f"{project.slug}-export-{pk}-{name}",
            FORMATS[of].content_type,
            derived.hash_of(export, name),
        )
    except FileNotFoundError as error:
        raise Http404(f"{name} of export {pk} has not been made.") from error
    record(request.user, Action.DOWNLOADED, export, project=project, file=name)
    return response


# --- two exports ----------------------------------------------------------------------------------
@login_required
def compare_exports(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """`?before=3`, or the one made before: small ones at once, large ones by the worker."""
    project, role = get_access(request, slug, Role.REVIEWER)
    after = get_object_or_404(project.exports, pk=pk)
    before = _before(project, after, request.GET.get("before"))
    context: dict[str, Any] = {"project": project, "role": role, "before": before, "after": after}
    if before is not None:
        try:
            found = jobs.compare(before, after, request.user)
        except FileNotFoundError:
            context["error"] = "The files of one of the two are missing."
        except FileChanged as changed:
            context["error"] = str(changed)
        else:
            context["job" if isinstance(found, ExportJob) else "found"] = found
    return render(request, "annotator/export_comparison.html", context)


def _before(project: Project, after: Export, number: str | None) -> Export | None:
    if number is None:
        return project.exports.filter(pk__lt=after.pk).first()
    if not number.isdecimal():
        raise Http404("No such export.")
    return get_object_or_404(project.exports, pk=int(number))
