"""Invitations by link: the admin's list of them, and the page that a link opens."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from annotator import invitations as links
from annotator.access import HtmxRequest, get_access
from annotator.forms import AccountForm, InvitationForm
from annotator.models import Invitation, Membership, Project, Role
from annotator.views.review import page_of

UNKNOWN = "This link leads nowhere: it may have been cut when it was copied."


@login_required
def invitations(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    return _invitations_page(request, project, InvitationForm())


def _invitations_page(
    request: HtmxRequest,
    project: Project,
    form: InvitationForm,
    *,
    link: str = "",
    status: int = 200,
) -> HttpResponse:
    rows = project.invitations.select_related("created_by")
    context = {
        "project": project,
        "role": Role.ADMIN,
        "page": page_of(rows, request.GET.get("before", "")),
        "form": form,
        "link": link,
    }
    return render(request, "annotator/invitations.html", context, status=status)


@require_POST
@login_required
@never_cache
def create_invitation(request: HtmxRequest, slug: str) -> HttpResponse:
    """Make a link, and show it, this once."""
    project, _ = get_access(request, slug, Role.ADMIN)
    form = InvitationForm(request.POST)
    if not form.is_valid():
        return _invitations_page(request, project, form, status=422)
    _, token = links.invite(project, request.user, **form.cleaned_data)
    link = request.build_absolute_uri(reverse("annotator:join", args=[token]))
    return _invitations_page(request, project, InvitationForm(), link=link)


@require_POST
@login_required
def revoke_invitation(request: HtmxRequest, slug: str, pk: int) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    if links.revoke(project, pk, request.user):
        messages.success(request, f"Link {pk} works no more.")
    else:
        messages.info(request, f"There is no link {pk} that could be revoked.")
    return redirect("annotator:invitations", project.slug)


@never_cache
@sensitive_post_parameters("password1", "password2")
def join(request: HttpRequest, token: str) -> HttpResponse:
    """What a link opens: a button for who is signed in, a form for who has no account yet."""
    invitation = links.find(token)
    if invitation is None:
        return _no_use(request, UNKNOWN, status=404)
    if _is_member(request, invitation):
        return redirect("annotator:compare", invitation.project.slug)
    if invitation.problem:
        return _no_use(request, invitation.problem, status=410)
    form = AccountForm(request.POST or None)
    if request.method == "POST":
        try:
            if _join(request, invitation, form):
                messages.info(request, _welcome(request, invitation.project))
                return redirect("annotator:compare", invitation.project.slug)
        except links.NotJoined as error:
            return _no_use(request, str(error), status=410)
    context = {"invitation": invitation, "form": form, "link": request.path}
    return render(request, "annotator/join.html", context, status=422 if form.errors else 200)


def _is_member(request: HttpRequest, invitation: Invitation) -> bool:
    if not request.user.is_authenticated:
        return False
    return Membership.objects.filter(project=invitation.project, user=request.user).exists()


def _join(request: HttpRequest, invitation: Invitation, form: AccountForm) -> bool:
    """Whether the person is in now; if not, the form says why. Raises NotJoined."""
    if request.user.is_authenticated:
        links.join(invitation, request.user)
        return True
    if not form.is_valid():
        return False
    try:
        user = links.join_with_new_account(invitation, form)
    except IntegrityError:
        form.add_error("username", "Somebody took this name a moment ago.")
        return False
    login(request, user)
    return True


def _welcome(request: HttpRequest, project: Project) -> str:
    assert request.user.is_authenticated  # they have just joined
    if project.memberships.filter(user=request.user, is_qualified=True).exists():
        return f"Welcome to {project}."
    return (
        f"Welcome back to {project}. Your earlier votes here were withdrawn, and stay so. "
        "You are handed comparisons again when an admin says so."
    )


def _no_use(request: HttpRequest, problem: str, status: int) -> HttpResponse:
    return render(request, "annotator/join.html", {"problem": problem}, status=status)
