"""`POST /api/v1/models/ID/chat/completions`: a policy, here or elsewhere, behind OpenAI's protocol.

OpenAI's clients work with `…/api/v1/models/ID` as their base address, or with
`…/api/v1/projects/SLUG/current` for whichever policy is the project's current one. What we do not have (tools,
log-probabilities, …) is refused by name, not left out in silence.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from django.http import HttpResponseBase, JsonResponse, StreamingHttpResponse
from rest_framework import serializers
from rest_framework.exceptions import (
    APIException,
    AuthenticationFailed,
    NotAuthenticated,
    NotFound,
    ValidationError,
)
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from annotator.access import role_in
from annotator.api.auth import HasScope
from annotator.api.fields import Flag, Number, Whole, Word
from annotator.api.schema import documented
from annotator.models import Project, Role, User
from rlhf.asking import lines_of
from rlhf.chat_schema import IGNORED, MAX_TOKENS, MOST_ANSWERS, MOST_STOPS, REQUEST, RESPONSES
from rlhf.current import current_policy
from rlhf.integrity import (
    HASHED_AT_LAUNCH,
    FilesChanged,
    folders_of,
    recorded,
    refuse_changed,
)
from rlhf.model_server import Line, ModelServerError
from rlhf.models import ModelVersion

RETRY_AFTER_SECONDS = 2

# What we do not have, with the values that do not ask for it.
MISSING: dict[str, tuple[Any, ...]] = {
    "audio": (), "frequency_penalty": (0,), "function_call": ("none",), "functions": ([],),
    "logit_bias": ({},), "logprobs": (False,), "modalities": (["text"],), "prediction": (),
    "presence_penalty": (0,), "reasoning_effort": (), "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,), "verbosity": (),
    "web_search_options": (),
}  # fmt: skip


# --- what is asked ----------------------------------------------------------------------------
class ContentField(serializers.Field):
    """A text, or OpenAI's list of parts of which each is a text."""

    def to_internal_value(self, data: Any) -> str:
        parts = data if isinstance(data, list) else [{"type": "text", "text": data}]
        texts: list[Any] = [
            part.get("text")
            for part in parts
            if isinstance(part, dict) and part.get("type") == "text"
        ]
        if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
            raise ValidationError("A text, or a list of {“type”: “text”, “text”: …}: nothing else.")
        return "".join(texts)

    def to_representation(self, value: str) -> str:
        return value


class MessageSerializer(serializers.Serializer):
    role = Word(choices=["system", "developer", "user", "assistant"])
    content = ContentField()

    def validate_role(self, role: str) -> str:
        return "system" if role == "developer" else role  # OpenAI's newer name for it


class StopField(serializers.Field):
    """One text, or up to four, at which an answer ends."""

    def to_internal_value(self, data: Any) -> list[str]:
        stops = [data] if isinstance(data, str) else data
        is_list = isinstance(stops, list) and len(stops) <= MOST_STOPS
        if not is_list or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValidationError(f"A text, or a list of up to {MOST_STOPS} texts.")
        return stops

    def to_representation(self, value: list[str]) -> list[str]:
        return value


class StreamOptionsSerializer(serializers.Serializer):
    include_usage = Flag(default=False)


class ChatCompletionSerializer(serializers.Serializer):
    messages = MessageSerializer(many=True, allow_empty=False)
    n = Whole(default=1, min_value=1, max_value=MOST_ANSWERS)
    max_tokens = Whole(default=MAX_TOKENS, min_value=1, max_value=2**31)
    max_completion_tokens = Whole(required=False, min_value=1, max_value=2**31)
    temperature = Number(default=1.0, min_value=0, max_value=2)
    top_p = Number(default=1.0, min_value=0, max_value=1)
    seed = Whole(default=None, min_value=-(2**63), max_value=2**63 - 1)
    stop = StopField(default=list)
    stream = Flag(default=False)
    stream_options = StreamOptionsSerializer(default=dict)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Null stands for what is the case without it, as in OpenAI's own API."""
        if not isinstance(data, dict):
            raise ValidationError({"": ["The request is no JSON object."]})
        said = {name: value for name, value in data.items() if value is not None}
        for name in sorted(said.keys() - self.fields.keys() - IGNORED):
            if name not in MISSING:
                raise ValidationError({name: ["There is no such setting."]})
            if said[name] not in MISSING[name]:
                raise ValidationError({name: ["This server does not have it: leave it out."]})
        return super().to_internal_value(said)


