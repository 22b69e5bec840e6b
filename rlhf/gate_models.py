"""Gates, and which policy has been current since when."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from annotator.models import Project, User
from rlhf.sequential import PROMOTE, REJECT, UNDECIDED, Rule


class GateState(models.TextChoices):
    PREPARING = "preparing", "Preparing"  # its run writes the answers
    VOTING = "voting", "Voting"
    DECIDED = "decided", "Decided"
    STOPPED = "stopped", "Stopped"


OPEN = [GateState.PREPARING, GateState.VOTING]


class Decision(models.TextChoices):
    PROMOTE = PROMOTE, "Promoted"
    REJECT = REJECT, "Rejected"
    UNDECIDED = UNDECIDED, "Undecided"


STATUSES = ["open", "stopped", *Decision.values]


class Gate(models.Model):
    """A blind sequential test of a candidate against the policy that was current when it began.

    Only `gating.py` moves its state, by conditional updates: preparing ▶ voting ▶ decided, or stopped.
    A person may overrule it at any time, which makes it decided.
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="gates")
    candidate = models.ForeignKey("rlhf.ModelVersion", models.PROTECT, related_name="gates")
    incumbent = models.ForeignKey("rlhf.ModelVersion", models.PROTECT, related_name="gates_held")
    run = models.OneToOneField(
        "rlhf.Run", models.PROTECT, related_name="gate", help_text="Which writes the answers."
    )
    alpha = models.FloatField(help_text="How often at most either decision is wrong.")
    margin = models.FloatField(help_text="The smallest gain in win probability worth having.")
    budget = models.PositiveIntegerField(help_text="Votes on pairs of both policies, at most.")
    votes_per_pair = models.PositiveSmallIntegerField(default=1)
    same_share = models.FloatField(help_text="Pairs by the incumbent alone, per pair of both.")
    state = models.CharField(
        max_length=9, choices=GateState.choices, default=GateState.PREPARING
    )  # fmt: skip
    decision = models.CharField(max_length=9, choices=Decision.choices, blank=True)
    decided = models.DateTimeField(null=True)
    decided_by = models.ForeignKey(
        User, models.SET_NULL, null=True, related_name="+", help_text="Empty: the votes."
    )
    reason = models.TextField(blank=True)
    # What the votes said when they decided: verdict, n, mean, low, high, n_votes.
    found = models.JSONField(default=dict)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    opened = models.DateTimeField(null=True, help_text="Since when people can be asked.")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(state="preparing") | Q(state="voting"),
                name="one_open_gate_per_project",
            ),
        ]

    def __str__(self) -> str:
        return f"gate {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("rlhf:gate", args=[self.project.slug, self.pk])

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def status(self) -> str:
        """What somebody sees who decides about it: "open", "stopped", or its decision."""
        return "open" if self.is_open else self.decision or self.state

    @property
    def rule(self) -> Rule:
        return Rule(self.alpha, self.margin)

    @property
    def n_pairs(self) -> int:
        """How many pairs of both policies the budget allows."""
        return self.budget // self.votes_per_pair

    @property
    def n_same(self) -> int:
        """How many pairs by the incumbent alone are mixed in."""
        return round(self.same_share * self.n_pairs)

    @property
    def same_origin(self) -> str:
        """What comparisons of the incumbent with itself say of where they come from."""
        return f"{self.run.origin}-same"


class Promotion(models.Model):
    """A policy became current. Append-only: the last one holds, and going back is one more."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="promotions")
    number = models.PositiveIntegerField()
    version = models.ForeignKey("rlhf.ModelVersion", models.PROTECT, related_name="promotions")
    gate = models.ForeignKey(Gate, models.PROTECT, null=True, related_name="promotions")
    user = models.ForeignKey(
        User, models.SET_NULL, null=True, related_name="+", help_text="Empty: the votes."
    )
    reason = models.TextField()
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="one_promotion_per_number"),
        ]

    def __str__(self) -> str:
        return f"{self.version} became current"
