"""Asking an OpenAI-compatible endpoint for answers: one request, and what may go wrong with it.

The protocol is POST {address}/chat/completions and GET {address}/models, as vLLM, llama.cpp, Ollama
and most vendors speak it: https://platform.openai.com/docs/api-reference/chat. Answers are asked for
whole, not as a stream: nobody reads along, and a whole one says what it cost. No torch here: the web
process asks for a try.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple, Self

import httpx

from rlhf.training.config import ENDPOINTS, EndpointRef

CONNECT_SECONDS = 10.0
MOST_BYTES = 8 * 2**20  # of one reply; a longer one is none
MOST_TOKENS = 10**8  # a count beyond it is none
LONGEST_WAIT = 300.0  # seconds that an endpoint may ask us to wait; beyond it somebody else resumes
WORDS_SHOWN = 300  # characters of what it says

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OVERLOADED = {408, 409, 425, 429}  # and all from 500 on: the same question may be asked again
NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"}
FILTERED = re.compile(r"content[ _]?(filter|management|policy)|responsible_?ai", re.IGNORECASE)
TOO_LONG = re.compile(
    r"context_length_exceeded|context (length|size|window)|maximum context|prompt is too long",
    re.IGNORECASE,
)


class Fault(Exception):
    """A request that came to nothing. The message is a sentence.

    `name` is what it is counted under. `again`: the same may be asked again, after `wait` seconds if
    the endpoint says so. `prompt_only`: other prompts may fare better. `may_cost`: an answer may have
    been written, and billed, that did not reach us.
    """

    def __init__(
        self,
        sentence: str,
        name: str,
        *,
        again: bool = False,
        wait: float | None = None,
        prompt_only: bool = False,
        may_cost: bool = False,
    ) -> None:
        super().__init__(sentence)
        self.name = name
        self.again = again
        self.wait = wait
        self.prompt_only = prompt_only
        self.may_cost = may_cost


class Choice(NamedTuple):
    text: str
    truncated: bool
    refused: bool  # it says so itself, in the field of the protocol


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int
    is_estimated: bool  # it did not say

    def cost(self, endpoint: EndpointRef) -> float:
        return cost(endpoint, self.prompt_tokens, self.completion_tokens)


class Reply(NamedTuple):
    choices: list[Choice]
    n_filtered: int  # choices that its content filter has taken away
    usage: Usage


@dataclass(frozen=True)
class Access:
    """What an endpoint is asked with, and no file, page or log may say."""

    key: str = field(default="", repr=False)
    budget: float | None = None  # what this run may spend in all, its earlier attempts included

    @classmethod
    def from_environment(cls, number: int) -> Self:
        granted = json.loads(os.environ.get(ENDPOINTS) or "{}")
        return cls(**granted.get(str(number), {}))


@dataclass
class Dialect:
    """What an endpoint has turned out not to understand; learned from its complaints."""

    length: str = "max_tokens"  # newer models of OpenAI want max_completion_tokens
    takes_seed: bool = True
    takes_n: bool = True  # several answers to one request

    def learn(self, complaint: str) -> bool:
        """Whether a complaint about a request was about one of these, so that another may do."""
        if "max_completion_tokens" in complaint and self.length == "max_tokens":
            self.length = "max_completion_tokens"
        elif self.takes_seed and re.search(r"\bseed\b", complaint):
            self.takes_seed = False
        elif self.takes_n and re.search(r"\bn\b|multiple (choices|completions)", complaint):
            self.takes_n = False
        else:
            return False
        return True


def client_of(endpoint: EndpointRef, access: Access) -> httpx.AsyncClient:
    """Redirects are not followed: they could lead, with the key, to where nobody has agreed to."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "preferendum"}
    if access.key:
        headers["Authorization"] = f"Bearer {access.key}"
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(endpoint.timeout_seconds, connect=CONNECT_SECONDS),
        verify=_certificates(),
        limits=httpx.Limits(max_connections=endpoint.requests_at_once),
        trust_env=host_of(endpoint.address) not in LOOPBACK,  # no proxy leads to this machine
    )


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust. Reading them takes longer than a request."""
    return httpx.create_ssl_context()


def host_of(address: str) -> str:
    """As httpx will ask it, in ASCII. Example: "http://[::1]:8080/v1" -> "::1"."""
    return httpx.URL(address).raw_host.decode("ascii").strip("[]").lower()


# --- asking -----------------------------------------------------------------------------------
async def ask(
    client: httpx.AsyncClient,
    endpoint: EndpointRef,
    access: Access,
    messages: list[dict[str, str]],
    *,
    max_tokens: int,
    temperature: float,
    n: int = 1,
    seed: int | None = None,
    dialect: Dialect,
    more: Mapping[str, Any] | None = None,
) -> Reply:
    """One reply, with up to `n` choices; `more` goes along as it is, `stop` say. Raises Fault.

    Where the endpoint complains about one of the others it is asked again without it.
    """
    while True:
        body = {"model": endpoint.model, "messages": messages, "temperature": temperature}
        body |= more or {}
        body[dialect.length] = max_tokens
        if dialect.takes_seed and seed is not None:
            body["seed"] = seed
        if dialect.takes_n and n > 1:
            body["n"] = n
        try:
            reply = await _exchange(
                client, endpoint, access, "POST", f"{endpoint.address}/chat/completions", body
            )
        except Fault as fault:
            if fault.name == "rejected" and dialect.learn(str(fault)):
                continue
            raise
        return _read_reply(reply, messages)


async def list_models(
    client: httpx.AsyncClient, endpoint: EndpointRef, access: Access
) -> list[str]:
    """The names of its models, sorted. Raises Fault."""
    reply = await _exchange(client, endpoint, access, "GET", f"{endpoint.address}/models")
    rows = reply.get("data")
    if not isinstance(rows, list):
        raise Fault("The list of models is none that OpenAI's protocol knows.", "garbled")
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    return sorted(name for name in names if isinstance(name, str))


async def _exchange(
    client: httpx.AsyncClient,
    endpoint: EndpointRef,
    access: Access,
    method: str,
    url: str,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object of a good reply. Raises Fault for all that can go wrong."""
    seconds = endpoint.timeout_seconds
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(method, url, json=body) as response,
        ):
            content = await _read(response)
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
        raise Fault(
            f"It did not answer within {seconds:g} seconds.", "timeouts", again=True, may_cost=True
        ) from None
    except httpx.ConnectTimeout:
        raise Fault(
            f"Nothing answers at {url} (no connection in {CONNECT_SECONDS:g} seconds).",
            "unreachable",
            again=True,
        ) from None
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise Fault(
            f"Nothing answers at {url} ({error}): is it running?", "unreachable", again=True
        ) from None
    except (httpx.TransportError, httpx.DecodingError) as error:
        reason = str(error) or type(error).__name__
        raise Fault(
            f"The connection broke off ({reason}).", "broken_off", again=True, may_cost=True
        ) from None
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise Fault(f"{url} cannot be asked: {error}.", "refused") from None
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        reply = None
    if response.is_success and isinstance(reply, dict) and not reply.get("error"):
        return reply
    said = _said(reply, content, access.key)
    if response.is_success and not isinstance(reply, dict):
        raise Fault(
            f"It answered with something that is no JSON object: {said}",
            "garbled",
            again=True,
            may_cost=method == "POST",
        )
    raise _fault_of(_status(response, reply), response.headers, reply, said, endpoint, url, access)


