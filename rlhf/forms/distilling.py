"""The form of a distillation."""

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
    optional_decimal,
    reward_weight,
    sample_of_prompts,
    seed,
    temperature,
    uncertainty_coefficient,
    version,
    whole,
)
from rlhf.models import RunKind
from rlhf.training.distill_config import MOST_CANDIDATES, DistillConfig


class DistillForm(RunForm):
    kind = RunKind.DISTILL
    intro = (
        "Lets a better model write demonstrations that a smaller one can learn from: it answers the "
        "training prompts several times, and the best answer to each becomes a line of a dataset, which "
        "supervised tuning takes."
    )
    arguments = ("policy", "rival", "reward_model", "max_prompts")
    advanced = (
        "drop_refusals", "reward_weight", "ensemble", "uncertainty_coefficient", "temperature",
        "max_prompt_tokens", "batch_size", "seed",
    )  # fmt: skip

    policy = version(
        "Teacher",
        "Who writes the answers: a policy here, one elsewhere that is asked, or a prompt version of either.",
    )
    reward_model = version("Reward model", "It picks the best answer.", required=False)
    rewards = RuleLines(
        label="Rules",
        rows=2,
        help_text="Beside the reward model or instead of it, as “More rewards” in the form of PPO, one a "
        "line: length target=80.",
    )
    completions_per_prompt = whole(
        "Answers per prompt",
        DistillConfig.completions_per_prompt,
        "Of which the best is taken. 1: all are, and nothing need score them.",
        high=MOST_CANDIDATES,
    )
    lowest_score = optional_decimal(
        "Lowest score",
        "Prompts whose best answer has less are left out. A reward model gives 0 to the answers of the "
        "policy that it was made for, on average. Empty: none is.",
        low=-1000.0,
    )
    rival = version(
        "Student",
        "Who is to learn: it writes the rehearsal. None: there is none.",
        required=False,
    )
    rehearsal_share = decimal(
        "Share of rehearsal",
        DistillConfig.rehearsal_share,
        "Of the rows, 0 to 0.9: answers of the student to prompts that the teacher does not get, "
        "against forgetting.",
        high=0.9,
    )
    max_prompts = sample_of_prompts()
    max_new_tokens = longest_answer(DistillConfig.max_new_tokens)
    drop_refusals = forms.BooleanField(
        label="Leave out refusals",
        required=False,
        initial=DistillConfig.drop_refusals,
        help_text="Answers that begin like “I'm sorry, but I can't”, in English. Empty ones and those "
        "that were cut off are always left out.",
    )
    reward_weight = reward_weight(DistillConfig.reward_weight)
    ensemble = ensemble()
    uncertainty_coefficient = uncertainty_coefficient()
    temperature = temperature(DistillConfig.temperature)
    max_prompt_tokens = longest_prompt(DistillConfig.max_prompt_tokens)
    batch_size = batch_size(DistillConfig.batch_size)
    seed = seed(DistillConfig.seed)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        self.initial.setdefault("reward_model", self._rows(project, "reward_model").first())

    def clean(self) -> None:
        super().clean()
        values: dict[str, Any] = self.cleaned_data
        is_scored = values.get("reward_model") or values.get("rewards")
        if values.get("completions_per_prompt", 1) > 1 and not is_scored and "rewards" in values:
            self.add_error(
                "reward_model", "Choose one, or write a rule: it says which answer is the best."
            )
        if values.get("rehearsal_share") and not values.get("rival"):
            self.add_error("rival", "Choose who is to learn, whose own answers are rehearsed.")
