"""Freeze the votes of a project as a preference dataset."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.exporting import NotExported, create_export
from annotator.models import Project


class Command(BaseCommand):
    help = "Freeze the votes of a project as a preference dataset (docs/data-format.md)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument(
            "--round", type=int, metavar="N", help="Only rounds up to this one (all rounds)."
        )
        parser.add_argument(
            "--rulings", action="store_true", help="Count reviewers' rulings as votes (no)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            export = create_export(
                project, round_number=options["round"], use_rulings=options["rulings"]
            )
        except NotExported as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{export}: {export.folder}")
