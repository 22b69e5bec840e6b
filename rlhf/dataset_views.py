"""Pages of datasets: making one, and what is in it. Admins make them, reviewers look."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import RequestDataTooBig
from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_safe
from django_htmx.http import HttpResponseClientRedirect

from annotator.access import Access, HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.downloads import send_file
from annotator.imports.uploads import LimitedUpload
from annotator.models import Role
from rlhf import screening
from rlhf.dataset_inputs import HASHED_AT_LAUNCH, problem_with
from rlhf.dataset_reading import Source
from rlhf.datasets import DatasetRefused
from rlhf.fine_tuning import cards_of
from rlhf.forms.datasets import ExportForm, FilesForm
from rlhf.learners import learners_of
from rlhf.making_datasets import dataset_of_export, dataset_of_files
from rlhf.models import Dataset, DatasetKind
from rlhf.training.hashes import find_problems

PAGE_SIZE = 50
ROWS_SHOWN = 5
SHOWN_CHARACTERS = 2_000  # of each text
UNPROCESSABLE = 422


@csrf_exempt  # `_receive` checks it: to do so it reads the request, and the handler comes first
@login_required
def datasets(request: HtmxRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        access = get_access(request, slug, Role.REVIEWER)
        return _render(request, access, FilesForm(), ExportForm(access.project))
    access = get_access(request, slug, Role.ADMIN)
    upload = LimitedUpload(request)
    request.upload_handlers = [upload]
    try:
        response: HttpResponse = _receive(request, access, upload)
    except RequestDataTooBig:
        form = FilesForm({})
        form.errors.clear()
        form.add_error("text", "This is too much to paste: send it as a file.")
        return _render(request, access, form, ExportForm(access.project))
    return response


@csrf_protect
def _receive(request: HtmxRequest, access: Access, upload: LimitedUpload) -> HttpResponse:
    project = access.project
    is_of_export = request.POST.get("from") == "export"
    form: Any = ExportForm(project, request.POST) if is_of_export else FilesForm(request.POST, request.FILES)  # fmt: skip
    if upload.problem:
        problem = upload.problem.replace("import_comparisons", "import_dataset")
        form.add_error(None if is_of_export else "file", problem)
    if form.is_valid():
        values = form.cleaned_data
        try:
            if is_of_export:
                made = dataset_of_export(project, values["name"], values["export"], values["taken"], user=request.user)  # fmt: skip
            else:
                made = _of_files(access, request, values)
        except DatasetRefused as refusal:
            form.add_error(None, str(refusal))
        except OSError as error:
            form.add_error(None, _not_written(error))
        else:
            messages.success(request, f"“{made}” has {made.n_rows:,} rows, and stays as it is now.")
            address = reverse("rlhf:dataset", args=[project.slug, made.pk])
            return HttpResponseClientRedirect(address) if request.htmx else redirect(address)
    other = FilesForm() if is_of_export else ExportForm(project)
    return _render(request, access, *((other, form) if is_of_export else (form, other)))


def _of_files(access: Access, request: HtmxRequest, values: dict[str, Any]) -> Dataset:
    kind = DatasetKind(values["kind"])
    with _sources(values, kind) as sources:
        return dataset_of_files(
            access.project, values["name"], kind, sources, user=request.user,
            column=values["column"], max_bytes=settings.IMPORT_MAX_BYTES,
        )  # fmt: skip


@contextmanager
def _sources(values: dict[str, Any], kind: DatasetKind) -> Iterator[list[Source]]:
    """The files that were sent, or what was pasted as one, for as long as the block runs."""
    if files := values["file"]:
        yield [Source(file.name, Path(file.temporary_file_path())) for file in files]
        return
    with tempfile.TemporaryDirectory(dir=settings.DATA_DIR) as folder:
        name = "pasted.txt" if kind == DatasetKind.TEXT else "pasted lines"
        path = Path(folder) / "pasted"
        path.write_text(values["text"].replace("\r\n", "\n"), encoding="utf-8")
        yield [Source(name, path)]


def _not_written(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "The server's disk is full: nothing was kept. Whoever runs the server must make room."
        )
    return f"The server could not keep it: {error.strerror or error}."


def _render(
    request: HtmxRequest, access: Access, files: FilesForm, export: ExportForm
) -> HttpResponse:
    rows = access.project.datasets.select_related("created_by", "export", "run")
    context = {
        **access._asdict(),
        "files_form": files,
        "export_form": export,
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    status = UNPROCESSABLE if files.errors or export.errors else 200
    return render(request, "rlhf/datasets.html", context, status=status)


@require_safe
@login_required
def fine_tune(request: HtmxRequest, slug: str) -> HttpResponse:
    """The ways to a better policy, side by side."""
    access = get_access(request, slug, Role.REVIEWER)
    context = {**access._asdict(), "cards": cards_of(access.project)}
    return render(request, "rlhf/fine_tune.html", context)


@require_safe
@login_required
def dataset(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    found = _get(access, pk)
    problem = problem_with(found, hash_up_to=HASHED_AT_LAUNCH)
    context = {
        **access._asdict(),
        "dataset": found,
        "rows": [] if problem else first_rows(found),
        "shown_characters": SHOWN_CHARACTERS,
        "learners": learners_of(found, PAGE_SIZE),
        "sha256": found.files.get("data.jsonl", {}).get("sha256", ""),
        "is_there": found.data.is_file(),
        "problem": problem,
        "screening": screening.newest(access.project, screening.name_of(found)),
    }
    return render(request, "rlhf/dataset.html", context)


def first_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """Each as `messages` of role and text, a text as one without a role; none if the file is gone."""
    try:
        with dataset.data.open(encoding="utf-8") as file:
            return [_shown(json.loads(line)) for line in islice(file, ROWS_SHOWN)]
    except (OSError, ValueError):
        return []


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    messages_of = row.get("messages") or [{"role": "", "content": row.get("text", "")}]
    return {"messages": messages_of, "split": row.get("split", "")}


@require_safe
@login_required
def download_dataset(request: HtmxRequest, slug: str, pk: int) -> HttpResponseBase:
    access = get_access(request, slug, Role.REVIEWER)
    found = _get(access, pk)
    if problems := list(find_problems(Path(found.path), found.files)):
        messages.error(request, f"{problems[0]}.")
        return redirect("rlhf:dataset", slug, pk)
    name = f"{access.project.slug}-dataset-{pk}.jsonl"
    sha256 = found.files["data.jsonl"]["sha256"]
    response = send_file(request, found.data, name, "application/x-ndjson", sha256)
    record(request.user, Action.DOWNLOADED, found, project=access.project)
    return response


def _get(access: Access, pk: int) -> Dataset:
    rows = access.project.datasets.select_related("created_by", "export", "run")
    return get_object_or_404(rows, pk=pk)
