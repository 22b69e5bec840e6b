"""Errors as problem details (RFC 9457): one shape for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.defaults import bad_request as bad_request_page
from django.views.defaults import server_error as server_error_page
from rest_framework.exceptions import ParseError, ValidationError
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import exception_handler

from annotator.api.errors import UNPROCESSABLE, Conflict, Refused, TooLarge
from annotator.taking_back import Unsettled

MEDIA_TYPE = "application/problem+json"
SECONDS = 10  # until it is worth to ask again whether an import has ended
INVALID = "Some of what was sent is not right: see `errors`."


def answer_with_problem(error: Exception, context: dict[str, Any]) -> Response | None:
    """What Django REST framework calls for an exception in a view."""
    error = _as_api_error(error)
    response = exception_handler(error, context)
    if response is None:
        return None
    problem = _problem(response.status_code, _detail_of(error, response), _errors_of(error))
    if getattr(error, "wait", None):
        response["Retry-After"] = str(int(error.wait))  # type: ignore[attr-defined]
    return Response(
        problem,
        status=problem["status"],
        headers={name: value for name, value in response.items() if name != "Content-Type"},
        content_type=MEDIA_TYPE,
    )


def _as_api_error(error: Exception) -> Exception:
    """What Django says while it reads a request, and what any view may meet."""
    if isinstance(error, RequestDataTooBig):
        return TooLarge(str(error))
    if isinstance(error, SuspiciousOperation):
        return ParseError(str(error))
    if isinstance(error, Unsettled):
        return Conflict(str(error), wait=SECONDS)
    return error


def _problem(status: int, detail: str, errors: list[dict[str, str]]) -> dict[str, Any]:
    if status == HTTPStatus.BAD_REQUEST and errors:
        status = UNPROCESSABLE  # it could be read, and is not right
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "errors": errors,
    }


def _detail_of(error: Exception, response: Response) -> str:
    if isinstance(error, ValidationError):
        return INVALID
    return str(response.data.get("detail", ""))


def _errors_of(error: Exception) -> list[dict[str, str]]:
    if isinstance(error, ValidationError):
        return list(_flat(error.detail, ""))
    if isinstance(error, Refused):
        return [{"pointer": "", "detail": detail} for detail in error.errors]
    return []


def _flat(detail: Any, pointer: str) -> Iterator[dict[str, str]]:
    """Example: {"ranking": {"0": ["…"]}} -> [{"pointer": "#/ranking/0", "detail": "…"}]."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            is_whole = name == api_settings.NON_FIELD_ERRORS_KEY
            yield from _flat(inner, pointer if is_whole else f"{pointer or '#'}/{name}")
    elif isinstance(detail, list):
        for place, inner in enumerate(detail):
            is_nested = isinstance(inner, Mapping | list)
            if inner:
                yield from _flat(inner, f"{pointer or '#'}/{place}" if is_nested else pointer)
    else:
        yield {"pointer": pointer, "detail": str(detail)}


# --- where no view is asked -----------------------------------------------------------------------
def nothing_here(request: HttpRequest) -> HttpResponse:
    detail = "There is nothing at this address. All of them end with a slash; see /api/v1/docs/."
    return JsonResponse(_problem(404, detail, []), status=404, content_type=MEDIA_TYPE)


def method_not_allowed(request: HttpRequest, allowed: list[str]) -> HttpResponse:
    detail = f"{request.method} is nothing that this address knows: {', '.join(allowed)}."
    headers = {"Allow": ", ".join(allowed)}
    problem = _problem(405, detail, [])
    return JsonResponse(problem, status=405, headers=headers, content_type=MEDIA_TYPE)


def no_such_range(content_range: str) -> HttpResponse:
    detail = "The file ends before the range begins: `Content-Range` says how long it is."
    problem = _problem(416, detail, [])
    headers = {"Content-Range": content_range}
    return JsonResponse(problem, status=416, headers=headers, content_type=MEDIA_TYPE)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What could not be read before any view was asked: a host that is not ours, say."""
    if not request.path.startswith("/api/"):
        return bad_request_page(request, exception)
    detail = "The request cannot be read, or was sent to a host name that is not this server's."
    return JsonResponse(_problem(400, detail, []), status=400, content_type=MEDIA_TYPE)


def server_error(request: HttpRequest) -> HttpResponse:
    """For programs what they can read, for people a page."""
    if not request.path.startswith("/api/"):
        return server_error_page(request)
    detail = "Something went wrong here, and was written to the server's log."
    return JsonResponse(_problem(500, detail, []), status=500, content_type=MEDIA_TYPE)
