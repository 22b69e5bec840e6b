"""The forms of the smaller runs: speed, order of questions, conversations, merging."""

from __future__ import annotations

from typing import Any

from django import forms

from annotator.models import Project
from rlhf.forms.base import RunForm
from rlhf.forms.fields import (
    decimal,
    longest_answer,
    seed,
    temperature,
    version,
    whole,
)
from rlhf.models import RunKind
from rlhf.questions import temperature_of
from rlhf.training.config import (
    ConverseConfig,
    MergeConfig,
    OrderQueueConfig,
)


class ProbeForm(RunForm):
    kind = RunKind.PROBE
    intro = (
        "Measures how fast and how large a policy is where the trainer runs, so that the form of "
        "PPO can say what a run will take. Half a minute for a small model."
    )
    arguments = ("policy",)

    policy = version("Policy", "It and all that were trained from the same import are alike.")


class OrderQueueForm(RunForm):
    kind = RunKind.ORDER_QUEUE
    intro = (
        "Asks the right next question: a reward model scores the answers of all open comparisons, "
        "and those whose verdict would tell it most are handed out first."
    )
    arguments = ("reward_model",)
    advanced = ("temperature", "closeness", "max_tokens")

    reward_model = version("Reward model", "One with several members knows best what it lacks.")
    temperature = decimal(
        "Temperature of the score",
        OrderQueueConfig.temperature,
        "What the score's differences are divided by before they become probabilities: above 1 if "
        "the reward model is too sure of itself. Filled in is what the newest one's report found.",
        high=100.0,
    )
    closeness = decimal(
        "Weight of closeness",
        OrderQueueConfig.closeness,
        "How much a pair counts that is close to 50:50, beside the disagreement of the members. "
        "With one member nothing else counts.",
        high=0.4,
    )
    max_tokens = whole(
        "Longest answer",
        OrderQueueConfig.max_tokens,
        "Tokens of prompt and answer. Comparisons with longer ones are left to chance and counted.",
    )

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        if reward_model := self.initial["reward_model"]:
            self.initial.setdefault("temperature", temperature_of(reward_model))


class ConverseForm(RunForm):
    kind = RunKind.CONVERSE
    intro = (
        "Lets annotators talk to a policy. Each turn it gives two answers, the better one stays in the "
        "conversation, and every turn is a comparison. It occupies the trainer until it ends; another "
        "run that waits for a minute ends it."
    )
    arguments = ("policy", "rival")
    advanced = ("max_prompt_tokens", "batch_size", "seed")

    policy = version(
        "Policy", "Whom people talk to. To a policy elsewhere, what they say is sent there."
    )
    rival = version(
        "Second policy",
        "It writes one of the two answers. None: the first writes both.",
        required=False,
    )
    max_new_tokens = longest_answer(ConverseConfig.max_new_tokens)
    temperature = temperature(ConverseConfig.temperature)
    idle_minutes = decimal(
        "Ends after",
        ConverseConfig.idle_minutes,
        "Minutes in which nobody says anything.",
        high=1440.0,
    )
    max_prompt_tokens = whole(
        "Longest conversation",
        ConverseConfig.max_prompt_tokens,
        "Tokens. Whoever comes to the end of it begins a new one.",
        high=131_072,
    )
    batch_size = whole(
        "Answered together",
        ConverseConfig.batch_size,
        "People whose turns are answered at the same time. More need more memory.",
        high=1024,
    )
    seed = seed(ConverseConfig.seed)


class MergeForm(RunForm):
    kind = RunKind.MERGE
    intro = (
        "Adds the adapters of a policy to its base and writes the sum as one model folder, which can be "
        "downloaded and loads without peft. It needs memory for the model in float32, and its size on "
        "disk; the files can be deleted again."
    )
    arguments = ("policy",)

    policy = version("Policy", "One that is an adapter. A whole model can be downloaded as it is.")
    dtype = forms.ChoiceField(
        label="Precision",
        choices=[
            ("float32", "float32: exactly this policy"),
            ("bfloat16", "bfloat16: half the size, rounded"),
            ("float16", "float16: half the size, rounded"),
        ],
        initial=MergeConfig.dtype,
    )
