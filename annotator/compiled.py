"""Querysets whose SQL is made once.

Django makes the SQL of a queryset anew at each use. For the queries of a verdict and the next
comparison that is more work than all the rest, and they never differ but in a few values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar

from django.db import connection, connections
from django.db.models import QuerySet

Value = int | float | str

P = ParamSpec("P")
Row = TypeVar("Row")


def compiled(build: Callable[P, QuerySet[Any, Row]]) -> Callable[P, list[Row]]:
    """The rows of the queryset that the function builds; it is called once for each shape.

    Positional arguments are values, given to the database in the place where they stand in the
    queryset. Keyword arguments decide on its shape: each combination has SQL of its own. The
    function must pass values on as they are, and decide nothing by them.
    """
    plans: dict[tuple[object, ...], _Plan[Row]] = {}

    @wraps(build)
    def rows(*values: Value, **shape: object) -> list[Row]:
        key = (connection.vendor, *sorted(shape.items()))
        if key not in plans:
            stand_ins = [_stand_in(n, value) for n, value in enumerate(values)]
            plans[key] = _Plan(build(*stand_ins, **shape), stand_ins)  # type: ignore[arg-type]
        return plans[key].rows(values)

    return rows  # type: ignore[return-value]


def _stand_in(n: int, value: Value) -> Value:
    """Of that type, and found again among parameters: nothing real looks like it."""
    if isinstance(value, str):
        return f"\x1e{n}\x1e"
    return type(value)(8_000_000_000_000_000 + n)


class _Plan(Generic[Row]):
    def __init__(self, queryset: QuerySet[Any, Row], stand_ins: list[Value]) -> None:
        self.queryset = queryset
        self.compiler = queryset.query.get_compiler(queryset.db)
        self.sql, self.params = self.compiler.as_sql()
        self.slots = [stand_ins.index(p) if p in stand_ins else None for p in self.params]
        if missing := set(range(len(stand_ins))) - set(self.slots):
            raise TypeError(f"values {sorted(missing)} are not in the query: {self.sql}")

    def rows(self, values: tuple[Value, ...]) -> list[Row]:
        params = tuple(
            given if slot is None else values[slot]
            for given, slot in zip(self.params, self.slots, strict=True)
        )
        compiler: Any = copy.copy(self.compiler)
        compiler.connection = connections[self.queryset.db]  # each thread has its own
        compiler.as_sql = lambda *args, **kwargs: (self.sql, params)
        queryset = self.queryset.all()
        query: Any = queryset.query
        query.get_compiler = lambda *args, **kwargs: compiler
        return list(queryset)
