"""Which exports carry a vote or an answer: by what the database knows, and then by the file itself.

An export says in the database whose votes it has, but not which ones: that would be a row for each
vote of each export. Its file is sorted by comparison, though, so the few lines about one comparison
are found by bisection, in as many reads as the file's size has bits.
"""

from __future__ import annotations

import json
from typing import IO, Any

from django.db.models import QuerySet

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


def exports_with_judgment(judgment: Judgment) -> list[Export]:
    """The newest first. A vote counts as it was when the export was made: what was taken back or
    corrected later is in it."""
    if judgment.verdict not in COUNTED or judgment.is_repeat:
        return []
    exports = _may_have(judgment.project, judgment.comparison)
    exports = exports.filter(
        created__gte=judgment.created, annotators__annotator=judgment.annotator
    )
    if judgment.voided:
        exports = exports.filter(created__lt=judgment.voided)
    return [export for export in exports if _has_vote(export, judgment)]


def exports_with_completion(completion: Completion) -> list[Export]:
    """The newest first: those with a vote on a comparison that shows it."""
    found: dict[int, Export] = {}
    for comparison in completion.comparisons.select_related("project"):
        for export in _may_have(comparison.project, comparison):
            rows = rows_of(export, comparison.pk)
            if rows is None:
                was_judged = comparison.judgments.filter(
                    verdict__in=COUNTED, is_repeat=False, created__lte=export.created
                )
                is_in = was_judged.exists()
            else:
                texts = {row[side][0]["content"] for row in rows for side in ("chosen", "rejected")}
                is_in = completion.text in texts
            if is_in:
                found[export.pk] = export
    return [found[pk] for pk in sorted(found, reverse=True)]


def _may_have(project: Project, comparison: Comparison) -> QuerySet[Export]:
    if comparison.purpose != Purpose.TRAINING:
        return project.exports.none()
    return project.exports.filter(
        created__gte=comparison.created, round_number__gte=comparison.round_number
    )


def _has_vote(export: Export, judgment: Judgment) -> bool:
    rows = rows_of(export, judgment.comparison_id)
    if rows is None:  # the file is gone, or of a kind that says no more: its date decides
        return True
    if judgment.verdict == Verdict.ALL_BAD:
        return any(row["n_all_bad"] for row in rows)
    if rows and "votes" not in rows[0]:  # of an older format, which says nothing of who voted
        return True
    annotator = str(judgment.annotator_id)
    return any(vote["annotator"] == annotator for row in rows for vote in row["votes"])


def rows_of(export: Export, comparison: int) -> list[Row] | None:
    """The export's rows about a comparison; None if there is no file that can tell."""
    try:
        with (export.folder / "data.jsonl").open("rb") as file:
            return _rows(file, comparison)
    except (FileNotFoundError, KeyError, ValueError):  # of an older format, or damaged
        return None


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
