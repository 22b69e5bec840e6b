"""Projects, what is ranked in them, and what people said.

`Project` → `Prompt` → `Completion`; a `Comparison` shows 2..9 completions of one prompt; an
`Assignment` is one showing of it to one annotator; a `Judgment` is what that annotator said.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
from django.conf import settings
from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Exists, F, Max, OuterRef, Q, Subquery
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property

from annotator import screening
from annotator.compiled import compiled
from annotator.screening import default_checks

CHANGE_LIMIT = 100_000  # comparisons that one request changes
CHANGED_AT_ONCE = 500

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
OF_TEXTS = msgspec.json.Encoder(order="sorted")  # writes numbers otherwise


def canonical_key(value: Any) -> str:
    """SHA-256 of the value as canonical JSON: the same content always has the same key."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()


def key_of_texts(value: Any) -> str:
    """The same for lists and objects of nothing but texts, as messages are, in a third of the time."""
    return hashlib.sha256(OF_TEXTS.encode(value)).hexdigest()


def comparison_key(prompt_key: str, purpose: str, texts: Iterable[str]) -> str:
    """The same prompt, purpose and set of completions always have the same key."""
    return key_of_texts([prompt_key, purpose, sorted(text.strip() for text in texts)])


def random_draw() -> float:
    return random.random()


class User(AbstractUser):
    """A person who signs in. What they may do is said per project by `Membership`."""

    # {usual key: own key} of the comparing page, where they differ.
    key_map = models.JSONField(default=dict, blank=True, editable=False)
    shows_differences = models.BooleanField(default=False, editable=False)
    # In the project of the request that this instance belongs to: `get_access` has looked it up.
    seen_membership: Membership | None = None

    def membership_in(self, project: Project) -> Membership | None:
        """None for whoever is no member, superusers among them."""
        seen = self.seen_membership
        if seen and seen.project_id == project.pk:
            return seen
        return Membership.objects.filter(project=project, user=self).first()


class Role(models.TextChoices):
    ANNOTATOR = "annotator", "Annotator"
    REVIEWER = "reviewer", "Reviewer"
    ADMIN = "admin", "Admin"


class Split(models.TextChoices):
    TRAIN = "train", "Training"
    TEST = "test", "Held out"
    GOLD = "gold", "Known answers only"  # came with a known answer: no model is asked it


class QueueOrder(models.TextChoices):
    DRAWN = "drawn", "Drawn at random"
    INFORMATIVE = "informative", "Most informative first"


class Arm(models.TextChoices):
    """How the comparisons of a prompt are asked once the informative ones come first."""

    ACTIVE = "active", "Most informative first"
    RANDOM = "random", "Drawn at random"  # for comparison with the others, for ever


class Qualification(models.TextChoices):
    """Where a member is, in a project that asks for a qualification."""

    PENDING = "pending", "Not yet"
    PASSED = "passed", "Qualified"
    FAILED = "failed", "Not qualified"


class ProjectQuerySet(models.QuerySet["Project"]):
    """What a user may see is decided here, once, for pages, commands and API alike."""

    def _with_role(self, user: User | AnonymousUser, roles: Iterable[str]) -> Self:
        if user.is_superuser:
            return self.all()
        return self.filter(memberships__user_id=user.pk, memberships__role__in=list(roles))

    def visible_to(self, user: User | AnonymousUser) -> Self:
        return self._with_role(user, Role.values)

    def reviewed_by(self, user: User | AnonymousUser) -> Self:
        return self._with_role(user, [Role.REVIEWER, Role.ADMIN])

    def administered_by(self, user: User | AnonymousUser) -> Self:
        return self._with_role(user, [Role.ADMIN])


