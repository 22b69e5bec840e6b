"""The forms of runs in which policies answer prompts, for people to rank."""

from __future__ import annotations

from rlhf.forms.base import RunForm
from rlhf.forms.fields import (
    RuleLines,
    batch_size,
    ensemble,
    longest_answer,
    longest_prompt,
    missing_eos,
    missing_eos_penalty,
    missing_eos_ramp,
    reward_weight,
    sample_of_prompts,
    seed,
    temperature,
    uncertainty_coefficient,
    version,
    whole,
)
from rlhf.models import RunKind
from rlhf.training.config import (
    MOST_COMPLETIONS,
    EvaluateConfig,
    GenerateConfig,
)


class GenerateForm(RunForm):
    kind = RunKind.GENERATE
    intro = "Lets a policy answer the prompts; its answers become comparisons for people to rank."
    arguments = ("policy", "max_prompts")
    advanced = ("max_prompt_tokens", "batch_size", "seed")

    policy = version("Policy", "Who writes the answers.")
    completions_per_prompt = whole(
        "Answers per prompt",
        GenerateConfig.completions_per_prompt,
        "2 to 9. They are compared two by two: 4 answers make 2 comparisons.",
        low=2,
        high=9,
    )
    max_new_tokens = longest_answer(GenerateConfig.max_new_tokens)
    temperature = temperature(GenerateConfig.temperature)
    max_prompts = sample_of_prompts()
    max_prompt_tokens = longest_prompt(GenerateConfig.max_prompt_tokens)
    batch_size = batch_size(GenerateConfig.batch_size)
    seed = seed(GenerateConfig.seed)


class EvaluateForm(RunForm):
    kind = RunKind.EVALUATE
    intro = (
        "Lets two policies answer held-out prompts; people then rank the pairs in their normal "
        "queue, without knowing who wrote what."
    )
    arguments = ("policy", "rival", "reward_model", "max_prompts")
    advanced = (
        "reward_weight", "ensemble", "uncertainty_coefficient", "missing_eos",
        "missing_eos_penalty", "missing_eos_ramp", "completions_per_prompt", "max_prompt_tokens",
        "batch_size", "seed",
    )  # fmt: skip

    policy = version("New policy", "The one that should be better.")
    rival = version("Old policy", "The one it is compared with.")
    reward_model = version(
        "Reward model", "Its opinion is shown beside the people's.", required=False
    )
    rewards = RuleLines(
        label="More rewards",
        rows=2,
        help_text="Beside the reward model or instead of it, as in the form of PPO, one a line: "
        "length target=80.",
    )
    best_of = whole(
        "Best of",
        EvaluateConfig.best_of,
        "Above 1, the new side shows the best of so many answers by the reward model and the other "
        "rewards, and both policies may be the same: people then judge what they choose.",
        high=MOST_COMPLETIONS,
    )
    reward_weight = reward_weight(EvaluateConfig.reward_weight)
    ensemble = ensemble()
    uncertainty_coefficient = uncertainty_coefficient()
    missing_eos = missing_eos(EvaluateConfig.missing_eos)
    missing_eos_penalty = missing_eos_penalty(EvaluateConfig.missing_eos_penalty)
    missing_eos_ramp = missing_eos_ramp(EvaluateConfig.missing_eos_ramp)
    max_new_tokens = longest_answer(EvaluateConfig.max_new_tokens)
    temperature = temperature(EvaluateConfig.temperature)
    max_prompts = sample_of_prompts()
    completions_per_prompt = whole(
        "Pairs per prompt", EvaluateConfig.completions_per_prompt, "Fresh answers each.", high=9
    )
    max_prompt_tokens = longest_prompt(EvaluateConfig.max_prompt_tokens)
    batch_size = batch_size(EvaluateConfig.batch_size)
    seed = seed(EvaluateConfig.seed)

    def clean(self) -> None:
        super().clean()
        values = self.cleaned_data
        is_scored = values.get("reward_model") or values.get("rewards")
        if values.get("best_of", 1) > 1 and not is_scored and "rewards" in values:
            self.add_error(
                "best_of",
                "Choose a reward model or write a rule, which says which answer is the best.",
            )
