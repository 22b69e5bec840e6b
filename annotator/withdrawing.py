"""Withdrawing an annotator: all that they said in a project is voided, and nothing is deleted.

Exports are frozen, so they and what was trained on them keep the votes; `ExportAnnotator` says
which exports these are. There is no way back: somebody who turns out to be trustworthy is
qualified again, and asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
    return _under_way(project, user).exists()


def _under_way(project: Project, user: User) -> QuerySet[Withdrawal]:
    """There is at most one."""
    return Withdrawal.objects.filter(project=project, annotator=user, finished=None)


def n_in_force(project: Project, annotator: User) -> int:
    """How many judgments, skips included, a withdrawal would void."""
    return _in_force(project, annotator).count()


def _in_force(project: Project, annotator: User) -> QuerySet[Judgment]:
    return Judgment.objects.filter(project=project, annotator=annotator, voided=None)


def withdraw(project: Project, annotator: User, user: User | None) -> Withdrawal:
    """Begin a withdrawal, or go on with the one under way, for VOIDED_AT_ONCE judgments (`go_on_with`).

    Sent twice, it is one: where all is void already, the last one comes back.
    """
    earlier = Withdrawal.objects.filter(project=project, annotator=annotator).first()
    if earlier and earlier.finished and not n_in_force(project, annotator):
        return earlier
    with transaction.atomic():
        Membership.objects.filter(project=project, user=annotator).update(is_qualified=False)
        withdrawal, is_new = Withdrawal.objects.get_or_create(
            project=project, annotator=annotator, finished=None, defaults={"created_by": user}
        )
        if is_new:
            record(user, Action.WITHDREW, annotator, project=project)
    return go_on_with(withdrawal)


def go_on_with(withdrawal: Withdrawal) -> Withdrawal:
    """Void VOIDED_AT_ONCE judgments more. Of one that is finished meanwhile, nothing: since then the
    person may have been qualified again.

    The person is handed nothing more, what they hold goes back to the queue, and their rulings end
    as well. Call it again until the withdrawal is `finished`: it takes up where it was interrupted. The
    worker does so, too.
    """
    _if_under_way(withdrawal, queue.release_all)
    _if_under_way(withdrawal, take_back_rulings)
    n = 0
    while n < VOIDED_AT_ONCE and (voided := _if_under_way(withdrawal, _void_some)):
        n += voided
    withdrawal.refresh_from_db()
    return withdrawal


def _if_under_way(withdrawal: Withdrawal, act: Callable[[Project, User], int]) -> int:
    """What `act` gives back; 0, and it is not called, if the withdrawal is finished. Nobody can finish it
    before `act` ends."""
    with transaction.atomic():
        under_way = _under_way(withdrawal.project, withdrawal.annotator)
        if not under_way.select_for_update(no_key=True).filter(pk=withdrawal.pk):
            return 0
        return act(withdrawal.project, withdrawal.annotator)


def _void_some(project: Project, annotator: User) -> int:
    voided = queue.void_some(project, annotator)
    under_way = _under_way(project, annotator)
    under_way.update(n_judgments=F("n_judgments") + voided)
    if not _in_force(project, annotator).exists():
        under_way.update(finished=timezone.now())
    return voided


def go_on() -> None:
    """With withdrawals whose page was closed, or whose process was killed."""
    end = time.monotonic() + SECONDS
    for withdrawal in Withdrawal.objects.filter(finished=None).select_related(
        "project", "annotator"
    ):
        while withdrawal.finished is None and time.monotonic() < end:
            withdrawal = go_on_with(withdrawal)
