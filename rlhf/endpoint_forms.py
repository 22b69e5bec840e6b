"""What an admin says of a policy elsewhere: where it is, what it may be asked, what it may cost."""

from __future__ import annotations

from typing import Any

from django import forms
from django.views.decorators.debug import sensitive_variables

from annotator.models import Project
from annotator.secrets import seal
from rlhf.collecting import unused_name
from rlhf.endpoints import clean_address
from rlhf.models import Endpoint
from rlhf.training.config import MOST_REQUESTS_AT_ONCE
from rlhf.training.config_base import is_one_line

NUMBER = {"step": "any", "inputmode": "decimal"}


def amount(label: str, help_text: str) -> Any:
    """A field for an amount of money, or nothing."""
    return forms.FloatField(
        label=label,
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text=help_text,
    )


class LimitsForm(forms.ModelForm):
    """What may be changed at any time; a run takes it over when it starts or is resumed."""

    key = forms.CharField(
        label="API key",
        required=False,
        max_length=2000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Kept encrypted, and never shown again. Empty: none is sent.",
    )
    requests_at_once = forms.IntegerField(
        label="Requests at once",
        initial=4,
        min_value=1,
        max_value=MOST_REQUESTS_AT_ONCE,
        help_text="A server of your own with one GPU often answers fastest with 4 to 32.",
    )
    requests_per_minute = forms.IntegerField(
        label="Requests per minute",
        required=False,
        min_value=1,
        help_text="Of all that ask it at the same time. Empty: as many as it answers; it is waited for "
        "where it asks for that itself.",
    )
    prompt_price = amount(
        "Price of prompts", "Per million tokens, in any currency. Empty: they cost nothing."
    )
    completion_price = amount("Price of answers", "Per million tokens. Empty: they cost nothing.")
    limit_per_run = amount(
        "Spending limit per run", "In that currency. A run that reaches it keeps what it has."
    )
    limit = amount(
        "Spending limit in all",
        "Of all runs and tries together. What a run may spend is set aside while it goes on. Empty: none.",
    )
    timeout_seconds = forms.FloatField(
        label="Longest wait",
        initial=120,
        min_value=1,
        max_value=3600,
        widget=forms.NumberInput(attrs=NUMBER),
        help_text="Seconds for one answer; then it is asked again.",
    )

    class Meta:
        model = Endpoint
        fields: tuple[str, ...] = (
            "requests_at_once", "requests_per_minute", "prompt_price", "completion_price",
            "limit_per_run", "limit", "timeout_seconds",
        )  # fmt: skip

    field_order: Any = ("key", "forget_key")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for name, value in self.initial.items():
            if isinstance(value, float) and value.is_integer():
                self.initial[name] = int(value)  # 5 is easier to read than 5.0

    def clean_prompt_price(self) -> float:
        return self.cleaned_data["prompt_price"] or 0.0

    def clean_completion_price(self) -> float:
        return self.cleaned_data["completion_price"] or 0.0

    def clean_key(self) -> str:
        key = self.cleaned_data["key"]
        if not key.isascii() or not key.isprintable() or " " in key:
            raise forms.ValidationError("A key has no spaces and only ASCII characters.")
        return key

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        is_limited = values.get("limit") is not None or values.get("limit_per_run") is not None
        if is_limited and not (values.get("prompt_price") or values.get("completion_price")):
            self.add_error(
                "prompt_price", "A spending limit needs a price: without one nothing is ever spent."
            )
        return values


class ChangeEndpointForm(LimitsForm):
    forget_key = forms.BooleanField(label="Forget the key", required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.sealed_key:
            self.fields["key"].help_text = "One is kept. Empty: it stays; a new one replaces it."
        else:
            del self.fields["forget_key"]

    @sensitive_variables("key")
    def save(self, commit: bool = True) -> Any:
        if key := self.cleaned_data["key"]:
            self.instance.sealed_key = seal(key)
        elif self.cleaned_data.get("forget_key"):
            self.instance.sealed_key = ""
        return super().save(commit)


class AddEndpointForm(LimitsForm):
    name = forms.CharField(
        required=False,
        max_length=120,
        help_text="As lists and figures call it; annotators never see it. Empty: the name of the model.",
    )
    address = forms.CharField(
        max_length=500,
        widget=forms.TextInput(
            attrs={
                "placeholder": "http://localhost:11434/v1",
                "inputmode": "url",
                "spellcheck": "false",
            }
        ),
        help_text="Without /chat/completions; most end in /v1.",
    )
    model = forms.CharField(
        max_length=200,
        widget=forms.TextInput(
            attrs={"list": "models_there", "spellcheck": "false", "autocomplete": "off"}
        ),
        help_text="As the endpoint calls it: “List its models” asks.",
    )

    field_order = ("address", "key", "model", "name")

    class Meta(LimitsForm.Meta):
        fields = ("address", "model", *LimitsForm.Meta.fields)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project = project

    def clean_name(self) -> str:
        return self._one_line("name")

    def clean_model(self) -> str:
        return self._one_line("model")

    def _one_line(self, name: str) -> str:
        text: str = self.cleaned_data[name]
        if not is_one_line(text, len(text)):
            raise forms.ValidationError("This is one line, without control characters.")
        return text

    def clean_address(self) -> str:
        try:
            return clean_address(self.cleaned_data["address"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        name = values.get("name")
        if name and self.project.model_versions.filter(name=name).exists():
            self.add_error("name", "This project has a model of that name: choose another one.")
        if not name and "model" in values:
            values["name"] = unused_name(self.project, values["model"][:100])
            self._check_known(values)
        return values

    def _check_known(self, values: dict[str, Any]) -> None:
        """A second one of the same model is added by its name only, and not by a double click."""
        known = Endpoint.objects.filter(
            version__project=self.project,
            address=values.get("address", ""),
            model=values["model"],
        )
        if same := known.select_related("version").first():
            self.add_error(
                "name",
                f"This project asks that model already, as {same.version}: give it another name if "
                "it shall be a policy of its own.",
            )

    def without_model(self) -> Endpoint | None:
        """What can be asked for its models, though none is named yet; None if it cannot be."""
        self.is_valid()
        if "address" in self.errors or "key" in self.errors:
            return None
        return Endpoint(address=self.cleaned_data["address"], model="")