class Project(models.Model):
    """One annotation effort: guidelines, queue settings, prompts, members."""

    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=60, unique=True)
    guidelines = models.TextField(blank=True, help_text="Markdown, shown beside the task.")
    guideline_version = models.PositiveIntegerField(default=1, editable=False)
    overlap = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How many people judge each new comparison.",
    )
    lease_minutes = models.PositiveSmallIntegerField(
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 60)],
        help_text="How long a comparison is kept for the person it was handed to.",
    )
    held_out_percent = models.PositiveSmallIntegerField(
        default=25,
        validators=[MinValueValidator(1), MaxValueValidator(90)],
        help_text="Share of new prompts kept out of training, for honest evaluation.",
    )
    queue_order = models.CharField(
        max_length=11,
        choices=QueueOrder.choices,
        default=QueueOrder.DRAWN,
        help_text="A run with a reward model finds out which questions are informative.",
    )
    random_percent = models.PositiveSmallIntegerField(
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(99)],
        help_text="Share of the questions that stays drawn at random, to see whether the order "
        "pays. A prompt that has been given to one of the two sides stays there.",
    )
    ordered = models.DateTimeField(
        null=True, editable=False, help_text="When the order of questions was made last."
    )
    gold_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(50)],
        help_text="Share of the questions whose answer is known already, to see how well people "
        "judge. They look like the others, and count in no training.",
    )
    repeat_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(50)],
        help_text="Share of the questions that somebody has answered before, at least 20 verdicts "
        "ago, to see whether they say the same again. The second verdict counts nowhere else.",
    )
    qualification_items = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(50)],
        help_text="How many questions with a known answer new annotators get before real work. "
        "0: none. Who has judged here already, and reviewers and admins, need no qualification.",
    )
    qualification_percent = models.PositiveSmallIntegerField(
        default=80,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How many of them must be right. Who has fewer is told so, and an admin decides.",
    )
    qualification_shows_answers = models.BooleanField(
        default=False,
        help_text="After each verdict of the qualification, show which answer was right, and why.",
    )
    screening = models.JSONField(default=default_checks, blank=True)
    near_identical_percent = models.PositiveSmallIntegerField(
        default=95,
        validators=[MinValueValidator(70), MaxValueValidator(100)],
        help_text="Answers this much alike are nearly identical; spaces and capitals do not "
        "count. 100: only if nothing else differs.",
    )
    # Nobody is handed anything new while this is set.
    paused = models.DateTimeField(null=True, blank=True, editable=False)
    pause_note = models.CharField(max_length=200, blank=True, default="", editable=False)
    # What people are asked, and in which steps they answer: read by `protocols.protocol_of`. Empty: the default.
    protocol = models.JSONField(default=dict, blank=True, editable=False)
    # Up to which judgment `DailyWork` has counted.
    work_counted = models.PositiveBigIntegerField(default=0, editable=False)
    # The webhooks that are told of each judgment: here, because the row is at hand at each verdict.
    judgment_webhooks = models.JSONField(default=list, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("rlhf:project", args=[self.slug])

    @property
    def lease(self) -> timedelta:
        return timedelta(minutes=self.lease_minutes)

    @transaction.atomic
    def pause(self, note: str, user: User) -> None:
        """Hand out nothing new. What is on people's screens may still be sent."""
        self.paused = self.paused or timezone.now()
        self.pause_note = note
        self.save(update_fields=["paused", "pause_note"])
        record(user, Action.PAUSED, self, project=self, note=note)

    @transaction.atomic
    def resume(self, user: User) -> None:
        if self.paused:
            self.paused = None
            self.save(update_fields=["paused"])
            record(user, Action.RESUMED, self, project=self)

    @transaction.atomic
    def set_protocol(self, protocol: dict[str, Any], user: User) -> None:
        """What is asked from the next comparison on that is handed out."""
        changed = changes({"protocol": self.protocol}, {"protocol": protocol})
        self.protocol = protocol
        self.save(update_fields=["protocol"])
        if changed:
            record(user, Action.CHANGED, self, project=self, **changed)

    def latest_round(self) -> int:
        """The latest round that has comparisons; 1 if there are none."""
        latest = self.comparisons.aggregate(latest=Max("round_number"))["latest"]
        return latest or 1

    def reason_to_hold(self, completions: Iterable[Completion], purpose: str) -> str:
        """What this project's screening finds in answers to one prompt; empty if nothing.

        Models are evaluated as they answer: what they cannot bring to an end is part of it.
        """
        checks = set(self.screening)
        if purpose == Purpose.EVALUATION:
            checks.discard("truncated")
        texts = [(completion.text, completion.is_truncated) for completion in completions]
        return screening.reason_to_hold(texts, checks, self.near_identical_percent)

    def split_of(self, prompt_key: str) -> Split:
        """The split of a prompt, from its key alone: the same prompt is always on the same side."""
        return Split.TEST if int(prompt_key[:8], 16) % 100 < self.held_out_percent else Split.TRAIN


class Membership(models.Model):
    """What a user may do in a project."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.ANNOTATOR)
    is_qualified = models.BooleanField(
        default=True, help_text="Only qualified members are handed comparisons."
    )
    invitation = models.ForeignKey(
        "Invitation", models.SET_NULL, null=True, editable=False, related_name="memberships",
        help_text="The link by which they came; empty: an admin added them.",
    )  # fmt: skip
    guidelines_read = models.PositiveIntegerField(
        null=True, editable=False, help_text="The version of the guidelines read last."
    )
    # Means something only while the project asks for a qualification.
    qualification = models.CharField(
        max_length=7, choices=Qualification.choices, default=Qualification.PENDING
    )
    qualification_changed = models.DateTimeField(default=timezone.now, editable=False)
    qualification_share = models.FloatField(
        null=True, editable=False, help_text="Share that was right, 0 to 1, when it was decided."
    )
    quota_total = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Verdicts in all; empty: without limit. Skips do not count.",
    )
    quota_per_day = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Verdicts a day; empty: without limit. Skips do not count.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="one_membership_per_user"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project} ({self.role})"

    @property
    def has_quota(self) -> bool:
        return self.quota_total is not None or self.quota_per_day is not None


class Invitation(models.Model):
    """A link that makes whoever opens it a member. Of its token, only the hash is kept."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.ANNOTATOR)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    max_uses = models.PositiveIntegerField()
    uses = models.PositiveIntegerField(default=0)
    expires = models.DateTimeField()
    revoked = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="invitations")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(uses__lte=F("max_uses")), name="uses_never_above_max_uses"
            ),
        ]

    def __str__(self) -> str:
        return f"link {self.pk} to {self.project}"

    @property
    def problem(self) -> str:
        """Why the link does not work any more; empty if it does."""
        if self.revoked:
            return "This link was revoked."
        if self.expires <= timezone.now():
            return "This link has expired."
        if self.uses >= self.max_uses:
            return "This link has been used up."
        return ""


