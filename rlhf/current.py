"""Which policy of a project is the current one, which clients are given.

The first policy of the project is, until a gate or an admin makes another one current: the record of
promotions says which (docs/gate.md, *Rounds and the current policy*). Runs and rounds start from it too, once a
gate has decided. A prompt version and a policy elsewhere can be current: what needs weights starts from
`policy_to_train` then.
"""

from __future__ import annotations

from django.db import IntegrityError, transaction

from annotator.audit import Action, record
from annotator.models import Project, User
from annotator.webhooks.models import Event
from annotator.webhooks.outbox import tell
from rlhf.gate_models import Gate, GateState, Promotion
from rlhf.models import ModelKind, ModelVersion


class CurrentMoved(Exception):
    """Another policy has become current meanwhile. The message is a sentence."""

    def __init__(self) -> None:
        super().__init__("Another policy has just become current: look again before you change it.")


def newest_promotion(project: Project) -> Promotion | None:
    return project.promotions.select_related("version__parent").first()


def current_policy(project: Project) -> ModelVersion | None:
    """None before a policy was imported."""
    if newest := newest_promotion(project):
        return newest.version
    rounds = project.rounds.select_related("policy__parent").order_by("number")
    return next((each.policy for each in rounds[:1]), None)


def has_decided_gate(project: Project) -> bool:
    """Whether runs and rounds start from the current policy, instead of from what the last round made."""
    return project.gates.filter(state=GateState.DECIDED).exists()


def policy_to_train(current: ModelVersion) -> ModelVersion | None:
    """The policy whose weights training starts from: the current one, or the one that the current
    prompt version is put around. While the current one lives elsewhere, what was current last and is here."""
    if current.is_asked_here:
        return current.writer
    project = current.project
    earlier = [each.version for each in project.promotions.select_related("version__parent")]
    were_here = (version.writer for version in earlier if version.is_asked_here)
    return next(were_here, None) or project.model_versions.filter(kind=ModelKind.POLICY).first()


def note_on_training(current: ModelVersion) -> str:
    """Why training starts from another policy than the current one; empty if it does not."""
    trained = policy_to_train(current)
    if current == trained:
        return ""
    if current.is_asked_here:
        return (
            f"The current policy, {current}, is a prompt version and has no weights of its own: what needs "
            f"weights starts from {trained}, which it is put around."
        )
    why = f"Nobody here has the weights of the current policy, {current}"
    if trained is None:
        return f"{why}: import a model before you train one."
    return f"{why}: what needs them starts from {trained}, if you choose no other."


def lock_current(project: Project) -> None:
    """In a transaction, until it ends: whoever would change what is current, or a gate, waits for it.

    Taken first, so that of two who change both neither has what the other waits for.
    """
    list(Project.objects.select_for_update(no_key=True).filter(pk=project.pk).values_list("pk"))


def keep_current(project: Project) -> None:
    """Write down what is current, if nothing is written down yet. Who comes second changes nothing."""
    version = current_policy(project)
    if version is None or project.promotions.exists():
        return
    Promotion.objects.get_or_create(
        project=project,
        number=1,
        defaults={"version": version, "reason": "It was current when the first gate began."},
    )


def make_current(
    project: Project,
    version: ModelVersion,
    *,
    user: User | None,
    reason: str,
    gate: Gate | None = None,
    after: int | None = None,
) -> Promotion | None:
    """From now on `version` is current; None if it was.

    `after` is the number of the promotion that held when this was decided. Raises CurrentMoved if
    another one holds.
    """
    newest = newest_promotion(project)
    number = newest.number if newest else 0
    if after is not None and number != after:
        raise CurrentMoved
    if newest and newest.version_id == version.pk:
        return None
    try:
        with transaction.atomic():
            made = Promotion.objects.create(
                project=project, number=number + 1, version=version, gate=gate, user=user,
                reason=reason,
            )  # fmt: skip
            moved = {"from": str(newest.version) if newest else None, "to": str(version)}
            record(
                user, Action.CHANGED, project, project=project, current_policy=moved, reason=reason
            )
            tell(project, Event.CURRENT_CHANGED, _told(made, newest))
            return made
    except IntegrityError as error:  # somebody else's has this number
        raise CurrentMoved from error


def _told(made: Promotion, before: Promotion | None) -> dict[str, object]:
    return {
        "model_version": made.version_id,
        "before": before and before.version_id,
        "gate": made.gate_id,
        "by": made.user.username if made.user else "",
        "reason": made.reason,
        "created": made.created.isoformat(),
    }
