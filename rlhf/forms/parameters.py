"""Which parameters move: the fields that the forms of supervised, domain and preference runs share."""

from __future__ import annotations

from typing import Any

from django import forms

from rlhf.forms.fields import adapter_layers, decimal, optional_decimal, whole
from rlhf.training.config_base import LONGEST_NAME
from rlhf.training.parameter_settings import ParameterSettings


class ParameterFields(forms.Form):
    """Mixed into a run's form, which names PARAMETER_FIELDS among its `advanced` ones."""

    method = forms.ChoiceField(
        label="What moves",
        choices=[
            ("lora", "LoRA: low-rank adapters on all linear maps"),
            ("full", "The layers' own weights"),
            ("ia3", "IA³: factors on keys, values and inner activations"),
            ("prompt", "Prompt tuning: virtual tokens before the prompt"),
            ("prefix", "Prefix tuning: virtual keys and values in every layer"),
        ],
        initial=ParameterSettings.method,
        help_text="LoRA suits most. The layers' own weights need several times its memory and about a "
        "tenth of its learning rate; IA³ and virtual tokens move the least and want a higher one. "
        "Virtual tokens cannot be merged, and nothing can be trained on top of them.",
    )
    lora_rank = whole(
        "LoRA rank", ParameterSettings.lora_rank, "Larger adapters can learn more.", high=1024
    )
    dora = forms.BooleanField(
        label="DoRA",
        required=False,
        help_text="LoRA that learns the length of each weight's columns apart from their direction. "
        "Nearer to full fine-tuning at low ranks, and slower.",
    )
    rslora = forms.BooleanField(
        label="rsLoRA",
        required=False,
        help_text="LoRA scaled by the root of its rank, so that high ranks learn as fast as low ones.",
    )
    four_bit = forms.BooleanField(
        label="Base in 4 bit (QLoRA)",
        required=False,
        help_text="A quarter of the memory for the weights. Needs a GPU with CUDA where the trainer runs.",
    )
    adapter_layers = adapter_layers("So many of the top layers move. Empty: all of them.")
    unfreeze_every = optional_decimal(
        "Unfreeze a layer every",
        "Epochs after which one more layer moves, from the top. Empty: all move from the start.",
    )
    virtual_tokens = whole(
        "Virtual tokens",
        ParameterSettings.virtual_tokens,
        "Of prompt and prefix tuning; they take up room in the model's context.",
        high=512,
    )
    anchor = forms.ChoiceField(
        label="Pull towards the start",
        choices=[
            ("none", "None"),
            ("l2_sp", "L2-SP: to the starting weights"),
            ("kl", "KL: to what the starting policy would say"),
        ],
        initial=ParameterSettings.anchor,
        help_text="Against forgetting.",
    )
    anchor_coefficient = decimal(
        "Strength of the pull",
        ParameterSettings.anchor_coefficient,
        "Times half the squared way, or times nats per token. 0.1 is a start for KL.",
        high=1000.0,
    )

    name = forms.CharField(
        label="Name of the new policy",
        required=False,
        max_length=LONGEST_NAME,
        help_text="By this name answers, exports and other runs know it from then on. Empty: by its run.",
    )

    def clean(self) -> dict[str, Any]:
        """Says what does not go together beside the fields, before the run is launched."""
        values = super().clean() or self.cleaned_data
        if all(name in values for name in PARAMETER_FIELDS):
            try:
                ParameterSettings(**{name: values[name] for name in PARAMETER_FIELDS})
            except ValueError as error:
                raise forms.ValidationError(f"These settings do not work: {error}") from error
        return values


PARAMETER_FIELDS = tuple(ParameterFields.base_fields)
