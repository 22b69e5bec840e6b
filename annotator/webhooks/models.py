"""Addresses that are told what happens, and what was told to them."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Self
from urllib.parse import urlsplit

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.urls import reverse
from django.utils import timezone


class Event(models.TextChoices):
    JUDGMENT_RECORDED = "judgment.recorded", "A judgment was recorded"
    EXPORT_READY = "export.ready", "An export is ready"
    RUN_FINISHED = "run.finished", "A run has finished: succeeded, failed, stopped or lost"
    AGREEMENT_FELL = "agreement.fell", "Agreement fell below a value"
    GATE_DECIDED = "gate.decided", "A gate was decided: by the votes, or by somebody"
    CURRENT_CHANGED = "current.changed", "Another policy became current"


TEST = "test"  # what the button on the page sends; nobody chooses it


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def kept(self) -> Self:
        return self.filter(removed=None)

    def active(self) -> Self:
        return self.kept().filter(paused=None)

    def with_something_due(self, now: datetime) -> Self:
        return self.active().filter(
            Exists(Delivery.objects.due(now).filter(webhook=OuterRef("pk")))
        )


class Webhook(models.Model):
    """An address, what it wants to be told, and the secret that its messages are signed with."""

    project = models.ForeignKey("annotator.Project", models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=500)
    events = models.JSONField(default=list)
    agreement_below = models.FloatField(null=True, blank=True)
    # So that it is told once, and again only after agreement has been higher in between.
    is_agreement_low = models.BooleanField(default=False, editable=False)
    secret = models.TextField(editable=False)  # sealed
    failing_since = models.DateTimeField(
        null=True, editable=False, help_text="The first failed try since the last good one."
    )
    paused = models.DateTimeField(null=True, editable=False)
    pause_reason = models.CharField(max_length=300, blank=True, editable=False)
    # The row stays: a verdict on its way may still mean to tell it, and must not fail for that.
    removed = models.DateTimeField(null=True, editable=False)
    created_by = models.ForeignKey(
        "annotator.User", models.SET_NULL, null=True, editable=False, related_name="+"
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        """The host alone: some addresses are a secret."""
        return urlsplit(self.url).hostname or ""

    def get_absolute_url(self) -> str:
        return reverse("annotator:webhook", args=[self.project.slug, self.pk])

    def event_labels(self) -> list[str]:
        labels = dict(Event.choices)
        return [
            f"Agreement fell below {self.agreement_below:g}"
            if event == Event.AGREEMENT_FELL and self.agreement_below is not None
            else str(labels.get(event, event))
            for event in self.events
        ]


class DeliveryState(models.TextChoices):
    WAITING = "waiting", "Waiting"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Failed"


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self, now: datetime) -> Self:
        return self.filter(state=DeliveryState.WAITING, due__lte=now)


class Delivery(models.Model):
    """One message to one address: what it says, and what came of telling it."""

    webhook = models.ForeignKey(Webhook, models.CASCADE, related_name="deliveries")
    message_id = models.UUIDField(default=uuid.uuid4, editable=False)  # the same at every try
    event = models.CharField(max_length=30)
    body = models.TextField()  # the JSON as it is sent and signed
    state = models.CharField(
        max_length=9, choices=DeliveryState.choices, default=DeliveryState.WAITING
    )
    tries = models.PositiveSmallIntegerField(default=0)
    due = models.DateTimeField(default=timezone.now)
    code = models.PositiveSmallIntegerField(null=True, help_text="What the last answer said.")
    answer = models.TextField(blank=True, help_text="The beginning of the last answer.")
    error = models.CharField(max_length=300, blank=True, help_text="Why the last try failed.")
    created = models.DateTimeField(default=timezone.now, editable=False)
    finished = models.DateTimeField(null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["webhook", "due"], condition=Q(state="waiting"), name="deliveries_due"
            ),
            models.Index(fields=["webhook", "-id"], name="delivery_log"),
            models.Index(
                fields=["finished"], condition=Q(finished__isnull=False), name="ended_deliveries"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.webhook_id}"
