"""What there is to tell, and telling it: rows first, requests later.

`tell` is called in the transaction of what it tells of, so a message exists exactly if that does.
`deliver_due` sends what is due, at least once each: who dies between sending and writing it down
sends again, with the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from annotator.audit import Action, changes, record
from annotator.secrets import KeyChanged, seal, unseal
from annotator.webhooks.models import TEST, Delivery, DeliveryState, Event, Webhook
from annotator.webhooks.sending import Message, Outcome, new_secret, send

if TYPE_CHECKING:  # they import this module
    from annotator.models import Assignment, Export, Judgment, Project, User

logger = logging.getLogger(__name__)

# After the first failed try, the second, …: 8 tries within about a day.
PAUSES = [
    timedelta(seconds=5), timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1),
    timedelta(hours=3), timedelta(hours=8), timedelta(hours=12),
]  # fmt: skip
MOST_TRIES = len(PAUSES) + 1
JITTER = 0.2  # of a pause, up or down: what failed together does not come back together
GIVE_UP_AFTER = timedelta(days=5)  # of an address that only fails
GONE = 410  # by which an address says that it wants no more
MOST_AT_ONCE = 100  # messages to one address in one go
LEASE = timedelta(minutes=5)  # longer than one go takes: after that, whoever sent it was killed
KEPT_DAYS = 30  # in the log, after the end
FORGOTTEN_AT_ONCE = 1000


# --- what there is to tell --------------------------------------------------------------------
def tell(project: Project, event: Event, about: dict[str, Any]) -> None:
    """Write a message for each address that wants to know, in the caller's transaction."""
    wanting = [hook.pk for hook in project.webhooks.active() if event in hook.events]
    _write(wanting, project, event, about)


def tell_judgment(judgment: Judgment, assignment: Assignment) -> None:
    """Costs a verdict nothing where nobody wants to know, and one statement where somebody does."""
    wanting = assignment.project.judgment_webhooks
    if not wanting:
        return
    comparison = assignment.comparison
    about = {
        "judgment": judgment.pk,
        "comparison": comparison.pk,
        "purpose": comparison.purpose,
        "round": comparison.round_number,
        "annotator": str(judgment.annotator_id),  # a number, as in exports
        "verdict": judgment.verdict,
        "ranking": judgment.ranking,
        "strength": judgment.strength,
        "strength_of": judgment.strength_of,
        "seconds": judgment.seconds,
        "is_repeat": judgment.is_repeat,
        "guideline_version": judgment.guideline_version,
        "supersedes": judgment.supersedes_id,
        "created": judgment.created.isoformat(),
    }
    _write(wanting, assignment.project, Event.JUDGMENT_RECORDED, about)


def tell_export(export: Export) -> None:
    about = {
        "export": export.pk,
        "sha256": export.sha256,
        "round": export.round_number,
        "rows": export.n_rows,
        "judgments": export.n_judgments,
        "created": export.created.isoformat(),
    }
    tell(export.project, Event.EXPORT_READY, about)


def tell_agreement(project: Project, figures: dict[str, Any]) -> None:
    """To those for whom it is lower than they want, and was not when it was computed before."""
    alpha = figures["agreement"]["alpha_ordinal"]
    if alpha["value"] is None:
        return
    for hook in project.webhooks.active().exclude(agreement_below=None):
        if Event.AGREEMENT_FELL not in hook.events or hook.agreement_below is None:
            continue
        is_low = alpha["value"] < hook.agreement_below
        changed = Webhook.objects.filter(pk=hook.pk, is_agreement_low=not is_low)
        if changed.update(is_agreement_low=is_low) and is_low:
            measured = {name: alpha[name] for name in ("value", "low", "high", "n")}
            about = {"alpha_ordinal": measured, "below": hook.agreement_below}
            _write([hook.pk], project, Event.AGREEMENT_FELL, about)


def tell_test(hook: Webhook) -> Delivery:
    (delivery,) = _write([hook.pk], hook.project, TEST, {"says": "This is a test."})
    return delivery


def _write(
    webhooks: Sequence[int], project: Project, event: str, about: dict[str, Any]
) -> list[Delivery]:
    now = timezone.now()
    said = {"type": event, "timestamp": now.isoformat(), "data": {"project": project.slug, **about}}
    body = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return Delivery.objects.bulk_create(
        Delivery(webhook_id=pk, event=event, body=body, due=now, created=now) for pk in webhooks
    )


