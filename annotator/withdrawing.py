"""Withdrawing an annotator: all that they said in a project is voided, and nothing is deleted.

Exports are frozen, so they and what was trained on them keep the votes; `ExportAnnotator` says
which exports these are. There is no way back: somebody who turns out to be trustworthy is
qualified again, and asked again.
"""

from __future__ import annotations

import time

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from annotator import assignment as queue
from annotator.audit import Action, record
from annotator.models import Judgment, Membership, Project, User, Withdrawal
from annotator.reviewing import take_back_rulings

VOIDED_AT_ONCE = 10_000  # of one call, so that a request takes seconds
SECONDS = 30  # of each minute, in which the worker goes on with withdrawals


def known_here(project: Project) -> QuerySet[User]:
    """Who is a member or has judged something: of others, a project must not even tell the names."""
    members = Membership.objects.filter(project=project, user=OuterRef("pk"))
    judgments = Judgment.objects.filter(project=project, annotator=OuterRef("pk"))
    return User.objects.filter(Exists(members) | Exists(judgments))


def was_withdrawn(project: Project, user: User) -> bool:
    """Whether what this person said here before is void. Who comes back is asked nothing until an
    admin qualifies them again."""
    return Withdrawal.objects.filter(project=project, annotator=user).exists()


def is_being_withdrawn(project: Project, user: User) -> bool:
    """Whether some of what they said is still to be voided."""
    return Withdrawal.objects.filter(project=project, annotator=user, finished=None).exists()


def n_in_force(project: Project, annotator: User) -> int:
    """How many judgments, skips included, a withdrawal would void."""
    return Judgment.objects.filter(project=project, annotator=annotator, voided=None).count()


def withdraw(project: Project, annotator: User, user: User | None) -> Withdrawal:
    """Begin a withdrawal, or go on with the one under way, for VOIDED_AT_ONCE judgments.

    The person is handed nothing more, what they hold goes back to the queue, and their rulings end
    as well. Call it again until the withdrawal is `finished`: it takes up where it was interrupted. The
    worker does so, too.
    """
    with transaction.atomic():
        Membership.objects.filter(project=project, user=annotator).update(is_qualified=False)
        withdrawal, is_new = Withdrawal.objects.get_or_create(
            project=project, annotator=annotator, finished=None, defaults={"created_by": user}
        )
        if is_new:
            record(user, Action.WITHDREW, annotator, project=project)
    queue.release_all(project, annotator)
    take_back_rulings(project, annotator)
    n = 0
    while n < VOIDED_AT_ONCE and (voided := queue.void_some(project, annotator)):
        n += voided
        Withdrawal.objects.filter(pk=withdrawal.pk).update(n_judgments=F("n_judgments") + voided)
    if not n_in_force(project, annotator):
        Withdrawal.objects.filter(pk=withdrawal.pk, finished=None).update(finished=timezone.now())
    withdrawal.refresh_from_db()
    return withdrawal


def go_on() -> None:
    """With withdrawals whose page was closed, or whose process was killed."""
    end = time.monotonic() + SECONDS
    for withdrawal in Withdrawal.objects.filter(finished=None).select_related(
        "project", "annotator", "created_by"
    ):
        while withdrawal.finished is None and time.monotonic() < end:
            withdrawal = withdraw(withdrawal.project, withdrawal.annotator, withdrawal.created_by)
