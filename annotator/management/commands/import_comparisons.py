"""Import prompts, comparisons and known choices from a file of JSON lines."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError

from annotator.importing import (
    ImportRefused,
    ImportReport,
    LineError,
    import_jsonl,
    judge_named,
    read_lines,
)
from annotator.models import Project


class Command(BaseCommand):
    help = (
        "Import prompts, comparisons and known choices from JSON lines (docs/data-format.md), "
        "all or nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument("file", help="A .jsonl or .jsonl.gz file, or - for standard input.")
        parser.add_argument(
            "--judge",
            metavar="USERNAME",
            help="Whose judgments the known choices (chosen, rejected) become. Without it they "
            "are not used. A user who does not exist is made, and cannot sign in.",
        )
        parser.add_argument(
            "--skip-bad-lines",
            action="store_true",
            help="Import the good lines and report the others, rather than importing nothing.",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="At most so many good lines.")
        parser.add_argument(
            "--overlap", type=int, metavar="N", help="Judgments per comparison (the project's)."
        )
        parser.add_argument(
            "--round",
            type=int,
            metavar="N",
            help="The round that new comparisons belong to (the latest that has comparisons).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            with _opened(options["file"]) as file:
                report = import_jsonl(
                    project,
                    read_lines(file),
                    judge=judge_named(options["judge"]) if options["judge"] else None,
                    limit=options["limit"],
                    overlap=options["overlap"],
                    round_number=options["round"],
                    skip_bad_lines=options["skip_bad_lines"],
                )
        except ImportRefused as refused:
            self._print_errors(refused.errors, refused.is_cut)
            raise CommandError("Nothing was imported.") from None
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        self._print_errors(report.bad_lines, report.n_bad_lines > len(report.bad_lines))
        self.stdout.write(summary(report))

    def _print_errors(self, errors: list[LineError], is_cut: bool) -> None:
        for error in errors:
            self.stderr.write(str(error))
        if is_cut:
            self.stderr.write("… and more")


@contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
    else:
        with open(name, "rb") as file:
            yield file


def summary(report: ImportReport) -> str:
    """Example: "New: 2 prompts, 4 completions, 2 comparisons, 2 judgments. 1 line was there
    already."
    """
    counts = [
        _counted(getattr(report, noun + "s"), noun)
        for noun in ("prompt", "completion", "comparison", "judgment")
    ]
    sentences = [f"New: {', '.join(counts)}."]
    if report.known_answers:
        sentences.append(f"Known answers among them: {report.known_answers:,}.")
    if report.held:
        sentences.append(f"Held back: {_counted(report.held, 'comparison')}.")
    if report.duplicates:
        sentences.append(f"There already: {_counted(report.duplicates, 'line')}.")
    if report.n_bad_lines:
        sentences.append(f"Left out: {_counted(report.n_bad_lines, 'bad line')}.")
    if report.ignored_fields:
        sentences.append(f"Ignored fields: {', '.join(report.ignored_fields)}.")
    return " ".join(sentences)


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
