"""Prompts, comparisons and what was said of them from files, all of a file or nothing.

A file is read once, row by row. What is good goes to a temporary file; only when all rows have
been checked does a transaction begin, so that a slow upload never keeps annotators waiting.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any, NamedTuple

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.utils import timezone

from annotator.assignment import hash_shown
from annotator.formats.entries import Answer, Entry, FieldError, Vote, check_prompt, excerpt
from annotator.formats.reading import Row, Rows, Unreadable, read_json_lines
from annotator.formats.shapes import check_mapping, entry_of
from annotator.gold import ORIGIN as GOLD_ORIGIN
from annotator.models import (
    HANDLED,
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
from annotator.rankings import Ranking

MAX_ERRORS = 100  # listed; what comes after them is only counted
MAX_IGNORED = 20  # names of ignored fields listed
BATCH = 500  # rows per insert
BETWEEN_PROGRESS = 200  # rows
BAD_ROW_COLUMNS = ("place", "column", "value", "problem")

logger = logging.getLogger(__name__)


class LineError(NamedTuple):
    line: int
    message: str
    place: str = ""  # where rows are not lines
    column: str = ""
    value: str = ""  # its beginning

    def __str__(self) -> str:
        return f"{self.place or f'line {self.line}'}: {self.message}"


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
) -> _Checked:
    """Write the good rows to `good` in one form, with what screening finds in them, until there
    are `limit` or too many bad ones."""
    errors: list[LineError] = []
    n_errors = n_good = 0
    ignored: set[str] = set()
    listed = csv.writer(bad_rows) if bad_rows else None
    if listed:
        listed.writerow(BAD_ROW_COLUMNS)
    for n_rows, row in enumerate(rows, 1):
        if n_good == limit:
            break
        if on_progress and n_rows % BETWEEN_PROGRESS == 0:
            on_progress(n_rows)
        try:
            entry = _entry(row, mapping)
        except ValueError as error:
            n_errors += 1
            bad = _line_error(row, error)
            if listed:
                listed.writerow(map(_defused, (str(bad.place), bad.column, bad.value, bad.message)))
            if n_errors <= MAX_ERRORS:
                errors.append(bad)
            elif not skip_bad_rows and not listed:
                break
            continue
        n_good += 1
        if entry.expected is None:
            entry = entry._replace(hold=project.reason_to_hold(entry.answers))
        good.write(json.dumps(entry).encode() + b"\n")
        if len(ignored) < MAX_IGNORED:
            ignored.update(entry.ignored)
    return _Checked(errors, n_errors, tuple(sorted(ignored)[:MAX_IGNORED]), n_good)


def _entry(row: Row, mapping: Mapping[str, str] | None) -> Entry:
    if isinstance(row.record, ValueError):
        raise row.record
    return entry_of(row.record, mapping)


def _line_error(row: Row, error: ValueError) -> LineError:
    column = error.column if isinstance(error, FieldError) else ""
    value = ""
    if isinstance(row.record, dict) and column in row.record:
        value = row.record[column]
        value = value[:200] if isinstance(value, str) else excerpt(value, 200)
    return LineError(row.number, str(error), row.place, column, value)


def _defused(cell: str) -> str:
    """What a spreadsheet would take for a formula begins with an apostrophe: then it is text."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _read_back(good: IO[bytes]) -> Iterator[Entry]:
    good.seek(0)
    for line in good:
        entry = Entry(*json.loads(line))
        yield entry._replace(
            answers=[Answer(*answer) for answer in entry.answers],
            votes=[Vote(*vote) for vote in entry.votes],
        )


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
) -> ImportReport:
    """Import all rows, or at most `limit`; each holds a prompt, with or without completions.

    New comparisons belong to the round `round_number`, or to the project's latest.

    Votes of people whom the file names become judgments of users who cannot sign in. Where it says
    what is better and not who said so, that is a judgment of `judge`, if one is given; they are
    saved and made an annotator if they are not yet. A prompt, comparison or judgment that is there
    already is counted, and left as it is. What the project's screening finds is held back.

    `mapping` gives the columns for fields of ours that the file calls otherwise. `bad_rows` gets
    all bad rows as CSV. `on_progress` is called with the number of rows checked, every 200 of them,
    and `on_stored` with that of rows stored; what they raise ends the import, and nothing is kept.
    `dry_run` does all the work and keeps none of it: the report says what would be new.

    Raises ImportRefused with the bad rows, if there are any and they are not to be skipped, or if
    the file cannot be read to its end; ValueError if an option cannot be.
    """
    if overlap is not None and not 1 <= overlap <= 100:
        raise ValueError(f"overlap must be between 1 and 100, not {overlap}")
    if round_number is not None and round_number < 1:
        raise ValueError(f"the round must be 1 or more, not {round_number}")
    check_mapping(mapping or {}, rows.columns)
    with tempfile.TemporaryFile() as good:
        try:
            checked = _check(
                rows,
                project,
                good,
                limit=limit,
                skip_bad_rows=skip_bad_rows,
                mapping=mapping,
                on_progress=on_progress,
                bad_rows=bad_rows,
            )
        except Unreadable as error:
            refused = LineError(error.number, error.message, error.place or "the file")
            raise ImportRefused([refused]) from error
        if checked.errors and not skip_bad_rows:
            is_cut = checked.n_errors > len(checked.errors)
            raise ImportRefused(checked.errors, is_cut=is_cut)
        counts: Counter[str] = Counter()
        with transaction.atomic():
            # One import into a project at a time; annotators are not kept waiting by this lock.
            Project.objects.select_for_update(no_key=True).get(pk=project.pk)
            if round_number is None:
                round_number = project.latest_round()
            if judge is not None:
                _enrol(project, judge)
            entries = _read_back(good)
            n_stored = 0
            while batch := list(islice(entries, BATCH)):
                counts += _store(batch, project, overlap, round_number, judge)
                n_stored += len(batch)
                if on_stored:
                    on_stored(n_stored)
            if dry_run:
                transaction.set_rollback(True)
    if not dry_run:
        logger.info("import into %s by %s: %s", project.slug, user or "command", dict(counts))
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


