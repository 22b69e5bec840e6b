"""Screen a project's prompts and answers, an export or a dataset, and say what was found."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf import runs, screening
from rlhf.forms import ScreenForm
from rlhf.inputs import RunRefused
from rlhf.launching import carry_to_end, refuse_unless_succeeded
from rlhf.models import Run, RunKind
from rlhf.rounds import current_number
from rlhf.training.screen_config import NOTHING, SEVERITIES


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="slug of the project")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--export", type=int, metavar="N", help="number of an export")
        what.add_argument("--dataset", type=int, metavar="N", help="number of a dataset")
        parser.add_argument(
            "--quarantine-from",
            choices=(*SEVERITIES, NOTHING),
            default="high",
            help="what is left out of training: findings from this severity on",
        )
        parser.add_argument("--json", action="store_true", help="the result as one object")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        run = carry_to_end(self._launch(project, options))
        refuse_unless_succeeded(run)
        if options["json"]:
            self.stdout.write(json.dumps({"run": run.pk, **run.result}, ensure_ascii=False))
        else:
            self.stdout.write("\n".join(in_words(run)))

    def _launch(self, project: Project, options: dict[str, Any]) -> Run:
        kinds = [kind for kind in ("export", "dataset") if options[kind] is not None]
        name = f"{kinds[0]}-{options[kinds[0]]}" if kinds else screening.PROJECT
        try:
            screening.find(project, name)
            form = ScreenForm(
                project,
                initial={"screened": name, "quarantine_from": options["quarantine_from"]},
            ).as_sent()
            form.full_clean()
            return runs.launch(
                project, RunKind.SCREEN, form.settings, round_number=current_number(project)
            )
        except (RunRefused, screening.CannotScreen) as error:
            raise CommandError(str(error)) from error


def in_words(run: Run) -> Iterator[str]:
    result = run.result
    yield (
        f"{run}: {result['n_rows']:,} texts of {screening.in_words(run.config['screened'])}, "
        f"{result['n_quarantined']:,} in quarantine"
    )
    for count in screening.counts_of(run):
        held_out = f", of which {count.held_out:,} held out" if count.held_out else ""
        yield f"  {count.about.label} ({count.about.severity}): {count.rows:,}{held_out}"
    if not result["counts"]:
        yield "  nothing was found"
