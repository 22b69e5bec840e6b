"""The form of a screening."""

from __future__ import annotations

from typing import Any

from django import forms

from annotator.models import Project
from rlhf.forms.base import RunForm
from rlhf.forms.fields import decimal, whole
from rlhf.models import RunKind
from rlhf.screening import PROJECT, name_of
from rlhf.training.screen_config import CHECKS, ScreenConfig


class ScreenForm(RunForm):
    kind = RunKind.SCREEN
    intro = (
        "Reads prompts, answers or rows before anything learns from them, and reports what is wrong with "
        "them. What is of high severity goes into quarantine: training leaves it out until a reviewer releases it. "
        "Some two minutes for 100,000 rows."
    )
    advanced = (
        "near_percent",
        "length_z",
        "classifier",
        "classifier_label",
        "classifier_threshold",
    )

    screened = forms.ChoiceField(label="What is screened", initial=ScreenConfig.screened)
    quarantine_from = forms.ChoiceField(
        label="Left out of training",
        choices=[
            ("high", "Findings of high severity"),
            ("medium", "Of high and medium severity"),
            ("low", "All that is found"),
            ("nothing", "Nothing, only report"),
        ],
        initial="high",
        help_text="Personal data, leaks, control tokens and broken characters are high; word lists, phone "
        "numbers and duplicates medium; lengths and near duplicates low.",
    )
    checks = forms.MultipleChoiceField(
        label="Look for",
        choices=[(check.name, check.label) for check in CHECKS],
        initial=[check.name for check in CHECKS],
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one."},
    )
    near_percent = whole(
        "Nearly the same from",
        85,
        "Per cent of all runs of five characters in two texts that both have. With other numbers in "
        "it, a text is another one.",
        low=50,
        high=100,
    )
    length_z = decimal(
        "Unusual length from",
        6.0,
        "Robust standard deviations of the logarithm of the length, at both ends. 3.5 finds more.",
        low=2.0,
        high=100.0,
    )
    classifier = forms.CharField(
        label="Classifier of unsafe text",
        required=False,
        max_length=500,
        help_text="A folder on the trainer's machine with a sequence classifier of transformers as "
        "safetensors. Empty: the word lists alone.",
    )
    classifier_label = forms.CharField(
        label="Its label for unsafe",
        required=False,
        max_length=100,
        help_text="As its config.json has it, such as toxic.",
    )
    classifier_threshold = decimal(
        "Its threshold",
        ScreenConfig.classifier_threshold,
        "Of that label's probability, from which on a text is reported.",
    )

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        exports = [(name_of(export), str(export)) for export in project.exports.order_by("-pk")]
        datasets = [
            (name_of(dataset), str(dataset)) for dataset in project.datasets.order_by("-pk")
        ]
        groups = [("Exports", exports), ("Datasets", datasets)]
        field: Any = self.fields["screened"]
        field.choices = [
            (PROJECT, "The project's prompts and answers"),
            *((title, choices) for title, choices in groups if choices),
        ]

    def missing(self) -> list[str]:
        has_rows = any(rows.exists() for rows in (self.project.prompts, self.project.datasets))
        return [] if has_rows or self.project.exports.exists() else ["Prompt"]
