"""Prompts, comparisons and what was said of them from files: all of a file, or none if a row is bad.

A file is read once, row by row. What is good goes to a temporary file; only when all rows have
been checked is the first one stored. They are stored a few hundred at a time, each batch in a short
transaction, so that neither a slow upload nor a long file keeps annotators waiting. An import that
ends before its last batch takes back what it has put in (`taking_back`).
"""

from __future__ import annotations

import csv
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
from django.conf import settings
from django.db import transaction

from annotator import bulk
from annotator.audit import Action, record
from annotator.checking import Good, LineError, Rules, check_all
from annotator.counting import Seen, count_new
from annotator.formats.entries import Entry, check_prompt, printable
from annotator.formats.reading import Rows, Unreadable, read_json_lines
from annotator.formats.shapes import check_mapping
from annotator.locks import alone
from annotator.models import (
    Completion,
    Membership,
    Project,
    Prompt,
    User,
    canonical_key,
)
from annotator.storing import Written, nobody, store
from annotator.taking_back import (
    Journal,
    Unsettled,
    check_settled,
    is_unsettled,
    lock,
    take_back,
    unfinished,
)

MAX_ERRORS = 100  # listed; what comes after them is only counted
MAX_IGNORED = 20  # names of ignored fields listed
SAMPLE = 5  # rows that are shown as they were understood
BATCH = 400  # rows stored at once: a tenth of a second
BATCH_BYTES = 2**20  # of them, more or less
PAUSE = 0.002  # seconds between two batches, in which whoever waits begins
SECONDS_BETWEEN_LOOKS = 0.2  # of an import that waits for another one
BETWEEN_PROGRESS = 200  # rows
BAD_ROW_COLUMNS = ("place", "column", "value", "problem")

DECODER = msgspec.json.Decoder(Entry)  # of the file between checking and storing

logger = logging.getLogger(__name__)


class ImportRefused(Exception):
    """Nothing was imported. `errors` says why, with line numbers."""

    def __init__(self, errors: list[LineError], *, is_cut: bool = False) -> None:
        self.errors = errors
        self.is_cut = is_cut  # there are more
        super().__init__("\n".join([*map(str, errors), *(["and more"] if is_cut else [])]))


class ImportReport(NamedTuple):
    """How many rows of each kind are new, and what was left out."""

    prompts: int
    completions: int
    comparisons: int
    judgments: int
    duplicates: int  # rows whose prompt or comparison was there already
    bad_lines: list[LineError]  # the first of them
    n_bad_lines: int = 0
    ignored_fields: tuple[str, ...] = ()
    known_answers: int = 0  # of the comparisons
    held: int = 0  # of the comparisons: found by screening


# --- checking ---------------------------------------------------------------------------------
class _Checked(NamedTuple):
    errors: list[LineError]
    n_errors: int
    ignored: tuple[str, ...]
    n_good: int


def _check(
    rows: Rows,
    project: Project,
    good: IO[bytes],
    *,
    limit: int | None,
    skip_bad_rows: bool,
    mapping: Mapping[str, str] | None,
    on_progress: Callable[[int], None] | None,
    bad_rows: IO[str] | None,
    sample: list[Entry] | None,
) -> _Checked:
    """Write the good rows to `good` in one form, with what screening finds in them, until there
    are `limit` or too many bad ones."""
    errors: list[LineError] = []
    n_errors = n_good = 0
    ignored: set[str] = set()
    listed = csv.writer(bad_rows) if bad_rows else None
    if listed:
        listed.writerow(BAD_ROW_COLUMNS)
    rules = Rules(mapping, project.screening, project.near_identical_percent)
    n_processes = None if limit is None else 0  # which read ahead
    with closing(check_all(iter(rows), rules, n_processes)) as results:
        for n_rows, result in enumerate(results, 1):
            if n_good == limit:
                break
            if on_progress and n_rows % BETWEEN_PROGRESS == 0:
                on_progress(n_rows)
            if isinstance(result, Good):
                n_good += 1
                if len(ignored) < MAX_IGNORED:
                    ignored.update(printable(name, 60) for name in result.ignored)
                good.write(result.line)
                if sample is not None and n_good <= SAMPLE:
                    sample.append(DECODER.decode(result.line))
                continue
            n_errors += 1
            if listed:
                cells = (result.place, result.column, result.value, result.message)
                listed.writerow(map(_defused, cells))
            if n_errors <= MAX_ERRORS:
                errors.append(result)
            elif not skip_bad_rows and not listed:
                break
    return _Checked(errors, n_errors, tuple(sorted(ignored)[:MAX_IGNORED]), n_good)


