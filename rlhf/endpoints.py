"""Policies that live elsewhere: adding one, trying it, and what a run gets to ask it with.

The asking itself is in rlhf/training/ask.py. The key leaves the database only for a try and for the
environment of a run's process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.http.request import validate_host
from django.views.decorators.debug import sensitive_variables

from annotator.audit import Action, record
from annotator.models import Project, User
from annotator.secrets import KeyChanged, seal, unseal
from rlhf.models import Endpoint, EndpointUse, ModelKind, ModelVersion, Run
from rlhf.training.config import EndpointRef
from rlhf.training.endpoint import (
    Access,
    Dialect,
    Fault,
    Reply,
    ask,
    client_of,
    host_of,
    list_models,
)

TRIAL = "Say in one short sentence what you can do."
TRIAL_TOKENS = 256
TRIAL_SECONDS = 30.0  # a web process waits for it


class EndpointRefused(Exception):
    """An endpoint may or can not be asked. The message is a sentence for the admin."""


class Trial(NamedTuple):
    """What came of one short question; only an error, if nothing did."""

    error: str = ""
    answer: str = ""
    is_truncated: bool = False
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False


# --- addresses --------------------------------------------------------------------------------
def clean_address(text: str) -> str:
    """The address that /chat/completions is added to, if it may be asked.

    Example: "http://localhost:11434/v1/" -> "http://localhost:11434/v1". Raises ValueError with a
    sentence.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"“{text}” is no address: {error}.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            f"“{text}” is no address of an endpoint: it begins with http:// or https://, as in "
            "http://localhost:11434/v1."
        )
    if url.port and url.port > 65_535:
        raise ValueError(f"“{text}” is no address: there is no port {url.port}.")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("The address holds no password, “?” or “#”: a key has its own field.")
    check_host(text)
    return str(url).rstrip("/").removesuffix("/chat/completions").rstrip("/")


def check_host(address: str) -> None:
    """Raises ValueError if the machine's owner does not let this host be asked."""
    host = host_of(address)
    allowed = [pattern.strip("[]").lower() for pattern in settings.ENDPOINT_HOSTS]
    if not validate_host(host, allowed):
        raise ValueError(
            f"This server may ask {', '.join(settings.ENDPOINT_HOSTS) or 'nobody'}, and not {host}. "
            "Whoever runs it can add the host to PREFERENDUM_ENDPOINT_HOSTS."
        )


# --- adding -----------------------------------------------------------------------------------
@sensitive_variables("key")
@transaction.atomic
def add_endpoint(
    project: Project, name: str, endpoint: Endpoint, key: str, user: User | None = None
) -> ModelVersion:
    """A model version of what is asked there."""
    version = ModelVersion.objects.create(
        project=project, name=name, kind=ModelKind.ENDPOINT, path=endpoint.address
    )
    endpoint.version = version
    endpoint.sealed_key = seal(key) if key else ""
    endpoint.save(force_insert=True)
    record(user, Action.ADDED, version, project=project, address=endpoint.address)
    return version


# --- trying -----------------------------------------------------------------------------------
@sensitive_variables("key", "access")
def key_of(endpoint: Endpoint) -> str:
    """Raises EndpointRefused if it cannot be read any more."""
    try:
        return unseal(endpoint.sealed_key) if endpoint.sealed_key else ""
    except KeyChanged as error:
        raise EndpointRefused(f"{endpoint}: {error}") from error


@sensitive_variables("key", "access")
def try_endpoint(endpoint: Endpoint, key: str) -> Trial:
    """Ask it one short question, once. A row is kept of it if the endpoint has one."""
    reference = _for_trial(endpoint)
    access = Access(key)
    began = time.monotonic()
    try:
        reply = asyncio.run(_ask_once(reference, access))
    except Fault as fault:
        return Trial(error=str(fault))
    seconds = time.monotonic() - began
    usage = reply.usage
    if endpoint.pk:
        EndpointUse.objects.create(
            endpoint=endpoint,
            spent=usage.cost(reference),
            requests=1,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
        )
    if not reply.choices:
        return Trial(error="Its content filter has taken the answer away.")
    first = reply.choices[0]
    return Trial("", first.text, first.truncated, seconds, *usage)


@sensitive_variables("key", "access")
def models_at(endpoint: Endpoint, key: str) -> list[str]:
    """The models that it offers. Raises EndpointRefused with a sentence."""
    try:
        return asyncio.run(_list_models(_for_trial(endpoint), Access(key)))
    except Fault as fault:
        raise EndpointRefused(str(fault)) from fault


def _for_trial(endpoint: Endpoint) -> EndpointRef:
    seconds = min(endpoint.timeout_seconds, TRIAL_SECONDS)
    return EndpointRef.from_dict({**endpoint.reference(), "timeout_seconds": seconds})


@sensitive_variables("access")
async def _ask_once(reference: EndpointRef, access: Access) -> Reply:
    async with client_of(reference, access) as client:
        return await ask(
            client,
            reference,
            access,
            [{"role": "user", "content": TRIAL}],
            max_tokens=TRIAL_TOKENS,
            temperature=1.0,
            dialect=Dialect(),
        )


@sensitive_variables("access")
async def _list_models(reference: EndpointRef, access: Access) -> list[str]:
    async with client_of(reference, access) as client:
        return await list_models(client, reference, access)


# --- runs -------------------------------------------------------------------------------------
def spent_on(endpoint: Endpoint) -> float:
    """By all runs and tries together."""
    return _spent(endpoint.uses.all())


def _spent(uses: Any) -> float:
    return uses.aggregate(spent=Sum("spent"))["spent"] or 0.0


def budget_of(endpoint: Endpoint, run: Run | None = None) -> float | None:
    """What a run may spend in all, with what it has spent already; None if there is no limit."""
    limits = [endpoint.limit_per_run]
    if endpoint.limit is not None:
        # Tries have no run, which `exclude(run=run)` would leave out as well.
        own = _spent(endpoint.uses.filter(run=run)) if run else 0.0
        limits.append(endpoint.limit - spent_on(endpoint) + own)
    given = [limit for limit in limits if limit is not None]
    return max(0.0, min(given)) if given else None


def check_version(version: ModelVersion) -> None:
    """Raises EndpointRefused if no run can ask it now."""
    endpoint = version.endpoint
    try:
        check_host(endpoint.address)
    except ValueError as error:
        raise EndpointRefused(str(error)) from error
    key_of(endpoint)
    if (budget := budget_of(endpoint)) is not None and budget <= 0:
        raise EndpointRefused(
            f"The spending limit of {version}, {endpoint.limit:g} in all, is reached "
            f"({spent_on(endpoint):.4g} is spent): raise it first."
        )


def grants_of(run: Run) -> str:
    """What the run's process asks its endpoints with, for its environment; empty if it asks none.

    Raises EndpointRefused.
    """
    asked = (run.policy, run.rival, run.judge)
    versions = [version.writer for version in asked if version is not None]
    granted: Mapping[int, dict[str, Any]] = {
        version.pk: _grant(version, run)
        for version in versions
        if version.kind == ModelKind.ENDPOINT
    }
    return json.dumps(granted) if granted else ""


def _grant(version: ModelVersion, run: Run) -> dict[str, Any]:
    try:
        check_host(version.endpoint.address)
    except ValueError as error:
        raise EndpointRefused(str(error)) from error
    return {"key": key_of(version.endpoint), "budget": budget_of(version.endpoint, run)}
