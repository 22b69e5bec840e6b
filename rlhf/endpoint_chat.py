"""A policy elsewhere behind `chat_completions`: what it answers, in the lines of our own model server.

It is asked for whole answers, so each comes in one piece. What it costs counts as tries by hand do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from django.views.decorators.debug import sensitive_variables

from rlhf.endpoints import (
    EndpointBusy,
    EndpointRefused,
    check_version,
    key_of,
    reserve,
    settle,
)
from rlhf.model_server import Line, ModelServerError
from rlhf.models import Endpoint, ModelVersion
from rlhf.training.config import EndpointRef
from rlhf.training.endpoint import Access, Dialect, Fault, Reply, ask, client_of, most_it_costs

KINDS = {"too_many_requests": "busy", "too_long": "too_long"}  # of faults, as ModelServerError's
LONGEST_WAIT = 120.0  # seconds; a thread of the web process waits


def answer(version: ModelVersion, asked: dict[str, Any]) -> Generator[Line]:
    """The lines of the answer; the last one has `usage`. Raises ModelServerError."""
    dialect = Dialect()
    n_tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    index = 0
    while index < asked["n"]:
        # Where it gives fewer than it was asked for, each request has a seed of its own.
        seed = None if asked["seed"] is None else asked["seed"] + index
        reply = _ask(version, asked | {"seed": seed}, asked["n"] - index, dialect)
        dialect.takes_n = False  # where it gives fewer than it was asked for, one at a time
        for name in n_tokens:
            n_tokens[name] += getattr(reply.usage, name)
        for choice in reply.choices:
            yield {"index": index, "text": choice.text}
            reason = "length" if choice.truncated else "stop"
            yield {"index": index, "finish_reason": reason}
            index += 1
        for _ in range(min(reply.n_filtered, asked["n"] - index)):
            yield {"index": index, "finish_reason": "content_filter"}
            index += 1
    yield {"usage": n_tokens}


@sensitive_variables("access")
def _ask(version: ModelVersion, asked: dict[str, Any], n: int, dialect: Dialect) -> Reply:
    """One request, counted before it is sent."""
    endpoint = version.endpoint
    reference = _reference(endpoint)
    most = most_it_costs(reference, asked["messages"], n, asked["max_tokens"])
    try:
        check_version(version)
        access = Access(key_of(endpoint))
        use = reserve(endpoint, most)
    except EndpointBusy as busy:
        raise ModelServerError(str(busy), "busy") from busy
    except EndpointRefused as refusal:
        raise ModelServerError(str(refusal), "request") from refusal
    try:
        reply = asyncio.run(_exchange(reference, access, asked, n, dialect))
    except Fault as fault:
        settle(use, reference, fault)
        kind = KINDS.get(fault.name, "request" if fault.prompt_only else "model")
        raise ModelServerError(f"{endpoint}: {fault}", kind) from fault
    settle(use, reference, reply.usage)
    return reply


def _reference(endpoint: Endpoint) -> EndpointRef:
    seconds = min(endpoint.timeout_seconds, LONGEST_WAIT)
    return EndpointRef.from_dict({**endpoint.reference(), "timeout_seconds": seconds})


@sensitive_variables("access")
async def _exchange(
    reference: EndpointRef, access: Access, asked: dict[str, Any], n: int, dialect: Dialect
) -> Reply:
    more = {"top_p": asked["top_p"]} if asked["top_p"] != 1 else {}
    if asked["stop"]:
        more["stop"] = asked["stop"]
    async with client_of(reference, access) as client:
        return await ask(
            client,
            reference,
            access,
            asked["messages"],
            max_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            n=n,
            seed=asked["seed"],
            dialect=dialect,
            more=more,
        )
