"""The types of columns, said once: for Arrow, and as the features that `datasets` knows.

A type is written as it looks: "string", "int64", "float64", "bool"; [type] is a list; {name: type}
is an object. Types are given rather than guessed because a list that is empty in all rows would be
taken for a list of nothing, and could not be put together with data where it is not.
"""

from __future__ import annotations

import json
from typing import Any

Type = str | list[Any] | dict[str, Any]

MESSAGES: Type = [{"role": "string", "content": "string"}]


def features_of(columns: dict[str, Type]) -> dict[str, Any]:
    """As `datasets.Features.from_dict` reads them.

    Example: {"n": ["int64"]} -> {"n": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"}}
    """
    return {name: _feature(of) for name, of in columns.items()}


def _feature(of: Type) -> dict[str, Any]:
    if isinstance(of, str):
        return {"dtype": of, "_type": "Value"}
    if isinstance(of, list):
        return {"feature": _feature(of[0]), "_type": "List"}
    return features_of(of)


def arrow_schema(columns: dict[str, Type]) -> Any:
    """The `pyarrow.Schema`, which also tells `datasets` the features."""
    import pyarrow as pa  # noqa: PLC0415  (takes a second and 50 MB, which most pages do not need)

    def arrow(of: Type) -> Any:
        if isinstance(of, str):
            return {"bool": pa.bool_()}.get(of) or getattr(pa, of)()
        if isinstance(of, list):
            return pa.list_(arrow(of[0]))
        return pa.struct([(name, arrow(inner)) for name, inner in of.items()])

    info = {"info": {"features": features_of(columns)}}
    return pa.schema(
        [(name, arrow(of)) for name, of in columns.items()],
        metadata={"huggingface": json.dumps(info)},
    )
