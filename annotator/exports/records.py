"""What is frozen: one record per comparison, with all judgments in force, and a row for every other
showing, read in small batches.

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
from annotator.exports.shapes import NOTHING_SAID, RANKING, RULING, Row, row_of_showing
from annotator.models import (
    Assignment,
    AssignmentState,
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
    """What is read inside is as it was at one time, and nobody who writes has to wait."""
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")  # by hand: Django's transactions here take the write lock
            try:
                yield
            finally:
                if connection.connection.in_transaction:  # a full disk ends it
                    cursor.execute("ROLLBACK")
    else:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield


def records_of(
    pks: Sequence[int], condition: Q, *, use_rulings: bool = False
) -> Iterator[dict[str, Any]]:
    """Of comparisons with these pks, in this order, with the judgments of which the condition holds."""
    numbers = as_rows(pks)
    judgments = _by_comparison(_judgments(numbers, condition))
    rulings = _rulings(numbers) if use_rulings else {}
    for record, place in _asked(numbers):
        pk = record["comparison"]
        record["judgments"] = [_judgment(row, place) for row in judgments.get(pk, ())]
        record["rulings"] = [_ruling(row, place) for row in rulings.get(pk, ())]
        yield record


def _asked(pks: RawSQL) -> Iterator[tuple[dict[str, Any], dict[int, int]]]:
    """The record of each comparison, in which nobody has said anything yet, and the place of each of
    its completions."""
    entries = _entries(pks)
    found = Comparison.objects.filter(pk__in=pks).order_by("pk")
    for pk, number, arm, prompt, key, split in found.values_list(*_selected(COMPARISON_FIELDS)):
        record = {
            "prompt": _parsed(prompt),
            "completions": [text for _, _, text, _, _ in entries[pk]],
            "sources": [source for *_, source, _ in entries[pk]],
            "truncated": [bool(truncated) for *_, truncated in entries[pk]],
            "judgments": [],
            "rulings": [],
            "split": split,
            "comparison": pk,
            "prompt_key": key,
            "round": number,
            "arm": arm,
        }
        yield record, {completion: place for place, (_, completion, *_) in enumerate(entries[pk])}


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
    "assignment__order", "assignment__protocol", "order", "expected",
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
        "given": _moment(created),
        "judgment": pk,
        "showing": showing,
    }


def _moment(time: str) -> str:
    """Example: "2026-11-21 10:00:00.5" -> "2026-11-21T10:00:00+00:00"."""
    return f"{time[:10]}T{time[11:19]}+00:00"


def _ruling(row: tuple[Any, ...], place: Mapping[int, int]) -> dict[str, Any]:
    _, reviewer, ranking = row
    return {
        "annotator": f"{RULING}{reviewer}",
        "verdict": RANKING,
        "ranking": [[place[completion] for completion in group] for group in _parsed(ranking)],
        "is_pick": False,
    }


# --- every other showing --------------------------------------------------------------------------
SHOWING_FIELDS = (
    "comparison_id", "pk", "annotator_id", "state", "is_repeat", "guideline_version", "created", "order",
    "first_interaction_ms", "ui_version",
)  # fmt: skip


def other_showings(project: Project, filters: Filters) -> Iterator[Row]:
    """A row for each showing that the records do not have: those without a verdict in force, those of
    known answers, and repetitions. In the order of comparisons.

    None where a filter asks what was said. None of evaluations, as in the records.
    """
    if filters.ask_what_was_said:
        return
    found = _other_showings(project).filter(all_conditions(filters)).order_by("comparison", "pk")
    rows = found.values_list(*_selected(SHOWING_FIELDS)).iterator(BATCH)
    while batch := list(islice(rows, BATCH)):
        yield from _rows_of_showings(batch)


def _other_showings(project: Project) -> QuerySet[Assignment]:
    """What the project does not have many of is looked for first, and evaluations are left out last: so no
    comparison is looked up for a showing that was answered."""
    known = project.comparisons.filter(purpose=Purpose.GOLD).order_by().values("pk")
    in_records = Q(state__in=[AssignmentState.JUDGED, AssignmentState.SKIPPED], is_repeat=False)
    return (
        Assignment.objects.filter(~in_records | Q(comparison__in=known), project=project)
        .exclude(state=AssignmentState.WAITING)  # which nobody has seen yet
        .exclude(comparison__purpose=Purpose.EVALUATION)
    )


def _rows_of_showings(batch: Sequence[tuple[Any, ...]]) -> Iterator[Row]:
    numbers = as_rows(sorted({comparison for comparison, *_ in batch}))
    asked = {record["comparison"]: (record, place) for record, place in _asked(numbers)}
    known = Comparison.objects.filter(pk__in=numbers, purpose=Purpose.GOLD)
    expected = dict(known.values_list(*_selected(("pk", "expected"))))
    verdicts = Judgment.objects.filter(
        assignment__in=as_rows([row[1] for row in batch]), voided=None
    )
    said = {row[2]: row for row in verdicts.values_list(*_selected(JUDGMENT_FIELDS))}
    for (
        comparison, pk, annotator, state, is_repeat, guideline_version, created, order,
        first_interaction_ms, ui_version,
    ) in batch:  # fmt: skip
        record, place = asked[comparison]
        row = said.get(pk)
        if row is None:
            judgment = NOTHING_SAID | {
                "annotator": str(annotator),
                "flags": [[] for _ in place],
                "order": [place[completion] for completion in _parsed(order)],
                "first_interaction_ms": first_interaction_ms,
                "ui_version": ui_version,
                "guideline_version": guideline_version,
                "showing": pk,
            }
        else:
            judgment = _judgment(row, place)
        answer = _parsed(expected[comparison]) if comparison in expected else None
        yield row_of_showing(
            record,
            judgment,
            outcome=state,
            shown=_moment(created),
            is_repeat=bool(is_repeat),
            expected=answer and [[place[completion] for completion in group] for group in answer],
        )
