"""Launching a run by its page's form without the page: for the API and for commands."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS
from django.core.management.base import CommandError

from annotator.models import Project
from rlhf import rounds
from rlhf.form_words import choices_of
from rlhf.forms import FORMS, RunForm
from rlhf.inputs import MISSING_SENTENCES, RunRefused
from rlhf.models import Run, RunKind, Status
from rlhf.runs import launch, run_to_end


def shown_form(project: Project, kind: RunKind) -> RunForm:
    """The page's form as it is shown at first."""
    return FORMS[kind](project, initial=rounds.suggestions(project, kind))


def form_with(project: Project, kind: RunKind, settings: dict[str, Any]) -> RunForm:
    """The page's form, as it would be sent with these settings changed."""
    return FORMS[kind](project, {**shown_form(project, kind).as_sent().data, **settings})


# --- commands -------------------------------------------------------------------------------------
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


def datasets_named(project: Project, names: list[str] | None) -> list[int] | None:
    """Their numbers, as a form has them. Raises CommandError with those that there are."""
    if names is None:
        return None
    known = dict(project.datasets.values_list("name", "pk"))
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(known) or "none yet"
        raise CommandError(f"{project} has no dataset {unknown[0]!r}. There are: {there}.")
    return [known[name] for name in names]


def launch_by_command(project: Project, kind: RunKind, settings: dict[str, Any]) -> Run:
    """Those that are None are as on the page. Raises CommandError with what the form would say."""
    given = {name: value for name, value in settings.items() if value is not None}
    return launch_form(form_with(project, kind, given))


def launch_form(form: RunForm) -> Run:
    """Raises CommandError with all that is wrong, or with why the run is refused."""
    refuse_wrong(form)
    try:
        return launch(
            form.project,
            form.kind,
            form.settings,
            round_number=rounds.current_number(form.project),
            **form.named_arguments,
        )
    except RunRefused as refusal:
        raise CommandError(str(refusal)) from refusal


def refuse_wrong(form: forms.BaseForm, wrong: Mapping[str, str] | None = None) -> None:
    """Raises CommandError with a line for each field that is wrong: as was found before, by name, or as
    the form says, with what may stand there."""
    said = {
        name: " ".join([*map(str, errors), *_right(form, name)])
        for name, errors in form.errors.items()
    }
    if lines := {**said, **(wrong or {})}:
        raise CommandError(
            "\n".join(
                sentence if name == NON_FIELD_ERRORS else f"{name}: {sentence}"
                for name, sentence in lines.items()
            )
        )


def _right(form: forms.BaseForm, name: str) -> Iterator[str]:
    field = form.fields.get(name)
    if isinstance(field, forms.ModelChoiceField):
        rows: Any = field.queryset
        if name in MISSING_SENTENCES and not rows.exists():
            yield MISSING_SENTENCES[name]
    elif form.errors.as_data()[name][0].code == "invalid_choice":
        yield f"There are: {', '.join(choices_of(field))}."


def carry_to_end(run: Run) -> Run:
    """See the run through here, or wait for who does. Whoever presses Ctrl-C does not wait any more; its
    process does not notice, and the trainer or the worker takes over."""
    try:
        return run_to_end(run)
    except KeyboardInterrupt:
        raise CommandError(
            f"{run} goes on without you. To end it: manage.py run {run.project.slug} --stop {run.pk}",
            returncode=128 + signal.SIGINT,
        ) from None


def refuse_unless_succeeded(run: Run) -> None:
    """Raises CommandError with how it ended instead."""
    if run.status != Status.SUCCEEDED:
        raise CommandError(f"{run} {run.get_status_display().lower()}. {run.error}".strip())