class GuidelineVersion(models.Model):
    """Guidelines as they read at some time. The latest is what `Project.guidelines` says."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="guideline_versions")
    number = models.PositiveIntegerField()
    text = models.TextField(blank=True)
    author = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="one_guideline_per_number"),
        ]

    def __str__(self) -> str:
        return f"version {self.number} of the guidelines of {self.project}"


class Prompt(models.Model):
    """Chat messages that end with a user turn."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="prompts")
    messages = models.JSONField()
    key = models.CharField(max_length=64, editable=False)
    split = models.CharField(max_length=5, choices=Split.choices)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "key"], name="one_prompt_per_content"),
        ]

    def __str__(self) -> str:
        return self.messages[-1]["content"][:80]

    def ask_models(self, split: Split) -> None:
        """It is no longer there for a known answer only, if it was: from now on it has this split."""
        if self.split == Split.GOLD:
            self.split = split
            self.save(update_fields=["split"])


class Completion(models.Model):
    """One assistant answer to a prompt."""

    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="completions")
    text = models.TextField()
    source = models.CharField(
        max_length=200, help_text="Which model version wrote it, or where it was imported from."
    )
    is_truncated = models.BooleanField(
        default=False, help_text="Cut off at the length limit: the model did not end it itself."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.text[:80]

    def message(self) -> Message:
        return {"role": "assistant", "content": self.text}


class Purpose(models.TextChoices):
    TRAINING = "training", "Training"
    EVALUATION = "evaluation", "Evaluation"
    GOLD = "gold", "Known answer"  # asked to see how well people judge; never trained on


def _handled_by(annotator: User | int | OuterRef) -> Exists:
    """Of a comparison."""
    mine = Assignment.objects.filter(
        HANDLED, comparison=OuterRef("pk"), annotator=annotator, is_repeat=False
    )
    return Exists(mine)


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def open(self) -> Self:
        """Those that still need somebody, and are not held back. Known answers never do."""
        return self.filter(taken__lt=F("overlap"), hold="")

    def held(self) -> Self:
        return self.filter(hold__gt="")

    def gold(self) -> Self:
        """Those whose answer is known, and which are not held back."""
        return self.filter(purpose=Purpose.GOLD, hold="")

    def not_handled_by(self, annotator: User | int | OuterRef) -> Self:
        """Those that this person has not judged, skipped or on the screen."""
        return self.filter(~_handled_by(annotator))

    def with_begun(self, annotator: User | int) -> Self:
        """Each with `has_begun`."""
        mine = Assignment.objects.filter(comparison=OuterRef("pk"), annotator=annotator)
        return self.annotate(has_begun=Exists(mine.exclude(draft={})))

    def with_waited_for(self, annotator: User | int) -> Self:
        """Each with `is_waited_for`."""
        # In the words of the index of what is in hand: SQLite would not use it otherwise.
        mine = Assignment.objects.filter(
            IN_HAND, project=OuterRef("project"), annotator=annotator, state=AssignmentState.WAITING
        )
        return self.annotate(is_waited_for=Exists(mine))

    def with_extra(self, extra: Subquery | None) -> Self:
        """Each with what may be asked in its place, if anything was looked for."""
        return self if extra is None else self.annotate(extra=extra)

    def handled_by(self, annotator: User) -> Self:
        return self.filter(_handled_by(annotator))

    def set_priority(self, priority: int) -> int:
        """How many were changed: of those that are asked by priority, CHANGE_LIMIT at most."""
        others = self.exclude(purpose=Purpose.GOLD).exclude(priority=priority)
        return others._change(priority=priority)

    def hold_back(self, reason: str, until: datetime | None = None) -> int:
        """Ask nobody for now. What is on somebody's screen may still be answered."""
        return self._change(hold=reason, held_until=until)

    def ask_all_the_same(self) -> int:
        """End the holds; how many, CHANGE_LIMIT at most."""
        return self.held()._change(hold="", held_until=None)

    def _change(self, **fields: Any) -> int:
        """In small transactions, so that nobody who compares has to wait for all of them."""
        pks = list(self.order_by("pk").values_list("pk", flat=True)[:CHANGE_LIMIT])
        for start in range(0, len(pks), CHANGED_AT_ONCE):
            batch = Comparison.objects.filter(pk__in=pks[start : start + CHANGED_AT_ONCE])
            with transaction.atomic():
                # Locked in the order in which an undo locks two: neither waits for the other.
                list(batch.select_for_update(no_key=True).order_by("pk").values_list("pk"))
                batch.update(**fields)
        return len(pks)

    def create_from(
        self,
        completions: Sequence[Completion],
        *,
        overlap: int | None = None,
        round_number: int = 1,
        purpose: Purpose = Purpose.TRAINING,
        origin: str = "import",
        priority: int = 0,
    ) -> Comparison | None:
        """A comparison of these 2..9 completions of one prompt, in this order.

        None if two of them are the same text (nothing to compare) or if the project already
        has a comparison of the same texts. What the project's screening finds is held back.
        Raises ValueError for a wrong number or mixed prompts.
        """
        if not 2 <= len(completions) <= 9:
            raise ValueError(f"a comparison needs 2 to 9 completions, not {len(completions)}")
        prompt = completions[0].prompt
        if any(completion.prompt_id != prompt.pk for completion in completions):
            raise ValueError("the completions of a comparison must answer the same prompt")
        texts = [completion.text.strip() for completion in completions]
        if len(set(texts)) < len(texts):
            return None
        comparison, created = self.get_or_create(
            project_id=prompt.project_id,
            key=comparison_key(prompt.key, purpose, texts),
            defaults={
                "prompt": prompt,
                "overlap": overlap or prompt.project.overlap,
                "round_number": round_number,
                "purpose": purpose,
                "origin": origin,
                "priority": priority,
                "hold": prompt.project.reason_to_hold(completions, purpose),
            },
        )
        if not created:
            return None
        ComparisonCompletion.objects.bulk_create(
            ComparisonCompletion(comparison=comparison, completion=completion, position=position)
            for position, completion in enumerate(completions)
        )
        return comparison


class Comparison(models.Model):
    """Completions of one prompt to be ranked by `overlap` people.

    `taken` = live assignments + judgments that count. The constraint on it is what makes the
    overlap exact: whoever would exceed it gets an error from the database, not a surplus vote.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="comparisons")
    completions = models.ManyToManyField(
        Completion, through="ComparisonCompletion", related_name="comparisons"
    )
    key = models.CharField(max_length=64, editable=False)
    round_number = models.PositiveIntegerField(default=1)
    purpose = models.CharField(max_length=10, choices=Purpose.choices, default=Purpose.TRAINING)
    origin = models.CharField(max_length=60, default="import", db_index=True)
    overlap = models.PositiveSmallIntegerField()
    taken = models.PositiveSmallIntegerField(default=0)
    priority = models.SmallIntegerField(default=0)
    # Where this comparison stands in the queue among those of its priority: drawn once, so that
    # a claim can start anywhere in the index and no query ever orders by random().
    draw = models.FloatField(default=random_draw, editable=False)
    # Given once, when the first order of questions is made that has this comparison.
    arm = models.CharField(max_length=6, choices=Arm.choices, blank=True, editable=False)
    # In the active arm: those of its priority are asked from the lowest place on. None: drawn.
    place = models.FloatField(null=True, editable=False)
    # Why nobody is asked for now, as a sentence; empty if nothing holds it back.
    hold = models.CharField(max_length=200, blank=True, default="")
    held_until = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the hold ends by itself; empty: when somebody ends it.",
    )
    # Of purpose `gold`: the ranking that is right, as in `Judgment.ranking`. Such a comparison has
    # no places (overlap 0), as everybody may be asked it: so it is never open, and `taken` stays 0.
    expected = models.JSONField(default=list, blank=True)
    explanation = models.TextField(blank=True, default="")  # of what is expected, for annotators
    created = models.DateTimeField(default=timezone.now, editable=False)
    # Whether the annotator it was looked for has entered something and not sent it. Not looked: perhaps.
    has_begun: bool = True
    # Whether something has been moved to that annotator and waits for them. Not looked: no.
    is_waited_for: bool = False
    # What was looked for beside it, to be asked in its place.
    extra: int | None = None

    objects = ComparisonQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "key"], name="one_comparison_per_content"),
            models.CheckConstraint(
                condition=Q(taken__lte=F("overlap")), name="taken_never_above_overlap"
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "draw"],
                condition=Q(purpose=Purpose.GOLD, hold=""),
                name="known_answers",
            ),
            models.Index(
                fields=["project", "held_until"], condition=Q(hold__gt=""), name="held_comparisons"
            ),
            models.Index(
                fields=["project", "-priority", "place", "draw"],
                condition=Q(taken__lt=F("overlap"), hold=""),
                name="open_comparisons",
            ),
            models.Index(
                fields=["project", "round_number", "purpose"], name="comparisons_of_round"
            ),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"

    @cached_property
    def completions_by_id(self) -> dict[int, Completion]:
        """In the order stored; read once, to draw the order shown, to hash it and to show it."""
        return {entry.completion_id: entry.completion for entry in _entries_of(self.pk)}


@compiled
def _entries_of(comparison: int) -> models.QuerySet[ComparisonCompletion]:
    return ComparisonCompletion.objects.select_related("completion").filter(comparison=comparison)


class ComparisonCompletion(models.Model):
    """A completion's place in a comparison, as stored; annotators see a drawn order instead."""

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="entries")
    completion = models.ForeignKey(Completion, models.PROTECT, related_name="entries")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["comparison", "position"], name="one_per_position"),
            models.UniqueConstraint(fields=["comparison", "completion"], name="no_repeats"),
        ]

    def __str__(self) -> str:
        return f"{self.completion_id} at {self.position} in {self.comparison_id}"


