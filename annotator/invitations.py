"""Links by which people become members: made by admins, used by whoever they are sent to.

A link holds a token that nobody can guess, and the database only its hash, so a copy of the
database lets nobody in. Each person who joins takes one of the link's uses.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from annotator.audit import Action, record
from annotator.models import Invitation, Membership, Project, User
from annotator.withdrawing import was_withdrawn

TOKEN_BYTES = 24


class NotJoined(Exception):
    """The link does not work any more. The message is a sentence for who opened it."""


def invite(
    project: Project, user: User, *, role: str, days: int, max_uses: int
) -> tuple[Invitation, str]:
    """A new link and its token, which cannot be had again."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with transaction.atomic():
        invitation = Invitation.objects.create(
            project=project,
            created_by=user,
            role=role,
            max_uses=max_uses,
            expires=timezone.now() + timedelta(days=days),
            token_hash=_hash_of(token),
        )
        wanted = {"role": role, "days": days, "max_uses": max_uses}
        record(user, Action.CREATED, invitation, project=project, **wanted)
    return invitation, token


def find(token: str) -> Invitation | None:
    return (
        Invitation.objects.select_related("project", "created_by")
        .filter(token_hash=_hash_of(token))
        .first()
    )


def _hash_of(token: str) -> str:
    # Nothing slower is called for: nobody can try all tokens, as one can passwords.
    return hashlib.sha256(token.encode()).hexdigest()


def revoke(project: Project, pk: int, user: User | None = None) -> bool:
    """End a link; False if it had been revoked before. Who has joined by it stays."""
    links = Invitation.objects.filter(project=project, pk=pk)
    with transaction.atomic():
        if not links.filter(revoked=None).update(revoked=timezone.now()):
            return False
        record(user, Action.REVOKED, links.get(), project=project)
    return True


def join(invitation: Invitation, user: User) -> Membership:
    """Make the user a member. Who is one already stays what they are, and takes no use. Who was
    withdrawn is not handed comparisons until an admin says so: a link must not undo that.

    Raises NotJoined if the link does not work any more.
    """
    with transaction.atomic():
        # Locked, so that the same person in two tabs takes one use.
        link = Invitation.objects.select_for_update(of=("self",)).get(pk=invitation.pk)
        member = Membership.objects.filter(project=link.project_id, user=user).first()
        if member is not None:
            return member
        if link.problem:
            raise NotJoined(link.problem)
        Invitation.objects.filter(pk=link.pk).update(uses=F("uses") + 1)
        member = Membership.objects.create(
            project_id=link.project_id,
            user=user,
            role=link.role,
            invitation=link,
            is_qualified=not was_withdrawn(link.project, user),
        )
        details = {"role": link.role, "invitation": link.pk}
        record(user, Action.JOINED, member, project=link.project, **details)
        return member


def join_with_new_account(invitation: Invitation, form: Any) -> User:
    """The account of a valid form that can make one, and its membership: both or neither.

    Raises NotJoined, and IntegrityError if somebody else took the name meanwhile.
    """
    user: User = form.save(commit=False)  # hashes the password: not with a lock in hand
    with transaction.atomic():
        user.save()
        join(invitation, user)
    return user
