"""Which tool wrote a row, and what it says. Rows of our own form are read by `annotator.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from annotator.formats import argilla, label_studio, others
from annotator.formats.entries import (
    TURN,
    Columns,
    Entry,
    FieldError,
    check_depth,
    excerpt,
    renamed,
)
from annotator.jsonl import FIELDS, parse_row

Record = Mapping[str, Any]
Mapped = Mapping[str, str]  # our name: theirs; for completions several of theirs, between commas

# What columns of a table, which hold text alone, may hold as JSON.
STRUCTURED = {
    "completions", "sources", "truncated", "expected", "judgments", "ranking", "scores", "messages",
    "answers", "votes", "info", "summaries", "extra", "conversation_a", "conversation_b", "input",
    "preferred_output", "non_preferred_output", "fields", "responses", "data", "annotations",
}  # fmt: skip
# Names under which others keep a prompt, the likeliest first.
PROMPTS = ("question", "instruction", "query", "input", "user", "text", "context")
GUESSES = {
    "prompt": PROMPTS,
    "chosen": ("preferred", "better", "accepted", "winner", "response_chosen"),
    "rejected": ("dispreferred", "worse", "loser", "response_rejected"),
    "annotator": ("annotator_id", "worker", "worker_id", "rater", "user_id"),
}
STEMS = ("completion", "response", "answer", "output")


def recognise(record: Record) -> str:
    """The name of the row's shape, for people; empty if it is none that we know."""
    fields = dict(record)
    with suppress(ValueError, RecursionError):
        _unpack(fields)
    for name, (is_it, _) in OTHERS.items():
        if is_it(fields):
            return name
    if "chosen" in record and "rejected" in record:
        if "prompt" in record:
            return "known choice"
        is_text = isinstance(record["chosen"], str) and not TURN.search(record["chosen"])
        return "known choice, prompt included" if is_text else "known choice of conversations"
    if "prompt" not in record:
        return ""
    if "expected" in record:
        return "known answer"
    if "judgments" in record:
        return "comparison with votes"
    return "comparison" if "completions" in record else "prompt"


def entry_of(record: Record, mapping: Mapped | None = None) -> Entry:
    """What a row says. Raises ValueError with a sentence."""
    fields = _renamed(record, mapping) if mapping else dict(record)
    try:
        _unpack(fields)
        for is_it, parse in OTHERS.values():
            if is_it(fields):
                return parse(fields)
        return parse_row(fields)
    except FieldError as error:
        if error.column == "prompt" and "prompt" not in fields:
            _suggest_prompt(fields)
        raise renamed(error, mapping or {}) from None
    except RecursionError:
        raise ValueError("the row is nested too deeply") from None


def _unpack(fields: dict[str, Any]) -> None:
    for name in STRUCTURED & fields.keys():
        if isinstance(fields[name], str) and fields[name][:1] in ("[", "{"):
            try:
                fields[name] = json.loads(fields[name])
            except ValueError as error:
                raise FieldError(name, f"is broken JSON: {error}") from None
            check_depth(fields[name])


def _suggest_prompt(fields: Mapping[str, Any]) -> None:
    """Whoever calls the prompt otherwise is told how to say so."""
    if guess := guess_mapping(fields).get("prompt"):
        raise FieldError(
            "prompt",
            f"is missing; is it {excerpt(guess)}? Then map it: prompt={guess}",
            "the field ",
        )


# --- mapping ----------------------------------------------------------------------------------
def check_mapping(mapping: Mapped, columns: Collection[str] = ()) -> None:
    """Raises ValueError if it maps to what is no field of ours, or from what is no column."""
    for ours, theirs in mapping.items():
        if ours not in FIELDS:
            known = ", ".join(sorted(FIELDS))
            raise ValueError(f'"{ours}" is no field of ours; these are: {known}')
        for column in _columns_of(theirs, columns):
            if columns and not {column, column.partition(".")[0]} & {*columns}:
                names = ", ".join(excerpt(name) for name in columns)
                raise ValueError(f"there is no column {excerpt(column)}; there are {names}")


def guess_mapping(columns: Collection[str]) -> dict[str, str]:
    """A mapping to begin with, of fields that are called otherwise than by us.

    Example: ["question", "chosen", "rejected"] -> {"prompt": "question"}.
    """
    guessed = {}
    for ours, names in GUESSES.items():
        found = next((name for name in names if name in columns), "")
        if found and ours not in columns:
            guessed[ours] = found
    if not {"completions", "chosen"} & {*columns, *guessed}:
        guessed |= _guess_completions(columns)
    return guessed


def _guess_completions(columns: Collection[str]) -> dict[str, str]:
    """Example: ["prompt", "answer_a", "answer_b"] -> {"completions": "answer_a,answer_b"}."""
    for stem in STEMS:
        found = [name for name in columns if name.lower().startswith(stem) and name.lower() != stem]
        if 2 <= len(found) <= 9 and not any("," in name for name in found):
            return {"completions": ",".join(found)}
    return {}


def _columns_of(theirs: str, columns: Collection[str]) -> list[str]:
    return [theirs] if theirs in columns else [name.strip() for name in theirs.split(",")]


def _renamed(record: Record, mapping: Mapped) -> dict[str, Any]:
    """The record with our names; what a mapped field was called by chance is left out."""
    used: set[str] = set()
    fields: dict[str, Any] = {}
    for ours, theirs in mapping.items():
        columns = _columns_of(theirs, record.keys())
        used.update(columns)
        values = {column: _value_at(record, column) for column in columns}
        given = {column: value for column, value in values.items() if value is not None}
        if len(columns) > 1:
            fields[ours] = Columns(given)
        elif given:
            fields[ours] = given[columns[0]]
    gone = used | mapping.keys()
    return {name: value for name, value in record.items() if name not in gone} | fields


def _value_at(record: Record, column: str) -> Any:
    """None if there is none. Example: data.answer1 -> that of the object `data`."""
    if column in record:
        return record[column]
    name, _, rest = column.partition(".")
    inner = record.get(name)
    return _value_at(inner, rest) if rest and isinstance(inner, dict) else None


# --- other tools ------------------------------------------------------------------------------
OTHERS: dict[str, tuple[Callable[[Record], bool], Callable[[Record], Entry]]] = {
    "pair of an export": (others.is_export_pair, others.export_pair),
    "showing of an export": (others.is_showing, others.showing),
    "Label Studio": (label_studio.is_label_studio, label_studio.label_studio),
    "Label Studio, JSON-MIN": (label_studio.is_json_min, label_studio.json_min),
    "Argilla": (argilla.is_argilla, argilla.argilla),
    "Arena battle": (others.is_arena, others.arena),
    "summarize-from-feedback": (others.is_summaries, others.summaries),
    "OpenAI preference": (others.is_openai_preference, others.openai_preference),
    "scored completions": (others.is_scored, others.scored),
    "messages": (others.is_messages, others.messages),
}
