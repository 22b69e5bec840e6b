"""What the first rows of a file say, as a page shows them. Nothing is read here but the sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from annotator.formats.entries import Entry
from annotator.formats.shapes import entry_of, recognise
from annotator.imports.models import Import
from annotator.rendering import LETTERS, Conversation, split_conversation

MAX_SHOWN = 20_000  # characters of a row that nobody understands


class ShownAnswer(NamedTuple):
    letter: str
    text: str
    source: str
    is_truncated: bool
    mark: str  # what the file says of it; empty: nothing


class ShownRow(NamedTuple):
    """Either a conversation with its answers, or what is wrong with the row."""

    place: str
    conversation: Conversation | None = None
    answers: list[ShownAnswer] = []
    note: str = ""
    problem: str = ""
    text: str = ""  # of the row, if there is a problem


class Preview(NamedTuple):
    rows: list[ShownRow]
    shapes: list[str]  # that were recognised, in words

    @property
    def is_understood(self) -> bool:
        """Whether any row is, so that nobody needs to say which column is what."""
        return any(not row.problem for row in self.rows)


def preview_of(import_: Import) -> Preview:
    rows, shapes = [], {}
    for row in import_.sample:
        try:
            if isinstance(row.record, ValueError):
                raise row.record
            entry = entry_of(row.record, import_.mapping)
        except ValueError as error:
            rows.append(ShownRow(row.place, problem=str(error), text=_text_of(row.record)))
        else:
            rows.append(_shown(row.place, entry))
            shapes[recognise(row.record)] = True
    return Preview(rows, [shape for shape in shapes if shape])


def _text_of(record: Any) -> str:
    if isinstance(record, ValueError):
        return ""
    return json.dumps(record, ensure_ascii=False, indent=1)[:MAX_SHOWN]


def _shown(place: str, entry: Entry) -> ShownRow:
    marks = marks_of(entry)
    answers = [
        ShownAnswer(letter, *answer, mark)
        for letter, answer, mark in zip(LETTERS, entry.answers, marks, strict=False)
    ]
    return ShownRow(place, split_conversation(entry.messages), answers, note_of(entry))


def marks_of(entry: Entry) -> list[str]:
    """What the row says of each answer, in a word. With votes of several people: nothing."""
    if entry.expected is not None:
        return _marks(entry.expected, len(entry.answers), "Right answer")
    if len(entry.votes) == 1:
        return _marks(entry.votes[0].ranking, len(entry.answers), "Chosen")
    return [""] * len(entry.answers)


def _marks(ranking: Sequence[Sequence[int]], n_answers: int, best: str) -> list[str]:
    """Example: [[1], [0]] -> ["", "Chosen"]; of three and more each has its rank."""
    rank_of = {index: rank for rank, group in enumerate(ranking, 1) for index in group}
    if not ranking:
        return ["Bad"] * n_answers
    if len(ranking) == 1:
        return ["As good as the others"] * n_answers
    if n_answers == 2:
        return [best if rank_of[index] == 1 else "" for index in range(n_answers)]
    return [f"Rank {rank_of[index]}" for index in range(n_answers)]


def note_of(entry: Entry) -> str:
    if entry.expected is not None:
        return f"A known answer. {entry.explanation}".strip()
    if len(entry.votes) > 1:
        return f"With {len(entry.votes)} votes."
    return ""
