"""Pages of the gate: which policy is current, what was tested, how a test stands.

Reviewers see them; only admins open, stop and overrule gates, or roll back. Annotators see nothing of
it, because they judge blind.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from annotator.access import Access, HtmxRequest, get_access
from annotator.models import Project, Role
from rlhf import gating, sequential
from rlhf.current import current_policy, has_decided_gate, newest_promotion, note_on_training
from rlhf.evaluation import interval
from rlhf.forms.gate import OLD_PAGE, GateForm, OverruleForm
from rlhf.gate_chart import chart_of
from rlhf.gate_models import Gate, GateState
from rlhf.inputs import why_not_answering
from rlhf.outlooks import incomplete, outlook_of_order
from rlhf.rounds import current_number, current_round
from rlhf.runs import RunRefused

PAGE_SIZE = 50
HISTORY_SHOWN = 20
UNPROCESSABLE = 422


# --- which policy is current --------------------------------------------------------------------
def card_of(project: Project) -> dict[str, Any]:
    """What the project page says of the current policy."""
    newest = newest_promotion(project)
    version = newest.version if newest else current_policy(project)
    decides = has_decided_gate(project)
    newest_round = None if decides else current_round(project)
    return {
        "version": version,
        "promotion": newest,
        "starts_rounds": decides,
        "round": newest_round if newest_round and newest_round.policy != version else None,
        "gate": gating.open_gate_of(project),
        "note": note_on_training(version) if version else "",
    }


@require_safe
@login_required
def gates(request: HtmxRequest, slug: str) -> HttpResponse:
    project, role = get_access(request, slug, Role.REVIEWER)
    promotions = project.promotions.select_related("version", "gate", "user")
    rows = project.gates.select_related("candidate", "incumbent", "decided_by")
    current = card_of(project)
    context = {
        "project": project,
        "role": role,
        "current": current,
        "problem": why_not_answering(current["version"]) if current["version"] else "",
        "promotions": promotions[:HISTORY_SHOWN],
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return render(request, "rlhf/gates.html", context)


@require_POST
@login_required
def roll_back(request: HtmxRequest, slug: str, number: int) -> HttpResponse:
    """Make current what became current by the promotion of this number."""
    project, _ = get_access(request, slug, Role.ADMIN)
    to = get_object_or_404(project.promotions.select_related("version"), number=number)
    after = request.POST.get("after", "")
    if not after.isdecimal():
        raise Http404("which policy is current?")
    try:
        made = gating.roll_back(project, to, request.user, after=int(after))
    except gating.GateRefused as refusal:
        messages.error(request, str(refusal))
    else:
        done = "is the current policy again." if made else "is the current policy already."
        messages.success(request, f"{to.version} {done}")
    return redirect("rlhf:gates", slug)


# --- one gate -----------------------------------------------------------------------------------
@login_required
def new_gate(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    if request.method != "POST":
        return _render_form(request, project, GateForm(project, initial=_asked(request, project)))
    form = GateForm(project, request.POST)
    if "estimate" in request.POST:
        return _render_form(request, project, form)
    if not form.is_valid():
        return _render_form(request, project, form, status=UNPROCESSABLE)
    try:
        gate = gating.open_gate(
            project, user=request.user, round_number=current_number(project), **form.order
        )
    except (gating.GateRefused, RunRefused) as refusal:
        form.add_error(None, str(refusal))
        return _render_form(request, project, form, status=UNPROCESSABLE)
    return redirect(gate)


def _asked(request: HtmxRequest, project: Project) -> dict[str, Any]:
    """The candidate that the address names: `?candidate=3`."""
    pk = request.GET.get("candidate", "")
    if not (pk.isascii() and pk.isdecimal() and len(pk) < 10):
        return {}
    found = project.model_versions.filter(pk=int(pk)).first()
    return {"candidate": found} if found else {}


def _render_form(
    request: HtmxRequest, project: Project, form: GateForm, status: int = 200
) -> HttpResponse:
    context = {
        "project": project,
        "role": Role.ADMIN,
        "form": form,
        "untested": card_of(project)["round"],
    }
    if form.can_start:
        context["outlook"] = _outlook(project, form)
    return render(request, "rlhf/new_gate.html", context, status=status)


@require_POST
@login_required
def estimate(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    context = {"project": project, "outlook": _outlook(project, GateForm(project, request.POST))}
    return render(request, "rlhf/_estimate.html", context)


def _outlook(project: Project, form: GateForm) -> dict[str, Any]:
    """What it will take until people can be asked."""
    # A form of its own: that a gate was refused says nothing about the settings.
    form = GateForm(project, form.data if form.is_bound else form.as_sent())
    if not form.is_valid():
        return incomplete(form)
    try:
        order = gating.run_of(project, round_number=current_number(project), **form.order)
    except gating.GateRefused as refusal:
        return {"problem": str(refusal)}
    return outlook_of_order(order)


@require_safe
@login_required
def gate(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, gate = _get_gate(request, slug, pk)
    return _render_gate(request, access, gate, OverruleForm())


@require_safe
@login_required
def gate_status(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, gate = _get_gate(request, slug, pk)
    return render(request, "rlhf/_gate_status.html", _context(access, gate))


@require_POST
@login_required
def stop_gate(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    _, gate = _get_gate(request, slug, pk, Role.ADMIN)
    gating.stop(gate, request.user)
    return redirect(gate)


@require_POST
@login_required
def overrule_gate(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    access, gate = _get_gate(request, slug, pk, Role.ADMIN)
    form = OverruleForm(request.POST)
    if form.is_valid():
        try:
            gating.overrule(gate, user=request.user, **form.cleaned_data)
        except gating.GateRefused as refusal:
            form.add_error(None, str(refusal))
            access, gate = _get_gate(request, slug, pk, Role.ADMIN)  # as it is by now
        else:
            return redirect(gate)
    elif form.is_from_old_page():
        form.add_error(None, OLD_PAGE)
    return _render_gate(request, access, gate, form, status=UNPROCESSABLE)


def _get_gate(
    request: HtmxRequest, slug: str, pk: int, at_least: Role = Role.REVIEWER
) -> tuple[Access, Gate]:
    access = get_access(request, slug, at_least)
    rows = access.project.gates.select_related(
        "project", "candidate", "incumbent", "run__project", "decided_by", "created_by"
    )
    return access, get_object_or_404(rows, pk=pk)


def _render_gate(
    request: HtmxRequest, access: Access, gate: Gate, form: OverruleForm, status: int = 200
) -> HttpResponse:
    context = {**_context(access, gate), "form": form, "newest": newest_promotion(access.project)}
    return render(request, "rlhf/gate.html", context, status=status)


def _context(access: Access, gate: Gate) -> dict[str, Any]:
    standing = gating.standing_of(gate)
    counted = standing.counted
    points = sequential.sequence(counted, gate.rule)
    same = standing.same
    is_voting = gate.state == GateState.VOTING
    return {
        **access._asdict(),
        "gate": gate,
        "standing": standing,
        "points": points,
        "last": points[-1] if points else None,
        "chart": chart_of(points, gate.margin),
        "wins": sum(outcome > sequential.EVEN for outcome in counted),
        "losses": sum(outcome < sequential.EVEN for outcome in counted),
        "ties": sum(outcome == sequential.EVEN for outcome in counted),
        "n_late": len(standing.outcomes) - len(counted),
        "error_rate": f"{100 * gate.alpha:g}\u00a0%",
        "wanted": sequential.EVEN + gate.margin,
        "forecast": gating.forecast(gate, standing) if is_voting else None,
        "problem": gating.problem_of(gate, standing),
        "silence": gating.silence(gate, standing),
        "is_about_to_decide": is_voting and standing.decision is not None,
        "left": _share(same.left_wins, same.decided),
        "first": _share(same.first_wins, same.decided),
        "n_identical": gate.run.result.get("n_identical", 0),
        "n_held": gate.run.result.get("n_held", 0),
    }


def _share(n: int, of: int) -> dict[str, Any] | None:
    """With its interval; None of nothing."""
    if not of:
        return None
    low, high = interval(n, of)
    return {"value": n / of, "low": low, "high": high}
