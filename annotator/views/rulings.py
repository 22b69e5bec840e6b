"""What reviewers write on a comparison, and the proposals that admins decide on."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from annotator import reviewing
from annotator.access import Access, HtmxRequest, get_access
from annotator.forms import CommentForm, DeclineForm, ProposalForm, RulingForm
from annotator.models import Comment, Comparison, GuidelineProposal, ProposalState, Role
from annotator.views.review import comparison_page, page_of


def _get_comparison(request: HtmxRequest, slug: str, pk: int) -> tuple[Access, Comparison]:
    access = get_access(request, slug, Role.REVIEWER)
    return access, get_object_or_404(access.project.comparisons, pk=pk)


@require_POST
@login_required
def rule(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, comparison = _get_comparison(request, slug, pk)
    completions = list(comparison.entries.values_list("completion_id", flat=True))
    form = RulingForm(completions, data=request.POST)
    if not form.is_valid():
        return comparison_page(request, access, pk, status=422, ruling_form=form)
    said = form.cleaned_data
    reviewing.rule(
        comparison,
        request.user,
        said["verdict"],
        said["ranking"],
        explanation=said["explanation"].strip(),
        is_example=said["is_example"],
    )
    messages.success(request, "Your ruling is kept beside the votes.")
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
def end_ruling(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, comparison = _get_comparison(request, slug, pk)
    reviewing.take_back_ruling(comparison, request.user)
    messages.success(request, "The ruling is taken back; its row stays.")
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
def comment(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, comparison = _get_comparison(request, slug, pk)
    form = CommentForm(request.POST, auto_id="comment_%s")
    if not form.is_valid():
        return comparison_page(request, access, pk, status=422, comment_form=form)
    text = form.cleaned_data["text"]
    Comment.objects.create(comparison=comparison, author=request.user, text=text)
    return redirect("annotator:comparison", slug, pk)


@require_POST
@login_required
def propose(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, comparison = _get_comparison(request, slug, pk)
    form = ProposalForm(request.POST, auto_id="proposal_%s")
    if not form.is_valid():
        return comparison_page(request, access, pk, status=422, proposal_form=form)
    GuidelineProposal.objects.create(
        project=access.project,
        comparison=comparison,
        author=request.user,
        text=form.cleaned_data["text"],
    )
    messages.success(request, "Your proposal waits for an admin.")
    return redirect("annotator:comparison", slug, pk)


@login_required
def proposals(request: HtmxRequest, slug: str) -> HttpResponse:
    access = get_access(request, slug, Role.REVIEWER)
    return _proposals_page(request, access)


def _proposals_page(request: HtmxRequest, access: Access, status: int = 200) -> HttpResponse:
    state = request.GET.get("state", "")
    state = state if state in ProposalState.values else ProposalState.OPEN
    rows = access.project.proposals.filter(state=state)
    context = {
        **access._asdict(),
        "page": page_of(rows.select_related("author", "decided_by"), request.GET.get("before", "")),
        "state": state,
        "states": ProposalState.choices,
        "keep": f"state={state}",
    }
    return render(request, "annotator/proposals.html", context, status=status)


@require_POST
@login_required
def decline_proposal(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access = get_access(request, slug, Role.ADMIN)
    proposal = get_object_or_404(access.project.proposals, pk=pk)
    form = DeclineForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say why you decline: at most 2,000 characters.")
        return _proposals_page(request, access, status=422)
    reason = form.cleaned_data["reason"]
    if not reviewing.decide(proposal, request.user, ProposalState.DECLINED, reason=reason):
        messages.info(request, "Somebody has decided on this proposal meanwhile.")
    return redirect("annotator:proposals", slug)
