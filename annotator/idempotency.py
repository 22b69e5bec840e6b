"""Requests that carry a key, so that one that is sent twice has one effect.

The key is written down before the effect, and the answer after it. A second request finds either
the answer, which it gets, or none yet, and is told to come back. Only what succeeded is kept: a
request that was refused has done nothing, and its key can be used again.
"""

from __future__ import annotations

from datetime import timedelta

from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from annotator.models import User

KEPT = timedelta(hours=24)
# A web process that died in between left no answer; none takes as long as this to give one.
LOST_AFTER = timedelta(minutes=30)


class KeyReused(Exception):
    """The key came with another request before."""


class UnderWay(Exception):
    """The request with this key is being answered at the moment."""


class IdempotentRequest(models.Model):
    user = models.ForeignKey(User, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    request_hash = models.CharField(max_length=64, help_text="Of method, address and content.")
    status = models.PositiveSmallIntegerField(null=True, help_text="Empty: not answered yet.")
    answer = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    created = models.DateTimeField(default=timezone.now, db_index=True, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="one_request_per_key"),
        ]

    def __str__(self) -> str:
        return f"request {self.key} of {self.user_id}"

    @property
    def is_answered(self) -> bool:
        return self.status is not None

    def keep(self, status: int, answer: object) -> None:
        self.status, self.answer = status, answer
        self.save(update_fields=["status", "answer"])


def begin(user: User, key: str, request_hash: str) -> IdempotentRequest:
    """The row of this key: with the answer that was given, or, for whoever is to carry the request
    out, without one. Raises KeyReused or UnderWay."""
    now = timezone.now()
    IdempotentRequest.objects.filter(created__lt=now - KEPT).delete()
    try:
        with transaction.atomic():
            return IdempotentRequest.objects.create(user=user, key=key, request_hash=request_hash)
    except IntegrityError:
        known = IdempotentRequest.objects.filter(user=user, key=key).first()
    if known is None:  # it has just been refused
        raise UnderWay
    if known.request_hash != request_hash:
        raise KeyReused
    if known.is_answered:
        return known
    lost = IdempotentRequest.objects.filter(pk=known.pk, status=None, created__lt=now - LOST_AFTER)
    if not lost.update(created=now):
        raise UnderWay
    return known
