"""The form of PPO."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.utils.safestring import mark_safe

from annotator.models import Project
from rlhf.forms.base import RunForm
from rlhf.forms.fields import (
    RuleLines,
    adapter_layers,
    decimal,
    ensemble,
    longest_answer,
    longest_prompt,
    missing_eos,
    missing_eos_penalty,
    missing_eos_ramp,
    optional_decimal,
    reward_weight,
    seed,
    temperature,
    uncertainty_coefficient,
    version,
    whole,
)
from rlhf.models import RunKind
from rlhf.presets import PRESETS
from rlhf.processes import accelerate_configs
from rlhf.training.config import (
    PPOConfig,
)


class PPOForm(RunForm):
    kind = RunKind.PPO
    presets = PRESETS
    intro = "Trains the policy to write answers that the reward model scores higher."
    arguments = ("policy", "reward_model")
    advanced: tuple[str, ...] = (
        "rewards", "reward_weight", "ensemble", "uncertainty_coefficient", "completions_per_prompt",
        "epochs", "minibatches", "micro_batch_tokens", "value_learning_rate", "train", "lora_rank",
        "adapter_layers", "critic", "temperature", "max_prompt_tokens", "target_kl",
        "kl_estimator", "clip_range", "clip_range_high", "dual_clip", "target_kl_update", "lam",
        "critic_warmup_steps", "missing_eos", "missing_eos_penalty", "missing_eos_ramp",
        "evaluate_every", "eval_prompts", "keep",
        "checkpoint_every", "dtype", "gradient_checkpointing", "accelerate_config", "seed",
    )  # fmt: skip

    policy = version("Policy", "The policy to train; it also stays as the reference.")
    reward_model = version(
        "Reward model",
        "One that was trained on this policy shares its weights; any other is loaded as a second "
        "model and needs as much memory again.",
        required=False,
    )
    rewards = RuleLines(
        label="More rewards",
        rows=3,
        help_text=mark_safe(
            "One a line: <code>length target=80</code> (tokens; or <code>unit=words</code>), "
            "<code>regex pattern='thank (you|s)' count=2</code>, <code>sentiment</code>, "
            "<code>reward_model version=NAME</code> (<code>ensemble=worst</code> or "
            "<code>uncertainty</code> if it has several members), or <code>callable "
            "function=package.module.name</code> if the machine allows it. Each takes "
            "<code>weight=0.2</code> (below 0 for what should not be), <code>clip=5</code> and "
            "<code>name=…</code>. Values with spaces stand in quotes."
        ),
    )
    reward_weight = reward_weight(PPOConfig.reward_weight)
    ensemble = ensemble()
    uncertainty_coefficient = uncertainty_coefficient()
    steps = whole("Steps", PPOConfig.steps, "Batches of answers written and learned from.")
    batch_size = whole("Answers per step", PPOConfig.batch_size, "Completions per rollout.")
    max_new_tokens = longest_answer(PPOConfig.max_new_tokens)
    kl_coefficient = decimal(
        "KL coefficient",
        PPOConfig.kl_coefficient,
        "Price, in score, of each nat of distance from the reference. Higher stays closer.",
        high=10.0,
    )
    learning_rate = decimal("Learning rate", PPOConfig.learning_rate, "Of the policy's adapter.")
    completions_per_prompt = whole(
        "Answers per prompt",
        PPOConfig.completions_per_prompt,
        "Must divide the answers per step. Several share the work of reading the prompt.",
        high=4096,
    )
    epochs = whole("Epochs", PPOConfig.epochs, "Passes over each batch of answers.", high=100)
    minibatches = whole(
        "Minibatches",
        PPOConfig.minibatches,
        "Optimiser steps per pass; must divide the answers per step.",
        high=4096,
    )
    micro_batch_tokens = whole(
        "Micro-batch tokens",
        PPOConfig.micro_batch_tokens,
        "Tokens of prompts and answers per forward and backward pass. Fewer need less memory.",
        high=1_000_000,
    )
    value_learning_rate = decimal(
        "Value learning rate", PPOConfig.value_learning_rate, "Of the value function's adapter."
    )
    train = forms.ChoiceField(
        label="What learns",
        choices=[
            ("adapter", "An adapter on the policy (LoRA)"),
            ("full", "The policy's own weights: full fine-tuning"),
        ],
        initial=PPOConfig.train,
        help_text="Full fine-tuning needs 16 more bytes of memory per parameter, 28 while a checkpoint "
        "is written (2 to 4 GB for SmolLM2-135M), and a learning rate a tenth as high or lower. It "
        "makes a whole new model; embeddings and vocabulary stay as they are.",
    )
    lora_rank = whole("LoRA rank", PPOConfig.lora_rank, "Size of the trained adapter.", high=1024)
    adapter_layers = adapter_layers(
        "The policy learns in this many layers, counted from the top; empty: on all. If the reward "
        "model's lies no lower, the layers below are computed once per answer."
    )
    critic = forms.ChoiceField(
        choices=[
            ("adapter", "An adapter of its own, which starts as the reward model's"),
            ("head", "A head on the policy's own states: half the work"),
            ("full", "A whole second model: needs the most memory"),
        ],
        initial=PPOConfig.critic,
        help_text="What says how good an unfinished answer is.",
    )
    temperature = temperature(PPOConfig.temperature)
    max_prompt_tokens = longest_prompt(PPOConfig.max_prompt_tokens)
    target_kl = optional_decimal(
        "Target KL", "Nats per completion; the KL coefficient then adapts. Empty: it stays fixed."
    )
    kl_estimator = forms.ChoiceField(
        label="KL estimator",
        choices=[
            ("k1", "k1: unbiased, may be negative on one answer"),
            ("k2", "k2: half the squared log-ratio"),
            ("k3", "k3: never negative"),
        ],
        initial=PPOConfig.kl_estimator,
        help_text="What the KL coefficient multiplies. Only with k1 does the policy follow the "
        "gradient of the KL itself.",
    )
    clip_range = decimal(
        "Clip range", PPOConfig.clip_range, "How far one update may move a token's probability."
    )
    clip_range_high = optional_decimal(
        "Clip range upwards", "If tokens may become likelier by more. Empty: the same."
    )
    dual_clip = optional_decimal(
        "Dual clip",
        "Above 1: holds the loss of a bad token that became much likelier; 3 is usual. Empty: off.",
        low=1.0,
    )
    target_kl_update = optional_decimal(
        "End updates at a KL of",
        "Nats per token between the policy that wrote the answers and the updated one; the rest of "
        "the step's updates is left out. Empty: never.",
    )
    lam = decimal("GAE lambda", PPOConfig.lam, "0 trusts the value function, 1 the scores.")
    critic_warmup_steps = whole(
        "Steps for the value function alone",
        PPOConfig.critic_warmup_steps,
        "At the beginning; the policy does not change in them.",
        low=0,
    )
    missing_eos = missing_eos(PPOConfig.missing_eos)
    missing_eos_penalty = missing_eos_penalty(PPOConfig.missing_eos_penalty)
    missing_eos_ramp = missing_eos_ramp(PPOConfig.missing_eos_ramp)
    evaluate_every = forms.IntegerField(
        label="Evaluate every",
        required=False,
        min_value=0,
        help_text="Steps. The policy then answers held-out prompts, always with the same random "
        "numbers, and once before it learns. Empty: up to four times; 0: never.",
    )
    eval_prompts = whole(
        "Held-out prompts",
        PPOConfig.eval_prompts,
        "At most so many of those that are held out for evaluation.",
        high=10_000,
    )
    keep = forms.ChoiceField(
        label="Policy to keep",
        choices=[
            ("best", "The best on held-out prompts, by score less the price of KL"),
            ("last", "The last"),
        ],
        initial=PPOConfig.keep,
        help_text="Without held-out prompts it is the last.",
    )
    checkpoint_every = whole(
        "Checkpoint every", PPOConfig.checkpoint_every, "Steps. A crash loses at most these."
    )
    dtype = forms.ChoiceField(
        label="Precision",
        choices=[
            ("auto", "bf16 on a GPU, fp32 elsewhere"),
            ("float32", "fp32: exact"),
            ("bfloat16", "bf16: half the memory for the frozen weights"),
        ],
        initial=PPOConfig.dtype,
        help_text="Of the weights that do not learn; those that learn are in fp32.",
    )
    gradient_checkpointing = forms.BooleanField(
        required=False, help_text="Saves memory and takes about a third longer."
    )
    accelerate_config = forms.ChoiceField(label="Processes", required=False)
    seed = seed(PPOConfig.seed)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        field: Any = self.fields["accelerate_config"]
        field.choices = [("", "One"), *((name, name) for name in accelerate_configs())]
        field.help_text = (
            "Several GPUs or machines share the work as a file of accelerate's says. Files lie in "
            f"{settings.ACCELERATE_DIR}."
        )
        self.initial.setdefault("reward_model", self._rows(project, "reward_model").first())

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("reward_model") is None and self.cleaned_data.get("rewards") == []:
            self.add_error(
                "reward_model", "Choose a reward model, or add other rewards under “More settings”."
            )