class AssignmentState(models.TextChoices):
    LIVE = "live", "Live"  # shown to the annotator, lease running
    WAITING = "waiting", "Waiting"  # kept for the annotator, who gets it next
    JUDGED = "judged", "Judged"
    SKIPPED = "skipped", "Skipped"
    EXPIRED = "expired", "Expired"  # the lease ran out; may be handed out again
    RELEASED = "released", "Released"  # given back unanswered
    WITHDRAWN = "withdrawn", "Withdrawn"  # the judgment was undone


# Conditions of partial indexes. They are not written with IN: SQLite would not see that a query asks for
# just what such an index holds.
IN_HAND = Q(state=AssignmentState.LIVE) | Q(state=AssignmentState.WAITING)
# In these states the comparison is not offered to the same annotator again.
HANDLED = IN_HAND | Q(state=AssignmentState.JUDGED) | Q(state=AssignmentState.SKIPPED)


class Assignment(models.Model):
    """One showing of a comparison to an annotator: order shown, content hash, lease."""

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="assignments")
    # The project again, so that "what do I hold here?" is one index probe.
    project = models.ForeignKey(Project, models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(User, models.PROTECT, related_name="assignments")
    order = models.JSONField(help_text="Completion ids from left to right, as shown.")
    payload_hash = models.CharField(max_length=64, help_text="Hash of all that was shown.")
    state = models.CharField(
        max_length=9, choices=AssignmentState.choices, default=AssignmentState.LIVE
    )
    guideline_version = models.PositiveIntegerField()
    # What was asked, as `Project.protocol` was at the time: the verdict is read and checked by it.
    protocol = models.JSONField(default=dict, blank=True, editable=False)
    # What was entered and not sent: the fields of the page's form, each with its values.
    draft = models.JSONField(default=dict, blank=True, editable=False)
    # Shown to somebody who has judged it before, to see whether they say the same again.
    is_repeat = models.BooleanField(default=False, editable=False)
    # A known answer by which it is decided whether somebody is qualified. In real work there are
    # known answers too, and nobody is to know them.
    is_qualification = models.BooleanField(default=False, editable=False)
    # When its annotator first did something with it: a key, a click, a scroll, a touch. By the
    # browser's clock since it was to be seen; written once. None: nothing yet, or not measured.
    first_interaction_ms = models.PositiveIntegerField(null=True, editable=False)
    # Of the code that showed it last. Empty: it was shown before this was kept, or elsewhere.
    ui_version = models.CharField(max_length=100, blank=True, default="", editable=False)
    lease_until = models.DateTimeField()
    created = models.DateTimeField(default=timezone.now, editable=False)
    # Whether the annotator may have read it before now. Not kept.
    was_shown: bool = False

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator"],
                condition=HANDLED & Q(is_repeat=False),
                name="one_assignment_per_annotator",
            ),
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(state=AssignmentState.LIVE),
                name="one_live_assignment_per_annotator",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "lease_until"],
                condition=IN_HAND,
                name="leases",
            ),
            models.Index(
                fields=["project", "annotator"],
                condition=IN_HAND,
                name="in_hand",
            ),
        ]

    def __str__(self) -> str:
        return f"assignment {self.pk} of {self.comparison} to {self.annotator}"

    @property
    def takes_place(self) -> bool:
        """Whether it is one of its comparison's `overlap`."""
        return not self.is_repeat and self.comparison.purpose != Purpose.GOLD


