"""Launch a run of any kind, as its form suggests but for what is said here; or stop or resume one.

Examples:
  run --list                                the kinds of runs
  run essays supervised --fields            what can be said, and what holds if nothing is
  run essays supervised datasets=polite datasets=short epochs=1
  run essays dpo export=3 --estimate        what it would take, in time, memory, tokens and money
  run essays dpo export=3 policy=policy-r1-v2 --wait
  run essays combine parts="0.7 kind" parts="-0.2 rambling" name="kind and short"
  run essays --stop 12
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf import form_words, runs
from rlhf.forms import FORMS, RunForm
from rlhf.inputs import RunRefused
from rlhf.launching import (
    carry_to_end,
    form_with,
    launch_form,
    project_named,
    refuse_unless_succeeded,
    refuse_wrong,
    shown_form,
)
from rlhf.models import Run, RunKind
from rlhf.outlooks import figures_of


class Command(BaseCommand):
    help = __doc__

    def create_parser(self, *args: Any, **options: Any) -> Any:
        parser = super().create_parser(
            *args, formatter_class=RawDescriptionHelpFormatter, **options
        )
        # Else no setting could stand behind an option, as in `run essays dpo --wait epochs=1`.
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", nargs="?", help="its slug")
        parser.add_argument("kind", nargs="?", help="of run; --list has them")
        parser.add_argument(
            "words",
            nargs="*",
            metavar="NAME=VALUE",
            help="a setting; models and datasets by name or number, exports by number. Again for one "
            "more dataset or line; NAME= for nothing",
        )
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--list", action="store_true", help="print the kinds of runs")
        instead.add_argument(
            "--fields", action="store_true", help="print what can be set, and to what it is"
        )
        instead.add_argument(
            "--estimate", action="store_true", help="print what it would take, and launch nothing"
        )
        instead.add_argument("--stop", type=int, metavar="RUN", help="ask it to save and end")
        instead.add_argument("--resume", type=int, metavar="RUN", help="from its last checkpoint")
        parser.add_argument(
            "--wait", action="store_true", help="carry it out here, and print what came of it"
        )

    def handle(self, **options: Any) -> None:
        if options["list"]:
            self.stdout.write("\n".join(_kinds()))
            return
        if options["project"] is None:
            raise CommandError("Name a project and a kind of run; --list has the kinds.")
        project = project_named(options["project"])
        if options["fields"]:
            form = shown_form(project, _kind(options["kind"]))
            self.stdout.write("\n".join(form_words.describe(form)))
            return
        if options["estimate"]:
            form = _form(project, _kind(options["kind"]), options["words"])
            self.stdout.write(json.dumps(_estimate(form), ensure_ascii=False))
            return
        run = _run(project, options)
        if options["wait"]:
            run = carry_to_end(run)
        self.stdout.write(json.dumps(_report(run), ensure_ascii=False))
        if options["wait"] and options["stop"] is None:
            refuse_unless_succeeded(run)


def _kinds() -> Iterator[str]:
    width = max(len(kind) for kind in FORMS)
    for kind, form in FORMS.items():
        yield f"{kind:{width}}  {form.intro.split('. ')[0].rstrip('.')}."


def _kind(said: str | None) -> RunKind:
    if said not in FORMS:
        wrong = f"There is no kind of run {said!r}." if said else "Name a kind of run."
        raise CommandError(f"{wrong} There are: {', '.join(FORMS)}.")
    return RunKind(said)


def _run(project: Project, options: dict[str, Any]) -> Run:
    """The run that was asked for: stopped, resumed, or else launched."""
    number = options["resume"] if options["stop"] is None else options["stop"]
    if number is None:
        return launch_form(_form(project, _kind(options["kind"]), options["words"]))
    if options["kind"] is not None:
        raise CommandError("Of a run that is there already, only the number is said.")
    run = project.runs.filter(pk=number).first()
    if run is None:
        raise CommandError(f"{project} has no run {number}.")
    if options["stop"] is None:
        _resume(run)
    elif run.is_active:
        runs.request_stop(run)
    else:
        raise CommandError(f"{run} has ended already: there is nothing to stop.")
    run.refresh_from_db()
    return run


def _form(project: Project, kind: RunKind, words: list[str]) -> RunForm:
    """Filled in. Raises CommandError with all that is wrong."""
    said = form_words.read(shown_form(project, kind), words)
    form = form_with(project, kind, said.values)
    refuse_wrong(form, said.wrong)
    return form


def _estimate(form: RunForm) -> dict[str, Any]:
    try:
        return figures_of(form)
    except RunRefused as refusal:
        raise CommandError(str(refusal)) from refusal


def _resume(run: Run) -> None:
    try:
        runs.resume(run)
    except RunRefused as refusal:
        raise CommandError(str(refusal)) from refusal


def _report(run: Run) -> dict[str, Any]:
    found = {
        "run": run.pk, "kind": run.kind, "status": run.status, "address": run.get_absolute_url(),
    }  # fmt: skip
    if run.is_active:
        return found
    made = {
        "models": [version.name for version in run.outputs.all()],
        "datasets": [dataset.name for dataset in run.datasets_made.all()],
    }
    return {**found, "error": run.error, **made, "result": run.result}