def question_of(version: ModelVersion, asked: dict[str, Any]) -> dict[str, Any]:
    """What the version is asked, here or elsewhere."""
    return {
        "reference": version.reference(),
        "hashes": recorded(version.project, folders_of(version)),
        "messages": [dict(message) for message in asked["messages"]],
        "max_tokens": asked.get("max_completion_tokens") or asked["max_tokens"],
        **{name: asked[name] for name in ("n", "temperature", "top_p", "seed", "stop")},
    }


# --- what is answered -------------------------------------------------------------------------
class Heading(NamedTuple):
    """What all parts of one answer say."""

    id: str
    created: int
    model: str

    @classmethod
    def new(cls, version: ModelVersion) -> Heading:
        return cls(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), version.name)


def completion(heading: Heading, n: int, lines: Iterable[Line]) -> dict[str, Any]:
    """The whole answer, of the model server's lines."""
    texts, reasons, usage = [""] * n, [""] * n, {}
    for line in lines:
        if "text" in line:
            texts[line["index"]] += line["text"]
        elif "finish_reason" in line:
            reasons[line["index"]] = line["finish_reason"]
        else:
            usage = line["usage"]
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    head = {"object": "chat.completion", **heading._asdict()}
    return {**head, "choices": choices, "usage": _usage(usage)}


def chunks(
    heading: Heading, n: int, lines: Iterable[Line], *, with_usage: bool
) -> Iterator[dict[str, Any]]:
    """The same in parts, line by line."""
    for index in range(n):
        yield _chunk(heading, index, {"role": "assistant", "content": ""})
    for line in lines:
        if "text" in line:
            yield _chunk(heading, line["index"], {"content": line["text"]})
        elif "finish_reason" in line:
            yield _chunk(heading, line["index"], {}, line["finish_reason"])
        elif with_usage:
            head = {"object": "chat.completion.chunk", **heading._asdict()}
            yield {**head, "choices": [], "usage": _usage(line["usage"])}


def _chunk(
    heading: Heading, index: int, delta: dict[str, str], reason: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {"object": "chat.completion.chunk", **heading._asdict(), "choices": [choice]}


def _usage(counts: dict[str, int]) -> dict[str, int]:
    return {**counts, "total_tokens": sum(counts.values())}


# --- errors, in OpenAI's shape ----------------------------------------------------------------
def error_body(
    sentence: str, kind: str = "invalid_request_error", *, param: str | None = None, code: str = ""
) -> dict[str, Any]:
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code or None}}


STATUS = {"not_running": 503, "busy": 503, "request": 400, "too_long": 400, "model": 500}
CODE = {
    "not_running": "model_server_not_running",
    "busy": "model_server_busy",
    "too_long": "context_length_exceeded",
}


def model_server_error_body(error: ModelServerError) -> dict[str, Any]:
    kind = "server_error" if STATUS[error.kind] >= 500 else "invalid_request_error"
    return error_body(str(error), kind, code=CODE.get(error.kind, ""))


