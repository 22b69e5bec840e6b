"""The guidelines of a project, all their versions, and who has read which."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Q

from annotator.audit import Action, changes, record
from annotator.differences import Piece, shortened, word_changes
from annotator.models import GuidelineVersion, Judgment, Membership, Project, User


def publish(project: Project, text: str, author: User | None) -> None:
    """Make `text` the guidelines from now on: a new version, if it says something else."""
    with transaction.atomic():
        locked = Project.objects.select_for_update().get(pk=project.pk)
        keep_current(locked)
        if text != locked.guidelines:
            before = {"guideline_version": locked.guideline_version}
            locked.guidelines = text
            locked.guideline_version += 1
            after = {"guideline_version": locked.guideline_version}
            record(author, Action.CHANGED, project, project=project, **changes(before, after))
            locked.save(update_fields=["guidelines", "guideline_version"])
            keep_current(locked, author)
    project.guidelines = locked.guidelines
    project.guideline_version = locked.guideline_version


def keep_current(project: Project, author: User | None = None) -> None:
    """Write down how the guidelines read now, unless that is done."""
    defaults: dict[str, Any] = {"text": project.guidelines, "author": author}
    if project.guideline_version == 1:
        defaults["created"] = project.created
    GuidelineVersion.objects.get_or_create(
        project=project, number=project.guideline_version, defaults=defaults
    )


def versions(project: Project) -> list[GuidelineVersion]:
    """All that are known, the newest first. Of a project that a command has made, or that is older
    than this table, the first ones may be missing."""
    kept = list(project.guideline_versions.select_related("author"))
    if kept and kept[0].number == project.guideline_version:
        return kept
    current = GuidelineVersion(
        project=project,
        number=project.guideline_version,
        text=project.guidelines,
        created=project.created,
    )
    return [current, *kept]


# --- who has read what --------------------------------------------------------------------------
class News(NamedTuple):
    """What a member has not read yet."""

    read: int | None  # the version read last, or under which they judged last; if any
    changes: list[Piece]  # since then; empty if nobody knows how that one read


def news_for(project: Project, user: User) -> News | None:
    """None if the member has read the guidelines as they are, or there is nothing to read."""
    membership = Membership.objects.filter(project=project, user=user).first()
    if membership is None or not project.guidelines:
        return None
    read = membership.guidelines_read
    if read is not None and read >= project.guideline_version:
        return None
    if read is None:
        read = _judged_under(project, user)
    if read == project.guideline_version:
        return News(None, [])
    before = project.guideline_versions.filter(number=read or 0).first()
    changes = shortened(word_changes(before.text, project.guidelines)) if before else []
    return News(read, changes)


def _judged_under(project: Project, user: User) -> int | None:
    """The version beside their last verdict, for who has never said that they have read one."""
    mine = Judgment.objects.filter(project=project, annotator=user).order_by("-created")
    return mine.values_list("guideline_version", flat=True).first()


def mark_read(project: Project, user: User, number: int) -> None:
    """The member has read version `number`; a later one that they have read stays read."""
    mine = Membership.objects.filter(project=project, user=user)
    earlier = mine.filter(Q(guidelines_read=None) | Q(guidelines_read__lt=number))
    earlier.update(guidelines_read=min(number, project.guideline_version))
