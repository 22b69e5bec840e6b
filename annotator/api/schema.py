"""The API's description (OpenAPI 3.1): written from the views, with what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.utils import OpenApiParameter, extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.permissions import AllowAny

from annotator.api import paging
from annotator.api.fields import MOST
from annotator.api.once import KEY, KEY_PATTERN
from annotator.api.problems import MEDIA_TYPE, method_not_allowed

PROBLEMS = {
    400: "The request cannot be read.",
    401: "No token, or one that does not work.",
    403: "Your token lacks the scope, or you may not do this.",
    404: "It does not exist, or you may not see it.",
    405: "The address takes other methods: `Allow` names them.",
    406: "The answer cannot be had in the format that `Accept` asks for.",
    409: "The request with this Idempotency-Key is being carried out; or what it asks for is there by an import "
    "that is at work, and may go again with it.",
    413: "The request is too large.",
    416: "The file ends before the range begins.",
    415: "The content is of another type than the one named here.",
    422: "Some of what was sent is not right, or cannot be done: `detail` and `errors` say what.",
    429: "Too many requests: `Retry-After` says how many seconds to wait.",
}
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
IDEMPOTENCY = OpenApiParameter(
    KEY,
    {"type": "string", "pattern": KEY_PATTERN},
    OpenApiParameter.HEADER,
    description="Sent twice with the same key within 24 hours, it is done once, and the second "
    "gets the answer of the first. With another content the key is refused.",
)


def documented(
    name: str,
    summary: str,
    *,
    method: str = "GET",
    answer: Any = None,
    status: int = 200,
    also: dict[int | tuple[int, str], Any] | None = None,
    body: Any = None,
    query: Sequence[OpenApiParameter] = (),
    is_list: bool = False,
    creates: bool = False,
) -> Callable[[Any], Any]:
    """Say of a view, for one method, what it takes and gives. What can go wrong is added to all."""
    if is_list:
        answer = paging.pages_of(answer)
    parameters = [*query, *(paging.PARAMETERS if is_list else []), *([IDEMPOTENCY] * creates)]
    return extend_schema(
        methods=[method],
        operation_id=name,
        summary=summary,
        description="",
        parameters=parameters,
        request=body,
        responses={**({} if answer is None else {status: answer}), **(also or {})},
    )


def text_parameter(name: str, description: str = "", **schema: Any) -> OpenApiParameter:
    return OpenApiParameter(name, {"type": "string", **schema}, description=description)


def number_parameter(
    name: str, description: str = "", minimum: int = 1, *, required: bool = False
) -> OpenApiParameter:
    schema = {"type": "integer", "minimum": minimum, "maximum": MOST}
    return OpenApiParameter(name, schema, description=description, required=required)


# --- what all share -------------------------------------------------------------------------------
def add_what_all_share(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """A hook of drf-spectacular's: the errors of every operation, and that objects hold no more than
    they say."""
    schemas = result["components"]["schemas"]
    for name, schema in schemas.items():
        if name.endswith("Request") and schema.get("type") == "object":
            schema["additionalProperties"] = False
    schemas["Problem"] = PROBLEM_SCHEMA
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            operation["tags"] = [_tag_of(path)]
            for status in _statuses(method, operation):
                operation["responses"][str(status)] = _problem(status)
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "slug":
                    parameter["schema"]["pattern"] = "^[-a-zA-Z0-9_]+$"
    _drop_marks(result)
    return result


def _tag_of(path: str) -> str:
    """Example: "/api/v1/projects/{slug}/runs/{id}/" -> "runs"."""
    parts = [part for part in path.split("/")[3:] if part and not part.startswith("{")]
    return parts[1] if len(parts) > 1 and parts[0] == "projects" else parts[0]


def _statuses(method: str, operation: dict[str, Any]) -> list[int]:
    """None where the operation says its own, as errors have another shape there."""
    if "400" in operation["responses"]:
        return []
    statuses = [400, 401, 403, 404, 405, 406, 422, 429]
    if "requestBody" in operation:
        statuses += [413, 415]
    if method == "post":
        statuses += [409]
    if "206" in operation["responses"]:
        statuses += [416]
    return statuses


def _problem(status: int) -> dict[str, Any]:
    problem: dict[str, Any] = {"description": PROBLEMS[status], "content": PROBLEM}
    if status in (409, 429):
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        problem["headers"] = {"Retry-After": seconds}
    if status == 405:
        problem["headers"] = {"Allow": {"schema": {"type": "string"}}}
    if status == 416:
        length = {"description": "As in `bytes */2000`.", "schema": {"type": "string"}}
        problem["headers"] = {"Content-Range": length}
    return problem


def _drop_marks(part: Any) -> None:
    """By which drf-spectacular would find enumerations again, to name them."""
    if isinstance(part, dict):
        part.pop("x-spec-enum-id", None)
    for inner in part.values() if isinstance(part, dict) else part:
        if isinstance(inner, dict | list):
            _drop_marks(inner)


_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["pointer", "detail"],
    "properties": {
        "pointer": _TEXT | {"description": "Which field (JSON pointer); empty: all of it."},
        "detail": _TEXT | {"description": "What is wrong with it, and what would be right."},
    },
}
PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail", "errors"],
    "properties": {
        "type": _TEXT | {"description": "`about:blank`: the status says what it is."},
        "title": _TEXT | {"description": "The status in words."},
        "status": {"type": "integer"},
        "detail": _TEXT | {"description": "A sentence that says what happened."},
        "errors": {"type": "array", "items": _ERROR},
    },
}


class TokenScheme(OpenApiAuthenticationExtension):
    """How the API's description names it."""

    target_class = "annotator.api.auth.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


# --- where it can be read -------------------------------------------------------------------------
def schema(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        return method_not_allowed(request, ["GET", "HEAD"])
    return HttpResponse(_document(), content_type="application/json")


@cache
def _document() -> bytes:
    """Written once per process: it takes a second, and changes with the code only."""
    description = SchemaGenerator().get_schema(request=None, public=True)
    rendered: bytes = OpenApiJsonRenderer().render(description)
    return rendered


class Docs(SpectacularSwaggerSplitView):
    """The description to browse and to try, with files of our own. Its script is a file of its own
    too, as the content security policy asks for."""

    permission_classes = [AllowAny]
    throttle_classes: list[Any] = []
    url_name = "api:schema"
    template_name = "annotator/api_docs.html"
