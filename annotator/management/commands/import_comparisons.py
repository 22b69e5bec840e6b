"""Import prompts, comparisons, known choices and votes from a file, a folder or the hub."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from annotator.checking import LineError
from annotator.formats.entries import Entry, printable
from annotator.formats.reading import open_rows
from annotator.importing import (
    ImportRefused,
    ImportReport,
    import_rows,
    judge_named,
)
from annotator.imports.preview import marks_of, note_of
from annotator.models import Project
from annotator.priority import give_way
from annotator.rendering import LETTERS
from annotator.taking_back import TakenBack

CUT = 100  # characters of a text in a sample


class Command(BaseCommand):
    help = (
        "Import prompts, comparisons, known choices and votes (docs/data-format.md); nothing if a row "
        "is bad, or it is interrupted. Importing a file again adds nothing twice."
    )

    def run_from_argv(self, argv: list[str]) -> None:
        give_way()
        super().run_from_argv(argv)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="Slug of the project.")
        parser.add_argument(
            "file",
            help="JSON lines, a JSON list, CSV or Parquet, packed with gzip or not; a folder saved "
            "by `datasets`; hub:OWNER/NAME[@SPLIT]; or - for standard input.",
        )
        parser.add_argument(
            "--judge",
            metavar="USERNAME",
            help="Whose judgments known choices become that the file ascribes to nobody. Without it "
            "they are not used. A user who does not exist is made, and cannot sign in.",
        )
        parser.add_argument(
            "--map",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="Which column holds a field of ours, as prompt=question; once for each. Several "
            "columns make a list: completions=answer_a,answer_b.",
        )
        parser.add_argument(
            "--skip-bad-rows",
            "--skip-bad-lines",
            action="store_true",
            help="Import the good rows and report the others, rather than importing nothing.",
        )
        parser.add_argument(
            "--bad-rows", metavar="FILE", help="Write all bad rows to this CSV file."
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Show the first rows as they are understood, say what would be imported, and write "
            "nothing.",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="At most so many good rows.")
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
        sample: list[Entry] = []
        try:
            source = sys.stdin.buffer if options["file"] == "-" else options["file"]
            with (
                open_rows(source) as rows,
                _written(options["bad_rows"]) as bad_rows,
                _bars() as (checked, stored),
            ):
                report = import_rows(
                    project,
                    rows,
                    judge=judge_named(options["judge"]) if options["judge"] else None,
                    limit=options["limit"],
                    overlap=options["overlap"],
                    round_number=options["round"],
                    skip_bad_rows=options["skip_bad_rows"],
                    mapping=_mapping(options["map"]),
                    dry_run=options["dry_run"],
                    bad_rows=bad_rows,
                    sample=sample,
                    on_progress=checked,
                    on_stored=stored,
                )
        except ImportRefused as refused:
            self._print_errors(refused.errors, refused.is_cut)
            raise CommandError("Nothing was imported.") from None
        except KeyboardInterrupt as stopped:
            what_remains = getattr(stopped, "__notes__", ["Nothing was imported."])
            raise CommandError(" ".join(["Stopped.", *what_remains])) from None
        except (OSError, ValueError, TakenBack) as error:
            raise CommandError(str(error)) from error
        self._print_errors(report.bad_lines, report.n_bad_lines > len(report.bad_lines))
        if options["dry_run"]:
            self.stdout.write("The first rows, as they are understood:")
            self.stdout.write("\n".join(map(shown, sample)))
        self.stdout.write(("A dry run: nothing is kept. " * options["dry_run"]) + summary(report))

    def _print_errors(self, errors: list[LineError], is_cut: bool) -> None:
        for error in errors:
            self.stderr.write(str(error))
        if is_cut:
            self.stderr.write("… and more")


@contextmanager
def _written(name: str | None) -> Iterator[IO[str] | None]:
    if name is None:
        yield None
    else:
        with open(name, "w", newline="", encoding="utf-8") as file:
            yield file


@contextmanager
def _bars() -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """For `import_rows` to call: they say on a terminal how far it is, and elsewhere nothing."""
    how = {"unit": " rows", "disable": None, "leave": False, "file": sys.stderr}
    with tqdm(desc="Checked", **how) as checked, tqdm(desc="Stored", **how) as stored:

        def show_checked(n: int) -> None:
            checked.update(n - checked.n)

        def show_stored(n: int) -> None:
            stored.total = checked.n or None  # but for bad rows, which are few
            stored.update(n - stored.n)

        yield show_checked, show_stored


def _mapping(given: list[str]) -> dict[str, str]:
    """Example: ["prompt=question"] -> {"prompt": "question"}."""
    mapping = {}
    for pair in given:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            raise CommandError(f"--map needs OURS=THEIRS, as prompt=question, not {pair}")
        mapping[ours] = theirs
    return mapping


def shown(entry: Entry) -> str:
    """A row on some lines, its texts cut off."""
    lines = [f"  {message['role']}: {_cut(message['content'])}" for message in entry.messages]
    for letter, answer, mark in zip(LETTERS, entry.answers, marks_of(entry), strict=False):
        said = "".join(f" [{word}]" for word in (answer.source, mark) if word)
        lines.append(f"    {letter}: {_cut(answer.text)}{said}")
    if note := note_of(entry):
        lines.append(f"    {note}")
    return "\n".join(lines)


def _cut(text: str) -> str:
    """On one line."""
    text = " ".join(printable(text[: 2 * CUT]).split())
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


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
