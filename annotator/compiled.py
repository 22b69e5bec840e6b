"""Queries, updates and new rows whose SQL is made once.

Django makes the SQL of a queryset anew at each use. For the statements of a verdict and the next
comparison that is more work than all the rest, and they never differ but in a few values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, Generic, ParamSpec, TypeVar

from django.db import connection, connections, router
from django.db.models import Model, QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery

Value = int | float | str
Changes = dict[str, Any]  # {field: what it becomes}

P = ParamSpec("P")
Row = TypeVar("Row")


def compiled(build: Callable[P, QuerySet[Any, Row]]) -> Callable[P, list[Row]]:
    """The rows of the queryset that the function builds; it is called once for each shape.

    Positional arguments are values, given to the database in the place where they stand in the
    queryset. Keyword arguments decide on its shape: each combination of them, and each number of
    values, has SQL of its own. The function must pass values on as they are, and decide nothing by them.
    """
    plans: dict[tuple[object, ...], _Plan[Row]] = {}

    @wraps(build)
    def rows(*values: Value, **shape: object) -> list[Row]:
        key = (connection.vendor, len(values), *sorted(shape.items()))
        if key not in plans:
            stand_ins = _stand_ins(values)
            plans[key] = _Plan(build(*stand_ins, **shape), stand_ins)  # type: ignore[arg-type]
        return plans[key].rows(values)

    return rows  # type: ignore[return-value]


def compiled_update(
    build: Callable[P, tuple[QuerySet[Any], Changes]],
) -> Callable[P, int]:
    """How many rows of the queryset were changed as the function says: like `queryset.update`, for
    arguments as in `compiled`."""
    plans: dict[tuple[object, ...], _Statement] = {}

    @wraps(build)
    def update(*values: Value, **shape: object) -> int:
        key = (connection.vendor, len(values), *sorted(shape.items()))
        if key not in plans:
            stand_ins = _stand_ins(values)
            queryset, changes = build(*stand_ins, **shape)  # type: ignore[arg-type]
            query: Any = queryset.query.chain(UpdateQuery)
            query.add_update_values(changes)
            sql, params = query.get_compiler(queryset.db).as_sql()
            plans[key] = _Statement(sql, params, stand_ins)
        statement = plans[key]
        with connection.cursor() as cursor:
            cursor.execute(statement.sql, statement.filled_in(values))
            return cursor.rowcount

    return update  # type: ignore[return-value]


def insert(row: Model) -> None:
    """Like `row.save()` of a new row whose model has no parents, and of whose saving nobody is told."""
    using = router.db_for_write(type(row), instance=row)
    database: Any = connections[using]
    fields: Any = type(row)._meta.local_concrete_fields
    fields = [field for field in fields if not field.primary_key]
    sql, returned = _insert_sql(type(row), database.vendor)
    params = [field.get_db_prep_save(field.pre_save(row, True), database) for field in fields]
    with database.cursor() as cursor:
        cursor.execute(sql, params)
        [row.pk] = database.ops.fetch_returned_insert_columns(cursor, returned)
    row._state.adding, row._state.db = False, using


@cache
def _insert_sql(model: type[Model], vendor: str) -> tuple[str, Any]:
    """With the parameters by which some databases say what was returned."""
    fields: Any = [field for field in model._meta.local_concrete_fields if not field.primary_key]
    query: Any = InsertQuery(model)
    query.insert_values(fields, [model()], raw=True)
    compiler = query.get_compiler(router.db_for_write(model))
    compiler.returning_fields = [model._meta.pk]
    [(sql, _)] = compiler.as_sql()
    return sql, compiler.returning_params


def _stand_ins(values: Sequence[Value]) -> list[Value]:
    """Of their types, and found again among parameters: nothing real looks like them."""
    return [
        f"\x1e{n}\x1e" if isinstance(value, str) else type(value)(8_000_000_000_000_000 + n)
        for n, value in enumerate(values)
    ]


class _Statement:
    def __init__(self, sql: str, params: Sequence[Any], stand_ins: list[Value]) -> None:
        self.sql = sql
        self.params = tuple(params)
        self.slots = [stand_ins.index(p) if p in stand_ins else None for p in self.params]
        if missing := set(range(len(stand_ins))) - set(self.slots):
            raise TypeError(f"values {sorted(missing)} are not in the query: {sql}")

    def filled_in(self, values: Sequence[Value]) -> tuple[Any, ...]:
        return tuple(
            given if slot is None else values[slot]
            for given, slot in zip(self.params, self.slots, strict=True)
        )


class _Plan(Generic[Row]):
    def __init__(self, queryset: QuerySet[Any, Row], stand_ins: list[Value]) -> None:
        self.queryset = queryset
        self.compiler: Any = queryset.query.get_compiler(queryset.db)
        sql, params = self.compiler.as_sql()
        self.statement = _Statement(sql, params, stand_ins)
        self.converters: Any = None

    def rows(self, values: tuple[Value, ...]) -> list[Row]:
        params = self.statement.filled_in(values)
        compiler: Any = copy.copy(self.compiler)
        compiler.connection = connections[self.queryset.db]  # each thread has its own
        compiler.as_sql = lambda *args, **kwargs: (self.statement.sql, params)
        compiler.get_converters = self._get_converters
        queryset = self.queryset.all()
        query: Any = queryset.query
        query.get_compiler = lambda *args, **kwargs: compiler
        return list(queryset)

    def _get_converters(self, expressions: Any) -> Any:
        """What becomes of the columns is the same each time."""
        if self.converters is None:
            self.converters = self.compiler.get_converters(expressions)
        return self.converters
