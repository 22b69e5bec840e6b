"""The prompt lab: prompt versions of a project, a new one with its preview, two side by side. Admins make
them, reviewers read them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from annotator.access import HtmxRequest, get_access
from annotator.models import Project, Role
from rlhf import model_server
from rlhf.models import ModelKind, ModelVersion, PromptLab, RunKind
from rlhf.prompt_forms import PromptForm, TrialForm
from rlhf.prompting import (
    PromptRefused,
    best_judged,
    best_tried,
    changes_between,
    create_prompt_version,
    draft_like,
    prompting_in,
    prompting_of,
    tried,
)
from rlhf.training.artifacts import RunError
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.prompting import Prompter

UNPROCESSABLE = 422
LISTED = 100

# Runs that change a policy's weights: before these one is asked whether few-shot prompting was tried.
TRAIN_POLICIES = [
    RunKind.PPO, RunKind.SUPERVISED, RunKind.DOMAIN, RunKind.DPO, RunKind.KTO, RunKind.RLOO,
    RunKind.GRPO, RunKind.DISTILL, RunKind.SEARCH,
]  # fmt: skip


@require_safe
@login_required
def prompt_lab(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    context = {
        "project": project,
        "role": role,
        "rows": tried(project, _versions(project)[:LISTED]),
        "has_policies": project.model_versions.filter(
            kind__in=[ModelKind.POLICY, ModelKind.ENDPOINT]
        ).exists(),
        "is_running": model_server.is_running(),
    }
    return render(request, "rlhf/prompt_lab.html", context)


@login_required
def new_prompt(request: HtmxRequest, slug: str) -> HttpResponse:
    """The form; a POST saves a version, or shows the whole prompt, as the button says."""
    project, _ = get_access(request, slug, Role.ADMIN)
    if request.method != "POST":
        form = PromptForm(project, initial=_initial(request, project))
        return _render_new(request, project, form, TrialForm(project))
    form = PromptForm(project, request.POST)
    trial = TrialForm(project, request.POST)
    if request.POST.get("do") == "preview":
        preview = _preview(project, form, trial)
        if request.htmx:
            return render(request, "rlhf/_prompt_preview.html", {"preview": preview})
        return _render_new(request, project, form, trial, preview=preview)
    if form.is_valid():
        try:
            version = create_prompt_version(
                project, form.draft, user=request.user,
                name=form.cleaned_data["name"], token=form.cleaned_data["token"],
            )  # fmt: skip
        except PromptRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.success(request, f"{version} is saved: “Evaluate” has people judge it blind.")
            return redirect(version)
    return _render_new(request, project, form, trial, status=UNPROCESSABLE)


def _initial(request: HtmxRequest, project: Project) -> dict[str, Any]:
    """What `?like=` or `?policy=` names."""
    like, policy = request.GET.get("like", ""), request.GET.get("policy", "")
    if like:
        try:
            return _like(request, _find(project, like))
        except RunError as error:
            messages.error(request, str(error))
    chosen = project.model_versions.filter(pk=policy).first() if _is_number(policy) else None
    collection = request.GET.get("collection", "")
    documents = (
        project.collections.filter(pk=collection).first() if _is_number(collection) else None
    )
    found = {"policy": chosen, "collection": documents}
    return {name: row for name, row in found.items() if row}


def _like(request: HtmxRequest, version: ModelVersion) -> dict[str, Any]:
    """What it was made from; says so if some of its examples can be none any more."""
    draft = draft_like(version)
    chosen = draft["examples"]
    usable = best_judged(version.project, len(chosen), only=chosen) if chosen else []
    if gone := len(chosen) - len(usable):
        messages.warning(
            request,
            f"{gone} of the {len(chosen)} examples of {version} can be none any more, and will be left out: "
            "they or their prompts are in quarantine, flagged or gone.",
        )
    return draft


def _render_new(
    request: HtmxRequest,
    project: Project,
    form: PromptForm,
    trial: TrialForm,
    status: int = 200,
    **more: Any,
) -> HttpResponse:
    context = {"project": project, "role": Role.ADMIN, "form": form, "trial": trial, **more}
    return render(request, "rlhf/new_prompt.html", context, status=status)


def _preview(project: Project, form: PromptForm, trial: TrialForm) -> dict[str, Any]:
    """The whole prompt for one question, or a sentence why there is none."""
    asked = trial.prompt()
    if asked is None:
        return {"problem": "No prompt is held out yet, on which it could be shown."}
    if not form.is_valid():
        wrong = [f"{form[name].label}: {' '.join(map(str, form.errors[name]))}" for name in form.errors]  # fmt: skip
        return {"problem": f"The preview appears when the settings are complete. {' '.join(wrong)}"}
    try:
        prompting, _ = prompting_of(project, form.draft)
    except PromptRefused as refusal:
        return {"problem": str(refusal)}
    arranged = Prompter(prompting).arrange(asked.messages, prompt_tokens, by_words=True)
    collection = form.cleaned_data["collection"]
    return {
        "arranged": arranged,
        "budget": prompting.budget_tokens,
        "is_over": arranged.n_tokens > prompting.budget_tokens,
        "has_encoder": bool(collection and collection.run_id),
    }


@require_safe
@login_required
def prompt_comparison(request: HtmxRequest, slug: str) -> HttpResponse:
    """What is different between two versions, part by part."""
    project, role = get_access(request, slug, Role.REVIEWER)
    first = _find(project, request.GET.get("first", ""))
    second = _find(project, request.GET.get("second", ""))
    try:
        parts = changes_between(first, second)
    except RunError as error:
        messages.error(request, str(error))
        return redirect("rlhf:prompt_lab", slug)
    context = {
        "project": project,
        "role": role,
        "rows": tried(project, [first, second]),
        "parts": [
            (part, changes, any(piece.kind != "same" for piece in changes))
            for part, changes in parts.items()
        ],
    }
    return render(request, "rlhf/prompt_comparison.html", context)


@require_POST
@login_required
def dismiss_prompt_lab(request: HtmxRequest, slug: str) -> HttpResponse:
    """Never ask again before a training run of this project."""
    project, _ = get_access(request, slug, Role.ADMIN)
    PromptLab.objects.get_or_create(project=project)
    back = request.POST.get("back", "")
    if url_has_allowed_host_and_scheme(back, None):
        return redirect(back)
    return redirect("rlhf:prompt_lab", slug)


def few_shot_notice(project: Project, kind: str) -> dict[str, Any] | None:
    """What the form of a training run says of prompting; None if it says nothing. Who does not want to be
    asked any more still sees what few-shot prompting has come to."""
    if kind not in TRAIN_POLICIES:
        return None
    tried = best_tried(project)
    is_dismissed = PromptLab.objects.filter(project=project).exists()
    return None if is_dismissed and not tried else {"tried": tried, "is_dismissed": is_dismissed}


def parts_of(version: ModelVersion) -> dict[str, Any]:
    """What the page of a prompt version shows of it."""
    try:
        return {"prompting": prompting_in(version)}
    except RunError as error:
        return {"prompting_problem": str(error)}


def _versions(project: Project) -> Any:
    return project.model_versions.filter(kind=ModelKind.PROMPT).select_related("parent")


def _find(project: Project, pk: str) -> ModelVersion:
    if not _is_number(pk):
        raise Http404("no such prompt version")
    return get_object_or_404(_versions(project), pk=pk)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
