"""The members of a project."""

from __future__ import annotations

import secrets
from statistics import fmean
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.forms.models import model_to_dict
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from annotator import assignment as queue
from annotator.access import HtmxRequest, get_access
from annotator.audit import Action, changes, record
from annotator.forms import MembershipForm, MoveForm, NewMemberForm, WorkForm
from annotator.gold import is_qualifying, qualification_shares, set_qualification
from annotator.models import (
    IN_HAND,
    Assignment,
    Judgment,
    Membership,
    Project,
    Role,
    User,
    Withdrawal,
)
from annotator.withdrawing import is_being_withdrawn, was_withdrawn

MEMBERS_SHOWN = 50
OTHERS_SHOWN = 50
QUOTAS = ["quota_total", "quota_per_day"]


@login_required
def members(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    return _members_page(request, project, NewMemberForm())


def _members_page(
    request: HtmxRequest,
    project: Project,
    form: NewMemberForm,
    *,
    status: int = 200,
    account: tuple[str, str] | None = None,
) -> HttpResponse:
    """`account`: name and password of the account just made."""
    name = request.GET.get("name", "").strip()
    rows = _with_work(project.memberships.filter(user__username__icontains=name))
    others = list(_voters_without_membership(project)[: OTHERS_SHOWN + 1])
    context = {
        "project": project,
        "role": Role.ADMIN,
        "page": Paginator(rows, MEMBERS_SHOWN).get_page(request.GET.get("page")),
        "name": name,
        "keep": urlencode({"name": name} if name else {}),
        "others": others[:OTHERS_SHOWN],
        "others_are_cut": len(others) > OTHERS_SHOWN,
        "withdrawals": project.withdrawals.select_related("annotator")[:OTHERS_SHOWN],
        "roles": Role.choices,
        "form": form,
        "account": account,
    }
    return render(request, "annotator/members.html", context, status=status)


def _with_work(memberships: QuerySet[Membership]) -> QuerySet[Membership]:
    """By name, each with `n_judged`, `last_active` and `was_withdrawn`: probes of an index per row of
    the page."""
    judged = Judgment.objects.filter(project=OuterRef("project"), annotator=OuterRef("user"))
    counted = judged.counted().order_by().values("project").annotate(n=Count("pk")).values("n")
    last = judged.order_by("-created").values("created")[:1]
    withdrawn = Withdrawal.objects.filter(project=OuterRef("project"), annotator=OuterRef("user"))
    return (
        memberships.select_related("user")
        .annotate(n_judged=Coalesce(Subquery(counted), 0), last_active=Subquery(last))
        .annotate(was_withdrawn=Exists(withdrawn))
        .order_by("user__username")
    )


def _voters_without_membership(project: Project) -> QuerySet[User]:
    """Who was removed, mostly: their votes still count."""
    judged = Judgment.objects.counted().filter(project=project, annotator=OuterRef("pk"))
    member = Membership.objects.filter(project=project, user=OuterRef("pk"))
    return User.objects.filter(Exists(judged), ~Exists(member)).order_by("username")


@require_POST
@login_required
@never_cache
def add_member(request: HtmxRequest, slug: str) -> HttpResponse:
    """Add somebody; for a new name, make an account and show its password, this once."""
    project, _ = get_access(request, slug, Role.ADMIN)
    form = NewMemberForm(request.POST)
    if not form.is_valid():
        return _members_page(request, project, form, status=422)
    username, role = form.cleaned_data["username"], form.cleaned_data["role"]
    with transaction.atomic():
        user, is_new = User.objects.get_or_create(username=username)
        added, is_added = Membership.objects.get_or_create(
            project=project,
            user=user,
            defaults={"role": role, "is_qualified": not was_withdrawn(project, user)},
        )
        if is_added:
            details = {"role": role, "is_new_account": is_new}
            record(request.user, Action.ADDED, added, project=project, **details)
        if is_new:
            password = secrets.token_urlsafe(9)
            user.set_password(password)
            user.save(update_fields=["password"])
    if is_new:  # shown on this page alone: a message would put the password into a cookie
        return _members_page(request, project, NewMemberForm(), account=(username, password))
    if is_added and not added.is_qualified:
        messages.warning(
            request,
            f"{username} is a member again. Their earlier votes were withdrawn, and stay void; to have "
            "them judge once more, tick “Is handed comparisons”.",
        )
    elif is_added:
        messages.success(request, f"{username} is a member now.")
    else:
        messages.info(request, f"{username} is a member already.")
    return redirect("annotator:members", project.slug)


@require_POST
@login_required
def change_member(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    form = MembershipForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles.")
        return _back(request, project)
    with transaction.atomic():
        membership = _locked(project, pk)
        if form.cleaned_data["role"] != Role.ADMIN and _is_last_admin(membership):
            messages.error(request, f"{membership.user} is the only admin: make another one first.")
        elif form.cleaned_data["is_qualified"] and is_being_withdrawn(project, membership.user):
            messages.error(
                request,
                f"{membership.user} is still being withdrawn, and new votes would be voided as well: "
                "let “Withdraw…” come to its end first.",
            )
        else:
            changed = changes(model_to_dict(membership, form.cleaned_data), form.cleaned_data)
            membership.role = form.cleaned_data["role"]
            membership.is_qualified = form.cleaned_data["is_qualified"]
            membership.save(update_fields=["role", "is_qualified"])
            if changed:
                record(request.user, Action.CHANGED, membership, project=project, **changed)
            messages.success(request, f"{membership.user}: saved.")
    return _back(request, project)


@require_POST
@login_required
def remove_member(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """End a membership. What the person has judged stays."""
    project, _ = get_access(request, slug, Role.ADMIN)
    with transaction.atomic():
        membership = _locked(project, pk)
        if _is_last_admin(membership):
            messages.error(request, f"{membership.user} is the only admin: make another one first.")
        else:
            record(request.user, Action.REMOVED, membership, project=project)
            membership.delete()
            queue.release_all(project, membership.user)
            messages.success(request, f"{membership.user} is not a member any more.")
    return _back(request, project)


def _back(request: HtmxRequest, project: Project) -> HttpResponse:
    """To the page of the list from which the form was sent."""
    query = f"?{request.GET.urlencode()}" if request.GET else ""
    return redirect(reverse("annotator:members", args=[project.slug]) + query)


# --- the work of one member ---------------------------------------------------------------------
@login_required
def member(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Quotas, qualification, and what they have in hand."""
    project, _ = get_access(request, slug, Role.ADMIN)
    membership = get_object_or_404(project.memberships.select_related("user"), pk=pk)
    form = WorkForm(request.POST or None, instance=membership)
    before = model_to_dict(membership, [*QUOTAS, "qualification"])
    if request.method == "POST" and form.is_valid():
        _save_work(request.user, membership, before, form.cleaned_data)
        messages.success(request, f"{membership.user}: saved.")
        return redirect("annotator:member", project.slug, pk)
    if form.errors:  # the form has put what was sent into the object that the page is about
        membership.refresh_from_db()
    shares = qualification_shares(membership) if is_qualifying(project, membership) else None
    context = {
        "project": project,
        "role": Role.ADMIN,
        "membership": membership,
        "form": form,
        "n_answered": None if shares is None else len(shares),
        "share_so_far": fmean(shares) if shares else None,
        "in_hand": _in_hand(project, membership.user),
        "move": MoveForm(project),
    }
    return render(request, "annotator/member.html", context, status=422 if form.errors else 200)


@transaction.atomic
def _save_work(
    user: User, membership: Membership, before: dict[str, Any], wanted: dict[str, Any]
) -> None:
    quotas = {name: wanted[name] for name in QUOTAS}
    Membership.objects.filter(pk=membership.pk).update(**quotas)
    if changed := changes(before, quotas):
        record(user, Action.CHANGED, membership, project=membership.project, **changed)
    if wanted["qualification"] != before["qualification"]:
        membership.qualification = before["qualification"]
        set_qualification(membership, wanted["qualification"], user=user)


def _in_hand(project: Project, user: User) -> QuerySet[Assignment]:
    in_hand = Assignment.objects.filter(IN_HAND, project=project, annotator=user)
    return in_hand.select_related("comparison__prompt").order_by("state", "pk")


@require_POST
@login_required
def move_assignment(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    """Give what somebody has in hand back to the queue, or to another member."""
    project, _ = get_access(request, slug, Role.ADMIN)
    assignment = get_object_or_404(
        Assignment.objects.select_related("comparison__prompt", "project", "annotator"),
        pk=pk,
        project=project,
    )
    form = MoveForm(project, request.POST)
    if not form.is_valid():
        messages.error(request, "Choose a member of this project.")
    elif to := form.cleaned_data["to"]:
        try:
            queue.move(assignment, to)
        except queue.NotMoved as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"{to} is handed comparison {assignment.comparison_id} next.")
    elif queue.release(assignment):
        messages.success(request, f"Comparison {assignment.comparison_id} is back in the queue.")
    else:
        messages.info(request, f"{assignment.annotator} no longer has it.")
    membership = project.memberships.filter(user=assignment.annotator).first()
    if membership is None:
        return redirect("annotator:members", project.slug)
    return redirect("annotator:member", project.slug, membership.pk)


def _locked(project: Project, pk: int) -> Membership:
    """The membership; all admins' rows are locked, so that two cannot remove each other."""
    list(project.memberships.select_for_update().filter(role=Role.ADMIN).order_by("pk"))
    return get_object_or_404(project.memberships.select_related("user"), pk=pk)


def _is_last_admin(membership: Membership) -> bool:
    others = membership.project.memberships.filter(role=Role.ADMIN).exclude(pk=membership.pk)
    return membership.role == Role.ADMIN and not others.exists()