def import_jsonl(
    project: Project, lines: Iterable[bytes], *, skip_bad_lines: bool = False, **options: Any
) -> ImportReport:
    """`import_rows` of lines of JSON."""
    rows = Rows("jsonl", read_json_lines(iter(lines)))
    return import_rows(project, rows, skip_bad_rows=skip_bad_lines, **options)


def judge_named(username: str) -> User:
    """The user of this name; a new one, who cannot sign in, is saved with the import."""
    return User.objects.filter(username=username).first() or _nobody(username)


def _nobody(username: str) -> User:
    """A user who cannot sign in; not saved."""
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


# --- rows -------------------------------------------------------------------------------------
class _Asked(NamedTuple):
    """The comparison that a row is about, and what the row said."""

    comparison: Comparison
    entry: Entry


class _Said(NamedTuple):
    """A vote that is not there yet."""

    comparison: Comparison
    completions: list[Completion]  # as the vote numbers them
    annotator: User
    vote: Vote


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
        _Asked(_comparison(entry, prompt, project, overlap, round_number), entry)
        for entry, prompt in zip(entries, prompts, strict=True)
        if entry.answers
    ]
    voters = _voters(all_asked, project, judge)
    asked, repeated = _new_ones(all_asked, project)
    _take_places(asked, repeated, voters)
    Comparison.objects.bulk_create(one.comparison for one in asked)
    shown, n_completions = _store_completions(asked)
    _store_expected(asked, shown)
    said, n_silent = _unsaid(asked, shown, repeated, voters)
    _store_judgments(said, project)
    return Counter(
        prompts=n_prompts,
        completions=n_completions,
        comparisons=len(asked),
        judgments=len(said),
        duplicates=n_repeated + n_silent,
        known_answers=sum(one.entry.expected is not None for one in asked),
        held=sum(one.comparison.hold != "" for one in asked),
    )