def _defused(cell: str) -> str:
    """What a spreadsheet would take for a formula begins with an apostrophe: then it is text."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _batches(good: IO[bytes]) -> Generator[list[Entry], None, None]:
    """The entries again, BATCH at a time or fewer if they are large. Each batch is read while the one
    before it is stored."""
    batches = _read_batches(good)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while batch := coming.result():
            coming = thread.submit(next, batches, None)
            yield batch


def _read_batches(good: IO[bytes]) -> Iterator[list[Entry]]:
    good.seek(0)
    batch: list[Entry] = []
    n_bytes = 0
    for line in good:
        batch.append(DECODER.decode(line))
        n_bytes += len(line)
        if len(batch) >= BATCH or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


# --- importing --------------------------------------------------------------------------------
def import_rows(
    project: Project,
    rows: Rows,
    *,
    user: User | None = None,
    overlap: int | None = None,
    round_number: int | None = None,
    judge: User | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
    mapping: Mapping[str, str] | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_stored: Callable[[int], None] | None = None,
    bad_rows: IO[str] | None = None,
    sample: list[Entry] | None = None,
    may_wait: bool = True,
) -> ImportReport:
    """Import all rows, or at most `limit`; each holds a prompt, with or without completions.

    New comparisons belong to the round `round_number`, or to the project's latest.

    Votes of people whom the file names become judgments of users who cannot sign in. Where it says
    what is better and not who said so, that is a judgment of `judge`, if one is given; they are
    saved and made an annotator if they are not yet. A prompt, comparison or judgment that is there
    already is counted, and left as it is. What the project's screening finds is held back.

    `mapping` gives the columns for fields of ours that the file calls otherwise. `bad_rows` gets
    all bad rows as CSV, and `sample` the first good ones, as they were understood. `on_progress` is
    called with the number of rows checked, every 200 of them, and `on_stored` with that of rows
    stored, before each batch; what they raise ends the import.
    `dry_run` only counts what would be new. A few rows are stored at once, also beside a long import; but if some of
    them are there by that, and may go again with it, its end is waited for, unless `may_wait` is false.

    Raises ImportRefused with the bad rows, if there are any and they are not to be skipped, or if
    the file cannot be read to its end; ValueError if an option cannot be; Unsettled where it would have to
    wait and may not. Then nothing is stored.
    Whatever else ends it while rows are stored, an error, a user or a kill, leaves nothing either, but for
    comparisons that somebody has worked on meanwhile: a note on the exception says how many.
    """
    _check_numbers(overlap, round_number)
    check_mapping(mapping or {}, rows.columns)
    with tempfile.TemporaryFile() as good:
        checked = _check_all(
            rows,
            project,
            good,
            limit=limit,
            skip_bad_rows=skip_bad_rows,
            mapping=mapping,
            on_progress=on_progress,
            bad_rows=bad_rows,
            sample=sample,
        )
        if dry_run:
            counts = _count_all(good, project, overlap, judge, on_stored)
        else:
            how = _How(project, overlap, round_number or project.latest_round(), judge, user)
            counts = _store_all(good, checked.n_good, how, on_stored, may_wait=may_wait)
            logger.info("import into %s by %s: %s", project.slug, user or "command", dict(counts))
    return _report(counts, checked)


def _check_numbers(overlap: int | None, round_number: int | None) -> None:
    if overlap is not None and not 1 <= overlap <= 100:
        raise ValueError(f"overlap must be between 1 and 100, not {overlap}")
    if round_number is not None and round_number < 1:
        raise ValueError(f"the round must be 1 or more, not {round_number}")


def _check_all(
    rows: Rows, project: Project, good: IO[bytes], *, skip_bad_rows: bool, **how: Any
) -> _Checked:
    """What `_check` found, if it may be stored. Raises ImportRefused."""
    try:
        checked = _check(rows, project, good, skip_bad_rows=skip_bad_rows, **how)
    except Unreadable as error:
        refused = LineError(error.number, printable(error.message), error.place or "the file")
        raise ImportRefused([refused]) from error
    if checked.errors and not skip_bad_rows:
        raise ImportRefused(checked.errors, is_cut=checked.n_errors > len(checked.errors))
    return checked


def _report(counts: Counter[str], checked: _Checked) -> ImportReport:
    return ImportReport(
        prompts=counts["prompts"],
        completions=counts["completions"],
        comparisons=counts["comparisons"],
        judgments=counts["judgments"],
        duplicates=counts["duplicates"],
        bad_lines=checked.errors,
        n_bad_lines=checked.n_errors,
        ignored_fields=checked.ignored,
        known_answers=counts["known_answers"],
        held=counts["held"],
    )


def _count_all(
    good: IO[bytes],
    project: Project,
    overlap: int | None,
    judge: User | None,
    on_counted: Callable[[int], None] | None,
) -> Counter[str]:
    """How many rows of each kind would be new. Writes nothing."""
    counts: Counter[str] = Counter()
    n_counted = 0
    with closing(Seen()) as seen, closing(_batches(good)) as batches:
        for batch in batches:
            if on_counted:
                on_counted(n_counted)
            counts += count_new(batch, project, overlap, judge, seen)
            n_counted += len(batch)
    return counts


class _How(NamedTuple):
    """Where rows are stored, and how."""

    project: Project
    overlap: int | None
    round_number: int
    judge: User | None
    user: User | None


def _store_all(
    good: IO[bytes],
    n_rows: int,
    how: _How,
    on_stored: Callable[[int], None] | None,
    *,
    may_wait: bool,
) -> Counter[str]:
    if n_rows <= BATCH:
        try:
            return _store_at_once(good, how, on_stored)
        except Unsettled:
            if not may_wait:
                raise
    return _store_in_batches(good, n_rows, how, on_stored)


def _store_at_once(
    good: IO[bytes], how: _How, on_stored: Callable[[int], None] | None
) -> Counter[str]:
    """A few rows, in one transaction: they do not wait for a long file that is being stored, unless they
    meet what it has put in. Raises Unsettled then."""
    counts: Counter[str] = Counter()
    if on_stored:
        on_stored(0)
    with _judge_as_before(how.judge), transaction.atomic(), closing(_batches(good)) as batches:
        for batch in batches:
            written = Written()
            counts += _store(batch, how, written)
            if written.n_met and is_unsettled(how.project):
                raise Unsettled
        record(how.user, Action.IMPORTED, how.project, project=how.project, **counts)
    return counts


@contextmanager
def _judge_as_before(judge: User | None) -> Iterator[None]:
    """A judge whom the import saves is not saved if it fails."""
    is_new = judge is not None and judge._state.adding
    try:
        yield
    except BaseException:
        if judge is not None and is_new:
            judge.pk, judge._state.adding = None, True
        raise


def _store_in_batches(
    good: IO[bytes],
    n_rows: int,
    how: _How,
    on_stored: Callable[[int], None] | None,
) -> Counter[str]:
    """Each batch in a transaction of its own; how many rows of each kind are new."""
    counts: Counter[str] = Counter()
    n_stored = 0
    with (
        _turn(how.project, on_stored),
        bulk.many_batches(),
        _judge_as_before(how.judge),
        closing(_batches(good)) as batches,
    ):
        _tidy(how.project)
        journal = Journal(how.project)
        try:
            for n_batches, batch in enumerate(batches, 1):
                if on_stored:
                    on_stored(n_stored)
                n_stored += len(batch)
                written = Written()
                with transaction.atomic():
                    bulk.begin_batch()
                    counts += _store(batch, how, written)
                    journal.note(written)
                    if n_stored == n_rows:
                        journal.close()
                        record(
                            how.user, Action.IMPORTED, how.project, project=how.project, **counts
                        )
                bulk.end_batch(n_batches)
                if n_stored < n_rows:
                    time.sleep(PAUSE)
        except BaseException as error:
            if what_remains := _take_back(journal, how.project):
                error.add_note(what_remains)
            raise
    return counts


def _store(batch: list[Entry], how: _How, written: Written) -> Counter[str]:
    """In a transaction. Batches come one after the other, also those of another machine."""
    lock(how.project)
    if how.judge is not None:
        _enrol(how.project, how.judge, written)
    return store(batch, how.project, how.overlap, how.round_number, how.judge, written)


def _take_back(journal: Journal, project: Project) -> str:
    """What of it is there nevertheless, as a sentence; empty if nothing is.

    A database that fails in between does not hide why the import has ended: as after a kill, the
    worker goes on.
    """
    try:
        n = take_back(journal.storing, project)
    except Exception:
        logger.exception("import into %s: could not all be taken back yet", project.slug)
        return (
            "What it had put in could not all be deleted just now: the worker goes on within a "
            "minute, or the next import does."
        )
    if not n:
        return ""
    those = "comparison that somebody has" if n == 1 else "comparisons that people have"
    return f"What it had put in was deleted again, but for {n:,} {those} worked on."


# --- what those leave that were killed ------------------------------------------------------------
def tidy_all() -> None:
    """Take back what imports have put in that were killed, but for projects in which one is at work."""
    for pk in {project for project, _ in unfinished()}:
        project = Project.objects.filter(pk=pk).first()
        if project is not None:
            with alone(_turn_file(project)) as is_alone:
                if is_alone:
                    _tidy(project)


def tidy(project: Project) -> None:
    """The same in one project. Waits for an import that is at work there."""
    with _turn(project, None):
        _tidy(project)


def _tidy(project: Project) -> None:
    """Called in turn."""
    for _, storing in unfinished(project):
        take_back(storing, project)


@contextmanager
def _turn(project: Project, on_stored: Callable[[int], None] | None) -> Iterator[None]:
    """Waits until no other import stores batches in this project. One that was killed is over."""
    while True:
        with alone(_turn_file(project)) as is_alone:
            if is_alone:
                yield
                return
        if on_stored:
            on_stored(0)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _turn_file(project: Project) -> Path:
    return Path(settings.DATA_DIR) / f"import-into-{project.pk}.lock"


def import_jsonl(
    project: Project, lines: Iterable[bytes], *, skip_bad_lines: bool = False, **options: Any
) -> ImportReport:
    """`import_rows` of lines of JSON."""
    rows = Rows("jsonl", read_json_lines(iter(lines)))
    return import_rows(project, rows, skip_bad_rows=skip_bad_lines, **options)


def judge_named(username: str) -> User:
    """The user of this name; a new one, who cannot sign in, is saved with the import."""
    return User.objects.filter(username=username).first() or nobody(username)


def _enrol(project: Project, judge: User, written: Written) -> None:
    if judge._state.adding:
        judge.save()
        written.people.append(judge.pk)
    if Membership.objects.get_or_create(project=project, user=judge)[1]:
        written.members.append(judge.pk)


def add_prompt(project: Project, messages: Any) -> tuple[Prompt, bool]:
    """The prompt with these messages, and whether it is new. Raises ValueError with a sentence, or Unsettled."""
    messages = check_prompt(messages)
    key = canonical_key(messages)
    prompt, is_new = Prompt.objects.get_or_create(
        project=project, key=key, defaults={"messages": messages, "split": project.split_of(key)}
    )
    if not is_new:
        check_settled(prompt, project)
    prompt.ask_models(project.split_of(key))
    return prompt, is_new


def add_completion(
    prompt: Prompt, text: str, source: str = "import", is_truncated: bool = False
) -> tuple[Completion, bool]:
    """This answer of this source to the prompt, and whether it is new. Raises Unsettled."""
    same = Completion.objects.filter(
        prompt=prompt, text=text, source=source, is_truncated=is_truncated
    )
    if known := same.first():
        check_settled(known, prompt.project)
        return known, False
    new = Completion(prompt=prompt, text=text, source=source, is_truncated=is_truncated)
    new.save()
    return new, True
