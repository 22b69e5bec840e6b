"""Who may see and do what, asked once per request. What one may not see does not exist: 404."""

from __future__ import annotations

from typing import NamedTuple, cast

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django_htmx.middleware import HtmxDetails

from annotator.compiled import compiled
from annotator.models import Membership, Project, Role, User

RANK = {Role.ANNOTATOR: 0, Role.REVIEWER: 1, Role.ADMIN: 2}


class Access(NamedTuple):
    """A project and what the signed-in person may do in it."""

    project: Project
    role: Role

    @property
    def is_reviewer(self) -> bool:
        return RANK[self.role] >= RANK[Role.REVIEWER]

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


class HtmxRequest(HttpRequest):
    """A request of somebody who is signed in, as our middleware leaves it. For type checkers."""

    user: User
    htmx: HtmxDetails


def role_in(project: Project, user: User) -> Role | None:
    """The person's role; None for outsiders. Superusers are admins everywhere."""
    if user.is_superuser:
        return Role.ADMIN
    membership = user.membership_in(project)
    return Role(membership.role) if membership else None


def may_create(user: User) -> bool:
    """Who administers a project may make another; the first is made by a superuser."""
    return user.is_superuser or Project.objects.administered_by(user).exists()


@compiled
def _membership(user: int, slug: str) -> QuerySet[Membership]:
    return Membership.objects.select_related("project").filter(user=user, project__slug=slug)


def get_access(request: HttpRequest, slug: str, at_least: Role = Role.ANNOTATOR) -> Access:
    """The project and the role of the signed-in person in it. Raises Http404 below `at_least`.

    What it finds of a member is kept with `request.user`, for those who ask for it later.
    """
    user = cast(User, request.user)
    project: Project | None
    if own := _membership(user.pk or 0, slug):  # 0: nobody is signed in
        user.seen_membership, project = own[0], own[0].project
    else:
        project = Project.objects.visible_to(user).filter(slug=slug).first()
    role = role_in(project, user) if project else None
    if project is None or role is None or RANK[role] < RANK[at_least]:
        raise Http404("No such project.")
    return Access(project, role)
