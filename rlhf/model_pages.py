"""Addresses at which a model version is downloaded, described, and freed of its merged copy."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_POST, require_safe

from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, record
from annotator.models import Role, User
from rlhf import downloads
from rlhf.downloads import CARD, Entry
from rlhf.integrity import FilesChanged, merged_files, refuse_changed
from rlhf.model_cards import card_of, source_of
from rlhf.models import ModelKind, ModelVersion, Run, RunKind

PARTS = ("adapter", "weights")


@require_safe
@login_required
def download_model(request: HtmxRequest, slug: str, pk: int, part: str) -> HttpResponseBase:
    """`adapter` or `weights`, as a tar with the model card."""
    version = _get_version(request, slug, pk)
    if part not in PARTS:
        raise Http404
    try:
        return archive(version, part, request.user, with_files=request.method != "HEAD")
    except FilesChanged as changed:
        messages.error(request, str(changed))
        return redirect(version)


def archive(
    version: ModelVersion, part: str, user: User, *, with_files: bool = True
) -> HttpResponseBase:
    """The same for pages and the API, of a version that the reader may have. Raises Http404, and
    FilesChanged."""
    files = _adapter(version) if part == "adapter" else _weights(version)
    if not files:
        raise Http404(f"{version} has no {part}, or its files are missing")
    refuse_changed(version, merged=part == "weights" and not version.is_whole_model)
    record(user, Action.DOWNLOADED, version, project=version.project, file=part)
    entries = [Entry(CARD, card_of(version).encode()), *files]
    top = f"{version.name}-{part}".replace("/", "-")
    response: HttpResponseBase = (
        StreamingHttpResponse(downloads.tar_of(top, entries)) if with_files else HttpResponse()
    )
    response["Content-Type"] = "application/x-tar"
    response["Content-Length"] = str(downloads.tar_size(top, entries))
    response["Content-Disposition"] = content_disposition_header(True, f"{top}.tar") or ""
    return response


def _adapter(version: ModelVersion) -> list[Entry]:
    if not downloads.is_adapter(version):
        return []
    base = downloads.base_of(version)
    name = source_of(base)[0] if base.parent is None else base.name
    return downloads.portable(downloads.adapter_entries(version), name)


def _weights(version: ModelVersion) -> list[Entry]:
    folder = downloads.weights_folder(version)
    if folder is None:
        return []
    recorded = version.files if version.is_whole_model else merged_files(version)
    return downloads.folder_entries(folder, recorded)


@require_safe
@login_required
def model_card(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    card = card_of(_get_version(request, slug, pk, Role.REVIEWER))
    response = HttpResponse(card, content_type="text/markdown; charset=utf-8")
    response["Content-Disposition"] = content_disposition_header(True, CARD) or ""
    return response


@require_POST
@login_required
def delete_merged(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    version = _get_version(request, slug, pk)
    if merging_run(version):
        messages.error(request, "It is being merged: stop that run first.")
    else:
        downloads.delete_merged(version)
        record(request.user, Action.DELETED, version, project=version.project, file="weights")
        messages.success(request, "The merged weights are deleted. They can be made again.")
    return redirect(version)


def files_of(version: ModelVersion) -> dict[str, Any]:
    """What the page of a version offers for download, with its size in bytes."""
    is_adapter = downloads.is_adapter(version)
    return {
        "adapter_bytes": sum(e.size for e in downloads.adapter_entries(version))
        if is_adapter
        else 0,
        "weights_bytes": sum(entry.size for entry in _weights(version)),
        "can_be_merged": version.kind == ModelKind.POLICY
        and not version.is_whole_model
        and not version.has_virtual_tokens,
        "merging": merging_run(version),
    }


def merging_run(version: ModelVersion) -> Run | None:
    return version.runs_from.active().filter(kind=RunKind.MERGE).first()


def _get_version(
    request: HtmxRequest, slug: str, pk: int, at_least: Role = Role.ADMIN
) -> ModelVersion:
    access = get_access(request, slug, at_least)
    rows = access.project.model_versions.select_related("project", "run", "parent")
    return get_object_or_404(rows, pk=pk)
