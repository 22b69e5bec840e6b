"""What is frozen: one record per comparison, with all judgments in force, read in small batches.

Records are plain dicts, as in votes.jsonl. They are read without models: of a million votes most of
the time would go into making rows that are looked at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
from django.db import connection, transaction
from django.db.models import (
    BooleanField,
    Exists,
    ExpressionWrapper,
    OuterRef,
    Q,
    QuerySet,
    TextField,
)
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast

from annotator.exports.filters import Filters, all_conditions, keeps
from annotator.exports.shapes import RANKING, RULING
from annotator.models import (
    Comparison,
    ComparisonCompletion,
    Judgment,
    JudgmentQuerySet,
    Project,
    Purpose,
    Ruling,
    Verdict,
)
from annotator.protocols import is_pick, n_strengths

BATCH = 500  # comparisons in memory at a time


def judgments_of(project: Project) -> JudgmentQuerySet:
    """All in force on training comparisons, skips among them."""
    return _in_force().filter(project=project, comparison__purpose=Purpose.TRAINING)


def _in_force() -> JudgmentQuerySet:
    return Judgment.objects.filter(voided=None, is_repeat=False)


def records(project: Project, filters: Filters, *, use_rulings: bool) -> Iterator[dict[str, Any]]:
    """In the order of comparisons; only those with a judgment that is kept."""
    condition = all_conditions(filters)
    comparisons = comparisons_with(project, condition)
    pks = comparisons.order_by("pk").values_list("pk", flat=True).iterator(BATCH)
    while batch := list(islice(pks, BATCH)):
        for record in records_of(batch, condition, use_rulings=use_rulings):
            if keeps(record, filters):
                yield record


def comparisons_with(project: Project, condition: Q) -> QuerySet[Comparison]:
    """Those for training with a judgment in force of which the condition holds."""
    kept = _in_force().filter(condition, comparison=OuterRef("pk"))
    return Comparison.objects.filter(Exists(kept), project=project, purpose=Purpose.TRAINING)


@contextmanager
def one_moment() -> Iterator[None]:
    """What is read inside is as it was at one time, and nobody who writes has to wait.

    In SQLite the open cursor of `records` sees to that. In PostgreSQL it is a transaction's snapshot.
    """
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def records_of(
    pks: Sequence[int], condition: Q, *, use_rulings: bool = False
) -> Iterator[dict[str, Any]]:
    """Of comparisons with these pks, in this order, with the judgments of which the condition holds."""
    numbers = as_rows(pks)
    entries = _entries(numbers)
    judgments = _by_comparison(_judgments(numbers, condition))
    rulings = _rulings(numbers) if use_rulings else {}
    found = Comparison.objects.filter(pk__in=numbers).order_by("pk")
    for pk, number, arm, prompt, key, split in found.values_list(*_selected(COMPARISON_FIELDS)):
        place = {completion: place for place, (_, completion, *_) in enumerate(entries[pk])}
        yield {
            "prompt": _parsed(prompt),
            "completions": [text for _, _, text, _, _ in entries[pk]],
            "sources": [source for *_, source, _ in entries[pk]],
            "truncated": [bool(truncated) for *_, truncated in entries[pk]],
            "judgments": [_judgment(row, place) for row in judgments.get(pk, ())],
            "rulings": [_ruling(row, place) for row in rulings.get(pk, ())],
            "split": split,
            "comparison": pk,
            "prompt_key": key,
            "round": number,
            "arm": arm,
        }


AS_ROWS = {
    "sqlite": "SELECT value FROM json_each(%s)",
    "postgresql": "SELECT value::bigint FROM json_array_elements_text(%s::json)",
}


def as_rows(pks: Sequence[int]) -> RawSQL:
    """For `__in`, as one parameter: at hundreds of them Django takes longer than the database."""
    return RawSQL(AS_ROWS[connection.vendor], [json.dumps(list(pks))])  # noqa: S611


def _entries(pks: RawSQL) -> dict[int, list[tuple[Any, ...]]]:
    return _by_comparison(
        ComparisonCompletion.objects.filter(comparison__in=pks)
        .order_by("comparison", "position")
        .values_list(
            "comparison_id",
            "completion_id",
            "completion__text",
            "completion__source",
            "completion__is_truncated",
        )
    )


def _judgments(pks: RawSQL, condition: Q) -> Iterator[tuple[Any, ...]]:
    """The condition is asked of each row and does not choose rows: a database that does not know how
    many there are would take the index of the annotator, say, and read all of theirs for each batch."""
    found = _in_force().filter(comparison__in=pks).order_by("pk")
    if not condition:
        return iter(found.values_list(*_selected(JUDGMENT_FIELDS)))
    asked = found.annotate(is_kept=ExpressionWrapper(condition, BooleanField()))
    rows = asked.values_list(*_selected(JUDGMENT_FIELDS), "is_kept")
    return (row for *row, is_kept in rows if is_kept)


def _rulings(pks: RawSQL) -> dict[int, list[tuple[Any, ...]]]:
    in_force = Ruling.objects.filter(comparison__in=pks, voided=None, verdict=Verdict.RANKING)
    fields = ("comparison_id", "reviewer_id", "ranking")
    return _by_comparison(in_force.values_list(*_selected(fields)))


def _by_comparison(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        found[row[0]].append(row)
    return found


COMPARISON_FIELDS = (
    "pk", "round_number", "arm", "prompt__messages", "prompt__key", "prompt__split",
)  # fmt: skip
JUDGMENT_FIELDS = (
    "comparison_id", "pk", "assignment_id", "annotator_id", "verdict", "ranking", "strength",
    "strength_of", "criteria", "reasons", "rationale", "flags", "spans", "rewrite", "seconds",
    "guideline_version", "created", "assignment__order", "assignment__protocol",
    "assignment__first_interaction_ms", "assignment__ui_version",
)  # fmt: skip
AS_TEXT = {
    "prompt__messages", "ranking", "criteria", "reasons", "flags", "spans", "created",
    "assignment__order", "assignment__protocol",
}  # fmt: skip


def _selected(fields: Sequence[str]) -> list[str | Cast]:
    """JSON and times as text, to be read here: Django's way takes three times as long, and there is
    much of it. Both databases write times alike: "2026-11-21 10:00:00.5", in UTC, and more behind."""
    return [Cast(name, TextField()) if name in AS_TEXT else name for name in fields]


_parsed: Callable[[str], Any] = msgspec.json.Decoder().decode
_parsed_once = lru_cache(maxsize=100)(_parsed)


def _judgment(row: tuple[Any, ...], place: Mapping[int, int]) -> dict[str, Any]:
    (
        _, pk, showing, annotator, verdict, ranking, strength, strength_of, criteria, reasons,
        rationale, flags, spans, rewrite, seconds, guideline_version, created, order, protocol,
        first_interaction_ms, ui_version,
    ) = row  # fmt: skip
    order, protocol = _parsed(order), _parsed_once(protocol)
    flags = _parsed(flags)
    return {
        "annotator": str(annotator),  # a number: names stay in the database
        "verdict": verdict,
        "ranking": [[place[completion] for completion in group] for group in _parsed(ranking)],
        "strength": strength,
        "strength_of": strength_of,
        "is_pick": verdict == RANKING and is_pick(protocol, len(order)),
        "criteria": [
            {
                "criterion": key,
                "ranking": [
                    [place[completion] for completion in group] for group in said["ranking"]
                ],
                "strength": said["strength"],
                "strength_of": n_strengths(protocol),
            }
            for key, said in _parsed(criteria).items()
        ],
        "reasons": _parsed(reasons),
        "rationale": rationale,
        "flags": [flags.get(str(completion), []) if flags else [] for completion in place],
        "spans": [{**span, "completion": place[span["completion"]]} for span in _parsed(spans)],
        "rewrite": rewrite,
        "order": [place[completion] for completion in order],
        "seconds": seconds,
        "first_interaction_ms": first_interaction_ms,
        "ui_version": ui_version,
        "guideline_version": guideline_version,
        "given": f"{created[:10]}T{created[11:19]}+00:00",
        "judgment": pk,
        "showing": showing,
    }


def _ruling(row: tuple[Any, ...], place: Mapping[int, int]) -> dict[str, Any]:
    _, reviewer, ranking = row
    return {
        "annotator": f"{RULING}{reviewer}",
        "verdict": RANKING,
        "ranking": [[place[completion] for completion in group] for group in _parsed(ranking)],
        "is_pick": False,
    }
