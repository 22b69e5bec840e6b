"""Signed HTTP requests, as Standard Webhooks 1.0 has them. Knows nothing of rows.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import secrets
import ssl
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from annotator.webhooks.addresses import GuardedTransport

TIMEOUT_SECONDS = 10.0  # for all of it, from the look-up of the name to the answer
AT_ONCE = 8  # requests to one address
ANSWER_BYTES = 1000  # of an answer, that are read and kept
PREFIX = "whsec_"
SECRET_BYTES = 32


class Message(NamedTuple):
    message_id: str
    body: str


class Outcome(NamedTuple):
    """What came of a request; `error` is a sentence, empty if the message has arrived."""

    error: str
    code: int | None = None
    answer: str = ""


def new_secret() -> str:
    """Example: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw…"."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: str) -> str:
    """Of `id.timestamp.body`. Example: "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def headers_of(secret: str, message: Message, timestamp: int) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "user-agent": "Preferendum",
        # What comes back is kept as it is: nothing to unpack, so nothing that could swell.
        "accept-encoding": "identity",
        "webhook-id": message.message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message.message_id, timestamp, message.body),
    }


async def send(
    url: str, secret: str, messages: Sequence[Message], timestamp: int
) -> list[Outcome | None]:
    """Post each to the address, several at a time. None for those that were not sent any more,
    because another had failed: the address had better be left alone for now."""
    places = asyncio.Semaphore(AT_ONCE)
    has_failed = False

    async def send_one(client: httpx.AsyncClient, message: Message) -> Outcome | None:
        nonlocal has_failed
        async with places:
            if has_failed:
                return None
            outcome = await post(client, url, headers_of(secret, message, timestamp), message.body)
            has_failed = has_failed or bool(outcome.error)
            return outcome

    transport = GuardedTransport(
        verify=_certificates(), limits=httpx.Limits(max_connections=AT_ONCE)
    )
    async with httpx.AsyncClient(
        transport=transport, trust_env=False, timeout=TIMEOUT_SECONDS
    ) as client:
        return await asyncio.gather(*(send_one(client, message) for message in messages))


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it is most of the work of a request."""
    return httpx.create_ssl_context()


async def post(client: httpx.AsyncClient, url: str, headers: dict[str, str], body: str) -> Outcome:
    try:
        # A limit for each step would let somebody answer for ever, a byte at a time.
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            client.stream("POST", url, headers=headers, content=body.encode()) as response,
        ):
            return _outcome(response.status_code, await _beginning(response))
    except (TimeoutError, httpx.TimeoutException):
        return Outcome(f"There was no answer within {TIMEOUT_SECONDS:g} seconds.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Outcome(f"It could not be reached: {error or type(error).__name__}"[:300])


async def _beginning(response: httpx.Response) -> str:
    """As text. What cannot be decoded or kept in a database is replaced."""
    read = b""
    async for part in response.aiter_raw():
        read += part
        if len(read) >= ANSWER_BYTES:
            break
    return read[:ANSWER_BYTES].decode(errors="replace").replace("\x00", "\ufffd")


def _outcome(code: int, answer: str) -> Outcome:
    if 200 <= code < 300:
        return Outcome("", code, answer)
    if 300 <= code < 400:
        sentence = f"It answered {code}, a redirect. They are not followed: enter where it leads."
        return Outcome(sentence, code, answer)
    return Outcome(f"It answered {code}.", code, answer)