class Verdict(models.TextChoices):
    RANKING = "ranking", "Ranking"
    ALL_BAD = "all_bad", "All bad"
    UNRANKABLE = "unrankable", "Unrankable"
    SKIPPED = "skipped", "Skipped"


# What says something of the answers, and uses up one of the comparison's `overlap`.
COUNTED = [Verdict.RANKING, Verdict.ALL_BAD]
# What is work done. That answers cannot be ranked says nothing of them: like a skip, it frees its place
# for somebody else.
ANSWERED = [*COUNTED, Verdict.UNRANKABLE]


class JudgmentQuerySet(models.QuerySet["Judgment"]):
    def counted(self) -> Self:
        """Judgments in force that say something of the answers: not withdrawn, not corrected, no
        skips, not “unrankable”, not said a second time."""
        return self.filter(voided=None, verdict__in=COUNTED, is_repeat=False)


class Judgment(models.Model):
    """What an annotator said of an assignment. Append-only.

    A correction is a new row that `supersedes` the old one; an undo or a correction stamps
    `voided` on the old row, the only field that is ever written after creation.
    """

    assignment = models.ForeignKey(Assignment, models.PROTECT, related_name="judgments")
    comparison = models.ForeignKey(Comparison, models.PROTECT, related_name="judgments")
    project = models.ForeignKey(Project, models.PROTECT, related_name="judgments")
    annotator = models.ForeignKey(User, models.PROTECT, related_name="judgments")
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    ranking = models.JSONField(
        default=list, blank=True, help_text="Completion ids as ordered tie groups, best first."
    )
    strength = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="From 1, hardly better, to `strength_of`, much better."
    )
    strength_of = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="How many steps a side the scale had."
    )
    # Per criterion that was asked for besides the whole: {"helpful": {"ranking": …, "strength": …}}
    criteria = models.JSONField(default=dict, blank=True)
    rationale = models.TextField(blank=True)
    reasons = models.JSONField(default=list, blank=True, help_text="Those chosen from a list.")
    # What was marked on answers: {"17": ["unsafe"]}, with the completion's id.
    flags = models.JSONField(default=dict, blank=True)
    # [{"completion": 17, "start": 0, "end": 12, "label": "wrong"}]; characters of its text.
    spans = models.JSONField(default=list, blank=True)
    rewrite = models.TextField(
        blank=True, help_text="The best answer as the annotator would have it: a demonstration."
    )
    is_repeat = models.BooleanField(default=False, editable=False)
    seconds = models.FloatField(null=True, blank=True)
    guideline_version = models.PositiveIntegerField()
    supersedes = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, related_name="superseded_by"
    )
    voided = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = JudgmentQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator"],
                condition=Q(voided=None, is_repeat=False),
                name="one_judgment_in_force",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "annotator", "-created"], name="judgments_by_annotator"
            ),
            models.Index(
                fields=["project", "annotator", "verdict"],
                condition=Q(voided=None),
                name="in_force",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verdict} of {self.comparison} by {self.annotator}"