def answer_with_error(error: Exception, context: dict[str, Any]) -> JsonResponse | None:
    """What Django REST framework calls for an exception in the view; None: it is raised again."""
    if isinstance(error, ModelServerError):
        response = JsonResponse(model_server_error_body(error), status=STATUS[error.kind])
        if error.kind == "busy":
            response["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response
    if isinstance(error, NotAuthenticated | AuthenticationFailed):
        body = error_body(str(error.detail), "authentication_error", code="invalid_api_key")
        return JsonResponse(body, status=401, headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, ValidationError):
        param, sentence = first_problem(error.detail)
        return JsonResponse(error_body(sentence, param=param or None), status=400)
    if isinstance(error, APIException):
        response = JsonResponse(error_body(str(error.detail)), status=error.status_code)
        if wait := getattr(error, "wait", None):
            response["Retry-After"] = str(math.ceil(wait))
        return response
    return None


def first_problem(detail: Any, path: str = "") -> tuple[str, str]:
    """Where and what. Example: {"messages": {1: {"role": ["No."]}}} -> ("messages[1].role", "No.")"""
    if not isinstance(detail, dict):
        return path, f"{path}: {detail[0]}" if path else str(detail[0])
    name = next(iter(detail))
    if isinstance(name, int):
        return first_problem(detail[name], f"{path}[{name}]")
    if not name or name == "non_field_errors":  # about the whole
        return first_problem(detail[name], path)
    return first_problem(detail[name], f"{path}.{name}" if path else name)


# --- the addresses ----------------------------------------------------------------------------
_documented = partial(documented, method="POST", body={"application/json": REQUEST}, also=RESPONSES)


class ChatCompletions(APIView):
    """A class and no function, because only a class can have errors of a shape of its own."""

    permission_classes = [IsAuthenticated, HasScope]  # to read: it changes nothing

    def get_exception_handler(self) -> Any:
        return answer_with_error

    @_documented("ask_model", "What a policy answers, as OpenAI's clients ask")
    def post(self, request: Request, pk: int) -> HttpResponseBase:
        return self.answer(request, pk)

    def answer(self, request: Request, pk: int) -> HttpResponseBase:
        version = version_for(request.user, pk)
        serializer = ChatCompletionSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = serializer.validated_data
        try:
            # The model server hashes what is larger; of a policy elsewhere, documents are read here.
            hash_up_to = HASHED_AT_LAUNCH if version.is_asked_here else None
            refuse_changed(version, hash_up_to=hash_up_to)
        except FilesChanged as changed:
            raise ValidationError(str(changed)) from changed
        lines = lines_of(version, question_of(version, asked))
        heading = Heading.new(version)
        if not asked["stream"]:
            with closing(lines):
                return JsonResponse(completion(heading, asked["n"], while_heard(request, lines)))
        first = next(lines)  # what cannot be answered has a status of its own
        with_usage = asked["stream_options"].get("include_usage", False)
        response = StreamingHttpResponse(
            events(chunks(heading, asked["n"], resumed(first, lines), with_usage=with_usage)),
            content_type="text/event-stream",
        )
        response["Cache-Control"] = "no-cache"
        response["X-Accel-Buffering"] = "no"  # nginx would keep the first words back
        return response


class CurrentChatCompletions(ChatCompletions):
    """The same of the policy that is a project's current one when it is asked."""

    @_documented("ask_current_policy", "What the current policy answers, as OpenAI's clients ask")
    def post(self, request: Request, slug: str) -> HttpResponseBase:
        return self.answer(request, current_of(slug))


def version_for(user: User, pk: int) -> ModelVersion:
    """A policy of a project of which this person is an admin. Raises NotFound or ValidationError."""
    rows = ModelVersion.objects.select_related("project", "parent")
    version = rows.filter(pk=pk).first()
    if version is None or role_in(version.project, user) != Role.ADMIN:
        raise NotFound("There is no such model, or you are no admin of its project.")
    if not version.writes_text:
        kind = version.get_kind_display().lower()
        raise ValidationError(f"{version} is a {kind}, which writes no text: ask a policy.")
    return version


def current_of(slug: str) -> int:
    """The number of a project's current policy, looked up at each request; 0 if there is none."""
    project = Project.objects.filter(slug=slug).first()
    version = project and current_policy(project)
    return version.pk if version else 0


def resumed(first: Line, lines: Generator[Line]) -> Iterator[Line]:
    """All lines again, though the first has been taken. Whoever stops reading ends the writing."""
    with closing(lines):
        yield first
        yield from lines


def events(parts: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Server-sent events. An error in the middle is one of them, and then there is no [DONE]."""
    try:
        for part in parts:
            yield f"data: {json.dumps(part, ensure_ascii=False)}\n\n"
        yield "data: [DONE]\n\n"
    except ModelServerError as error:
        yield f"data: {json.dumps(model_server_error_body(error), ensure_ascii=False)}\n\n"


def while_heard(request: Request, lines: Iterable[Line]) -> Iterator[Line]:
    """The lines, until the client has hung up: nothing is written that nobody will read."""
    connection: socket.socket | None = request.META.get("gunicorn.socket")
    for line in lines:
        yield line
        if connection and _has_hung_up(connection):
            raise ModelServerError("The client has hung up.")


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()  # not select(), which takes no file numbers above 1023
    poll.register(connection, select.POLLIN)
    try:
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
