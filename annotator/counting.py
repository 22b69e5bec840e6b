"""What an import would store, without storing it: the counts of a dry run.

Nothing is written to the database, so that nobody waits for a dry run. What would be there after
the rows before, is remembered in a temporary file, as hashes.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from annotator import storing
from annotator.formats.entries import Answer, Entry
from annotator.models import Completion, Project, Split, User, key_of_texts
from annotator.storing import Asked, PromptRow


class Seen:
    """A set of any size, on the disk. It belongs to nobody's database."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect("")  # a file without a name, deleted when it is closed
        self.connection.execute("PRAGMA journal_mode = OFF")
        self.connection.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")

    def is_first(self, *parts: str | bool) -> bool:
        """Whether this is added now, and was not there before."""
        key = blake2b(json.dumps(parts).encode(), digest_size=16).digest()
        return self.connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", [key]).rowcount > 0

    def close(self) -> None:
        self.connection.close()


def count_new(
    entries: Sequence[Entry],
    project: Project,
    overlap: int | None,
    judge: User | None,
    seen: Seen,
) -> Counter[str]:
    """What `storing.store` would return for these entries, had it stored all that `seen` has seen."""
    if judge is None:
        entries = [storing.without_anonymous(entry) for entry in entries]
    keys = [key_of_texts(entry.messages) for entry in entries]
    there = dict(storing.prompts_there(project, keys).values_list("key", "pk"))
    prompts = [PromptRow(key, [], Split.GOLD, there.get(key, 0), key not in there) for key in keys]
    is_new = [prompt.is_new and seen.is_first("prompt", prompt.key) for prompt in prompts]
    asked, repeated = _asked(entries, prompts, project, overlap, seen)
    storing.take_places(asked, repeated)
    n_votes, n_silent = _count_votes(asked, repeated, project, judge, seen)
    return Counter(
        prompts=sum(is_new),
        completions=_count_completions(asked, seen),
        comparisons=len(asked),
        judgments=n_votes,
        duplicates=n_silent
        + sum(not (new or entry.answers) for new, entry in zip(is_new, entries, strict=True)),
        known_answers=sum(one.entry.expected is not None for one in asked),
        held=sum(one.comparison.hold != "" for one in asked),
    )


def _asked(
    entries: Sequence[Entry],
    prompts: Sequence[PromptRow],
    project: Project,
    overlap: int | None,
    seen: Seen,
) -> tuple[list[Asked], list[Asked]]:
    """Rows about comparisons that are neither there nor were seen, one each; and all others."""
    all_asked = storing.all_asked(entries, prompts, overlap or project.overlap)
    unknown, repeated = storing.new_ones(all_asked, project)
    new: list[Asked] = []
    old: list[Asked] = []
    for one in unknown:
        (new if seen.is_first("comparison", one.comparison.key) else old).append(one)
    return new, [*old, *repeated]


def _count_completions(asked: Iterable[Asked], seen: Seen) -> int:
    prompts = {one.comparison.prompt.pk for one in asked} - {0}
    rows = Completion.objects.filter(prompt__in=prompts) if prompts else Completion.objects.none()
    fields = ("prompt_id", "text", "source", "is_truncated")
    there = {(prompt, Answer(*answer)) for prompt, *answer in rows.values_list(*fields)}
    return sum(
        (one.comparison.prompt.pk, answer) not in there
        and seen.is_first("completion", one.comparison.prompt.key, *answer)
        for one in asked
        for answer in one.entry.answers
    )


def _count_votes(
    asked: Sequence[Asked],
    repeated: Sequence[Asked],
    project: Project,
    judge: User | None,
    seen: Seen,
) -> tuple[int, int]:
    """How many are not cast yet, and how many of the repeated rows have none of them."""
    prefix = storing.prefix_of(project, judge)
    people = storing.known_people([*asked, *repeated], prefix) | ({"": judge} if judge else {})
    heard = storing.heard_on({one.comparison.pk for one in repeated if one.entry.votes} - {0})

    def count(one: Asked) -> int:
        return sum(
            not storing.is_heard(vote, one.comparison, people, heard)
            and seen.is_first("vote", one.comparison.key, vote.annotator)
            for vote in one.entry.votes
        )

    counts = [count(one) for one in [*asked, *repeated]]
    return sum(counts), counts[len(asked) :].count(0)
