"""The forms of DPO and KTO."""

from __future__ import annotations

from django import forms

from annotator.models import Export
from rlhf.forms.base import ExportField, RunForm
from rlhf.forms.fields import decimal, longest_answer, seed, temperature, version, whole
from rlhf.forms.parameters import PARAMETER_FIELDS, ParameterFields
from rlhf.models import RunKind
from rlhf.training.preference_config import DPOConfig, KTOConfig, PreferenceConfig

FOLDED = (
    "batch_size", "micro_batch_size", "max_tokens", "min_pairs", "samples", "max_new_tokens",
    "temperature", "warmup_steps", "max_grad_norm", "seed",
)  # fmt: skip


class PreferenceForm(ParameterFields, RunForm):
    """Not a kind of its own: what both have in common."""

    arguments = ("export", "policy")

    export = ExportField(
        Export.objects.none(),
        label="Export",
        empty_label=None,
        help_text="The votes to learn from; held-out ones say whether it has learnt them.",
    )
    policy = version(
        "Policy",
        "The policy to train; as it is now it also stays as the reference.",
    )
    epochs = whole("Epochs", PreferenceConfig.epochs, "Passes over the votes.", high=100)
    learning_rate = decimal(
        "Learning rate",
        PreferenceConfig.learning_rate,
        "LoRA needs about ten times the rate of full fine-tuning.",
    )
    beta = decimal(
        "Beta",
        PreferenceConfig.beta,
        "Price of distance from the reference. Higher stays closer; 0.1 is usual.",
        high=100.0,
    )
    batch_size = whole(
        "Batch size", PreferenceConfig.batch_size, "Pairs per optimiser step.", high=4096
    )
    micro_batch_size = whole(
        "Micro-batch size",
        PreferenceConfig.micro_batch_size,
        "Of them, per forward and backward pass; must divide the batch size. Fewer need less memory.",
        high=4096,
    )
    max_tokens = whole(
        "Longest pair",
        PreferenceConfig.max_tokens,
        "Tokens of prompt and answer. Longer pairs are left out and counted.",
    )
    min_pairs = whole(
        "Fewest pairs",
        PreferenceConfig.min_pairs,
        "With fewer pairs that people decided the run does not start. Lower it only to try.",
    )
    samples = whole(
        "Answers to measure on",
        PreferenceConfig.samples,
        "Fresh answers after training, which say how far the policy has moved; four times as many halve the error.",
        high=4096,
    )
    max_new_tokens = longest_answer(PreferenceConfig.max_new_tokens)
    temperature = temperature(PreferenceConfig.temperature)
    warmup_steps = decimal(
        "Warm-up", PreferenceConfig.warmup_steps, "Share of the steps in which the rate rises."
    )
    max_grad_norm = decimal(
        "Gradient clipping", PreferenceConfig.max_grad_norm, "Longest gradient.", high=1000.0
    )
    anchor = forms.ChoiceField(
        label="Pull towards the start",
        choices=[("none", "None: beta holds it"), ("l2_sp", "L2-SP: to the starting weights")],
        initial=PreferenceConfig.anchor,
        help_text="Beside beta, which holds what the policy says.",
    )
    seed = seed(PreferenceConfig.seed)


class DPOForm(PreferenceForm):
    kind = RunKind.DPO
    intro = (
        "Learns from the votes directly: chosen answers become likelier than rejected ones, against the "
        "policy as it is now. It needs no reward model and writes no answers while it learns."
    )
    advanced = ("label_smoothing", "votes", *FOLDED, *PARAMETER_FIELDS)

    loss = forms.ChoiceField(
        choices=[
            ("sigmoid", "Sigmoid: DPO"),
            ("sigmoid_norm", "Sigmoid per token: lengths do not matter"),
            ("ipo", "Squared, towards a fixed margin: IPO"),
            ("hinge", "Hinge: SLiC"),
            ("robust", "Robust: some votes are the wrong way round"),
            ("apo_zero", "APO: chosen up, rejected down"),
        ],
        initial=DPOConfig.loss,
        help_text="IPO and “per token” divide by how long an answer is, and so take other values of beta.",
    )
    label_smoothing = decimal(
        "Wrong votes",
        DPOConfig.label_smoothing,
        "Share of votes that are the wrong way round, for the robust loss. The others have to be 0.",
        high=0.49,
    )
    votes = forms.ChoiceField(
        label="Where people disagree",
        choices=[
            ("majority", "A pair counts once, as most say it"),
            ("each", "Each vote counts once, in its own direction"),
        ],
        initial=DPOConfig.votes,
        help_text="The second is the soft label, and takes a step for every vote.",
    )


class KTOForm(PreferenceForm):
    kind = RunKind.KTO
    intro = (
        "Learns from the votes directly: each chosen answer is a good one and each rejected one a bad one, "
        "by itself. It needs no reward model and writes no answers while it learns."
    )
    advanced: tuple[str, ...] = (
        "desirable_weight", "undesirable_weight", *FOLDED, *PARAMETER_FIELDS,
    )  # fmt: skip

    batch_size = whole(
        "Batch size", PreferenceConfig.batch_size, "Answers per optimiser step.", high=4096
    )
    loss = forms.ChoiceField(
        choices=[("kto", "KTO"), ("apo_zero_unpaired", "APO: good ones up, bad ones down")],
        initial=KTOConfig.loss,
    )
    desirable_weight = decimal(
        "Weight of good answers", KTOConfig.desirable_weight, "In the loss.", high=100.0
    )
    undesirable_weight = decimal(
        "Weight of bad answers", KTOConfig.undesirable_weight, "In the loss.", high=100.0
    )
