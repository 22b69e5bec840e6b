"""Files out."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.exporting import NotExported, preview
from annotator.exporting import create_export as freeze
from annotator.hashes import FileChanged, check_file
from annotator.models import Role, Ruling

EXPORT_FILES = {
    "data.jsonl": "application/x-ndjson",
    "demonstrations.jsonl": "application/x-ndjson",
    "manifest.json": "application/json",
}


@login_required
def exports(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    page = Paginator(project.exports.with_taint().select_related("created_by"), 30)
    context = {
        "project": project,
        "role": role,
        "preview": preview(project),
        "has_rulings": Ruling.objects.filter(project=project, voided=None).exists(),
        "page": page.get_page(request.GET.get("page")),
    }
    return render(request, "annotator/exports.html", context)


@require_POST
@login_required
def create_export(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    try:
        export = freeze(project, request.user, use_rulings="use_rulings" in request.POST)
    except NotExported as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Export {export.pk} is frozen: {export.n_rows} pairs.")
    return redirect("annotator:exports", project.slug)


@login_required
def download_export(request: HtmxRequest, slug: str, pk: int, name: str) -> HttpResponseBase:
    project, _ = get_access(request, slug, Role.REVIEWER)
    export = get_object_or_404(project.exports, pk=pk)
    if name not in EXPORT_FILES:
        raise Http404
    try:
        check_file(export, name)
        file = (export.folder / name).open("rb")
    except FileNotFoundError as error:
        raise Http404(f"The files of export {pk} are missing.") from error
    except FileChanged as changed:
        messages.error(request, str(changed))
        return redirect("annotator:exports", project.slug)
    record(request.user, Action.DOWNLOADED, export, project=project, file=name)
    return FileResponse(
        file,
        as_attachment=True,
        filename=f"{project.slug}-export-{pk}-{name}",
        content_type=EXPORT_FILES[name],
    )
