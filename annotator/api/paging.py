"""Lists come in pages, each with the address of the next: no row is counted, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from annotator.api.errors import invalid

PAGE_SIZE = 50
MAX_PAGE_SIZE = 500
MAX_OFFSET = 10_000  # among rows that are at the same place: there are never so many
PARAMETERS = [
    OpenApiParameter(
        "cursor", str, description="From `next` or `previous` of another page; empty: the first."
    ),
    OpenApiParameter(
        "page_size",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": PAGE_SIZE},
    ),
]


class Pages(CursorPagination):
    """Newest first, if nothing else is said."""

    page_size = PAGE_SIZE
    max_page_size = MAX_PAGE_SIZE
    page_size_query_param = "page_size"
    offset_cutoff = MAX_OFFSET

    def get_page_size(self, request: Request) -> int:
        text = request.query_params.get("page_size", str(PAGE_SIZE))
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_PAGE_SIZE):
            raise invalid({"page_size": f"A whole number from 1 to {MAX_PAGE_SIZE}."})
        return int(text)

    def decode_cursor(self, request: Request) -> Cursor | None:
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise _no_cursor() from None
        if cursor and cursor.position is not None:
            is_number = cursor.position.isascii() and cursor.position.isdecimal()
            if not is_number or len(cursor.position) > 18:
                raise _no_cursor()
        return cursor


def _no_cursor() -> serializers.ValidationError:
    return invalid({"cursor": "This is no cursor of ours: take `next` from a page as it is."})


def page_of(
    request: Request,
    rows: QuerySet[Any],
    serializer: type[serializers.BaseSerializer],
    *,
    order: str = "-pk",
    **context: Any,
) -> Response:
    """`order` names a whole number by which few rows are the same."""
    pages = Pages()
    pages.ordering = (order,)
    found = pages.paginate_queryset(rows, request)
    shown = serializer(found, many=True, context={"request": request, **context})
    return pages.get_paginated_response(shown.data)


def page_of_list(
    request: Request, rows: Sequence[Any], serializer: type[serializers.BaseSerializer]
) -> Response:
    """The same of rows that are at hand, to which others are added at the end only."""
    pages = Pages()
    size = pages.get_page_size(request)
    cursor = pages.decode_cursor(request)
    start = int(cursor.position or 0) if cursor else 0
    pages.base_url = request.build_absolute_uri()

    def at(place: int) -> str:
        return pages.encode_cursor(Cursor(offset=0, reverse=False, position=str(place)))

    return Response(
        {
            "next": at(start + size) if start + size < len(rows) else None,
            "previous": at(max(0, start - size)) if start else None,
            "results": serializer(rows[start : start + size], many=True).data,
        }
    )


@cache  # one class for each, or the schema would have two of a name
def pages_of(serializer: type[serializers.BaseSerializer]) -> type[serializers.Serializer]:
    """The shape of a page, for the API's description."""
    name = serializer.__name__.removesuffix("Serializer")
    fields = {
        "next": serializers.URLField(
            allow_null=True, help_text="Of the next page; null: the last."
        ),
        "previous": serializers.URLField(allow_null=True),
        "results": serializer(many=True),
    }
    return type(f"{name}PageSerializer", (serializers.Serializer,), fields)
