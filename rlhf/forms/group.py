"""The forms of RLOO and GRPO: that of PPO without what belongs to a critic."""

from __future__ import annotations

from django import forms

from rlhf.forms.fields import decimal, whole
from rlhf.forms.ppo import PPOForm
from rlhf.models import RunKind
from rlhf.presets import PRESETS
from rlhf.training.config import OF_THE_CRITIC, GRPOConfig, RLOOConfig


class GroupForm(PPOForm):
    """Not a kind of its own: what both have in common."""

    presets = {
        key: preset._replace(
            settings={n: v for n, v in preset.settings.items() if n not in OF_THE_CRITIC}
        )
        for key, preset in PRESETS.items()
    }
    advanced = ("trainer", *(name for name in PPOForm.advanced if name not in OF_THE_CRITIC))
    # Names of fields that a subclass does not have, as Django wants it.
    critic = None  # type: ignore[assignment]
    value_learning_rate = None
    critic_warmup_steps = None
    lam = None

    completions_per_prompt = whole(
        "Answers per prompt",
        RLOOConfig.completions_per_prompt,
        "2 or more, which are compared with one another. Must divide the answers per step.",
        low=2,
        high=4096,
    )
    epochs = whole("Epochs", RLOOConfig.epochs, "Passes over each batch of answers.", high=100)
    trainer = forms.ChoiceField(
        label="Trainer",
        choices=[
            ("own", "This project's own loop: the least memory and time"),
            ("trl", "TRL's trainer, on the same answers and scores"),
        ],
        initial=RLOOConfig.trainer,
        help_text="TRL's runs in one process, trains an adapter, and keeps the KL coefficient as it is.",
    )


class RLOOForm(GroupForm):
    kind = RunKind.RLOO
    intro = (
        "Trains the policy as PPO does, by the same rewards, but without a value function: each answer is "
        "judged by how much better it scores than the others to the same prompt. About half the work of a "
        "PPO with a critic of its own."
    )


class GRPOForm(GroupForm):
    kind = RunKind.GRPO
    intro = (
        "Trains the policy as PPO does, by the same rewards, but without a value function: answers to one "
        "prompt are graded on a curve, and the distance from the reference is a part of the loss."
    )
    advanced = ("scale_advantages", *(n for n in GroupForm.advanced if n != "kl_estimator"))
    kl_estimator = None  # type: ignore[assignment]  # k3, in the loss

    kl_coefficient = decimal(
        "KL coefficient",
        GRPOConfig.kl_coefficient,
        "Weight of the distance from the reference in the loss, per token. Higher stays closer.",
        high=10.0,
    )
    scale_advantages = forms.ChoiceField(
        label="Scores count in",
        choices=[
            ("group", "Standard deviations of the prompt's answers: every prompt counts alike"),
            ("batch", "Standard deviations of the whole batch"),
            ("none", "Their own unit: prompts on which answers differ count more (Dr. GRPO)"),
        ],
        initial=GRPOConfig.scale_advantages,
    )
