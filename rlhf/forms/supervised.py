"""The forms of supervised and domain tuning."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import QuerySet

from rlhf.forms.base import RunForm
from rlhf.forms.fields import decimal, seed, version, whole
from rlhf.forms.parameters import PARAMETER_FIELDS, ParameterFields
from rlhf.models import Dataset, DatasetKind, RunKind
from rlhf.training.supervised_config import (
    PROMPT_LEARNING,
    DomainConfig,
    SupervisedConfig,
    format_weights,
    parse_weights,
)


class DatasetsField(forms.ModelMultipleChoiceField):
    """Says of each dataset how large it is."""

    def label_from_instance(self, dataset: Any) -> str:
        rows = f"{dataset.n_rows:,} row{'s' if dataset.n_rows != 1 else ''}"
        return f"{dataset.name} ({dataset.get_kind_display().lower()}, {rows})"


def datasets(help_text: str, *, required: bool = True) -> Any:
    return DatasetsField(
        Dataset.objects.none(),
        label="Datasets",
        required=required,
        widget=forms.CheckboxSelectMultiple,
        help_text=help_text,
        error_messages={"required": "Choose at least one dataset."},
    )


def learning_rate() -> Any:
    return decimal(
        "Learning rate",
        SupervisedConfig.learning_rate,
        "LoRA needs about ten times the rate of full fine-tuning; prompt tuning a hundred times.",
    )


def epochs(initial: int) -> Any:
    return whole("Epochs", initial, "Passes over the datasets.", high=100)


def weights() -> Any:
    return forms.CharField(
        label="Weights",
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3, "class": "code", "spellcheck": "false"}),
        help_text="A line each, as in polite = 2: an epoch then shows each row of that dataset twice. "
        "0.5 shows half of the rows, drawn anew each time. Without a line, each row is shown once.",
    )


def mixing() -> Any:
    return forms.ChoiceField(
        label="Batches of several datasets",
        choices=[
            ("mixed", "Mixed: rows of all datasets together"),
            ("alternating", "Alternating: each step learns from one dataset"),
        ],
        initial=SupervisedConfig.mixing,
    )


class SupervisedForm(ParameterFields, RunForm):
    kind = RunKind.SUPERVISED
    intro = (
        "Teaches a policy to answer as demonstrations do: what people rewrote, their best answers, or "
        "conversations from a file. Only the assistant's words are learnt."
    )
    arguments = ("policy", "datasets")
    advanced: tuple[str, ...] = (
        "weights", "mixing", *PARAMETER_FIELDS, "packing", "batch_size", "micro_batch_tokens",
        "max_tokens", "warmup_steps", "seed",
    )  # fmt: skip

    policy = version("Policy", "Which one learns; it stays as it is, and a new one is made.")
    datasets = datasets("With several, the held-out loss of each is shown by itself.")
    epochs = epochs(SupervisedConfig.epochs)
    learning_rate = learning_rate()
    learning_curve = forms.BooleanField(
        label="Learning curve",
        required=False,
        initial=SupervisedConfig.learning_curve,
        help_text="Also train on 10, 25 and 50 % of the rows, to see what more of them would bring. "
        "Takes nearly twice as long.",
    )
    weights = weights()
    mixing = mixing()
    packing: Any = forms.BooleanField(
        label="Packing",
        required=False,
        initial=SupervisedConfig.packing,
        help_text="Put several short conversations into one row, which do not see one another. Pays on "
        "a GPU; on a CPU rows of similar length are put together anyway.",
    )
    batch_size = whole("Batch size", SupervisedConfig.batch_size, "Rows per step.", high=4096)
    micro_batch_tokens = whole(
        "Micro-batch tokens",
        SupervisedConfig.micro_batch_tokens,
        "Tokens per forward and backward pass. Fewer need less memory.",
        high=1_000_000,
    )
    max_tokens = whole(
        "Longest row",
        SupervisedConfig.max_tokens,
        "Tokens. Longer conversations are left out and counted, never cut; running text is cut into "
        "blocks of so many.",
        low=2,
        high=131_072,
    )
    warmup_steps = decimal(
        "Warm-up",
        SupervisedConfig.warmup_steps,
        "Share of the steps in which the learning rate rises; then it falls to 0.",
    )
    seed = seed(SupervisedConfig.seed)

    def _rows(self, project: Any, name: str) -> QuerySet[Any]:
        if name == "datasets":
            return self._datasets(project.datasets.order_by("-pk"))
        return super()._rows(project, name)

    def _datasets(self, rows: QuerySet[Dataset]) -> QuerySet[Dataset]:
        return rows.order_by("kind", "-pk")  # demonstrations first: without any, nothing is learnt

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(
            said := self.initial.get("weights"), dict
        ):  # of a run that was started before
            self.initial["weights"] = format_weights(said)

    def clean_weights(self) -> dict[str, float]:
        try:
            return parse_weights(self.cleaned_data["weights"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        if self.cleaned_data.get("packing") and self.cleaned_data.get("method") in PROMPT_LEARNING:
            self.add_error("packing", "Packing does not go with virtual tokens: switch it off.")
        chosen = {dataset.name for dataset in self.cleaned_data.get("datasets") or ()}
        for name in self.cleaned_data.get("weights") or {}:
            if chosen and name not in chosen:
                self.add_error("weights", f"“{name}” is none of the datasets chosen above.")
        return values


class DomainForm(SupervisedForm):
    kind = RunKind.DOMAIN
    intro = (
        "Lets a policy read running text of your field, as it was pre-trained: every word is learnt. It "
        "learns the field's language, not to answer; supervised fine-tuning comes after."
    )
    datasets = datasets(
        "Datasets of text. With several, the held-out loss of each is shown by itself."
    )
    epochs = epochs(DomainConfig.epochs)
    packing = None  # blocks are full already

    advanced = tuple(name for name in SupervisedForm.advanced if name != "packing")

    def _datasets(self, rows: QuerySet[Dataset]) -> QuerySet[Dataset]:
        return rows.filter(kind=DatasetKind.TEXT)
