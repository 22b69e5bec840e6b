"""Who did what: an append-only row for everything that people do to a project, but for verdicts, which
are rows of their own already.

`record` is called by the functions that do these things, within the transaction in which they do
them, so that one is never without the other. Rows outlive the people and projects they tell of: they
keep names beside the numbers, and no foreign key constraint. Triggers of the database refuse to
change or delete a row, whoever asks; `TRUNCATE` and `DROP TABLE` are for those who own the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone

if TYPE_CHECKING:
    from annotator.models import Project, User

NAME_LENGTH = 200


class AppendOnly(Exception):
    """Something tried to change or delete what is only ever added to."""

    def __init__(self) -> None:
        super().__init__("the audit log is append-only: its rows are not changed and not deleted")


class Action(models.TextChoices):
    """What was done, as the verb that the page shows."""

    CREATED = "created", "created"
    CHANGED = "changed", "changed"
    DELETED = "deleted", "deleted"
    IMPORTED = "imported", "imported"
    DOWNLOADED = "downloaded", "downloaded"
    ADDED = "added", "added"
    JOINED = "joined", "joined"
    REMOVED = "removed", "removed"
    WITHDREW = "withdrew", "withdrew"
    REVOKED = "revoked", "revoked"
    PAUSED = "paused", "paused"
    RESUMED = "resumed", "resumed"
    LAUNCHED = "launched", "launched"
    STOPPED = "stopped", "stopped"
    HELD = "held", "held back"
    RELEASED = "released", "released"
    RULED = "ruled", "ruled on"
    TOOK_BACK = "took_back", "took back the ruling on"
    CHECKED = "checked", "checked the files of"


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise AppendOnly

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnly

    def delete(self) -> NoReturn:
        raise AppendOnly


class AuditEntry(models.Model):
    """One thing that somebody did to one object."""

    created = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False,
        related_name="+", help_text="Empty: a command or the system itself.",
    )  # fmt: skip
    actor_name = models.CharField(max_length=150, blank=True)
    action = models.CharField(max_length=10, choices=Action.choices)
    kind = models.CharField(max_length=40, help_text="Of the object: export, run, membership, …")
    object_id = models.CharField(max_length=64)
    object_name = models.CharField(max_length=NAME_LENGTH)
    project = models.ForeignKey(
        "annotator.Project", models.DO_NOTHING, null=True, db_constraint=False,
        related_name="audit_entries",
    )  # fmt: skip
    details = models.JSONField(default=dict, encoder=DjangoJSONEncoder)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["project", "-id"], name="audit_of_project"),
            models.Index(fields=["project", "kind", "object_id", "-id"], name="audit_of_object"),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name or 'the system'} {self.get_action_display()} {self.object_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnly

    @property
    def kind_in_words(self) -> str:
        """Example: "model version"."""
        return KINDS.get(self.kind, self.kind)

    def as_row(self) -> dict[str, Any]:
        """As the files of the page have it."""
        return {
            "id": self.pk,
            "time": self.created.isoformat(timespec="milliseconds"),
            "actor": self.actor_name,
            "actor_id": self.actor_id,
            "action": self.action,
            "kind": self.kind,
            "object_id": self.object_id,
            "object_name": self.object_name,
            "details": self.details,
        }


# The names of models as pages say them, where they are not a word already.
KINDS = {
    "apitoken": "API token",
    "membership": "member",
    "modelversion": "model version",
    "documentcollection": "collection of documents",
}


def record(
    actor: User | None,
    action: Action,
    about: models.Model,
    *,
    project: Project | None,
    **details: Any,
) -> AuditEntry:
    """Write down that `actor` (None: the system) did this to `about`; one insert.

    Call it in the transaction of the deed. `details` are short JSON values: counts, settings, and
    what changed, as `changes` gives it; never a secret, and never the text of a prompt, an answer
    or a rationale. `str(about)` must not be such a text either.
    """
    return AuditEntry.objects.create(
        actor=actor,
        actor_name=actor.get_username() if actor else "",
        action=action,
        kind=about._meta.model_name or "",
        object_id=str(about.pk),
        object_name=str(about)[:NAME_LENGTH],
        project=project,
        details=details,
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Example: {"overlap": 1, "name": "A"}, {"overlap": 2, "name": "A"} -> {"overlap": {"from": 1, "to": 2}}"""
    return {
        name: {"from": before.get(name), "to": value}
        for name, value in after.items()
        if before.get(name) != value
    }


def in_words(details: Mapping[str, Any]) -> Iterator[str]:
    """Example: {"overlap": {"from": 1, "to": 2}, "pairs": 7} -> "overlap: 1 → 2", "pairs: 7"."""
    for name, value in details.items():
        label = name.replace("_", " ")
        if isinstance(value, dict) and set(value) == {"from", "to"}:
            yield f"{label}: {_short(value['from'])} → {_short(value['to'])}"
        else:
            yield f"{label}: {_short(value)}"


def _short(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
