"""Policies that live elsewhere: adding one, trying it, and what a run gets to ask it with.

The asking itself is in rlhf/training/ask.py. The key leaves the database only for a try and for the
environment of a run's process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, Sum
from django.http.request import validate_host
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from annotator.audit import Action, record
from annotator.models import Project, User
from annotator.secrets import KeyChanged, seal, unseal
from rlhf.models import (
    STARTED,
    Endpoint,
    EndpointGrant,
    EndpointUse,
    ModelKind,
    ModelVersion,
    Run,
)
from rlhf.training.config import EndpointRef
from rlhf.training.endpoint import (
    Access,
    Dialect,
    Fault,
    Reply,
    Usage,
    ask,
    client_of,
    host_of,
    list_models,
    most_it_costs,
)

TRIAL = "Say in one short sentence what you can do."
TRIAL_TOKENS = 256
TRIAL_MESSAGES = [{"role": "user", "content": TRIAL}]
TRIAL_SECONDS = 30.0  # a web process waits for it
MINUTE = timedelta(minutes=1)


class EndpointRefused(Exception):
    """An endpoint may or can not be asked. The message is a sentence for the admin."""


class EndpointBusy(EndpointRefused):
    """It was asked as often as it may be in a minute."""


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
    use = None
    if endpoint.pk:
        try:
            use = reserve(endpoint, most_it_costs(reference, TRIAL_MESSAGES, 1, TRIAL_TOKENS))
        except EndpointRefused as refusal:
            return Trial(error=str(refusal))
    began = time.monotonic()
    try:
        reply = asyncio.run(_ask_once(reference, Access(key)))
    except Fault as fault:
        settle(use, reference, fault)
        return Trial(error=str(fault))
    seconds = time.monotonic() - began
    usage = reply.usage
    settle(use, reference, usage)
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
            TRIAL_MESSAGES,
            max_tokens=TRIAL_TOKENS,
            temperature=1.0,
            dialect=Dialect(),
        )


@sensitive_variables("access")
async def _list_models(reference: EndpointRef, access: Access) -> list[str]:
    async with client_of(reference, access) as client:
        return await list_models(client, reference, access)


# --- questions by hand ------------------------------------------------------------------------
def reserve(endpoint: Endpoint, most: float) -> EndpointUse:
    """One question by hand, counted before it is asked, at the most that it may cost.

    Raises EndpointRefused if that is more than is left of the limit, less what runs have set aside,
    and EndpointBusy if it was asked too often within the last minute.
    """
    with transaction.atomic():
        locked = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        if locked.limit is not None:
            _check_limit(locked, locked.limit, most)
        if locked.requests_per_minute is not None:
            _check_rate(locked, locked.requests_per_minute)
        return EndpointUse.objects.create(endpoint=endpoint, spent=most, requests=1)


def _check_limit(endpoint: Endpoint, limit: float, most: float) -> None:
    rest = limit - spent_on(endpoint) - set_aside(endpoint)
    if most > rest:
        raise EndpointRefused(
            f"This could cost {most:.4g}, and {max(0.0, rest):.4g} is left of the spending limit of "
            f"{endpoint.version}, {limit:g} in all: raise it, or ask for a shorter answer."
        )


def _check_rate(endpoint: Endpoint, per_minute: int) -> None:
    """Those who ask by hand have together the share of one run."""
    n_runs = endpoint.grants.filter(run__status__in=STARTED).count()
    share = max(1, per_minute // (n_runs + 1))
    since = timezone.now() - MINUTE
    if endpoint.uses.filter(run=None, created__gt=since).count() >= share:
        with_runs = ", shared with the runs that ask it now" if n_runs else ""
        raise EndpointBusy(
            f"{endpoint.version} may be asked {per_minute} times a minute{with_runs}: wait a moment."
        )


def settle(use: EndpointUse | None, reference: EndpointRef, came: Usage | Fault) -> None:
    """What the question did cost. One that was lost may have been billed, and stays as it was counted."""
    if use is None or (isinstance(came, Fault) and came.may_cost):
        return
    if isinstance(came, Usage):
        use.spent = came.cost(reference)
        use.prompt_tokens, use.completion_tokens = came.prompt_tokens, came.completion_tokens
    else:
        use.spent = 0.0
    use.save()


# --- runs -------------------------------------------------------------------------------------
def spent_on(endpoint: Endpoint) -> float:
    """By all runs and tries together."""
    return _spent(endpoint.uses.all())


def _spent(uses: Any) -> float:
    return uses.aggregate(spent=Sum("spent"))["spent"] or 0.0


def budget_of(endpoint: Endpoint, run: Run | None = None) -> float | None:
    """What a run may spend in all, with what it has spent already; None if there is no limit. What
    others have set aside is not counted: it may have ended when this one starts."""
    limits = [endpoint.limit_per_run]
    if endpoint.limit is not None:
        limits.append(endpoint.limit - spent_on(endpoint) + _own(endpoint, run))
    given = [limit for limit in limits if limit is not None]
    return max(0.0, min(given)) if given else None


def _own(endpoint: Endpoint, run: Run | None) -> float:
    # Tries have no run, which `exclude(run=run)` would leave out as well.
    return _spent(endpoint.uses.filter(run=run)) if run else 0.0


def set_aside(endpoint: Endpoint, run: Run | None = None) -> float:
    """What the other runs under way may still spend."""
    held = 0.0
    for grant in endpoint.grants.filter(run__status__in=STARTED).select_related("run"):
        if grant.run != run and grant.budget is not None:
            held += max(0.0, grant.budget - _own(endpoint, grant.run))
    return held


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


def asked_by(run: Run) -> list[ModelVersion]:
    """The policies elsewhere that a run asks."""
    sides = [side.writer for side in (run.policy, run.rival, run.judge) if side is not None]
    return list(dict.fromkeys(side for side in sides if side.kind == ModelKind.ENDPOINT))


def grants_of(run: Run) -> str:
    """What the run's process asks its endpoints with, for its environment; empty if it asks none.

    What it may spend is set aside for it until it ends. Raises EndpointRefused.
    """
    versions = asked_by(run)
    with transaction.atomic():
        # Trainers that start runs at the same moment take turns, each in the same order.
        locked = Endpoint.objects.select_for_update().filter(pk__in=versions).order_by("pk")
        granted = {endpoint.pk: _grant(endpoint, run) for endpoint in list(locked)}
    return json.dumps(granted) if granted else ""


def _grant(endpoint: Endpoint, run: Run) -> dict[str, Any]:
    try:
        check_host(endpoint.address)
    except ValueError as error:
        raise EndpointRefused(str(error)) from error
    budget = _budget_at_start(endpoint, run)
    EndpointGrant.objects.update_or_create(endpoint=endpoint, run=run, defaults={"budget": budget})
    return {"key": key_of(endpoint), "budget": budget}


def _budget_at_start(endpoint: Endpoint, run: Run) -> float | None:
    """`budget_of`, less what the runs under way have set aside. Raises EndpointRefused if that is all."""
    budget = budget_of(endpoint, run)
    if endpoint.limit is None or not (held := set_aside(endpoint, run)):
        return budget
    rest = endpoint.limit - spent_on(endpoint) - held
    if rest <= 0:
        raise EndpointRefused(
            f"What is left of the spending limit of {endpoint.version} is set aside for runs that ask "
            f"it now ({held:.4g}): resume when they have ended, or give it a limit per run."
        )
    assert budget is not None
    return min(budget, rest + _own(endpoint, run))


def sharing_of(versions: Sequence[ModelVersion]) -> dict[str, int]:
    """How many ask each of these just now, of those that have a rate: runs, and people by hand.

    Example: {"7": 2}
    """
    by_hand = EndpointUse.objects.filter(
        endpoint=OuterRef("pk"), run=None, created__gt=timezone.now() - MINUTE
    )
    rows = Endpoint.objects.filter(pk__in=versions, requests_per_minute__isnull=False).annotate(
        n_runs=Count("grants", filter=Q(grants__run__status__in=STARTED)),
        is_tried=Exists(by_hand),
    )
    return {str(row.pk): max(1, row.n_runs) + row.is_tried for row in rows}
