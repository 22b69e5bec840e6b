"""Which tool wrote a row, and what it says. Rows of our own form are read by `annotator.jsonl`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from annotator.formats.entries import Entry, FieldError, excerpt, renamed
from annotator.jsonl import FIELDS, parse_row

Record = Mapping[str, Any]
Mapped = Mapping[str, str]  # our name: theirs; for completions several of theirs, between commas


def recognise(record: Record) -> str:
    """The name of the row's shape, for people; empty if it is none that we know."""
    if "chosen" in record and "rejected" in record:
        return "known choice"
    if "prompt" in record:
        return "comparison" if "completions" in record else "prompt"
    return ""


def entry_of(record: Record, mapping: Mapped | None = None) -> Entry:
    """What a row says. Raises ValueError with a sentence."""
    try:
        if not mapping:
            return parse_row(dict(record))
        return parse_row(_renamed(record, mapping))
    except FieldError as error:
        raise renamed(error, mapping or {}) from None
    except RecursionError:
        raise ValueError("the row is nested too deeply") from None


# --- mapping ----------------------------------------------------------------------------------
def check_mapping(mapping: Mapped, columns: Collection[str] = ()) -> None:
    """Raises ValueError if it maps to what is no field of ours, or from what is no column."""
    for ours, theirs in mapping.items():
        if ours not in FIELDS:
            raise ValueError(
                f'"{ours}" is no field of ours; these are: {", ".join(sorted(FIELDS))}'
            )
        for column in _columns_of(theirs, columns):
            if columns and column not in columns:
                names = ", ".join(excerpt(name) for name in columns)
                raise ValueError(f"there is no column {excerpt(column)}; there are {names}")


def _columns_of(theirs: str, columns: Collection[str]) -> list[str]:
    return [theirs] if theirs in columns else [name.strip() for name in theirs.split(",")]


def _renamed(record: Record, mapping: Mapped) -> dict[str, Any]:
    """The record with our names; what a mapped field was called by chance is left out."""
    used: set[str] = set()
    fields: dict[str, Any] = {}
    for ours, theirs in mapping.items():
        columns = _columns_of(theirs, record.keys())
        used.update(columns)
        if len(columns) > 1:
            fields[ours] = [record[column] for column in columns if column in record]
        elif columns[0] in record:
            fields[ours] = record[columns[0]]
    rest = {name: value for name, value in record.items() if name not in used}
    return {**{name: value for name, value in rest.items() if name not in mapping}, **fields}
