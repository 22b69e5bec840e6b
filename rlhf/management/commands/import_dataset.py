"""Make a dataset of files and folders, or of an export."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.models import Project
from rlhf.dataset_reading import BadRows, sources_in
from rlhf.datasets import DatasetRefused
from rlhf.making_datasets import TAKEN, dataset_of_export, dataset_of_files
from rlhf.models import Dataset, DatasetKind


class Command(BaseCommand):
    help = (
        "Make a dataset that supervised or domain tuning learns from (docs/fine-tuning.md): of files, "
        "of all files below folders, or of the votes of an export. All rows are good, or none is taken."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument("name", help="Of the dataset.")
        parser.add_argument("paths", nargs="*", type=Path, help="Files and folders.")
        parser.add_argument("--text", action="store_true", help="They hold text, no conversations.")
        parser.add_argument("--column", default="", help="Where the text stands in rows of text.")
        parser.add_argument("--export", type=int, metavar="N", help="The number of an export.")
        parser.add_argument(
            "--taken", choices=list(TAKEN), default="both", help="What of the export."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        if bool(options["paths"]) == bool(options["export"]):
            raise CommandError("Name files and folders, or an export: one of the two.")
        try:
            made = _make(project, options)
        except (DatasetRefused, BadRows) as refusal:
            raise CommandError(f"{refusal}\nNothing was kept.") from refusal
        except OSError as error:
            raise CommandError(f"{error}. Nothing was kept.") from error
        held_out = made.details["held_out_rows"]
        self.stdout.write(
            f"Dataset {made.pk}, “{made}”: {made.n_rows:,} rows, {held_out:,} held out."
        )


def _make(project: Project, options: dict[str, Any]) -> Dataset:
    if options["export"]:
        export = project.exports.filter(pk=options["export"]).first()
        if export is None:
            raise CommandError(f"The project {project.slug} has no export {options['export']}.")
        return dataset_of_export(project, options["name"], export, options["taken"])
    kind = DatasetKind.TEXT if options["text"] else DatasetKind.DEMONSTRATIONS
    return dataset_of_files(
        project, options["name"], kind, sources_in(options["paths"]), column=options["column"]
    )