# --- addresses --------------------------------------------------------------------------------
def add(
    project: Project, user: User, *, url: str, events: list[str], agreement_below: float | None
) -> tuple[Webhook, str]:
    """The new webhook and its secret, which is shown once."""
    secret = new_secret()
    with transaction.atomic():
        hook = Webhook.objects.create(
            project=project,
            created_by=user,
            url=url,
            events=events,
            agreement_below=agreement_below,
            secret=seal(secret),
        )
        note_wanted(project)
        record(user, Action.ADDED, hook, project=project, events=events)
    return hook, secret


@transaction.atomic
def change(
    hook: Webhook,
    user: User | None = None,
    *,
    url: str,
    events: list[str],
    agreement_below: float | None,
) -> None:
    before = {"events": hook.events, "agreement_below": hook.agreement_below}
    after = {"events": events, "agreement_below": agreement_below}
    changed = changes(before, after) | ({"address": True} if url != hook.url else {})
    hook.url, hook.events, hook.agreement_below = url, events, agreement_below
    hook.is_agreement_low = False  # it may be another value now
    hook.save(update_fields=["url", "events", "agreement_below", "is_agreement_low"])
    note_wanted(hook.project)
    if changed:
        record(user, Action.CHANGED, hook, project=hook.project, **changed)


@transaction.atomic
def replace_secret(hook: Webhook, user: User | None = None) -> str:
    """From now on everything is signed with what comes back, which is shown once."""
    secret = new_secret()
    record(user, Action.CHANGED, hook, project=hook.project, secret=True)
    Webhook.objects.filter(pk=hook.pk).update(secret=seal(secret))
    return secret


@transaction.atomic
def pause(hook: Webhook, reason: str, user: User | None = None) -> None:
    """Nothing new is written for it, and what waits stays where it is."""
    active = Webhook.objects.filter(pk=hook.pk, paused=None)
    if active.update(paused=timezone.now(), pause_reason=reason[:300]):
        record(user, Action.PAUSED, hook, project=hook.project, reason=reason[:300])
    note_wanted(hook.project)


@transaction.atomic
def resume(hook: Webhook, user: User | None = None) -> None:
    """What waits is sent at once."""
    if Webhook.objects.filter(pk=hook.pk).exclude(paused=None).exists():
        record(user, Action.RESUMED, hook, project=hook.project)
    Webhook.objects.filter(pk=hook.pk).update(paused=None, pause_reason="", failing_since=None)
    hook.deliveries.filter(state=DeliveryState.WAITING).update(due=timezone.now())
    note_wanted(hook.project)


@transaction.atomic
def remove(hook: Webhook, user: User | None = None) -> None:
    """Its log goes with it, in the worker's time."""
    record(user, Action.REMOVED, hook, project=hook.project)
    Webhook.objects.filter(pk=hook.pk).update(removed=timezone.now(), secret="")
    note_wanted(hook.project)


def send_again(delivery: Delivery) -> bool:
    """False if it waits to be sent anyway, or is just being sent."""
    ended = Delivery.objects.filter(pk=delivery.pk).exclude(state=DeliveryState.WAITING)
    fresh = {"state": DeliveryState.WAITING, "tries": 0, "due": timezone.now(), "finished": None}
    return ended.update(**fresh) == 1


def note_wanted(project: Project) -> None:
    """Keep with the project who is told of judgments, so that a verdict need not ask."""
    hooks = project.webhooks.active()
    wanting = [hook.pk for hook in hooks if Event.JUDGMENT_RECORDED in hook.events]
    type(project).objects.filter(pk=project.pk).update(judgment_webhooks=wanting)
    project.judgment_webhooks = wanting


# --- sending ----------------------------------------------------------------------------------
def deliver_due() -> int:
    """Send what is due, to all addresses at the same time; how many messages were sent."""
    now = timezone.now()
    batches = []
    for hook in Webhook.objects.with_something_due(now).select_related("project"):
        try:
            batches.append((hook, unseal(hook.secret), _take(hook, now)))
        except KeyChanged as error:
            pause(hook, str(error))
    if not batches:
        return 0
    outcomes = asyncio.run(_send_all(batches, int(now.timestamp())))
    for (hook, _, deliveries), of_hook in zip(batches, outcomes, strict=True):
        _note(hook, deliveries, of_hook)
    return sum(outcome is not None for of_hook in outcomes for outcome in of_hook)


