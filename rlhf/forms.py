"""What an admin is asked before a run: a few settings in view, the others folded.

A form yields what `runs.launch` takes: the models and the export to use, limited to those of the
project, and `settings`, the values of the run's config. Defaults are the config's own.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Self

from django import forms
from django.conf import settings
from django.db.models import QuerySet
from django.forms import BoundField
from django.utils.safestring import mark_safe

from annotator.models import Export, Project
from rlhf.inputs import version_kinds
from rlhf.models import ModelVersion, Run, RunKind
from rlhf.presets import PRESETS, Preset
from rlhf.processes import accelerate_configs
from rlhf.questions import temperature_of
from rlhf.training.config import (
    MOST_COMPLETIONS,
    ConverseConfig,
    EvaluateConfig,
    GenerateConfig,
    MergeConfig,
    OrderQueueConfig,
    PPOConfig,
    RewardModelConfig,
)
from rlhf.training.reward_rules import Rule, format_lines, parse_lines


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
        label="Layers with an adapter", required=False, min_value=1, help_text=help_text
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


def sample_of_prompts() -> Any:
    return forms.IntegerField(
        label="At most so many prompts",
        required=False,
        min_value=1,
        help_text="A sample, the same one every time. Empty: all of them.",
    )


def version(label: str, help_text: str, *, required: bool = True, empty: str = "None") -> Any:
    return forms.ModelChoiceField(
        ModelVersion.objects.none(),
        label=label,
        help_text=help_text,
        required=required,
        empty_label=None if required else empty,
        error_messages={
            "invalid_choice": "Choose one of the list. A policy elsewhere can only write answers, in "
            "“Generate completions” and “Evaluate”."
        },
    )


class ExportField(forms.ModelChoiceField):
    """Says so of an export that leaves nothing to measure the reward model by."""

    def label_from_instance(self, export: Any) -> str:
        counts = export.manifest.get("counts", {})
        return f"{export}, no pair held out" if counts.get("rows_test") == 0 else str(export)


class RunForm(forms.Form):
    """The token, drawn when the form is shown, makes a form that is sent twice start one run."""

    kind: RunKind
    intro = ""
    presets: dict[str, Preset] = {}
    arguments: tuple[str, ...] = ()  # fields that `launch` takes by name; the others are settings
    advanced: tuple[str, ...] = ()

    token = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    shown_preset: str  # which one has filled in the fields; empty: none
    kept: list[str] = []  # labels of fields that it would have changed, but somebody had before
    is_unfolded = False  # it, or somebody before, has changed what is folded otherwise

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project = project
        self.label_suffix = ""
        self.shown_preset = self.data.get("preset", "")
        for name, field in self.fields.items():
            if isinstance(field, forms.ModelChoiceField):
                field.queryset = self._rows(project, name)
                if field.required and name not in self.initial:
                    self.initial[name] = field.queryset.first()

    @classmethod
    def filled_in(
        cls, project: Project, initial: dict[str, Any], preset: str, sent: Any = None
    ) -> Self:
        """The form with a preset's settings, but for what somebody has changed.

        `sent` is the form as it was before: with the values of `initial`, of the preset that it
        names, and of whoever typed.
        """
        typed = {}
        if sent is not None:
            before = cls.presets.get(sent.get("preset", ""))
            shown = initial | (before.settings if before else {})
            form = cls(project, sent, initial=shown)
            typed = {name: form[name].data for name in form.changed_data if name != "token"}
        settings = cls.presets[preset].settings
        form = cls(project, initial=initial | settings | typed)
        form.shown_preset = preset
        form.is_unfolded = not (settings | typed).keys().isdisjoint(cls.advanced)
        form.kept = [
            str(form[name].label) for name in form.fields if name in settings.keys() & typed
        ]
        return form

    def _rows(self, project: Project, name: str) -> QuerySet[Any]:
        """The rows of the project that may stand in this field, the newest first."""
        if name == "export":
            return Export.objects.filter(project=project).order_by("-pk")
        rows = ModelVersion.objects.filter(project=project, kind__in=version_kinds(self.kind, name))
        return rows.order_by("-pk")

    def as_sent(self) -> Self:
        """An unbound form as it would come back if nobody changed anything."""
        shown = {bound.name: bound.value() for bound in self}
        known = {name: value for name, value in shown.items() if value is not None}
        return type(self)(self.project, known)

    @property
    def settings(self) -> dict[str, Any]:
        left_out = {"token", *self.arguments}
        return {name: value for name, value in self.cleaned_data.items() if name not in left_out}

    @property
    def named_arguments(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in ("token", *self.arguments)}

    def basic_fields(self) -> list[BoundField]:
        return [field for field in self.visible_fields() if field.name not in self.advanced]

    def advanced_fields(self) -> list[BoundField]:
        return [self[name] for name in self.advanced]

    def has_advanced_errors(self) -> bool:
        return any(name in self.errors for name in self.advanced)

    def missing(self) -> list[str]:
        """Which rows must exist before this form can be sent. Example: ["Reward model"]."""
        return [
            str(field.label)
            for name, field in self.fields.items()
            if isinstance(field, forms.ModelChoiceField)
            and field.required
            and self.initial[name] is None
        ]


class ImportModelForm(RunForm):
    kind = RunKind.IMPORT_MODEL
    intro = (
        "Makes a chat model the policy from which the loop starts. An encoder (BERT, RoBERTa, DeBERTa, …) "
        "or a classifier writes no text: it becomes a base that reward models can be trained on."
    )

    source = forms.ChoiceField(
        choices=[
            ("embedded", "SmolLM2-135M-Instruct, which comes with Preferendum"),
            ("hub", "The Hugging Face Hub"),
            ("folder", "A folder or a GGUF file on this machine"),
        ],
        initial="embedded",
        widget=forms.RadioSelect,
        help_text="The first is small enough to train on a laptop without a GPU.",
    )
    location = forms.CharField(
        label="Hub id or path",
        required=False,
        max_length=500,
        help_text="On the Hub owner/name, for a folder or a .gguf file its absolute path, otherwise "
        "nothing.",
    )

    def clean_location(self) -> str:
        source, location = self.cleaned_data.get("source"), self.cleaned_data["location"]
        if source in ("hub", "folder") and not location:
            raise forms.ValidationError("This source needs a Hub id or a path.")
        if source == "folder" and (complaint := complaint_about_folder(Path(location))):
            raise forms.ValidationError(complaint)
        return location if source in ("hub", "folder") else ""


def complaint_about_folder(source: Path) -> str:
    """Why this can be neither a model folder nor a GGUF file, as a sentence; empty if it can."""
    if not source.is_absolute():
        return f"“{source}” is not an absolute path: start it with a slash."
    try:
        return _complaint_about_content(source)
    except OSError as error:  # no permission, a name too long: pathlib passes these on
        return f"“{source}” cannot be read: {error.strerror}."


def _complaint_about_content(source: Path) -> str:
    if source.suffix == ".gguf":
        return "" if source.is_file() else f"There is no file “{source}” on this machine."
    if not source.is_dir():
        return f"There is no folder “{source}” on this machine."
    n_ggufs = len(list(source.glob("*.gguf")))
    if n_ggufs > 1 and not any(source.glob("*.safetensors")):
        return f"“{source}” holds several GGUF files: give the path of one of them."
    if not n_ggufs and not (source / "config.json").is_file():
        return (
            f"“{source}” holds neither a config.json nor a GGUF file: it is not the folder of a "
            "Hugging Face model."
        )
    return ""


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


class RewardModelForm(RunForm):
    kind = RunKind.REWARD_MODEL
    intro = "Learns from an export which answers people prefer, as one number per answer."
    arguments = ("export", "policy", "base")
    advanced = (
        "train", "members", "annotators", "learning_curve", "compare_arms", "ties", "label_smoothing", "margin_coefficient",
        "center_rewards", "batch_size", "micro_batch_tokens", "lora_rank", "adapter_layers",
        "max_tokens", "min_pairs", "policy_samples", "max_new_tokens", "temperature", "seed",
    )  # fmt: skip

    export = ExportField(
        Export.objects.none(),
        label="Export",
        empty_label=None,
        help_text="The votes to learn from; held-out ones say how good the reward model is.",
    )
    policy = version(
        "Policy",
        "Whose answers the reward model will score: the policy that PPO will train.",
    )
    base = version(
        "Base",
        "What the reward model starts from. In PPO, an adapter on the policy shares its weights; any "
        "other model is loaded as a second one. Import an encoder or another model to see it here.",
        required=False,
        empty="The policy",
    )
    train = forms.ChoiceField(
        label="What learns",
        choices=[
            ("adapter", "An adapter (LoRA)"),
            ("full", "The model's own weights: full fine-tuning"),
        ],
        initial=RewardModelConfig.train,
        help_text="Full fine-tuning needs 16 more bytes of memory per parameter, and a learning rate a "
        "tenth as high or lower. It makes whole new models, one per member, which PPO loads as second "
        "ones; embeddings stay as they are.",
    )
    epochs = whole("Epochs", RewardModelConfig.epochs, "Passes over the votes.", high=100)
    learning_rate = decimal(
        "Learning rate",
        RewardModelConfig.learning_rate,
        "LoRA needs about ten times the rate of full fine-tuning.",
    )
    members = whole(
        "Members",
        RewardModelConfig.members,
        "Models trained on differently drawn prompts; where they disagree, the score is unsure. "
        "With adapters on the top layers alone, what lies below is computed once for all.",
        high=16,
    )
    annotators = forms.ChoiceField(
        label="Whom to believe",
        choices=[
            ("joint", "Learned together with the scores"),
            ("crowd", "Found first, by shared pairs"),
            ("equal", "Everybody alike"),
        ],
        initial=RewardModelConfig.annotators,
        help_text="How reliable each person is: whoever votes at random or the wrong way round "
        "counts little or nothing.",
    )
    learning_curve = forms.BooleanField(
        label="Learning curve",
        required=False,
        initial=RewardModelConfig.learning_curve,
        help_text="Also train on 10, 25 and 50 % of the votes, to see what more votes would bring.",
    )
    compare_arms = forms.BooleanField(
        label="Compare the arms",
        required=False,
        initial=RewardModelConfig.compare_arms,
        help_text="Also train on the first 100, 200, … votes of each arm of the order of questions, to "
        "see whether it pays: up to ten more trainings.",
    )
    ties = forms.ChoiceField(
        choices=[
            ("half", "Half a vote for each of the two"),
            ("davidson", "An outcome of their own (Davidson)"),
            ("rao-kupper", "An outcome of their own (Rao and Kupper)"),
        ],
        initial=RewardModelConfig.ties,
        help_text="With many ties, the second or third also learns how near is near enough.",
    )
    label_smoothing = decimal(
        "Label smoothing",
        RewardModelConfig.label_smoothing,
        "No label is surer than 1 less this, however many agree.",
        high=0.49,
    )
    margin_coefficient = decimal(
        "Weight of strength",
        RewardModelConfig.margin_coefficient,
        "How much the scores must differ where people gave the full strength; 0: not at all.",
        high=100.0,
    )
    center_rewards = decimal(
        "Centring", RewardModelConfig.center_rewards, "Keeps scores near 0; 0.01 is usual, 0: off."
    )
    batch_size = whole(
        "Batch size", RewardModelConfig.batch_size, "Pairs per optimiser step.", high=4096
    )
    micro_batch_tokens = whole(
        "Micro-batch tokens",
        RewardModelConfig.micro_batch_tokens,
        "Tokens of prompts and answers per forward and backward pass. Fewer need less memory.",
        high=1_000_000,
    )
    lora_rank = whole(
        "LoRA rank", RewardModelConfig.lora_rank, "Size of the trained adapter.", high=1024
    )
    adapter_layers = adapter_layers(
        "It learns in this many layers, counted from the top; empty: in all. PPO with adapters on as "
        "many is several times faster."
    )
    max_tokens = whole(
        "Longest pair",
        RewardModelConfig.max_tokens,
        "Tokens of prompt and answer. Longer pairs are left out and counted.",
    )
    min_pairs = whole(
        "Fewest pairs",
        RewardModelConfig.min_pairs,
        "With fewer pairs that people decided the run does not start. Lower it only to try.",
    )
    policy_samples = whole(
        "Answers to calibrate on",
        RewardModelConfig.policy_samples,
        "Fresh answers of the policy; their mean score becomes 0 and their deviation 1.",
        high=4096,
    )
    max_new_tokens = longest_answer(RewardModelConfig.max_new_tokens)
    temperature = temperature(RewardModelConfig.temperature)
    seed = seed(RewardModelConfig.seed)


class PPOForm(RunForm):
    kind = RunKind.PPO
    presets = PRESETS
    intro = "Trains the policy to write answers that the reward model scores higher."
    arguments = ("policy", "reward_model")
    advanced = (
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
    rewards = forms.CharField(
        label="More rewards",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "code", "spellcheck": "false"}),
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
    reward_weight = forms.FloatField(
        label="Weight of the reward model",
        initial=PPOConfig.reward_weight,
        widget=forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"}),
        help_text="The score is the sum of all rewards, each times its weight.",
    )
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
    missing_eos = forms.ChoiceField(
        label="Answers that are cut off",
        choices=[
            ("penalty", "lose the penalty below"),
            ("replace", "score minus the penalty, whatever the reward model says"),
            ("ramp", "pay more and more of the penalty, the nearer to the limit they end"),
        ],
        initial=PPOConfig.missing_eos,
        help_text="What an answer pays that does not end by itself.",
    )
    missing_eos_penalty = decimal(
        "Penalty for cut-off answers",
        PPOConfig.missing_eos_penalty,
        "Standard deviations of the score.",
        high=100.0,
    )
    missing_eos_ramp = decimal(
        "Length of the ramp",
        PPOConfig.missing_eos_ramp,
        "Share of the longest answer in which the penalty grows from 0.",
    )
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

    def clean_rewards(self) -> list[Rule]:
        try:
            return parse_lines(self.cleaned_data["rewards"], settings.REWARD_FUNCTIONS)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("reward_model") is None and self.cleaned_data.get("rewards") == []:
            self.add_error(
                "reward_model", "Choose a reward model, or add other rewards under “More settings”."
            )


class EvaluateForm(RunForm):
    kind = RunKind.EVALUATE
    intro = (
        "Lets two policies answer held-out prompts; people then rank the pairs in their normal "
        "queue, without knowing who wrote what."
    )
    arguments = ("policy", "rival", "reward_model", "max_prompts")
    advanced = (
        "ensemble", "uncertainty_coefficient", "completions_per_prompt", "max_prompt_tokens",
        "batch_size", "seed",
    )  # fmt: skip

    policy = version("New policy", "The one that should be better.")
    rival = version("Old policy", "The one it is compared with.")
    reward_model = version(
        "Reward model", "Its opinion is shown beside the people's.", required=False
    )
    best_of = whole(
        "Best of",
        EvaluateConfig.best_of,
        "Above 1, the new side shows the best of so many answers by the reward model, and both "
        "policies may be the same: people then judge the reward model.",
        high=MOST_COMPLETIONS,
    )
    ensemble = ensemble()
    uncertainty_coefficient = uncertainty_coefficient()
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
        if self.cleaned_data.get("best_of", 1) > 1 and not self.cleaned_data.get("reward_model"):
            self.add_error("best_of", "Choose a reward model, which says which answer is the best.")


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

    policy = version("Policy", "Whom people talk to.")
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


FORMS: dict[str, type[RunForm]] = {
    form.kind: form
    for form in (
        ImportModelForm,
        GenerateForm,
        RewardModelForm,
        PPOForm,
        EvaluateForm,
        ProbeForm,
        OrderQueueForm,
        ConverseForm,
        MergeForm,
    )
}


def settings_like(run: Run) -> dict[str, Any]:
    """Initial values of the run's form: what it was started with."""
    rows = {
        name: getattr(run, name) for name in ("policy", "rival", "reward_model", "base", "export")
    }
    rewards = format_lines(run.config.get("rewards", []))
    return {**run.config, **rows, "rewards": rewards, "max_prompts": _number_of_prompts(run)}


def _number_of_prompts(run: Run) -> int | None:
    """Only its folder knows of how many prompts it was given a sample."""
    try:
        with (run.folder / "prompts.jsonl").open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:  # it reads none, or its folder has been cleared away
        return None
