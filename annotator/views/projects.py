"""The list of projects, a new one, and its settings."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render

from annotator.access import HtmxRequest, get_access
from annotator.forms import ProjectForm
from annotator.models import Membership, Project, Role, User

PROJECTS_SHOWN = 200


@login_required
def home(request: HtmxRequest) -> HttpResponse:
    user = request.user
    projects = list(Project.objects.visible_to(user)[:PROJECTS_SHOWN])
    memberships = Membership.objects.filter(user=user, project__in=projects)
    roles = {membership.project_id: Role(membership.role) for membership in memberships}
    rows = [(p, roles.get(p.pk, Role.ADMIN), p.comparisons.open().exists) for p in projects]
    context = {"rows": rows, "may_create": may_create(user)}
    return render(request, "annotator/home.html", context)


def may_create(user: User) -> bool:
    """Who administers a project may make another; the first is made by a superuser."""
    return user.is_superuser or Project.objects.administered_by(user).exists()


@login_required
def new_project(request: HtmxRequest) -> HttpResponse:
    if not may_create(request.user):
        raise Http404
    form = ProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            project = form.save()
            Membership.objects.create(project=project, user=request.user, role=Role.ADMIN)
        messages.success(request, f"{project} is ready. Import prompts to begin.")
        return redirect("annotator:import_file", project.slug)
    context = {"form": form}
    status = 422 if form.errors else 200
    return render(request, "annotator/project_form.html", context, status=status)


@login_required
def edit_project(request: HtmxRequest, slug: str) -> HttpResponse:
    project, _ = get_access(request, slug, Role.ADMIN)
    form = ProjectForm(request.POST or None, instance=project)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Saved.")
        return redirect("annotator:edit_project", project.slug)
    if form.errors:  # the form has put what was sent into the object that the page is about
        project, _ = get_access(request, slug, Role.ADMIN)
    context = {"form": form, "project": project, "role": Role.ADMIN}
    status = 422 if form.errors else 200
    return render(request, "annotator/project_form.html", context, status=status)
