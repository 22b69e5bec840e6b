"""The form of a reward model."""

from __future__ import annotations

from django import forms

from annotator.models import Export
from rlhf.forms.base import ExportField, RunForm
from rlhf.forms.fields import (
    adapter_layers,
    decimal,
    longest_answer,
    seed,
    temperature,
    version,
    whole,
)
from rlhf.models import RunKind
from rlhf.training.config import (
    RewardModelConfig,
)


class RewardModelForm(RunForm):
    kind = RunKind.REWARD_MODEL
    intro = "Learns from an export which answers people prefer, as one number per answer."
    arguments = ("export", "policy", "base")
    advanced = (
        "train", "members", "annotators", "learning_curve", "compare_arms", "ties", "label_smoothing", "margin_coefficient",
        "center_rewards", "all_bad_coefficient", "batch_size", "micro_batch_tokens", "lora_rank", "adapter_layers",
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
    all_bad_coefficient = decimal(
        "Weight of “all bad”",
        RewardModelConfig.all_bad_coefficient,
        "How much it counts that people called all answers bad: their scores fall below a level that is "
        "learned too. 0: not at all.",
        high=100.0,
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
