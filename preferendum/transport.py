"""Requests to one server: tried again where that is safe, page after page, errors as sentences."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import httpx

Row = dict[str, Any]  # a JSON object, as docs/api.md and the server's own /api/v1/docs/ describe it

MOST_TRIES = 6
FIRST_PAUSE_SECONDS = 0.5  # doubled at every try
LONGEST_PAUSE_SECONDS = 60.0
PAGE_SIZE = 200
BUSY = {429, 502, 503, 504}  # the server, or what stands before it, will soon have time again


class PreferendumError(Exception):
    """What this package raises."""


class NotReachable(PreferendumError):
    """There was no answer, however often we tried."""


class ApiError(PreferendumError):
    """The server has refused, and says why: the message is its sentence.

    `status` is that of HTTP: 401 for a token that does not work, 403 for one that may not, 404,
    422 for what is not right, … `errors` says what is wrong with which field.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]]) -> None:
        self.status, self.detail, self.errors = status, detail, errors
        parts = [f"{each.get('pointer', '')} {each.get('detail', '')}".strip() for each in errors]
        super().__init__(" ".join([detail, *parts]))


class Transport:
    def __init__(self, url: str, token: str, timeout: float) -> None:
        self.http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1/",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=timeout,
        )

    # --- one request ----------------------------------------------------------------------------
    def get(self, path: str, **params: Any) -> Row:
        return self.send("GET", path, params=_given(params))

    def post(self, path: str, content: Any = None, *, repeatable: bool = True) -> Row:
        """`repeatable`: the server does it once, however often it is asked. So it is for all that
        carries a key, and for verdicts, which are about one assignment."""
        body = {} if content is None else content
        return self.send("POST", path, repeatable=repeatable, json=body, headers=_key())

    def upload(self, path: str, file: tuple[str, bytes | IO[bytes]], fields: dict[str, str]) -> Row:
        return self.send("POST", path, files={"file": file}, data=fields, headers=_key())

    def send(self, method: str, path: str, *, repeatable: bool = True, **kwargs: Any) -> Row:
        with self.open(method, path, repeatable=repeatable, **kwargs) as response:
            response.read()
            found: Row = response.json()
            return found

    @contextmanager
    def open(
        self, method: str, path: str, *, repeatable: bool = True, **kwargs: Any
    ) -> Iterator[httpx.Response]:
        """An answer that says that it went well, not read yet. Raises ApiError or NotReachable."""
        for tries in range(1, MOST_TRIES + 1):
            is_last = tries == MOST_TRIES
            request = self.http.build_request(method, path, **kwargs)
            try:
                response = self.http.send(request, stream=True)
            except httpx.TransportError as error:
                if is_last or not (repeatable or isinstance(error, httpx.ConnectError)):
                    where = f"{request.url.scheme}://{request.url.netloc.decode()}"
                    raise NotReachable(f"{where} could not be reached: {error!r}.") from error
                time.sleep(_pause(tries))
                continue
            try:
                if response.is_success:
                    yield response
                    return
                response.read()
                if is_last or not _may_try_again(response, repeatable):
                    raise _error_of(response)
            finally:
                response.close()
            time.sleep(_pause(tries, response.headers.get("Retry-After", "")))

    # --- lists ----------------------------------------------------------------------------------
    def rows(self, path: str, **params: Any) -> Iterator[Row]:
        """All rows of a list, a page at a time as they are asked for."""
        params = {"page_size": PAGE_SIZE, **_given(params)}
        while True:
            page = self.get(path, **params)
            yield from page["results"]
            if page["next"] is None:
                return
            # Only its cursor: behind a proxy the server may not know its own address.
            params["cursor"] = httpx.URL(page["next"]).params["cursor"]


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _key() -> dict[str, str]:
    """Of one call, and the same at every try of it."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def _may_try_again(response: httpx.Response, repeatable: bool) -> bool:
    if response.status_code == 429:  # nothing was done
        return True
    if response.status_code == 409:  # the same request is being carried out
        return "Retry-After" in response.headers
    return repeatable and response.status_code in BUSY


def _pause(tries: int, wanted: str = "") -> float:
    """Seconds, at least as many as the server wants; with a jitter, so that many do not come back
    together."""
    pause = FIRST_PAUSE_SECONDS * 2 ** (tries - 1) * random.uniform(0.8, 1.2)
    at_least = float(wanted) if wanted.isdecimal() else 0.0
    return min(max(pause, at_least), LONGEST_PAUSE_SECONDS)


def _error_of(response: httpx.Response) -> ApiError:
    status = response.status_code
    try:
        problem = response.json()
        return ApiError(status, str(problem["detail"]), list(problem.get("errors", [])))
    except (ValueError, KeyError, TypeError):  # no answer of Preferendum's
        pass
    if response.is_redirect:
        where = response.headers.get("Location", "")
        return ApiError(status, f"The server is elsewhere: {where}. Give that address.", [])
    return ApiError(
        status, f"{status}: {response.text[:200].strip() or response.reason_phrase}", []
    )
