"""Fields that several runs' forms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import QuerySet

from rlhf.models import ModelVersion
from rlhf.training.config import (
    PPOConfig,
)
from rlhf.training.reward_rules import Rule, parse_lines


def whole(label: str, initial: int, help_text: str, low: int = 1, high: int = 10**6) -> Any:
    """A field for a whole number."""
    return forms.IntegerField(
        label=label, initial=initial, help_text=help_text, min_value=low, max_value=high
    )


def decimal(label: str, initial: float, help_text: str, low: float = 0.0, high: float = 1.0) -> Any:
    """A field for any number; whether the ends count is for the config to say."""
    return forms.FloatField(
        label=label,
        initial=initial,
        help_text=help_text,
        min_value=low,
        max_value=high,
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
    )


def temperature(initial: float) -> Any:
    text = "Above 0. 1 samples from the model as it is; lower gives less varied answers."
    return decimal("Temperature", initial, text, high=5.0)


def seed(initial: int) -> Any:
    text = "The same seed with the same settings gives the same run."
    return whole("Seed", initial, text, low=0, high=2**31 - 1)


def batch_size(initial: int) -> Any:
    text = "Answers written at the same time. Fewer need less memory and take longer."
    return whole("Batch size", initial, text, high=4096)


def longest_answer(initial: int) -> Any:
    text = "Tokens, about ¾ of a word each; longer answers are cut off."
    return whole("Longest answer", initial, text, high=32_768)


def longest_prompt(initial: int) -> Any:
    text = "Tokens. Longer prompts are left out and counted, never cut."
    return whole("Longest prompt", initial, text, high=32_768)


def optional_decimal(label: str, help_text: str, low: float = 0.0) -> Any:
    """A field for any number from `low` on, or nothing."""
    return forms.FloatField(
        label=label,
        required=False,
        min_value=low,
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text=help_text,
    )


def adapter_layers(help_text: str) -> Any:
    return forms.IntegerField(
        label="Top layers that move", required=False, min_value=1, help_text=help_text
    )


def ensemble() -> Any:
    """How the members of a reward model become one score."""
    return forms.ChoiceField(
        label="Several members",
        choices=[
            ("mean", "The mean of their scores"),
            ("worst", "The lowest: what one of them dislikes is not rewarded"),
            ("uncertainty", "The mean, less the price of their disagreement"),
        ],
        initial=PPOConfig.ensemble,
        help_text="How the scores of a reward model with several members become one. One with a "
        "single member scores the same whatever stands here.",
    )


def uncertainty_coefficient() -> Any:
    text = "Score that each standard deviation between the members costs, where it has a price."
    return decimal("Price of disagreement", PPOConfig.uncertainty_coefficient, text, high=100.0)


def reward_weight(initial: float) -> Any:
    return forms.FloatField(
        label="Weight of the reward model",
        initial=initial,
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text="The score is the sum of all rewards, each times its weight.",
    )


def missing_eos(initial: str) -> Any:
    return forms.ChoiceField(
        label="Answers that are cut off",
        choices=[
            ("penalty", "lose the penalty below"),
            ("replace", "score minus the penalty, whatever the reward model says"),
            ("ramp", "pay more and more of the penalty, the nearer to the limit they end"),
        ],
        initial=initial,
        help_text="What an answer pays that does not end by itself.",
    )


def missing_eos_penalty(initial: float) -> Any:
    text = "Standard deviations of the score."
    return decimal("Penalty for cut-off answers", initial, text, high=100.0)


def missing_eos_ramp(initial: float) -> Any:
    text = "Share of the longest answer in which the penalty grows from 0."
    return decimal("Length of the ramp", initial, text)


def sample_of_prompts() -> Any:
    return forms.IntegerField(
        label="At most so many prompts",
        required=False,
        min_value=1,
        help_text="A sample, the same one every time. Empty: all of them.",
    )


class VersionField(forms.ModelChoiceField):
    """Of a version of the project that may not stand here it says why, and what to choose instead."""

    versions: QuerySet[ModelVersion] = ModelVersion.objects.none()  # those of the project
    why_not: Callable[[ModelVersion], str]

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except forms.ValidationError as error:
            other = self.versions.filter(pk=value).first() if str(value).isdecimal() else None
            if other and (why := self.why_not(other)):
                raise forms.ValidationError(why, code="invalid_choice") from error
            raise


def version(label: str, help_text: str, *, required: bool = True, empty: str = "None") -> Any:
    return VersionField(
        ModelVersion.objects.none(),
        label=label,
        help_text=help_text,
        required=required,
        empty_label=None if required else empty,
        error_messages={"invalid_choice": "Choose one of the list."},
    )


class RuleLines(forms.CharField):
    """Rewards that need no model, one a line; the form gets them as rules."""

    def __init__(self, *, rows: int, may_call: bool = True, **kwargs: Any) -> None:
        self.may_call = may_call  # functions that the machine's settings allow
        attrs = {"rows": rows, "class": "code", "spellcheck": "false"}
        super().__init__(required=False, strip=False, widget=forms.Textarea(attrs=attrs), **kwargs)

    def clean(self, value: Any) -> list[Rule]:
        allowed = settings.REWARD_FUNCTIONS if self.may_call else ()
        try:
            return parse_lines(super().clean(value), allowed)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
