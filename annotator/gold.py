"""Comparisons whose answer is known: making them, finding the next one, and what verdicts on them say.

They are of purpose `gold`, so that they are in no export, no win rate and no agreement, and have
no places: whoever is handed one takes nothing away from the queue.
"""

from __future__ import annotations

import random
from statistics import fmean

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Abs, Coalesce
from django.utils import timezone

from annotator.audit import Action, changes, record
from annotator.models import (
    ANSWERED,
    Assignment,
    Comparison,
    ComparisonCompletion,
    ComparisonQuerySet,
    Judgment,
    Membership,
    Project,
    Purpose,
    Qualification,
    Role,
    User,
    comparison_key,
)
from annotator.protocols import picks_best
from annotator.rankings import Ranking, outcomes_of

LOOKED_AT = 100  # known answers on either side of a random one, so that a claim's cost is bounded
ORIGIN = "known answer"


# --- making -----------------------------------------------------------------------------------
@transaction.atomic
def make_gold(
    comparison: Comparison, expected: Ranking, explanation: str = "", user: User | None = None
) -> Comparison:
    """The comparison of the same answers whose answer is known; the comparison itself stays.

    Made once: another time changes what is expected. Raises ValueError if `expected` does not rank
    each answer once.
    """
    entries = list(comparison.entries.select_related("completion"))
    ids = sorted(entry.completion_id for entry in entries)
    if sorted(pk for group in expected for pk in group) != ids or not all(expected):
        raise ValueError(f"expected must rank each of the answers {ids} once, not {expected}")
    texts = {entry.completion_id: entry.completion.text for entry in entries}
    known, is_new = Comparison.objects.get_or_create(
        project_id=comparison.project_id,
        key=comparison_key(comparison.prompt.key, Purpose.GOLD, texts.values()),
        defaults={
            "prompt": comparison.prompt,
            "purpose": Purpose.GOLD,
            "overlap": 0,
            "origin": ORIGIN,
            "round_number": comparison.round_number,
        },
    )
    if is_new:
        ComparisonCompletion.objects.bulk_create(
            ComparisonCompletion(
                comparison=known, completion_id=entry.completion_id, position=entry.position
            )
            for entry in entries
        )
    # It may have been made of other rows with the same texts: what is expected is said of its own.
    own = known.entries.values_list("completion__text", "completion_id")
    id_of = {text.strip(): pk for text, pk in own}
    known.expected = [[id_of[texts[pk].strip()] for pk in group] for group in expected]
    known.explanation = explanation
    known.save(update_fields=["expected", "explanation"])
    action = Action.CREATED if is_new else Action.CHANGED
    record(user, action, known, project=known.project, purpose=Purpose.GOLD)
    return known


# --- handing out ------------------------------------------------------------------------------
def find_gold(project: Project, annotator: User) -> Comparison | None:
    known = known_answers_for(project, annotator).with_begun(annotator)
    return known.select_related("prompt", "project").first()


def find_gold_again(project: Project, annotator: User) -> Comparison | None:
    """For somebody who qualifies and has been asked all there is: what they have not answered in this
    attempt. First what they were last asked longest ago, so that what they skip comes last."""
    membership = annotator.membership_in(project)
    if membership is None:
        return None
    answered = _answered_in_attempt(membership).filter(comparison=OuterRef("pk"))
    asked = Assignment.objects.filter(comparison=OuterRef("pk"), annotator=annotator)
    last_asked = asked.order_by("-created").values("created")[:1]
    known = Comparison.objects.gold().filter(~Exists(answered), ~_is_seen(annotator))
    again = known.filter(project=project).handled_by(annotator).order_by(Subquery(last_asked))
    return again.select_related("prompt", "project").first()


def _is_seen(annotator: User) -> Exists:
    """Of a comparison: whether they have handled another one of its prompt."""
    of_prompt = Comparison.objects.filter(prompt=OuterRef("prompt"))
    return Exists(of_prompt.exclude(purpose=Purpose.GOLD).handled_by(annotator))


