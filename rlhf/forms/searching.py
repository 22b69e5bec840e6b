"""The form of a search."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.safestring import mark_safe

from annotator.models import Export, Project
from rlhf.forms.base import ExportField, RunForm
from rlhf.forms.fields import (
    RuleLines,
    optional_decimal,
    sample_of_prompts,
    seed,
    version,
    whole,
)
from rlhf.forms.supervised import datasets
from rlhf.inputs import NEEDED
from rlhf.models import RunKind
from rlhf.training.search_config import (
    OBJECTIVES,
    WHY_NOT,
    SearchConfig,
    kinds_tried,
)


def _kinds() -> list[tuple[str, str]]:
    return [(kind, RunKind(kind).label) for kind in kinds_tried()]


def _objectives() -> list[tuple[str, str]]:
    names = dict.fromkeys(name for known in OBJECTIVES.values() for name in known)
    return [("", "The usual one of the kind"), *((name, name.capitalize()) for name in names)]


class SearchForm(RunForm):
    kind = RunKind.SEARCH
    intro = (
        "Tries other settings of a training run, one trial after another. What a trial is worth on "
        "held-out data decides which settings are tried next; one that is clearly worse than the others "
        "is ended early. The best can become a model version, of a distillation a dataset. It takes as long as its trials together."
    )
    arguments = ("policy", "reward_model", "export", "base", "datasets", "max_prompts")
    advanced = (
        "base", "rewards", "max_prompts", "objective", "max_hours", "pruner", "sampler", "seed",
    )  # fmt: skip

    tries = forms.ChoiceField(
        label="What is tried",
        choices=_kinds,
        initial=RunKind.REWARD_MODEL,
        help_text="Each trial is one such run.",
        error_messages={"invalid_choice": f"Runs of kind %(value)s cannot be tried: {WHY_NOT}."},
    )
    policy = version("Policy", "What the trials start from; of a distillation, the teacher.")
    export = ExportField(
        Export.objects.none(),
        required=False,
        empty_label="The newest, if they need one",
        help_text="The votes that the trials learn from.",
    )
    datasets = datasets("What trials of supervised and domain tuning learn from.", required=False)
    reward_model = version(
        "Reward model",
        "What PPO is rewarded by, or a distillation picks by. None for a reward model.",
        required=False,
    )
    space = forms.CharField(
        label="Settings",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "code", "spellcheck": "false"}),
        initial="learning_rate = 1e-5 .. 1e-3 log\nlora_rank in 4, 8, 16",
        help_text=mark_safe(
            "One a line: <code>learning_rate = 1e-5 .. 1e-3 log</code> for a range, "
            "<code>lora_rank in 4, 8, 16</code> for a choice, <code>epochs = 2</code> for what is the "
            "same in all trials. What is not named is as in the form of such a run, and the names are "
            "those of its configuration."
        ),
    )
    trials = whole("Trials", SearchConfig.trials, "Runs at most, one after another.", high=1000)
    base = version("Base", "What a reward model is made from. None: the policy.", required=False)
    max_prompts = sample_of_prompts()
    rewards = RuleLines(
        label="More rewards",
        rows=2,
        help_text="As in the form of PPO, one a line.",
    )
    objective = forms.ChoiceField(
        label="Compared by",
        choices=_objectives,
        required=False,
        help_text="Measured on what a trial does not learn from: the loss of a reward model, or the "
        "accuracy; the score of PPO less the price of KL (objective), or the score; of a distillation, the score "
        "of the answers that it would pick, or the share of prompts for which there is one.",
    )
    max_hours = optional_decimal(
        "Longest time", "Hours of all trials together, after which none begins. Empty: no limit."
    )
    pruner = forms.ChoiceField(
        label="End a trial early",
        choices=[
            ("median", "When it is worse than half of those before, at the same point"),
            ("halving", "When it is not in the better half at its 2nd, 3rd, 5th, 9th, … report"),
            ("none", "Never"),
        ],
        initial=SearchConfig.pruner,
    )
    sampler = forms.ChoiceField(
        label="What is tried next",
        choices=[("tpe", "What looks promising (TPE)"), ("random", "Anything, at random")],
        initial=SearchConfig.sampler,
    )
    seed = seed(SearchConfig.seed)

    def _rows(self, project: Project, name: str) -> QuerySet[Any]:
        return project.datasets.all() if name == "datasets" else super()._rows(project, name)

    def clean(self) -> None:
        """With what the trials need to learn from, and without any that they would not look at."""
        super().clean()
        kind = self.cleaned_data.get("tries")
        if kind is None or "export" in self.errors or "datasets" in self.errors:
            return
        if self.cleaned_data["datasets"] and "datasets" not in NEEDED[kind]:
            label = RunKind(kind).label
            self.add_error("datasets", f"{label} learns from no dataset: choose none.")
        if "datasets" in NEEDED[kind] and not self.cleaned_data["datasets"]:
            self.add_error("datasets", "Choose at least one dataset.")
        is_needed, chosen = "export" in NEEDED[kind], self.cleaned_data["export"]
        if chosen is not None and not is_needed:
            self.add_error("export", f"{RunKind(kind).label} learns from no votes: leave it empty.")
        if chosen is None and is_needed:
            self.cleaned_data["export"] = self._rows(self.project, "export").first()

    @property
    def settings(self) -> dict[str, Any]:
        """Without a list of rewards that is empty."""
        found = super().settings
        return {name: value for name, value in found.items() if name != "rewards" or value}
