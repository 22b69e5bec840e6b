"""How the API's description shows `chat_completions`: OpenAI's shapes, as far as there is anything of them here.

Its requests are read as leniently as OpenAI reads them (null is what is the case without it), and its errors
have OpenAI's shape, so neither is written from a serializer as the rest of the description is.
"""

from __future__ import annotations

from typing import Any

MAX_TOKENS = 1024  # where the request names no number
MOST_ANSWERS = 8
MOST_STOPS = 4

# Said by clients, and without a meaning here.
IGNORED = {
    "metadata", "model", "parallel_tool_calls", "prompt_cache_key", "safety_identifier",
    "service_tier", "store", "user",
}  # fmt: skip

Schema = dict[str, Any]


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _or_null(kind: str, description: str = "", **more: Any) -> Schema:
    return {"type": [kind, "null"], "description": description, **more}


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_NULL: Schema = {"type": "null"}


# --- what is sent -----------------------------------------------------------------------------
_PART = _object(["type", "text"], type={"const": "text"}, text=_TEXT)
_MESSAGE = _object(
    ["role", "content"],
    role={"enum": ["system", "developer", "user", "assistant"]},
    content={"oneOf": [_TEXT, _list(_PART)]},
)
_STOP: Schema = {"type": "string", "minLength": 1}
_TOKENS = {"minimum": 1, "maximum": 2**31}
REQUEST: Schema = {
    **_object(
        ["messages"],
        messages=_list(_MESSAGE, minItems=1),
        n=_or_null("integer", "How many answers.", minimum=1, maximum=MOST_ANSWERS, default=1),
        max_tokens=_or_null("integer", "Of an answer.", default=MAX_TOKENS, **_TOKENS),
        max_completion_tokens=_or_null("integer", "The same, and counts first.", **_TOKENS),
        temperature=_or_null("number", minimum=0, maximum=2, default=1),
        top_p=_or_null("number", minimum=0, maximum=1, default=1),
        seed=_or_null("integer", minimum=-(2**63), maximum=2**63 - 1),
        stop={
            "description": "Where an answer ends.",
            "oneOf": [_NULL, _STOP, _list(_STOP, maxItems=MOST_STOPS)],
        },
        stream=_or_null("boolean", "Whether the answer comes in parts.", default=False),
        stream_options={
            **_object([], include_usage={"type": "boolean", "default": False}),
            "type": ["object", "null"],
        },
        **{name: {"description": "Ignored."} for name in sorted(IGNORED)},
    ),
    "additionalProperties": False,
}


# --- what is answered -------------------------------------------------------------------------
_USAGE = _object(
    ["prompt_tokens", "completion_tokens", "total_tokens"],
    prompt_tokens=_NUMBER,
    completion_tokens=_NUMBER,
    total_tokens=_NUMBER,
)
_HEADING: dict[str, Schema] = {"id": _TEXT, "created": _NUMBER, "model": _TEXT}
_CHOICE = _object(
    ["index", "message", "finish_reason"],
    index=_NUMBER,
    message=_object(["role", "content"], role={"const": "assistant"}, content=_TEXT, refusal=_NULL),
    logprobs=_NULL,
    finish_reason=_TEXT,
)
ANSWER = _object(
    ["object", "id", "created", "model", "choices", "usage"],
    object={"const": "chat.completion"},
    choices=_list(_CHOICE),
    usage=_USAGE,
    **_HEADING,
)
_DELTA = _object([], role={"const": "assistant"}, content=_TEXT)
_CHANGE = _object(
    ["index", "delta", "finish_reason"],
    index=_NUMBER,
    delta=_DELTA,
    logprobs=_NULL,
    finish_reason=_or_null("string"),
)
CHUNK = _object(
    ["object", "id", "created", "model", "choices"],
    object={"const": "chat.completion.chunk"},
    choices=_list(_CHANGE, description="Empty in the part that has the usage."),
    usage=_USAGE,
    **_HEADING,
)
ERROR = _object(
    ["error"],
    error=_object(
        ["message", "type", "param", "code"],
        message=_TEXT,
        type=_TEXT,
        param=_or_null("string", "Which field."),
        code=_or_null("string"),
    ),
)
_EVENT: Schema = {
    "if": {"const": "[DONE]"},
    "else": {"contentMediaType": "application/json", "contentSchema": {"oneOf": [CHUNK, ERROR]}},
}
STREAM: Schema = {
    **_object(["data"], data={"type": "string", **_EVENT}),
    "description": "One of the server-sent events: each has a chat.completion.chunk as its `data`, and the last "
    "`[DONE]`. After an error in the middle, which is such an event too, there is no `[DONE]`.",
}
RESPONSES: dict[int | tuple[int, str], Any] = {
    (200, "application/json"): ANSWER,
    (200, "text/event-stream"): STREAM,
    **{(status, "application/json"): ERROR for status in (400, 401, 403, 404, 413, 415, 429, 500, 503)},
}  # fmt: skip