def known_answers_for(project: Project, annotator: User) -> ComparisonQuerySet:
    """First the nearest one to a random point of the index that they have not handled. Who has handled
    another comparison of its prompt may remember, or be the one it is known from; they are not
    asked.
    """
    known = Comparison.objects.gold().filter(project=project)
    start = random.random()
    # Between their draws, a range of the index: PostgreSQL would look for one of two sets of rows in all rows.
    above = known.filter(draw__gte=start).order_by("draw").values("draw")
    below = known.filter(draw__lt=start).order_by("-draw").values("draw")
    highest = Coalesce(Subquery(above[LOOKED_AT - 1 : LOOKED_AT]), 1.0)
    lowest = Coalesce(Subquery(below[LOOKED_AT - 1 : LOOKED_AT]), 0.0)
    return (
        known.filter(~_is_seen(annotator), draw__gte=lowest, draw__lte=highest)
        .not_handled_by(annotator)
        .order_by(Abs(F("draw") - start))
    )


# --- what verdicts say ------------------------------------------------------------------------
def share_right(said: Ranking, expected: Ranking, *, is_pick: bool = False) -> float:
    """Share of the pairs of answers of which a ranking says what is expected: better, worse or tied.

    Of two answers it is 0 or 1. A verdict that ranks nothing, [], has nothing right. Of who only
    picked the best, what they did not compare does not count.
    Example: [[7], [8], [9]] where [[7], [8, 9]] is expected -> 2/3
    """
    right = outcomes_of(expected)
    says = outcomes_of(said, is_pick=is_pick)
    return fmean(right[pair] == outcome for pair, outcome in says.items()) if says else 0.0


# --- qualification ----------------------------------------------------------------------------
def is_qualifying(project: Project, membership: Membership | None) -> bool:
    """Whether this member is handed known answers only, until they are qualified."""
    return (
        project.qualification_items > 0
        and membership is not None
        and membership.role == Role.ANNOTATOR
        and membership.qualification == Qualification.PENDING
    )


def has_failed(project: Project, membership: Membership | None) -> bool:
    return (
        project.qualification_items > 0
        and membership is not None
        and membership.role == Role.ANNOTATOR
        and membership.qualification == Qualification.FAILED
    )


def qualification_shares(membership: Membership) -> list[float]:
    """What share of each known answer this member had right, since their qualification began."""
    judged = _answered_in_attempt(membership)
    return [
        share_right(
            judgment.ranking,
            judgment.comparison.expected,
            is_pick=picks_best(judgment.assignment),
        )
        for judgment in judged.select_related("comparison", "assignment").order_by("created")
    ]


def _answered_in_attempt(membership: Membership) -> QuerySet[Judgment]:
    """What this member said of known answers since their qualification began."""
    return Judgment.objects.filter(
        project=membership.project_id,
        annotator=membership.user_id,
        created__gte=membership.qualification_changed,
        voided=None,
        verdict__in=ANSWERED,
        assignment__is_qualification=True,
    )


def settle_qualification(project: Project, membership: Membership) -> None:
    """Decide, if whoever qualifies has answered enough. The membership is locked."""
    shares = qualification_shares(membership)
    if len(shares) < project.qualification_items:
        return
    share = fmean(shares)
    # Rounded: 4 of 5 are 80 %, whatever a float makes of it.
    is_enough = round(share * 100, 6) >= project.qualification_percent
    outcome = Qualification.PASSED if is_enough else Qualification.FAILED
    set_qualification(membership, outcome, share=share)


@transaction.atomic
def set_qualification(
    membership: Membership,
    outcome: Qualification,
    *,
    share: float | None = None,
    user: User | None = None,
) -> None:
    """By the verdicts, or by an admin. Pending begins the qualification anew."""
    was = {"qualification": membership.qualification}
    changed = changes(was, {"qualification": outcome})
    record(user, Action.CHANGED, membership, project=membership.project, **changed)
    membership.qualification = outcome
    membership.qualification_changed = timezone.now()
    if share is not None or outcome == Qualification.PENDING:
        membership.qualification_share = share
    membership.save(update_fields=["qualification", "qualification_changed", "qualification_share"])


def exempt_who_has_judged(project: Project) -> int:
    """When a project begins to ask for a qualification: not of those who do real work already."""
    judged = Judgment.objects.filter(project=project, annotator=OuterRef("user"))
    pending = project.memberships.filter(Exists(judged), qualification=Qualification.PENDING)
    return pending.update(qualification=Qualification.PASSED, qualification_changed=timezone.now())
