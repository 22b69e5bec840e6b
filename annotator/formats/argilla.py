"""What records of Argilla say, versions 1 and 2, nested, flat, or as rows of a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from annotator.formats.entries import (
    MAX_ANSWERS,
    MIN_ANSWERS,
    Answer,
    Columns,
    Entry,
    FieldError,
    Vote,
    check_annotator,
    check_distinct,
    check_text,
    excerpt,
    ranking_by,
)
from annotator.formats.others import PROMPTS, Record, first_of, has_object, number, prompt_in

TIES = {"tie", "equal", "both", "same", "draw"}


NUMBERED = re.compile(r"(.*?)(?:\d+|(?<![a-z])[a-z]|(?<![A-Z])[A-Z])")


class _Response(NamedTuple):
    question: str
    annotator: str
    value: Any


def is_argilla(record: Record) -> bool:
    """Rows of its datasets are known by their columns even where nobody has answered."""
    return (
        (has_object(record, "fields") and "responses" in record)
        or any(name.endswith((".responses", "-suggestion-metadata")) for name in record)
        or any(_is_responses(value) for value in record.values())
    )


def _is_responses(value: Any) -> bool:
    """As in datasets that Argilla 1 has saved."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and first.keys() >= {"user_id", "value", "status"}


def argilla(record: Record) -> Entry:
    """A record with its submitted responses to the first question that ranks fields, or names one.

    Known are records as JSON, nested or flat, and rows of datasets of Argilla 1 and 2.
    """
    fields = record["fields"] if has_object(record, "fields") else record
    texts, given = _fields_shown(record, fields)
    by_question: dict[str, dict[str, tuple[list[str], Vote]]] = {}
    unclear: dict[str, FieldError] = {}
    for response in _responses(record):
        try:
            if ranked := _ranked(response, list(texts), given):
                by_question.setdefault(response.question, {})[response.annotator] = ranked
        except FieldError as error:
            unclear[response.question] = error
    question = next(iter(by_question), next(iter(unclear), ""))
    if question in unclear:
        raise unclear[question]
    if not question:
        raise FieldError(
            "responses", f"hold no submitted ranking of fields by their names, which are {[*texts]}"
        )
    found = list(by_question[question].values())
    names = found[0][0]
    if any(other != names for other, _ in found):
        raise FieldError("responses", "rank different fields of one record")
    answers = [Answer(check_text(name, texts[name], may_be_empty=True)) for name in names]
    check_distinct(answers, names)
    prompt = prompt_in(record if "prompt" in record else fields)
    return Entry(prompt, answers, votes=[vote for _, vote in found])


def _fields_shown(record: Record, fields: Record) -> tuple[dict[str, Any], list[str]]:
    """The texts that may be answers, and the names of those that were mapped to completions."""
    if isinstance(mapped := record.get("completions"), Columns):
        names = [name.rpartition(".")[2] for name in mapped.names]
        return dict(zip(names, mapped, strict=True)), names
    prompt_name = first_of(fields, PROMPTS)
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, str) and name != prompt_name and "." not in name
    }, []


def _responses(record: Record) -> Iterable[_Response]:
    """Those that were submitted."""
    responses = record.get("responses")
    if isinstance(responses, dict):  # {question: [{"value", "user_id", "status"}]}
        for question, given in responses.items():
            yield from _given(question, given)
    elif isinstance(responses, list):  # [{"user_id", "status", "values": {question: {"value"}}}]
        for response in responses:
            if isinstance(response, dict) and has_object(response, "values"):
                for question, value in response["values"].items():
                    yield from _given(question, [{**response, **_as_object(value)}])
    for name, value in record.items():
        if name.endswith(".responses") and isinstance(value, list):
            users = _as_list(record.get(f"{name}.users")) or [""] * len(value)
            states = _as_list(record.get(f"{name}.status")) or [None] * len(value)
            for given, user, status in zip(value, users, states, strict=False):
                row = {"value": given, "user_id": user, "status": status}
                yield from _given(name.removesuffix(".responses"), [row])
        elif _is_responses(value):
            yield from _given(name, value)


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _given(question: str, rows: Any) -> Iterable[_Response]:
    if isinstance(rows, dict):  # a list of objects as columns
        columns = [value if isinstance(value, list) else [value] for value in rows.values()]
        rows = [dict(zip(rows, row, strict=False)) for row in zip(*columns, strict=False)]
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get("status") in (None, "submitted"):
            annotator = str(row.get("user_id") or "")
            yield _Response(
                question, annotator and check_annotator(question, annotator), row.get("value")
            )


def _ranked(
    response: _Response, texts: Sequence[str], given: Sequence[str]
) -> tuple[list[str], Vote] | None:
    """The fields that are ranked, and the vote; None if the response ranks none."""
    value = response.value
    if isinstance(value, dict) and value.keys() == {"rank", "value"}:  # as columns
        columns = zip(_as_list(value["rank"]), _as_list(value["value"]), strict=False)
        value = [{"rank": rank, "value": name} for rank, name in columns]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = [{"rank": rank, "value": name} for rank, name in enumerate(value)]
    if isinstance(value, list):
        return _ranking_of(response, value, texts)
    if isinstance(value, str) and (value in texts or value.lower() in TIES):
        return _label_of(response, value, texts, given)
    return None


def _ranking_of(
    response: _Response, value: Sequence[Any], texts: Sequence[str]
) -> tuple[list[str], Vote] | None:
    items = [item for item in value if isinstance(item, dict)]
    names = sorted(str(item.get("value")) for item in items)
    if len(items) != len(value) or not MIN_ANSWERS <= len(set(names)) == len(names):
        return None
    if not set(names) <= set(texts) or len(names) > MAX_ANSWERS:
        return None
    ranks = {str(item["value"]): number(response.question, item.get("rank")) for item in items}
    return names, Vote(ranking_by([-ranks[name] for name in names]), response.annotator)


def _label_of(
    response: _Response, value: str, texts: Sequence[str], given: Sequence[str]
) -> tuple[list[str], Vote] | None:
    """A label that names a field, or says that all are alike. Which other fields it was compared with an
    export does not say: those that are called alike, unless they are mapped."""
    groups = [sorted(given)] if given else _alike(texts)
    if value in texts:
        groups = [names for names in groups if value in names]
    if len(groups) != 1 or not MIN_ANSWERS <= len(groups[0]) <= MAX_ANSWERS:
        if value not in texts and not groups:
            return None  # the label of a question of another kind
        raise FieldError(
            response.question,
            f"is {excerpt(value)}, and nothing says which fields were compared; map the answers, as "
            f"completions=NAME,NAME, of {', '.join(texts)}",
        )
    (names,) = groups
    if value not in names:
        return names, Vote([list(range(len(names)))], response.annotator)
    best = names.index(value)
    others = [index for index in range(len(names)) if index != best]
    return names, Vote([[best], others], response.annotator, is_pick=len(names) > MIN_ANSWERS)


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Names that differ in a number or a letter at their end.

    Example: ["system", "response-1", "response-2"] -> [["response-1", "response-2"]].
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if found := NUMBERED.fullmatch(name):
            groups.setdefault(found[1], []).append(name)
    return [group for group in groups.values() if len(group) >= MIN_ANSWERS]
