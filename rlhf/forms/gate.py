"""What an admin says of a gate before it opens."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.forms import BoundField

from annotator.models import Project, Prompt, Split
from rlhf.current import current_policy
from rlhf.forms.fields import (
    batch_size,
    decimal,
    longest_answer,
    longest_prompt,
    temperature,
    version,
    whole,
)
from rlhf.gate_models import STATUSES
from rlhf.gating import CANDIDATES, most_votes
from rlhf.models import ModelKind
from rlhf.sequential import Rule
from rlhf.training.config import EvaluateConfig

USUAL_BUDGET = 200
SAMPLING = ("max_new_tokens", "temperature", "max_prompt_tokens", "batch_size")
ADVANCED = ("votes_per_pair", "same_share", "max_prompt_tokens", "batch_size")


class GateForm(forms.Form):
    """The token, drawn when the form is shown, makes a form that is sent twice open one gate."""

    intro = (
        "Both policies answer held-out prompts; people rank the pairs in their normal queue, "
        "without knowing who wrote what. It ends as soon as the votes have decided."
    )

    token = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    candidate = version(
        "Candidate",
        "It becomes the current policy if people prefer it: a policy, a prompt version, or a policy "
        "elsewhere, which is paid for as its prices and limits say.",
    )
    budget = whole(
        "Most votes",
        USUAL_BUDGET,
        "On pairs of both policies. If they are used up without a decision, nothing changes.",
        low=10,
        high=100_000,
    )
    margin = decimal(
        "Smallest gain worth having",
        Rule().margin,
        "In win probability: 0.1 asks for 60 %, a tie being half a win. A smaller one takes more votes: "
        "half of it about four times as many.",
        low=0.02,
        high=0.4,
    )
    alpha = decimal(
        "Error rate",
        Rule().alpha,
        "How often at most a candidate is promoted that is no better, and how often at most one is rejected "
        "that is better by that much.",
        low=0.001,
        high=0.25,
    )
    max_new_tokens = longest_answer(EvaluateConfig.max_new_tokens)
    temperature = temperature(EvaluateConfig.temperature)
    votes_per_pair = whole(
        "Votes per pair", 1, "Different pairs tell more than several votes on the same one.", high=9
    )
    same_share = decimal(
        "Pairs of the present policy with itself",
        0.1,
        "Per pair of both, mixed in: they show how much of the votes is noise or habit. They are asked "
        "on top of the most votes above.",
        high=0.5,
    )
    max_prompt_tokens = longest_prompt(EvaluateConfig.max_prompt_tokens)
    batch_size = batch_size(EvaluateConfig.batch_size)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.current = current_policy(project)
        self.held_out = Prompt.objects.filter(project=project, split=Split.TEST).count()
        self.most_votes = most_votes(self.held_out, self.fields["same_share"].initial)
        self.initial.setdefault("budget", max(10, min(USUAL_BUDGET, self.most_votes)))
        field = self.fields["candidate"]
        assert isinstance(field, forms.ModelChoiceField)
        others = project.model_versions.filter(kind__in=CANDIDATES)
        if self.current:
            others = others.exclude(pk=self.current.pk)
        field.queryset = others.order_by("-pk")
        field.error_messages["invalid_choice"] = (
            "Choose a policy, a prompt version or a policy elsewhere of this project, and not the current one."
        )
        here = field.queryset.exclude(kind=ModelKind.ENDPOINT).exclude(
            parent__kind=ModelKind.ENDPOINT
        )
        self.initial.setdefault("candidate", here.first() or field.queryset.first())

    @property
    def can_start(self) -> bool:
        """Whether there is something to test, something to test it against, and prompts to do it with."""
        candidate = self.fields["candidate"]
        assert isinstance(candidate, forms.ModelChoiceField)
        return bool(self.current and self.held_out and candidate.queryset)

    def as_sent(self) -> dict[str, Any]:
        """What would come back if nobody changed anything; only what has a value."""
        shown = {bound.name: bound.value() for bound in self}
        return {name: value for name, value in shown.items() if value is not None}

    @property
    def order(self) -> dict[str, Any]:
        """What `gating.open_gate` takes by name."""
        values = self.cleaned_data
        return {
            "candidate": values["candidate"],
            "rule": Rule(values["alpha"], values["margin"]),
            "budget": values["budget"],
            "votes_per_pair": values["votes_per_pair"],
            "same_share": values["same_share"],
            "sampling": {name: values[name] for name in SAMPLING},
            "token": values["token"],
        }

    def basic_fields(self) -> list[BoundField]:
        return [field for field in self.visible_fields() if field.name not in ADVANCED]

    def advanced_fields(self) -> list[BoundField]:
        return [self[name] for name in ADVANCED]

    def has_advanced_errors(self) -> bool:
        return any(name in self.errors for name in ADVANCED)


OLD_PAGE = "This page was an old one: look again before you overrule it."


class OverruleForm(forms.Form):
    """With what its sender has seen: the gate's status, and the newest promotion. The page writes
    these from the rows, so that a form that comes back has what is so by then."""

    was = forms.ChoiceField(
        choices=[(status, status) for status in STATUSES],
        widget=forms.HiddenInput,
        error_messages={"required": OLD_PAGE, "invalid_choice": OLD_PAGE},
    )
    after = forms.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        widget=forms.HiddenInput,
        error_messages=dict.fromkeys(["required", "invalid", "min_value", "max_value"], OLD_PAGE),
    )
    decision = forms.ChoiceField(
        label="Decide", choices=[("promote", "Promote it"), ("reject", "Reject it")]
    )
    reason = forms.CharField(
        label="Reason",
        max_length=1000,
        widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"}),
        help_text="Kept in the audit log, and shown here.",
        error_messages={"required": "Say why: the reason is kept, and others will ask."},
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""

    def is_from_old_page(self) -> bool:
        return "was" in self.errors or "after" in self.errors
