"""Launching a run by its page's form without the page: for the API and for commands."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from annotator.models import Project
from rlhf import rounds
from rlhf.forms import FORMS, RunForm
from rlhf.inputs import RunRefused
from rlhf.models import Run, RunKind
from rlhf.runs import launch


def form_with(project: Project, kind: RunKind, settings: dict[str, Any]) -> RunForm:
    """The page's form, as it would be sent with these settings changed."""
    shown = FORMS[kind](project, initial=rounds.suggestions(project, kind))
    return FORMS[kind](project, {**shown.as_sent().data, **settings})


def project_named(slug: str) -> Project:
    """Raises CommandError if there is none."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        raise CommandError(f"There is no project {slug!r}.")
    return project


def version_named(project: Project, name: str | None) -> int | None:
    """The number of a model version, as a form has it. Raises CommandError if there is none."""
    if name is None:
        return None
    version = project.model_versions.filter(name=name).first()
    if version is None:
        raise CommandError(f"{project} has no model version {name!r}.")
    return version.pk


def launch_by_command(project: Project, kind: RunKind, settings: dict[str, Any]) -> Run:
    """Those that are None are as on the page. Raises CommandError with what the form would say."""
    given = {name: value for name, value in settings.items() if value is not None}
    form = form_with(project, kind, given)
    if not form.is_valid():
        said = [f"{name}: {' '.join(map(str, found))}" for name, found in form.errors.items()]
        raise CommandError("\n".join(said))
    number = rounds.current_number(project)
    try:
        return launch(project, kind, form.settings, round_number=number, **form.named_arguments)
    except RunRefused as refusal:
        raise CommandError(str(refusal)) from refusal
