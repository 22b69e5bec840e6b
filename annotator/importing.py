"""Prompts, comparisons and known choices from files of JSON lines, all of a file or nothing.

A file is read once, line by line. What is good goes to a temporary file; only when all lines have
been checked does a transaction begin, so that a slow upload never keeps annotators waiting.
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from annotator.assignment import hash_shown
from annotator.gold import ORIGIN as GOLD_ORIGIN
from annotator.jsonl import MAX_LINE_BYTES, Answer, Entry, check_prompt, parse_line
from annotator.models import (
    Assignment,
    AssignmentState,
    Comparison,
    ComparisonCompletion,
    Completion,
    Judgment,
    Membership,
    Project,
    Prompt,
    Purpose,
    Split,
    User,
    Verdict,
    canonical_key,
    comparison_key,
)

MAX_ERRORS = 100  # listed; what comes after them is only counted
MAX_IGNORED = 20  # names of ignored fields listed
BATCH = 500  # lines per insert

logger = logging.getLogger(__name__)


class LineError(NamedTuple):
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


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
    duplicates: int  # lines whose prompt or comparison was there already
    bad_lines: list[LineError]  # the first of them
    n_bad_lines: int = 0
    ignored_fields: tuple[str, ...] = ()
    known_answers: int = 0  # of the comparisons
    held: int = 0  # of the comparisons: found by screening


# --- reading ----------------------------------------------------------------------------------
def read_lines(file: IO[bytes], max_bytes: int | None = None) -> Iterator[bytes]:
    """The lines of a file, unpacked if it is gzip. Of a line that is too long, only the beginning.

    Raises ImportRefused if the file is damaged, or if it unpacks to more than `max_bytes`.
    """
    unpacked = gzip.GzipFile(fileobj=file) if _is_gzip(file) else file
    number = n_bytes = 0
    is_continued = False
    try:
        while piece := unpacked.readline(MAX_LINE_BYTES + 1):
            number += not is_continued
            n_bytes += len(piece)
            if max_bytes is not None and n_bytes > max_bytes:
                raise ImportRefused([LineError(number, _too_large(max_bytes))])
            if not is_continued:
                yield piece
            is_continued = not piece.endswith(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        message = f"the file is damaged from here on: {error}"
        raise ImportRefused([LineError(number + 1, message)]) from error


def _is_gzip(file: Any) -> bool:
    if file.seekable():
        head = file.read(2)
        file.seek(0)
    else:
        head = file.peek(2)[:2]
    return head == b"\x1f\x8b"


def _too_large(max_bytes: int) -> str:
    return f"the file is larger than {max_bytes / 2**20:g} MiB; split it, or use import_comparisons"


class _Checked(NamedTuple):
    errors: list[LineError]
    n_errors: int
    ignored: tuple[str, ...]


def _check(
    lines: Iterable[bytes],
    project: Project,
    good: IO[bytes],
    limit: int | None,
    skip_bad_lines: bool,
) -> _Checked:
    """Write the good lines to `good` in one form, with what screening finds in them, until there
    are `limit` or too many bad ones."""
    errors: list[LineError] = []
    n_errors = n_good = 0
    ignored: set[str] = set()
    for number, line in enumerate(lines, 1):
        if n_good == limit:
            break
        if not line.strip():
            continue
        try:
            entry = parse_line(line)
        except ValueError as error:
            n_errors += 1
            if n_errors <= MAX_ERRORS:
                errors.append(LineError(number, str(error)))
            elif not skip_bad_lines:
                break
            continue
        n_good += 1
        if entry.expected is None:
            entry = entry._replace(hold=project.reason_to_hold(entry.answers))
        good.write(json.dumps(entry).encode() + b"\n")
        if len(ignored) < MAX_IGNORED:
            ignored.update(entry.ignored)
    return _Checked(errors, n_errors, tuple(sorted(ignored)[:MAX_IGNORED]))


def _read_back(good: IO[bytes]) -> Iterator[Entry]:
    good.seek(0)
    for line in good:
        entry = Entry(*json.loads(line))
        yield entry._replace(answers=[Answer(*answer) for answer in entry.answers])


# --- importing --------------------------------------------------------------------------------
def import_jsonl(
    project: Project,
    lines: Iterable[bytes],
    *,
    user: User | None = None,
    overlap: int | None = None,
    round_number: int | None = None,
    judge: User | None = None,
    limit: int | None = None,
    skip_bad_lines: bool = False,
) -> ImportReport:
    """Import all lines, or at most `limit`; each holds a prompt, with or without completions.

    New comparisons belong to the round `round_number`, or to the project's latest.

    Where a line says which completion is better and a `judge` is given, that becomes a judgment
    of theirs; they are saved and made an annotator if they are not yet. A prompt or comparison
    that is there already is counted, and left as it is. What the project's screening finds is
    held back.

    Raises ImportRefused with the bad lines, if there are any and they are not to be skipped.
    """
    if overlap is not None and not 1 <= overlap <= 100:
        raise ValueError(f"overlap must be between 1 and 100, not {overlap}")
    if round_number is not None and round_number < 1:
        raise ValueError(f"the round must be 1 or more, not {round_number}")
    with tempfile.TemporaryFile() as good:
        errors, n_errors, ignored = _check(lines, project, good, limit, skip_bad_lines)
        if errors and not skip_bad_lines:
            raise ImportRefused(errors, is_cut=n_errors > len(errors))
        counts: Counter[str] = Counter()
        with transaction.atomic():
            # One import into a project at a time; annotators are not kept waiting by this lock.
            Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            if round_number is None:
                round_number = project.latest_round()
            if judge is not None:
                _enrol(project, judge)
            entries = _read_back(good)
            while batch := list(islice(entries, BATCH)):
                counts += _store(batch, project, overlap, round_number, judge)
    logger.info("import into %s by %s: %s", project.slug, user or "command", dict(counts))
    return ImportReport(
        prompts=counts["prompts"],
        completions=counts["completions"],
        comparisons=counts["comparisons"],
        judgments=counts["judgments"],
        duplicates=counts["duplicates"],
        bad_lines=errors,
        n_bad_lines=n_errors,
        ignored_fields=ignored,
        known_answers=counts["known_answers"],
        held=counts["held"],
    )


def judge_named(username: str) -> User:
    """The user of this name; a new one, who cannot sign in, is saved with the import."""
    if user := User.objects.filter(username=username).first():
        return user
    user = User(username=username)
    user.set_unusable_password()
    return user


def _enrol(project: Project, judge: User) -> None:
    if judge._state.adding:
        judge.save()
    Membership.objects.get_or_create(project=project, user=judge)


def add_prompt(project: Project, messages: Any) -> tuple[Prompt, bool]:
    """The prompt with these messages, and whether it is new. Raises ValueError with a sentence."""
    messages = check_prompt(messages)
    key = canonical_key(messages)
    prompt, is_new = Prompt.objects.get_or_create(
        project=project, key=key, defaults={"messages": messages, "split": project.split_of(key)}
    )
    prompt.ask_models(project.split_of(key))
    return prompt, is_new


def add_completion(
    prompt: Prompt, text: str, source: str = "import", is_truncated: bool = False
) -> tuple[Completion, bool]:
    """This answer of this source to the prompt, and whether it is new."""
    same = Completion.objects.filter(
        prompt=prompt, text=text, source=source, is_truncated=is_truncated
    )
    if known := same.first():
        return known, False
    new = Completion(prompt=prompt, text=text, source=source, is_truncated=is_truncated)
    new.save()
    return new, True


# --- rows -------------------------------------------------------------------------------------
class _Asked(NamedTuple):
    """A comparison to be made of what a line said."""

    comparison: Comparison
    entry: Entry


def _store(
    entries: Sequence[Entry],
    project: Project,
    overlap: int | None,
    round_number: int,
    judge: User | None,
) -> Counter[str]:
    """Rows for all that is new in these entries; how many there are of each kind."""
    prompts, n_prompts, n_repeated = _store_prompts(entries, project)
    all_asked = [
        _Asked(_comparison(entry, prompt, project, overlap, round_number, judge), entry)
        for entry, prompt in zip(entries, prompts, strict=True)
        if entry.answers
    ]
    asked = _new_ones(all_asked, project)
    Comparison.objects.bulk_create(one.comparison for one in asked)
    shown, n_completions = _store_completions(asked)
    _store_expected(asked, shown)
    judged = [
        (one, completions)
        for one, completions in zip(asked, shown, strict=True)
        if one.comparison.taken
    ]
    if judge is not None:
        _store_judgments(judged, project, judge)
    return Counter(
        prompts=n_prompts,
        completions=n_completions,
        comparisons=len(asked),
        judgments=len(judged),
        duplicates=n_repeated + len(all_asked) - len(asked),
        known_answers=sum(one.entry.expected is not None for one in asked),
        held=sum(one.comparison.hold != "" for one in asked),
    )


def _comparison(
    entry: Entry,
    prompt: Prompt,
    project: Project,
    overlap: int | None,
    round_number: int,
    judge: User | None,
) -> Comparison:
    texts = [answer.text for answer in entry.answers]
    if entry.expected is not None:
        return Comparison(
            project=project,
            prompt=prompt,
            key=comparison_key(prompt.key, Purpose.GOLD, texts),
            purpose=Purpose.GOLD,
            origin=GOLD_ORIGIN,
            overlap=0,
            round_number=round_number,
            explanation=entry.explanation,
        )
    overlap = overlap or project.overlap
    taken = int(judge is not None and entry.chosen is not None)
    return Comparison(
        project=project,
        prompt=prompt,
        key=comparison_key(prompt.key, Purpose.TRAINING, texts),
        overlap=overlap,
        round_number=round_number,
        taken=taken,
        hold=entry.hold if taken < overlap else "",  # nobody is asked what the file has answered
    )


def _store_expected(asked: Sequence[_Asked], shown: Sequence[Sequence[Completion]]) -> None:
    """The rankings that are right, by completion, now that these have numbers."""
    known = []
    for (comparison, entry), completions in zip(asked, shown, strict=True):
        if entry.expected is not None:
            comparison.expected = [
                [completions[index].pk for index in group] for group in entry.expected
            ]
            known.append(comparison)
    if known:
        Comparison.objects.bulk_update(known, ["expected"])


def _store_prompts(entries: Sequence[Entry], project: Project) -> tuple[list[Prompt], int, int]:
    """The prompt of each entry; how many are new; how many lines only repeat a prompt."""
    keys = [canonical_key(entry.messages) for entry in entries]
    prompts = {prompt.key: prompt for prompt in project.prompts.filter(key__in=keys)}
    new: list[Prompt] = []
    no_longer_gold: list[Prompt] = []
    n_repeated = 0
    for key, entry in zip(keys, entries, strict=True):
        if key in prompts:
            n_repeated += not entry.answers
        else:
            prompts[key] = Prompt(
                project=project, key=key, messages=entry.messages, split=Split.GOLD
            )
            new.append(prompts[key])
        if entry.expected is None and prompts[key].split == Split.GOLD:
            prompts[key].split = project.split_of(key)
            if prompts[key].pk:
                no_longer_gold.append(prompts[key])
    Prompt.objects.bulk_create(new)
    if no_longer_gold:
        Prompt.objects.bulk_update(no_longer_gold, ["split"])
    return [prompts[key] for key in keys], len(new), n_repeated


def _new_ones(asked: Sequence[_Asked], project: Project) -> list[_Asked]:
    """Without repetitions, and without comparisons that the project has already."""
    distinct = {one.comparison.key: one for one in reversed(asked)}
    for key in project.comparisons.filter(key__in=distinct).values_list("key", flat=True):
        del distinct[key]
    return list(reversed(distinct.values()))


def _store_completions(asked: Sequence[_Asked]) -> tuple[list[list[Completion]], int]:
    """The completions of each comparison, in their places; how many of them are new.

    The same answer of the same source to the same prompt is one completion, however many
    comparisons it is in.
    """
    prompt_ids = {one.comparison.prompt_id for one in asked}
    completions: dict[tuple[int, Answer], Completion] = {
        (row.prompt_id, Answer(row.text, row.source, row.is_truncated)): row
        for row in Completion.objects.filter(prompt__in=prompt_ids, source__in=_sources(asked))
    }
    new = []
    for comparison, entry in asked:
        for answer in entry.answers:
            if (comparison.prompt_id, answer) not in completions:
                row = Completion(prompt=comparison.prompt, **answer._asdict())
                completions[comparison.prompt_id, answer] = row
                new.append(row)
    Completion.objects.bulk_create(new)
    shown = [
        [completions[comparison.prompt_id, answer] for answer in entry.answers]
        for comparison, entry in asked
    ]
    ComparisonCompletion.objects.bulk_create(
        ComparisonCompletion(comparison=one.comparison, completion=row, position=position)
        for one, rows in zip(asked, shown, strict=True)
        for position, row in enumerate(rows)
    )
    return shown, len(new)


def _sources(asked: Sequence[_Asked]) -> set[str]:
    return {answer.source for one in asked for answer in one.entry.answers}


def _store_judgments(
    judged: Sequence[tuple[_Asked, list[Completion]]], project: Project, judge: User
) -> None:
    """What `claim` and `record` would have left, for comparisons made with one place taken."""
    now = timezone.now()
    assignments, judgments = [], []
    for (comparison, entry), completions in judged:
        assert entry.chosen is not None
        chosen = completions[entry.chosen]
        drawn = random.sample(completions, len(completions))
        assignment = Assignment(
            comparison=comparison,
            project=project,
            annotator=judge,
            order=[completion.pk for completion in drawn],
            payload_hash=hash_shown(
                comparison.prompt.messages, [(row.pk, row.text) for row in drawn]
            ),
            state=AssignmentState.JUDGED,
            guideline_version=project.guideline_version,
            lease_until=now,
        )
        rejected = [row.pk for row in completions if row != chosen]
        judgment = Judgment(
            assignment=assignment,
            comparison=comparison,
            project=project,
            annotator=judge,
            verdict=Verdict.RANKING,
            ranking=[[chosen.pk], rejected],
            guideline_version=project.guideline_version,
        )
        assignments.append(assignment)
        judgments.append(judgment)
    Assignment.objects.bulk_create(assignments)
    Judgment.objects.bulk_create(judgments)