def _comparison(
    entry: Entry, prompt: Prompt, project: Project, overlap: int | None, round_number: int
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
    return Comparison(
        project=project,
        prompt=prompt,
        key=comparison_key(prompt.key, Purpose.TRAINING, texts),
        overlap=overlap or project.overlap,
        round_number=round_number,
        hold=entry.hold,
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


def _new_ones(asked: Sequence[_Asked], project: Project) -> tuple[list[_Asked], list[_Asked]]:
    """Those about comparisons that the project does not have yet, one each; and all others, which
    then are about the one that it has, or about that of the first."""
    there = dict(
        project.comparisons.filter(key__in={one.comparison.key for one in asked}).values_list(
            "key", "pk"
        )
    )
    new: dict[str, _Asked] = {}
    repeated = []
    for one in asked:
        key = one.comparison.key
        if key in there:
            one.comparison.pk = there[key]
            repeated.append(one)
        elif key in new:
            repeated.append(_Asked(new[key].comparison, one.entry))
        else:
            new[key] = one
    return list(new.values()), repeated


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


# --- votes ------------------------------------------------------------------------------------
def _voters(asked: Sequence[_Asked], project: Project, judge: User | None) -> dict[str, User]:
    """Who voted, by what the file calls them; those who are new are saved, and made annotators.

    Their names begin with that of the judge or the project, and hold a character that names of
    people who sign in cannot have: nobody else's name is ever taken for theirs.
    """
    names = {vote.annotator for one in asked for vote in one.entry.votes if vote.annotator}
    prefix = (judge.username if judge else project.slug)[:80]
    usernames = {f"{prefix}/{name}": name for name in sorted(names)}
    users = list(User.objects.filter(username__in=usernames)) if usernames else []
    there = {user.username for user in users}
    new = [_nobody(username) for username in usernames if username not in there]
    users += User.objects.bulk_create(new)
    if users:
        members = Membership.objects.filter(project=project, user__in=users)
        enrolled = set(members.values_list("user_id", flat=True))
        Membership.objects.bulk_create(
            Membership(project=project, user=user) for user in users if user.pk not in enrolled
        )
    voters = {usernames[user.username]: user for user in users}
    return voters | {"": judge} if judge else voters


def _take_places(
    asked: Sequence[_Asked], repeated: Sequence[_Asked], voters: Mapping[str, User]
) -> None:
    """In comparisons that are not saved yet: one for each who has voted, however many."""
    heard: dict[str, set[int]] = {}
    for comparison, entry in [*asked, *repeated]:
        people = heard.setdefault(comparison.key, set())
        people.update(voters[vote.annotator].pk for vote in entry.votes if vote.annotator in voters)
    for comparison, _ in asked:
        comparison.taken = len(heard[comparison.key])
        if comparison.taken >= comparison.overlap and comparison.taken:
            comparison.overlap = comparison.taken
            comparison.hold = ""  # nobody is asked what the file has answered


def _unsaid(
    asked: Sequence[_Asked],
    shown: Sequence[Sequence[Completion]],
    repeated: Sequence[_Asked],
    voters: Mapping[str, User],
) -> tuple[list[_Said], int]:
    """The votes that nobody has cast yet, and how many of the repeated rows have none of them.

    Whoever has handled a comparison, or has taken a vote on it back, is not heard on it again.
    """
    texts = {
        one.comparison.pk: {row.text.strip(): row for row in rows}
        for one, rows in zip(asked, shown, strict=True)
    }
    voted_on = [one for one in repeated if any(v.annotator in voters for v in one.entry.votes)]
    old = {one.comparison.pk for one in voted_on} - texts.keys()
    heard = _heard(old)
    texts |= _texts(old)
    said = [vote for one in asked for vote in _votes(one, texts, voters, heard)]
    n_silent = len(repeated) - len(voted_on)
    more: list[_Said] = []
    for one in voted_on:
        votes = _votes(one, texts, voters, heard)
        n_silent += not votes
        more += votes
    _take_more_places(Counter(vote.comparison.pk for vote in more if vote.comparison.pk in old))
    return said + more, n_silent


def _votes(
    one: _Asked,
    texts: Mapping[int, Mapping[str, Completion]],
    voters: Mapping[str, User],
    heard: set[tuple[int, int]],
) -> list[_Said]:
    """Those of one row; whoever casts one of them counts as heard from then on."""
    votes = []
    for vote in one.entry.votes:
        annotator = voters.get(vote.annotator)
        if annotator is None or (one.comparison.pk, annotator.pk) in heard:
            continue
        heard.add((one.comparison.pk, annotator.pk))
        rows = [texts[one.comparison.pk][answer.text.strip()] for answer in one.entry.answers]
        votes.append(_Said(one.comparison, rows, annotator, vote))
    return votes


def _heard(comparisons: set[int]) -> set[tuple[int, int]]:
    """Comparisons, and who has handled or judged them."""
    if not comparisons:
        return set()
    assignments = Assignment.objects.filter(HANDLED, comparison__in=comparisons)
    judgments = Judgment.objects.filter(comparison__in=comparisons)
    pairs = ("comparison_id", "annotator_id")
    return {*assignments.values_list(*pairs), *judgments.values_list(*pairs)}


def _texts(comparisons: set[int]) -> dict[int, dict[str, Completion]]:
    """The completions of comparisons that are there, by their texts."""
    texts: dict[int, dict[str, Completion]] = {}
    entries = ComparisonCompletion.objects.filter(comparison__in=comparisons)
    for entry in entries.select_related("completion") if comparisons else []:
        rows = texts.setdefault(entry.comparison_id, {})
        rows[entry.completion.text.strip()] = entry.completion
    return texts


def _take_more_places(n_votes: Mapping[int, int]) -> None:
    """As many more as there are new votes; nobody who is comparing loses theirs."""
    for pk, n in n_votes.items():
        taken = F("taken") + n
        Comparison.objects.filter(pk=pk).update(taken=taken, overlap=Greatest(F("overlap"), taken))


def _store_judgments(said: Sequence[_Said], project: Project) -> None:
    """What `claim` and `record` would have left, for comparisons whose places are taken."""
    now = timezone.now()
    assignments, judgments = [], []
    for comparison, completions, annotator, vote in said:
        # An order that is not known is drawn, or it would look as if the first were preferred.
        drawn = vote.order or random.sample(range(len(completions)), len(completions))
        shown = [completions[index] for index in drawn]
        assignment = Assignment(
            comparison=comparison,
            project=project,
            annotator=annotator,
            order=[completion.pk for completion in shown],
            payload_hash=hash_shown(
                comparison.prompt.messages, [(row.pk, row.text) for row in shown]
            ),
            protocol=_protocol(vote),
            state=AssignmentState.JUDGED,
            guideline_version=project.guideline_version,
            lease_until=now,
        )
        judgment = Judgment(
            assignment=assignment,
            comparison=comparison,
            project=project,
            annotator=annotator,
            verdict=Verdict.RANKING if vote.ranking else Verdict.ALL_BAD,
            ranking=_by_id(vote.ranking, completions),
            strength=vote.strength,
            strength_of=vote.strength_of,
            guideline_version=project.guideline_version,
            **_said_by_id(vote.said, completions),
        )
        assignments.append(assignment)
        judgments.append(judgment)
    Assignment.objects.bulk_create(assignments)
    Judgment.objects.bulk_create(judgments)


def _protocol(vote: Vote) -> dict[str, Any]:
    """As much of what was asked as a vote tells, for those who read what was answered."""
    criteria = vote.said.get("criteria", {}).values()
    steps = max((criterion["strength_of"] or 1 for criterion in criteria), default=1)
    protocol: dict[str, Any] = {"many": "best"} if vote.is_pick else {}
    if steps > 1:
        protocol["strengths"] = [f"better, {step} of {steps}" for step in range(1, steps + 1)]
    return protocol


def _by_id(ranking: Ranking, completions: Sequence[Completion]) -> list[list[int]]:
    return [[completions[index].pk for index in group] for group in ranking]


def _said_by_id(said: Mapping[str, Any], completions: Sequence[Completion]) -> dict[str, Any]:
    """What was said besides the ranking, with ids in place of indices."""
    fields = dict(said)
    if "flags" in said:
        fields["flags"] = {
            str(completions[int(index)].pk): labels for index, labels in said["flags"].items()
        }
    if "spans" in said:
        fields["spans"] = [
            span | {"completion": completions[span["completion"]].pk} for span in said["spans"]
        ]
    if "criteria" in said:
        fields["criteria"] = {
            name: {
                "ranking": _by_id(criterion["ranking"], completions),
                "strength": criterion["strength"],
            }
            for name, criterion in said["criteria"].items()
        }
    return fields
