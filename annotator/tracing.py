"""Which exports carry a vote or an answer: by what the database knows, and then by the file itself.

An export says in the database whose votes it has, but not which ones: that would be a row for each
vote of each export. Its files are sorted by comparison, though, so the few lines about one comparison
are found by bisection, in as many reads as the file's size has bits: in votes.jsonl, which has every
vote, or in data.jsonl of an export of before there was that. Where the file is gone, or is not what
was frozen, the export's date decides, and that is said.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import msgspec
from django.db.models import QuerySet

from annotator.hashes import check_file, sha256_of
from annotator.models import (
    COUNTED,
    Comparison,
    Completion,
    Export,
    Judgment,
    Project,
    Purpose,
    Verdict,
)

Row = dict[str, Any]
Doubts = dict[Export, str]  # why it is not sure that an export has it; empty if it is


def exports_with_judgment(judgment: Judgment) -> Doubts:
    """The newest first. A vote counts as it was when the export was made: what was taken back or
    corrected later is in it."""
    if judgment.verdict not in COUNTED or judgment.is_repeat:
        return {}
    exports = _may_have(judgment.project, judgment.comparison)
    exports = exports.filter(
        created__gte=judgment.created, annotators__annotator=judgment.annotator
    )
    if judgment.voided:
        exports = exports.filter(created__lt=judgment.voided)
    found = {}
    for export in exports:
        rows, doubt = _looked_up(export, judgment.comparison_id)
        if doubt or _has_vote(rows, judgment):
            found[export] = doubt
    return found


def exports_with_completion(completion: Completion) -> Doubts:
    """The newest first: those with a vote on a comparison that shows it."""
    found: Doubts = {}
    for comparison in completion.comparisons.select_related("project"):
        for export in _may_have(comparison.project, comparison):
            rows, doubt = _looked_up(export, comparison.pk)
            if _was_judged(comparison, export) if doubt else _has_text(rows, completion.text):
                found[export] = found.get(export, doubt) and doubt
    return dict(sorted(found.items(), key=lambda item: -item[0].pk))


def _may_have(project: Project, comparison: Comparison) -> QuerySet[Export]:
    if comparison.purpose != Purpose.TRAINING:
        return project.exports.none()
    return project.exports.filter(
        created__gte=comparison.created, round_number__gte=comparison.round_number
    )


def _was_judged(comparison: Comparison, export: Export) -> bool:
    """By the time of the export."""
    return comparison.judgments.filter(
        verdict__in=COUNTED, is_repeat=False, created__lte=export.created
    ).exists()


def _has_vote(rows: list[Row], judgment: Judgment) -> bool:
    pk, annotator = judgment.pk, str(judgment.annotator_id)
    if rows and "judgments" in rows[0]:
        votes = [vote for row in rows for vote in row["judgments"]]
        return any(
            vote["annotator"] == annotator and vote.get("judgment", pk) == pk for vote in votes
        )
    if judgment.verdict == Verdict.ALL_BAD:
        return any(row["n_all_bad"] for row in rows)
    return any(vote["annotator"] == annotator for row in rows for vote in row["votes"])


def _has_text(rows: list[Row], text: str) -> bool:
    """Whether it is among what was judged."""
    if rows and "judgments" in rows[0]:
        return any(
            text in row["completions"]
            and any(vote["verdict"] in COUNTED for vote in row["judgments"])
            for row in rows
        )
    return any(text == row[side][0]["content"] for row in rows for side in ("chosen", "rejected"))


def _looked_up(export: Export, comparison: int) -> tuple[list[Row], str]:
    """The export's rows about a comparison, and why these cannot be told, if so."""
    votes = export.manifest.get("votes")
    name = "votes.jsonl" if votes else "data.jsonl"
    try:
        if sha256_of(export.folder / name) != (votes["sha256"] if votes else export.sha256):
            return [], f"by its date: {name} has changed since it was frozen"
        rows = rows_of(export, comparison, name)
    except FileNotFoundError:
        return [], f"by its date: {name} is missing"
    except (KeyError, ValueError):
        return [], f"by its date: {name} does not name comparisons"
    if not votes and rows and "votes" not in rows[0]:
        return [], f"by its date: {name} does not say who voted"
    return rows, ""


class _Line(msgspec.Struct):
    """As much of one as tells what it is about."""

    comparison: int


def comparisons_in(export: Export) -> tuple[int, ...]:
    """Those that the export has. Raises FileChanged, FileNotFoundError, and ValueError if the file is of
    an older format that does not name them."""
    name = "votes.jsonl" if export.manifest.get("votes") else "data.jsonl"
    check_file(export, name)
    return _comparisons_in(export.folder / name, sha256_of(export.folder / name))


@lru_cache(maxsize=4)  # pages of one list come one after the other
def _comparisons_in(path: Path, sha256: str) -> tuple[int, ...]:
    line_of = msgspec.json.Decoder(_Line).decode
    with path.open("rb") as file:
        return tuple(dict.fromkeys(line_of(line).comparison for line in file))


def rows_of(export: Export, comparison: int, name: str = "data.jsonl") -> list[Row]:
    """What a file of the export says of a comparison. KeyError or ValueError: it is of an older
    format, or damaged."""
    with (export.folder / name).open("rb") as file:
        return _rows(file, comparison)


def _rows(file: IO[bytes], comparison: int) -> list[Row]:
    low, high = 0, file.seek(0, 2)
    while low < high:  # to the lowest place after which no line is about an earlier comparison
        middle = (low + high) // 2
        row = _row_after(file, middle)
        if row is not None and row["comparison"] < comparison:
            low = middle + 1
        else:
            high = middle
    rows = []
    row = _row_after(file, low)
    while row is not None and row["comparison"] == comparison:
        rows.append(row)
        row = _parsed(file.readline())
    return rows


def _row_after(file: IO[bytes], place: int) -> Row | None:
    """The first line that begins at this place or after it; None at the end of the file."""
    file.seek(max(place - 1, 0))
    if place:
        file.readline()  # to the end of the line before; nothing but its end if one begins here
    return _parsed(file.readline())


def _parsed(line: bytes) -> Row | None:
    return json.loads(line) if line else None