async def _read(response: httpx.Response) -> bytes:
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MOST_BYTES:
            raise Fault(
                f"Its reply is longer than {MOST_BYTES // 2**20} MiB.",
                "garbled",
                prompt_only=True,
                may_cost=True,
            )
    return content


def _status(response: httpx.Response, reply: Any) -> int:
    """Some gateways answer 200 and put the error, with its status, inside."""
    if not response.is_success:
        return response.status_code
    code = reply["error"].get("code") if isinstance(reply["error"], dict) else None
    return code if isinstance(code, int) and 300 <= code < 600 else 500


def _said(reply: Any, content: bytes, key: str) -> str:
    """What a reply says of its error, in one line, without the key, which some repeat."""
    error = reply.get("error", reply) if isinstance(reply, dict) else None
    said = error if isinstance(error, str) else None
    if isinstance(error, dict):
        said = next((error[name] for name in ("message", "detail") if error.get(name)), None)
    text = (
        said
        if isinstance(said, str)
        else json.dumps(said)
        if said
        else content.decode(errors="replace")
    )
    if key:
        text = text.replace(key, "…")
    text = " ".join(text.replace("\0", "").split())
    return text[:WORDS_SHOWN] + ("…" if len(text) > WORDS_SHOWN else "") or "nothing"


