"""The form of an evaluation suite."""

from __future__ import annotations

from typing import Any

from django import forms

from annotator.models import Project
from rlhf.forms.base import RunForm
from rlhf.forms.fields import (
    RuleLines,
    batch_size,
    decimal,
    ensemble,
    longest_answer,
    longest_prompt,
    sample_of_prompts,
    seed,
    temperature,
    uncertainty_coefficient,
    version,
    whole,
)
from rlhf.models import DatasetKind, RunKind
from rlhf.training.suite_config import SuiteConfig


class SuiteForm(RunForm):
    kind = RunKind.SUITE
    intro = (
        "Measures a version on held-out prompts and on text that it has not learned from. The figures of "
        "several versions stand side by side on the page “Candidates”, with the answers behind them."
    )
    arguments = ("policy", "rival", "reward_model", "judge", "max_prompts")
    advanced = (
        "demonstrations", "text", "forgetting_bound", "rewards", "ensemble",
        "uncertainty_coefficient", "judged_pairs", "tasks", "task_limit", "max_prompt_tokens",
        "max_tokens", "batch_size", "seed",
    )  # fmt: skip

    policy = version("Version", "What is measured.")
    rival = version(
        "Compared with",
        "The version before the training, as a rule: how much of general text was forgotten, and whose "
        "answers a judge sees beside the new ones.",
        required=False,
    )
    reward_model = version("Reward model", "Its score of each answer.", required=False)
    judge = version(
        "Model as judge",
        "It says which of two answers is better, each pair in both orders: any policy, here or elsewhere, or "
        "a prompt version. How far it agrees with people stands beside each of its numbers.",
        required=False,
    )
    max_new_tokens = longest_answer(SuiteConfig.max_new_tokens)
    temperature = temperature(SuiteConfig.temperature)
    max_prompts = sample_of_prompts()
    demonstrations = forms.ChoiceField(
        required=False,
        help_text="A dataset whose answers to held-out prompts are references, beside what people have "
        "rewritten and what they liked best.",
    )
    text = forms.ChoiceField(
        label="General text",
        required=False,
        help_text="That no version has learned from: the first 200 texts of a dataset.",
    )
    forgetting_bound = decimal(
        "Alarm at a growth of",
        SuiteConfig.forgetting_bound,
        "Nats per token that the loss of general text may grow; 0.1 is a tenth more perplexity.",
        high=10.0,
    )
    rewards = RuleLines(
        label="Rules",
        rows=2,
        may_call=False,
        help_text="One a line, as in PPO: “length target=80”, “regex pattern='thank you'” or “sentiment”.",
    )
    ensemble = ensemble()
    uncertainty_coefficient = uncertainty_coefficient()
    judged_pairs = whole(
        "Pairs to check the judge by",
        SuiteConfig.judged_pairs,
        "The newest that people have judged; the judge is asked about them too.",
        low=0,
        high=1000,
    )
    tasks = forms.CharField(
        label="Tasks of lm-evaluation-harness",
        required=False,
        help_text="Names, separated by commas. They run where the harness is installed and their data "
        "are on the machine.",
    )
    task_limit = whole("Questions per task", SuiteConfig.task_limit, "At most.")
    max_prompt_tokens = longest_prompt(SuiteConfig.max_prompt_tokens)
    max_tokens = whole(
        "Longest reference",
        SuiteConfig.max_tokens,
        "Tokens of prompt and reference answer. Longer ones are left out of the loss.",
    )
    batch_size = batch_size(SuiteConfig.batch_size)
    seed = seed(SuiteConfig.seed)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        kinds = {
            "text": (DatasetKind.TEXT, "40 paragraphs that come with Preferendum"),
            "demonstrations": (DatasetKind.DEMONSTRATIONS, "None"),
        }
        for name, (kind, empty) in kinds.items():
            names = project.datasets.filter(kind=kind).values_list("name", "name")
            self.fields[name].choices = [("", empty), *names]  # type: ignore[attr-defined]
        if isinstance(tasks := self.initial.get("tasks"), list):  # of a run like which it shall be
            self.initial["tasks"] = ", ".join(tasks)

    def clean_tasks(self) -> list[str]:
        names = [name.strip() for name in self.cleaned_data["tasks"].split(",") if name.strip()]
        if paths := [name for name in names if "/" in name]:
            raise forms.ValidationError(
                f"“{paths[0]}” is a path, and a task has a name: put its file into the folder of tasks "
                "(docs/evaluation.md), and give its name here."
            )
        return names

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("judge") and not self.cleaned_data.get("rival"):
            self.add_error("rival", "Choose what the judge is to compare the version with.")
