"""Files in: sent, looked at, checked, imported. What the worker does of it is in `imports.jobs`."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import RequestDataTooBig
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST
from django_htmx.http import HttpResponseClientRedirect

from annotator.access import HtmxRequest, get_access
from annotator.imports import jobs
from annotator.imports.forms import ChoicesForm, SourceForm
from annotator.imports.models import Import
from annotator.imports.preview import preview_of
from annotator.imports.uploads import LimitedUpload
from annotator.models import Project, Role

PAGE_SIZE = 30


# --- all of a project ---------------------------------------------------------------------------
@csrf_exempt  # `_receive` checks it: to do so it reads the request, and the handler comes first
@login_required
def import_file(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    if request.method != "POST":
        return _render_imports(request, project, SourceForm())
    upload = LimitedUpload(request)
    request.upload_handlers = [upload]
    try:
        response: HttpResponse = _receive(request, project, upload)
    except RequestDataTooBig:
        form = SourceForm({})
        form.add_error("text", "This is too much to paste: send it as a file.")
        return _render_imports(request, project, form)
    return response


@csrf_protect
def _receive(request: HtmxRequest, project: Project, upload: LimitedUpload) -> HttpResponse:
    form = SourceForm(request.POST, request.FILES)
    if upload.problem:
        form.add_error("file", upload.problem)
    if not form.is_valid():
        return _render_imports(request, project, form)
    cleaned = form.cleaned_data
    try:
        import_ = jobs.receive(
            project,
            request.user,
            upload=cleaned["file"],
            text=cleaned["text"],
            hub_id=cleaned["hub_id"],
        )
    except jobs.NotReceived as error:
        form.add_error(None, str(error))
        return _render_imports(request, project, form)
    if request.htmx:
        return HttpResponseClientRedirect(_url(import_))
    return redirect(_url(import_))


def _render_imports(request: HtmxRequest, project: Project, form: SourceForm) -> HttpResponse:
    imports = project.imports.select_related("created_by")
    context = {
        "project": project,
        "role": Role.ADMIN,
        "form": form,
        "page": Paginator(imports, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    status = 422 if form.errors else 200
    return render(request, "annotator/imports.html", context, status=status)


# --- one of them --------------------------------------------------------------------------------
def _get(request: HtmxRequest, slug: str, pk: int) -> Import:
    project, _ = get_access(request, slug, Role.ADMIN)
    imports = Import.objects.select_related("project", "created_by", "started_by")
    return get_object_or_404(imports, project=project, pk=pk)


@login_required
def one_import(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    import_ = _get(request, slug, pk)
    return _render_import(request, import_, ChoicesForm(import_))


def _render_import(request: HtmxRequest, import_: Import, form: ChoicesForm) -> HttpResponse:
    context = _context(import_) | {"form": form}
    status = 422 if form.errors else 200
    return render(request, "annotator/import.html", context, status=status)


def _context(import_: Import) -> dict[str, Any]:
    is_startable = import_.is_startable
    return _status_of(import_) | {
        "is_startable": is_startable,
        "has_files": import_.has_files,
        "preview": preview_of(import_) if is_startable else None,
    }


def _status_of(import_: Import) -> dict[str, Any]:
    return {
        "project": import_.project,
        "role": Role.ADMIN,
        "import": import_,
        "progress": import_.progress,
        "has_skipped_file": import_.skipped_file.is_file(),
    }


@require_POST
@login_required
def start_import(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Keep what was chosen; then show the first rows anew, check the file, or import it."""
    import_ = _get(request, slug, pk)
    form = ChoicesForm(import_, request.POST)
    if not form.is_valid():
        if request.htmx:
            return render(request, "annotator/_import_preview.html", _context(import_))
        return _render_import(request, import_, form)
    jobs.choose(import_, form.choices())
    if request.htmx:
        return render(request, "annotator/_import_preview.html", _context(import_))
    if request.POST.get("action") in ("check", "import"):
        jobs.start(import_, request.user, is_check=request.POST["action"] == "check")
    return redirect(_url(import_))


@login_required
def import_status(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    import_ = _get(request, slug, pk)
    response = render(request, "annotator/_import_status.html", _status_of(import_))
    if not import_.is_active:
        response["HX-Refresh"] = "true"  # there is more on the page now than its status
    return response


@require_POST
@login_required
def cancel_import(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    import_ = _get(request, slug, pk)
    jobs.cancel(import_)
    return redirect(_url(import_))


@require_POST
@login_required
def delete_import_file(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    import_ = _get(request, slug, pk)
    if jobs.delete_files(import_):
        messages.success(request, f"The file {import_.name} is deleted.")
    return redirect("annotator:import_file", slug)


@login_required
def skipped_rows(request: HtmxRequest, slug: str, pk: int) -> FileResponse:
    import_ = _get(request, slug, pk)
    try:
        file = import_.skipped_file.open("rb")
    except FileNotFoundError as error:
        raise Http404("The list of skipped rows is not here any more.") from error
    name = f"{slug}-import-{pk}-skipped.csv"
    return FileResponse(file, as_attachment=True, filename=name, content_type="text/csv")


def _url(import_: Import) -> str:
    return import_.get_absolute_url()