class DailyWork(models.Model):
    """How much one person judged on one day, so that a page about months reads no judgments.

    `progress.count_work` adds what has been judged since; what was taken back later stays counted,
    because the work was done.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="daily_work")
    annotator = models.ForeignKey(User, models.CASCADE, related_name="daily_work")
    day = models.DateField(help_text="By the server's time zone.")
    n_judgments = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0, help_text="At work, long pauses left out.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "day", "annotator"], name="one_count_per_person_and_day"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.n_judgments} by {self.annotator} on {self.day}"


class Withdrawal(models.Model):
    """All judgments of a person in a project were, or are being, voided."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="withdrawals")
    annotator = models.ForeignKey(User, models.PROTECT, related_name="withdrawals")
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    n_judgments = models.PositiveIntegerField(default=0, help_text="Voided so far.")
    finished = models.DateTimeField(null=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(finished=None),
                name="one_withdrawal_under_way",
            ),
        ]

    def __str__(self) -> str:
        return f"withdrawal of {self.annotator} from {self.project}"


class Ruling(models.Model):
    """What a reviewer decides about a comparison: a row beside the votes, never instead of them.

    Append-only, as judgments are: a later ruling stamps `voided` on the one before.
    """

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="rulings")
    # The project again, so that its examples are one index probe.
    project = models.ForeignKey(Project, models.CASCADE, related_name="rulings")
    reviewer = models.ForeignKey(User, models.PROTECT, related_name="rulings")
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    ranking = models.JSONField(default=list, blank=True, help_text="As in a judgment.")
    explanation = models.TextField(blank=True)
    is_example = models.BooleanField(
        default=False, help_text="Shown below the guidelines as a worked example."
    )
    voided = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison"], condition=Q(voided=None), name="one_ruling_in_force"
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "-id"],
                condition=Q(voided=None, is_example=True),
                name="worked_examples",
            ),
        ]

    def __str__(self) -> str:
        return f"ruling on {self.comparison} by {self.reviewer}"