def _take(hook: Webhook, now: datetime) -> list[Delivery]:
    """Those that nobody else sends meanwhile. One is enough to see whether an address that fails
    still does: else it would hold up the others."""
    limit = 1 if hook.failing_since else MOST_AT_ONCE
    with transaction.atomic():
        due = hook.deliveries.due(now).select_for_update(skip_locked=True, no_key=True)
        taken = list(due.order_by("due")[:limit])
        Delivery.objects.filter(pk__in=[row.pk for row in taken]).update(due=now + LEASE)
    return taken


async def _send_all(
    batches: Sequence[tuple[Webhook, str, list[Delivery]]], timestamp: int
) -> list[list[Outcome | None]]:
    return await asyncio.gather(
        *(
            send(hook.url, secret, [_message(row) for row in deliveries], timestamp)
            for hook, secret, deliveries in batches
        )
    )


def _message(delivery: Delivery) -> Message:
    return Message(f"msg_{delivery.message_id.hex}", delivery.body)


def _note(
    hook: Webhook, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome | None]
) -> None:
    """Write down what came of it, message by message, and how the address stands."""
    now = timezone.now()
    for delivery, outcome in zip(deliveries, outcomes, strict=True):
        waiting = Delivery.objects.filter(pk=delivery.pk, state=DeliveryState.WAITING)
        waiting.update(**(_after(delivery, outcome, now) if outcome else {"due": now}))
    sent = [outcome for outcome in outcomes if outcome is not None]
    if any(not outcome.error for outcome in sent):
        Webhook.objects.filter(pk=hook.pk).update(failing_since=None)
    elif sent:
        _see_to_failing(hook, sent[-1], now)


def _after(delivery: Delivery, outcome: Outcome, now: datetime) -> dict[str, Any]:
    """The fields of a delivery after one more try."""
    tries = delivery.tries + 1
    fields = {**outcome._asdict(), "tries": tries}
    if not outcome.error:
        return {**fields, "state": DeliveryState.DELIVERED, "finished": now}
    if tries >= MOST_TRIES:
        return {**fields, "state": DeliveryState.FAILED, "finished": now}
    return {**fields, "due": now + pause_after(tries, random.random())}


def pause_after(tries: int, lot: float) -> timedelta:
    """How long to wait after so many failed tries; `lot` from 0 to 1 decides within the jitter."""
    return PAUSES[tries - 1] * (1 + JITTER * (2 * lot - 1))


def _see_to_failing(hook: Webhook, outcome: Outcome, now: datetime) -> None:
    since = hook.failing_since or now
    if outcome.code == GONE:
        pause(hook, "The address answered 410: it wants no more messages.")
    elif now - since >= GIVE_UP_AFTER:
        pause(
            hook,
            f"Every try since {timezone.localtime(since):%Y-%m-%d %H:%M} has failed. "
            f"The last one: {outcome.error}",
        )
    elif hook.failing_since is None:
        Webhook.objects.filter(pk=hook.pk).update(failing_since=now)


# --- now and then -----------------------------------------------------------------------------
def tidy() -> None:
    """What the worker does every minute: forget what ended long ago, and see that each project knows
    who wants its judgments, which a page that saved an older copy of it may have undone."""
    now = timezone.now()
    ended = Delivery.objects.filter(finished__lt=now - timedelta(days=KEPT_DAYS))
    of_removed = Delivery.objects.exclude(webhook__removed=None)
    for forgotten in (ended, of_removed):
        pks = forgotten.order_by("pk").values_list("pk", flat=True)[:FORGOTTEN_AT_ONCE]
        Delivery.objects.filter(pk__in=list(pks)).delete()
    for hook in Webhook.objects.active().select_related("project"):
        is_noted = hook.pk in hook.project.judgment_webhooks
        if is_noted != (Event.JUDGMENT_RECORDED in hook.events):
            note_wanted(hook.project)
