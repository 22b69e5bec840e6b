"""The list of projects, a new one, and its settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Count, Exists, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from annotator.access import HtmxRequest, get_access, may_create
from annotator.forms import PauseForm, PresetForm, ProjectForm, ProtocolForm
from annotator.models import (
    ANSWERED,
    IN_HAND,
    Assignment,
    Comparison,
    GuidelineProposal,
    Judgment,
    Membership,
    Project,
    ProjectQuerySet,
    ProposalState,
    Role,
    User,
)
from annotator.protocols import PRESETS, Protocol, preset_of, protocol_of, to_json
from annotator.reviewing import decide, with_proposal

PROJECTS_SHOWN = 60


@login_required
def home(request: HtmxRequest) -> HttpResponse:
    """My projects, and in each the next thing for me to do."""
    user = request.user
    projects = _with_my_work(Project.objects.visible_to(user), user)
    page = Paginator(projects, PROJECTS_SHOWN).get_page(request.GET.get("page"))
    memberships = Membership.objects.filter(user=user, project__in=list(page))
    mine = {membership.project_id: membership for membership in memberships}
    context = {
        "rows": [(project, mine.get(project.pk)) for project in page],
        "page": page,
        "may_create": may_create(user),
    }
    return render(request, "annotator/home.html", context)


def _with_my_work(projects: ProjectQuerySet, user: User) -> ProjectQuerySet:
    """Each with `has_comparisons`, `has_work` (something for this person to judge), `n_judged`."""
    here = Comparison.objects.filter(project=OuterRef("pk")).order_by()
    held = Assignment.objects.filter(IN_HAND, project=OuterRef("pk"), annotator=user)
    judged = Judgment.objects.filter(
        project=OuterRef("pk"), annotator=user, voided=None, verdict__in=ANSWERED
    )
    count = judged.order_by().values("project").annotate(n=Count("pk")).values("n")
    return projects.annotate(
        has_comparisons=Exists(here),
        has_work=Exists(held) | Exists(here.open().not_handled_by(user)),
        n_judged=Coalesce(Subquery(count), 0),
    )


@login_required
def new_project(request: HtmxRequest) -> HttpResponse:
    if not may_create(request.user):
        raise Http404
    form = ProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        project = form.create(request.user)
        messages.success(request, f"{project} is ready. Import prompts to begin.")
        return redirect("annotator:import_file", project.slug)
    context = {"form": form}
    status = 422 if form.errors else 200
    return render(request, "annotator/project_form.html", context, status=status)


@login_required
def edit_project(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    proposal = _proposal_asked(request, project)
    # Only a form that is shown is filled in: what is sent is compared with what is stored.
    is_shown = request.method != "POST" and proposal is not None
    text = with_proposal(project.guidelines, proposal) if proposal else ""
    initial = {"guidelines": text} if is_shown else None
    form = ProjectForm(request.POST or None, instance=project, initial=initial)
    if request.method == "POST" and form.is_valid():
        saved = form.save(author=request.user)
        if proposal and "guidelines" in form.changed_data:
            version = saved.guideline_version
            decide(proposal, request.user, ProposalState.ACCEPTED, guideline_version=version)
        messages.success(request, "Saved.")
        return redirect("annotator:edit_project", project.slug)
    if form.errors:  # the form has put what was sent into the object that the page is about
        project, _ = get_access(request, slug, Role.ADMIN)
    is_open = GuidelineProposal.objects.filter(project=project, state=ProposalState.OPEN)
    context = {
        "form": form,
        "project": project,
        "role": Role.ADMIN,
        "proposal": proposal,
        "has_proposals": is_open.exists(),
        "pause": PauseForm(),
    }
    status = 422 if form.errors else 200
    return render(request, "annotator/project_form.html", context, status=status)


def _proposal_asked(request: HtmxRequest, project: Project) -> GuidelineProposal | None:
    """The open proposal that the address names: the settings are to take it up.

    If somebody has decided on it meanwhile, there is none for what is sent, and nothing typed is lost.
    """
    number = request.GET.get("proposal", "")
    if not number:
        return None
    pk = int(number) if number.isdecimal() and len(number) < 10 else 0
    still_open = project.proposals.filter(state=ProposalState.OPEN).select_related("author")
    if request.method == "POST":
        return still_open.filter(pk=pk).first()
    return get_object_or_404(still_open, pk=pk)


@login_required
def edit_protocol(request: HtmxRequest, slug: str) -> HttpResponse:
    """A preset in one click, or everything by hand. Votes that were given stay as they are."""
    project, role = get_access(request, slug, Role.ADMIN)
    protocol = protocol_of(project)
    presets = PresetForm(request.POST if "preset" in request.POST else None)
    by_hand = "strengths" in request.POST
    form = ProtocolForm(request.POST if by_hand else None, initial=_settings_of(protocol))
    if by_hand and form.is_valid():
        return _save_protocol(request, project, form.protocol)
    if presets.is_bound and presets.is_valid():
        return _save_protocol(request, project, PRESETS[presets.cleaned_data["preset"]].protocol)
    context = {
        "project": project,
        "role": role,
        "form": form,
        "presets": PRESETS,
        "chosen": preset_of(protocol),
        "has_votes": project.judgments.exists(),
    }
    status = 422 if form.errors or presets.errors else 200
    return render(request, "annotator/protocol.html", context, status=status)


def _settings_of(protocol: Protocol) -> dict[str, Any]:
    return {field.name: getattr(protocol, field.name) for field in fields(protocol)}


def _save_protocol(request: HtmxRequest, project: Project, protocol: Protocol) -> HttpResponse:
    project.set_protocol(to_json(protocol), request.user)
    messages.success(request, "Saved. The next comparison that is handed out is asked like this.")
    return redirect("annotator:edit_protocol", project.slug)


@require_POST
@login_required
def pause_project(request: HtmxRequest, slug: str) -> HttpResponse:
    """Hand out nothing new. What is on people's screens may still be sent."""
    project, _ = get_access(request, slug, Role.ADMIN)
    form = PauseForm(request.POST)
    if not form.is_valid():
        messages.error(request, "The note may have 200 characters at most.")
        return redirect("annotator:edit_project", project.slug)
    project.pause(form.cleaned_data["note"], request.user)
    messages.success(request, "Paused: nobody is handed anything new.")
    return redirect("annotator:edit_project", project.slug)


@require_POST
@login_required
def resume_project(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    project.resume(request.user)
    messages.success(request, "Resumed.")
    return redirect("annotator:edit_project", project.slug)
