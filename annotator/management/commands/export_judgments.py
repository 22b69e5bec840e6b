"""Freeze the votes of a project as a preference dataset, in any shape and format."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from annotator.exporting import NotExported, create_export
from annotator.exports.comparing import comparison_of
from annotator.exports.derived import NotDerived, derive
from annotator.exports.files import FORMATS, write_dataset
from annotator.exports.filters import Filters
from annotator.exports.hub import NotPushed, push
from annotator.exports.shapes import SHAPES
from annotator.hashes import FileChanged
from annotator.models import Export, Project, User
from annotator.priority import give_way


class Command(BaseCommand):
    help = "Freeze the votes of a project as a preference dataset (docs/data-format.md)."

    def run_from_argv(self, argv: list[str]) -> None:
        give_way()
        super().run_from_argv(argv)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        of_export = parser.add_argument_group("what is frozen; without these, all votes")
        of_export.add_argument(
            "--round", type=int, metavar="N", help="Only rounds up to this one (all rounds)."
        )
        of_export.add_argument("--first-round", type=int, metavar="N", help="Only rounds from it.")
        of_export.add_argument("--since", type=date.fromisoformat, metavar="YYYY-MM-DD")
        of_export.add_argument("--until", type=date.fromisoformat, metavar="YYYY-MM-DD")
        of_export.add_argument("--annotator", action="append", metavar="USERNAME", default=[],
                               help="Only votes of this one; may be repeated, as those below.")  # fmt: skip
        of_export.add_argument("--without", action="append", metavar="USERNAME", default=[])
        of_export.add_argument(
            "--guideline-version", action="append", type=int, metavar="N", default=[]
        )
        of_export.add_argument("--source", action="append", metavar="NAME", default=[],
                               help="Comparisons all of whose answers come from these.")  # fmt: skip
        of_export.add_argument("--criterion", action="append", metavar="KEY", default=[],
                               help="Votes that say something of one of these.")  # fmt: skip
        of_export.add_argument("--min-rankings", type=int, metavar="N", help="Of a comparison.")
        of_export.add_argument("--min-agreement", type=float, metavar="SHARE", help="0.5 to 1.")
        of_export.add_argument(
            "--rulings", action="store_true", help="Count reviewers' rulings as votes (no)."
        )
        of_export.add_argument("--licence", default="", help="A note for whoever gets the files.")
        given = parser.add_argument_group("what is made of it")
        given.add_argument(
            "--export", type=int, metavar="N", help="Of this export, rather than a new one."
        )
        given.add_argument("--shape", choices=SHAPES, default="reward")
        given.add_argument("--format", choices=FORMATS, default="jsonl")
        given.add_argument(
            "--output", metavar="PATH", help="A file, or a new folder for the format datasets."
        )
        given.add_argument("--push", metavar="OWNER/NAME", help="To the Hugging Face Hub.")
        given.add_argument(
            "--public", action="store_true", help="The dataset on the Hub (private)."
        )
        given.add_argument(
            "--compare", type=int, metavar="N", help="Print as JSON what differs from export N."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            if options["export"] is None:
                export = self._freeze(project, options)
            else:
                export = _numbered(project, options["export"])
            self._give(export, options)
        except (NotExported, NotDerived, NotPushed, FileChanged, ValueError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error

    def _freeze(self, project: Project, options: dict[str, Any]) -> Export:
        export = create_export(
            project,
            filters=_filters(options),
            use_rulings=options["rulings"],
            licence=options["licence"],
        )
        self.stdout.write(f"{export}: {export.folder}")
        return export

    def _give(self, export: Export, options: dict[str, Any]) -> None:
        shape, of = options["shape"], options["format"]
        if options["compare"] is not None:
            found = comparison_of(_numbered(export.project, options["compare"]), export)
            self.stdout.write(json.dumps(found, ensure_ascii=False))
        if options["push"]:
            url = push(export, options["push"], shape, private=not options["public"])
            self.stdout.write(url)
        if options["output"]:
            _write(export, shape, of, Path(options["output"]))
            self.stdout.write(options["output"])
        elif (shape, of) != ("reward", "jsonl") and not options["push"]:
            self.stdout.write(str(derive(export, shape, of)))


def _filters(options: dict[str, Any]) -> Filters:
    return Filters(
        first_round=options["first_round"],
        last_round=options["round"],
        since=options["since"],
        until=options["until"],
        annotators=_pks(options["annotator"]),
        without=_pks(options["without"]),
        guideline_versions=tuple(options["guideline_version"]),
        sources=tuple(options["source"]),
        criteria=tuple(options["criterion"]),
        min_rankings=options["min_rankings"],
        min_agreement=options["min_agreement"],
    )


def _pks(usernames: list[str]) -> tuple[int, ...]:
    found = dict(User.objects.filter(username__in=usernames).values_list("username", "pk"))
    if unknown := [name for name in usernames if name not in found]:
        raise CommandError(f"There is nobody called {', '.join(unknown)}.")
    return tuple(found[name] for name in usernames)


def _numbered(project: Project, pk: int) -> Export:
    export = project.exports.filter(pk=pk).first()
    if export is None:
        raise CommandError(f"{project} has no export {pk}.")
    return export


def _write(export: Export, shape: str, format_name: str, output: Path) -> None:
    if format_name == "datasets":
        if output.exists():
            raise CommandError(f"{output} is there already: name a new folder.")
        write_dataset(derive(export, shape, "jsonl"), SHAPES[shape].columns, output)
    else:
        shutil.copyfile(derive(export, shape, format_name), output)