def _fault_of(
    status: int,
    headers: Mapping[str, str],
    reply: Any,
    said: str,
    endpoint: EndpointRef,
    url: str,
    access: Access,
) -> Fault:
    codes = _codes(reply)
    if 300 <= status < 400:
        return Fault(
            f"{url} sends elsewhere ({status}), which is not followed: give the address that it "
            "leads to.",
            "refused",
        )
    if status in (401, 403):
        complaint = "does not accept the key" if access.key else "asks for a key"
        return Fault(f"It {complaint} ({status}): {said}", "refused")
    if status == 402 or codes & NO_MONEY:
        return Fault(f"It wants money ({status}): {said}", "refused")
    if status in (404, 405):
        return Fault(
            f"There is nothing to ask at {url}, or no model {endpoint.model} ({status}): {said} "
            "The address of most endpoints ends in /v1.",
            "refused",
        )
    if status in OVERLOADED or status >= 500:
        wait = seconds_to_wait(headers.get("Retry-After", ""), time.time())
        if wait is not None and wait > LONGEST_WAIT:
            return Fault(
                f"It asks us to wait for {math.ceil(wait / 60)} minutes ({status}): {said}",
                "refused",
            )
        name = "too_many_requests" if status == 429 else "server_errors"
        return Fault(f"It answered with error {status}: {said}", name, again=True, wait=wait)
    complaint = " ".join([*sorted(codes), said])
    if FILTERED.search(complaint):
        return Fault(f"Its content filter refuses the prompt: {said}", "filtered", prompt_only=True)
    if status == 413 or TOO_LONG.search(complaint):
        return Fault(f"The prompt is too long for it: {said}", "too_long", prompt_only=True)
    return Fault(f"It rejects the request ({status}): {said}", "rejected", prompt_only=True)


def _codes(reply: Any) -> set[str]:
    """The short names that an error has. Example: {"insufficient_quota"}"""
    error = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(error, dict):
        return set()
    inner = error.get("innererror") or {}  # Azure
    named: Iterable[Any] = (error.get("code"), error.get("type"), inner.get("code"))
    return {name for name in named if isinstance(name, str)}


def seconds_to_wait(header: str, now: float) -> float | None:
    """What Retry-After says, which is a number of seconds or a date; None if it says nothing.

    Example: "Wed, 21 Oct 2015 07:28:00 GMT" -> 30.0 at half a minute before.
    """
    try:
        return min(max(0.0, float(header)), 1e6)  # "inf" is a number too
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


# --- reading ----------------------------------------------------------------------------------
def _read_reply(reply: dict[str, Any], messages: list[dict[str, str]]) -> Reply:
    try:
        rows = reply["choices"]
        kept = [row for row in rows if row.get("finish_reason") != "content_filter"]
        choices = [_choice(row) for row in kept]
    except (KeyError, TypeError, AttributeError):
        raise Fault(
            "Its reply has no choices as OpenAI's protocol knows them.",
            "garbled",
            again=True,
            may_cost=True,
        ) from None
    if not rows:
        raise Fault("Its reply has no choice at all.", "garbled", again=True, may_cost=True)
    return Reply(choices, len(rows) - len(kept), _usage(reply, choices, messages))


def _choice(row: dict[str, Any]) -> Choice:
    message = row["message"]
    refusal = message.get("refusal")
    text = clean(refusal if isinstance(refusal, str) and refusal else _text(message.get("content")))
    return Choice(text, row.get("finish_reason") == "length", bool(refusal))


def _text(content: Any) -> str:
    """A text, a list of parts of which some are text, or nothing, as where tools were called."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def clean(text: str) -> str:
    """Without what no file and no database takes: halves of characters, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _usage(reply: dict[str, Any], choices: list[Choice], messages: list[dict[str, str]]) -> Usage:
    match reply.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)} if (
            min(prompt, completion) >= 0 and max(prompt, completion) < MOST_TOKENS
        ):
            return Usage(prompt, completion, is_estimated=False)
    written = sum(estimated_tokens(choice.text) for choice in choices)
    return Usage(prompt_tokens(messages), written, is_estimated=True)


def estimated_tokens(text: str) -> int:
    """One for every four bytes, as in English; of other scripts about one for each character."""
    return math.ceil(len(text.encode()) / 4)


def prompt_tokens(messages: list[dict[str, str]]) -> int:
    """By estimate, with four tokens around each message."""
    return sum(4 + estimated_tokens(message["content"]) for message in messages)


def cost(endpoint: EndpointRef, prompt: int, completion: int) -> float:
    """Of so many tokens, in the currency of the prices."""
    return (prompt * endpoint.prompt_price + completion * endpoint.completion_price) / 1e6


def most_it_costs(
    endpoint: EndpointRef, messages: list[dict[str, str]], n: int, max_tokens: int
) -> float:
    """No token of a prompt is shorter than a byte."""
    n_bytes = sum(8 + len(message["content"].encode()) for message in messages)
    return cost(endpoint, n_bytes, n * max_tokens)
