"""API tokens: made by a person for a program, with a name, scopes and an end.

The secret is knox's: a row of `AuthToken` holds its hash. What it may do, and what its owner calls
it, is in a row beside it, which stays when the token is revoked or has expired.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone
from knox.models import AuthToken

from annotator.audit import Action, record
from annotator.models import User

MOST_TOKENS = 100  # that work, of one person
USE_NOTED_EVERY = timedelta(minutes=5)


class Scope(models.TextChoices):
    """What a token may be used for, within what its owner may do."""

    READ = "read", "Read: all that you may see"
    ANNOTATE = "annotate", "Annotate: be handed comparisons, judge and skip them, undo"
    MANAGE = "manage", "Manage: import, export, start and stop runs, change settings"


class TooManyTokens(Exception):
    """The message is a sentence for the owner."""


class ApiToken(models.Model):
    user = models.ForeignKey(User, models.CASCADE, related_name="api_tokens")
    # None: revoked.
    secret = models.OneToOneField(AuthToken, models.SET_NULL, null=True, related_name="api_token")
    name = models.CharField(max_length=60)
    scopes = models.JSONField(default=list)
    beginning = models.CharField(max_length=25, help_text="Of the secret, to know it again.")
    expires = models.DateTimeField()
    used = models.DateTimeField(null=True, help_text="To within some minutes.")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.name} of {self.user}"

    @property
    def state(self) -> str:
        if self.secret_id is None:
            return "Revoked"
        return "Expired" if self.expires <= timezone.now() else "Works"

    @property
    def works(self) -> bool:
        return self.state == "Works"


def make_token(user: User, name: str, scopes: Iterable[str], days: int) -> tuple[ApiToken, str]:
    """A new token and its secret, which cannot be had again. Raises TooManyTokens."""
    working = Q(secret__isnull=False, expires__gt=timezone.now())
    if user.api_tokens.filter(working).count() >= MOST_TOKENS:
        raise TooManyTokens(f"You have {MOST_TOKENS} tokens that work: revoke one first.")
    with transaction.atomic():
        row, secret = AuthToken.objects.create(user, expiry=timedelta(days=days))
        expires: datetime = row.expiry
        token = ApiToken.objects.create(
            user=user,
            secret=row,
            name=name,
            scopes=sorted(scopes),
            beginning=row.token_key,
            expires=expires,
        )
        record(user, Action.CREATED, token, project=None, scopes=token.scopes, days=days)
    return token, secret


def revoke(user: User, pk: int) -> bool:
    """End a token of this person's; False if there is none that could be ended."""
    token = ApiToken.objects.filter(pk=pk, user=user, secret__isnull=False).first()
    if token is None:
        return False
    with transaction.atomic():
        deleted, _ = AuthToken.objects.filter(api_token=token).delete()
        if deleted:
            record(user, Action.REVOKED, token, project=None)
    return deleted > 0


def note_use(token: ApiToken) -> None:
    """Now and then, so that reading costs no write each time."""
    now = timezone.now()
    lately = Q(used=None) | Q(used__lt=now - USE_NOTED_EVERY)
    if token.used is None or token.used < now - USE_NOTED_EVERY:
        ApiToken.objects.filter(lately, pk=token.pk).update(used=now)
