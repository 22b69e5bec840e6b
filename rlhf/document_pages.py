"""Pages of documents: the collections of a project, a new one, and what is found in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_safe

from annotator.access import HtmxRequest, get_access
from annotator.imports.uploads import LimitedUpload
from annotator.models import Project, Role
from rlhf.documents import (
    FORMATS,
    OVERLAP,
    SIZE,
    DocumentsRefused,
    create_collection,
    read_relevant_file,
    read_uploads,
)
from rlhf.integrity import HASHED_AT_LAUNCH
from rlhf.models import DocumentCollection
from rlhf.training.hashes import find_problems, in_a_sentence
from rlhf.training.retrieval import Passage, collection_of

UNPROCESSABLE = 422
PAGE_SIZE = 50
FOUND = 10
LONGEST_QUESTION = 2000


class ManyFiles(forms.ClearableFileInput):
    allow_multiple_selected = True


class FilesField(forms.FileField):
    """One file or several: a list."""

    def clean(self, data: Any, initial: Any = None) -> Any:
        sent = data if isinstance(data, list | tuple) else [data]
        return [super(FilesField, self).clean(each, initial) for each in sent]


class DocumentsForm(forms.Form):
    name = forms.CharField(
        max_length=100, help_text="The same name again makes the next version of that collection."
    )
    documents = FilesField(
        label="Documents",
        widget=ManyFiles(attrs={"multiple": True, "accept": ",".join(FORMATS)}),
        help_text="Text, Markdown, HTML, JSON lines or Parquet with the columns title and text.",
    )
    relevant = forms.FileField(
        label="Which are relevant",
        required=False,
        help_text='If it is known: JSON lines {"question": …, "relevant": ["title of a document", …]}. '
        "It is then measured how well they are found.",
    )
    size = forms.IntegerField(
        label="Longest passage",
        initial=SIZE,
        min_value=50,
        max_value=20_000,
        help_text="Characters. Paragraphs stay whole where they fit.",
    )
    overlap = forms.IntegerField(
        label="Overlap",
        initial=OVERLAP,
        min_value=0,
        max_value=10_000,
        help_text="Characters of whole paragraphs that a passage shares with the one before.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


@csrf_exempt  # `_receive` checks it: to do so it reads the request, and the handler comes first
@login_required
def collections(request: HtmxRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        project, role = get_access(request, slug, Role.REVIEWER)
        return _render_collections(request, project, role, DocumentsForm())
    project, _ = get_access(request, slug, Role.ADMIN)
    upload = LimitedUpload(request)
    request.upload_handlers = [upload]
    response: HttpResponse = _receive(request, project, upload)
    return response


@csrf_protect
def _receive(request: HtmxRequest, project: Project, upload: LimitedUpload) -> HttpResponse:
    form = DocumentsForm(request.POST, request.FILES)
    if upload.problem:
        form.add_error("documents", upload.problem)
    elif form.is_valid():
        try:
            collection = _create(request, project, form.cleaned_data)
        except (DocumentsRefused, OSError) as error:  # OSError: the disk is full
            form.add_error(None, str(error))
        else:
            messages.success(
                request,
                f"{collection} has {collection.n_passages:,} passages of {collection.n_documents:,} documents.",
            )
            return redirect("rlhf:collection", project.slug, collection.pk)
    return _render_collections(request, project, Role.ADMIN, form)


def _create(request: HtmxRequest, project: Project, values: dict[str, Any]) -> DocumentCollection:
    said = values["relevant"]
    return create_collection(
        project,
        values["name"],
        read_uploads(values["documents"]),
        size=values["size"],
        overlap=values["overlap"],
        relevant=read_relevant_file(Path(said.temporary_file_path()), said.name) if said else [],
        sources=[upload.name for upload in values["documents"]],
        user=request.user,
    )


def _render_collections(
    request: HtmxRequest, project: Project, role: Role, form: DocumentsForm
) -> HttpResponse:
    context = {
        "project": project,
        "role": role,
        "form": form,
        "page": Paginator(project.collections.all(), PAGE_SIZE).get_page(request.GET.get("page")),
    }
    status = UNPROCESSABLE if form.errors else 200
    return render(request, "rlhf/collections.html", context, status=status)


@require_safe
@login_required
def collection(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """What it is, how well passages are found, and what is found for a question."""
    project, role = get_access(request, slug, Role.REVIEWER)
    found = get_object_or_404(project.collections.select_related("run", "created_by"), pk=pk)
    question = request.GET.get("question", "")[:LONGEST_QUESTION].strip()
    context = {
        "project": project,
        "role": role,
        "collection": found,
        "question": question,
        "passages": _passages(request, found, question) if question else None,
    }
    return render(request, "rlhf/collection.html", context)


def _passages(request: HtmxRequest, found: DocumentCollection, question: str) -> list[Passage]:
    """By their words: an encoder runs in runs only."""
    files = find_problems(Path(found.path), found.files, hash_up_to=HASHED_AT_LAUNCH)
    if problems := list(files):
        messages.error(request, f"{found} is not what was frozen: {in_a_sentence(problems)}.")
        return []
    try:
        return collection_of(found.path).find(question, FOUND, by_words=True)
    except OSError as error:
        messages.error(request, f"The files of {found} cannot be read: {error.strerror}.")
        return []
