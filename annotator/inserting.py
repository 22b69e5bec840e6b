"""Many rows in one statement, without an object for each: `bulk_create` in a fraction of its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from django.db import connection, models

Values = Mapping[str, Any]  # by column, as {"prompt_id": 7, "text": "Paris."}


def insert(model: type[models.Model], rows: Sequence[Values]) -> list[int]:
    """Their primary keys, in the order of the rows. Where a row has no value, it gets the default;
    times are those of the call.

    Nothing is validated. The database must be one that returns what it has inserted, as PostgreSQL
    and SQLite do.
    """
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    getters = [_getter(field) for field in fields]
    at_once = (connection.features.max_query_params or 30_000) // len(fields)
    keys: list[int] = []
    with connection.cursor() as cursor:
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            values = [get(row) for row in batch for get in getters]
            cursor.execute(
                _statement(model, [str(field.column) for field in fields], len(batch)), values
            )
            keys += _keys(cursor.fetchall())
    return keys


def _keys(found: Sequence[Sequence[int]]) -> Iterator[int]:
    return (key for (key,) in found)


def _statement(model: type[models.Model], columns: Sequence[str], n_rows: int) -> str:
    quote = connection.ops.quote_name
    key = model._meta.pk
    assert key is not None
    names = ", ".join(map(quote, columns))
    row = f"({', '.join(['%s'] * len(columns))})"
    return (
        f"INSERT INTO {quote(model._meta.db_table)} ({names}) "  # noqa: S608  (names of our models)
        f"VALUES {', '.join([row] * n_rows)} RETURNING {quote(str(key.column))}"
    )


def _getter(field: models.Field[Any, Any]) -> Callable[[Values], Any]:
    """What finds the field's value in a row, as the database driver takes it."""
    name, missing, default = field.attname, object(), field.get_default
    adapt = _adapter(field)
    if isinstance(field, models.DateTimeField):
        now = adapt(default())
        return lambda row: now if (value := row.get(name, missing)) is missing else adapt(value)
    return lambda row: adapt(default() if (value := row.get(name, missing)) is missing else value)


def _adapter(field: models.Field[Any, Any]) -> Callable[[Any], Any]:
    """Texts, numbers, truth values and foreign keys are what they are."""
    if isinstance(field, models.JSONField):
        return lambda value: connection.ops.adapt_json_value(value, field.encoder)
    if isinstance(field, models.DateTimeField):
        return connection.ops.adapt_datetimefield_value
    if field.choices:
        return lambda value: None if value is None else str(value)
    return lambda value: value