class Comment(models.Model):
    """What a reviewer says of a comparison to the others who review."""

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="comments")
    author = models.ForeignKey(User, models.PROTECT, related_name="comments")
    text = models.TextField(max_length=5000)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"comment on {self.comparison} by {self.author}"


class ProposalState(models.TextChoices):
    OPEN = "open", "Open"
    ACCEPTED = "accepted", "Accepted"
    DECLINED = "declined", "Declined"


class GuidelineProposal(models.Model):
    """A change of the guidelines that a reviewer asks for, and what an admin made of it."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="proposals")
    comparison = models.ForeignKey(
        Comparison, models.SET_NULL, null=True, related_name="proposals",
        help_text="The one that showed the need.",
    )  # fmt: skip
    author = models.ForeignKey(User, models.PROTECT, related_name="proposals")
    text = models.TextField(max_length=5000)
    state = models.CharField(
        max_length=8, choices=ProposalState.choices, default=ProposalState.OPEN
    )
    decided_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    decided = models.DateTimeField(null=True)
    reason = models.TextField(blank=True, max_length=2000, help_text="Why it was declined.")
    guideline_version = models.PositiveIntegerField(
        null=True, help_text="The version of the guidelines that it went into."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes = [models.Index(fields=["project", "state", "-id"], name="proposals_by_state")]

    def __str__(self) -> str:
        return self.text[:80]


class ExportQuerySet(models.QuerySet["Export"]):
    def with_taint(self) -> Self:
        """Each with `is_tainted`: it carries votes that were withdrawn later."""
        later = Withdrawal.objects.filter(
            project=OuterRef("export__project"),
            annotator=OuterRef("annotator"),
            created__gte=OuterRef("export__created"),
        )
        carrying = ExportAnnotator.objects.filter(Exists(later), export=OuterRef("pk"))
        return self.annotate(is_tainted=Exists(carrying))


class Export(models.Model):
    """A frozen, hashed preference dataset: `data.jsonl` and `manifest.json` in one folder."""

    project = models.ForeignKey(Project, models.PROTECT, related_name="exports")
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="exports")
    created = models.DateTimeField(default=timezone.now, editable=False)
    sha256 = models.CharField(max_length=64)
    round_number = models.PositiveIntegerField(help_text="The latest round whose votes are in it.")
    n_rows = models.PositiveIntegerField()
    n_judgments = models.PositiveIntegerField()
    manifest = models.JSONField()

    objects = ExportQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"export {self.pk} ({self.n_rows} pairs, {self.sha256[:8]})"

    @property
    def folder(self) -> Path:
        return Path(settings.EXPORTS_DIR) / str(self.pk)


class ExportAnnotator(models.Model):
    """Whose votes an export has, so that nobody needs to read its file to know."""

    export = models.ForeignKey(Export, models.CASCADE, related_name="annotators")
    annotator = models.ForeignKey(User, models.PROTECT, related_name="exported")
    n_judgments = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["annotator", "export"], name="one_count_per_export_and_annotator"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.n_judgments} by {self.annotator} in {self.export}"


class QualityReport(models.Model):
    """The figures of a project's quality pages, as computed last: one row a project."""

    project = models.OneToOneField(Project, models.CASCADE, related_name="quality_report")
    asked = models.DateTimeField(null=True, help_text="Since when the worker is to compute them.")
    as_of = models.DateTimeField(null=True, help_text="Votes up to this time are in the figures.")
    newest_judgment = models.PositiveBigIntegerField(default=0)
    figures = models.JSONField(default=dict)
    # By comparison, what each method makes of its votes; read for one comparison at a time.
    consensus = models.JSONField(default=dict)
    error = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"quality of {self.project_id} as of {self.as_of}"


# Models with what is done with them, in modules of their own: Django looks for models here.
from annotator.audit import Action, changes, record  # noqa: E402
from annotator.audit import AuditEntry as AuditEntry  # noqa: E402
from annotator.export_jobs import ExportJob as ExportJob  # noqa: E402
from annotator.idempotency import IdempotentRequest as IdempotentRequest  # noqa: E402
from annotator.imports.models import Import as Import  # noqa: E402
from annotator.imports.models import StoredBatch as StoredBatch  # noqa: E402
from annotator.tokens import ApiToken as ApiToken  # noqa: E402
from annotator.webhooks.models import Delivery as Delivery  # noqa: E402
from annotator.webhooks.models import Webhook as Webhook  # noqa: E402
