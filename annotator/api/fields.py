"""Shapes of what is sent: strict about types, so that a mistake is said and not guessed at.

What a value may be is for the form that a page shows too; `serializer_of` takes its fields over, so
the API has the same names, limits and explanations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS
from django.forms.utils import ErrorDict
from rest_framework import serializers
from rest_framework.request import Request

from annotator.api.errors import invalid

MOST = 2**63 - 1  # of a number in the database


class Whole(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class Number(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if type(data) not in (int, float):
            self.fail("invalid")
        try:
            value = float(data)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            self.fail("invalid")
        return value


class Text(serializers.CharField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Flag(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Word(serializers.ChoiceField):
    """Whoever sends another one is told which there are."""

    default_error_messages = {
        "invalid_choice": '"{input}" is not a valid choice. There are: {choices}.'
    }

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or data not in self.choice_strings_to_values:
            words = ", ".join(str(word) for word in self.choices if word)
            self.fail("invalid_choice", input=data, choices=words)
        return super().to_internal_value(data)


def row_id(**kwargs: Any) -> Whole:
    return Whole(min_value=1, max_value=MOST, **kwargs)


def number(low: int = 1) -> serializers.IntegerField:
    """In an address, where all is text."""
    return serializers.IntegerField(required=False, min_value=low, max_value=MOST)


class Body(serializers.Serializer):
    # What it does not know is a mistake: nothing is silently left out.
    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            check_known(data, self.fields)
        return super().to_internal_value(data)


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(known) or "none"
        raise invalid(dict.fromkeys(unknown, f"There is no such field. There are: {listed}."))


def read(serializer: type[serializers.Serializer], data: Any) -> dict[str, Any]:
    """What was sent, as far as it is there. Raises ValidationError."""
    found = serializer(data=data)
    found.is_valid(raise_exception=True)
    return dict(found.validated_data)


def asked_by(request: Request, serializer: type[serializers.Serializer]) -> dict[str, Any]:
    """What the address asks for. A parameter without a value is one, and rarely right."""
    return read(serializer, request.query_params.dict())


# --- forms ----------------------------------------------------------------------------------------
def serializer_of(
    form: type[forms.Form] | type[forms.ModelForm],
    name: str,
    *,
    without: Iterable[str] = (),
    **more: Any,
) -> type[Body]:
    """The fields of a form, none of which must be sent: the form has a value for each. `more` are
    fields besides."""
    fields = {key: field_of(field) for key, field in form.base_fields.items() if key not in without}
    about = {"__doc__": getattr(form, "intro", "")}
    return type(f"{name}Serializer", (Body,), {**about, **more, **fields})


def field_of(field: forms.Field) -> serializers.Field:
    about: dict[str, Any] = {"required": False, "help_text": str(field.help_text)}
    if field.label:
        about["label"] = str(field.label)
    may_be_null = {"allow_null": not field.required}
    match field:
        case forms.ModelMultipleChoiceField():
            return serializers.ListField(child=row_id(), **about)
        case forms.ModelChoiceField():
            return row_id(**about, **may_be_null)
        case forms.BooleanField():
            return Flag(**about)
        case forms.FloatField():
            return Number(**about, **may_be_null, **_limits(field))
        case forms.IntegerField():
            return Whole(**about, **may_be_null, **_limits(field))
        case forms.MultipleChoiceField():
            return serializers.ListField(child=Word(choices=_choices(field)), **about)
        case forms.ChoiceField() if _choices(field):
            return Word(choices=_choices(field), **about, **_refusal(field))
        case forms.CharField(max_length=max_length):
            return Text(max_length=max_length, allow_blank=not field.required, **about)
    return Text(allow_blank=not field.required, **about)


def _refusal(field: forms.ChoiceField) -> dict[str, Any]:
    """What the page says of another word, where it says why."""
    usual = forms.ChoiceField.default_error_messages["invalid_choice"]
    if (said := field.error_messages["invalid_choice"]) == usual:
        return {}
    why = str(said).replace("%(value)s", "{input}")
    return {"error_messages": {"invalid_choice": f"{why} There are: {{choices}}."}}


def _limits(field: forms.IntegerField) -> dict[str, Any]:
    high = field.max_value
    return {"min_value": field.min_value, "max_value": MOST if high is None else high}


def _choices(field: forms.ChoiceField) -> list[tuple[str, str]]:
    return [(value, str(label)) for value, label in field.choices]  # type: ignore[misc, union-attr]


def form_errors(form: forms.BaseForm) -> serializers.ValidationError:
    """Those of a form, by field."""
    errors: ErrorDict = form.errors
    return invalid(
        {
            ("non_field_errors" if name == NON_FIELD_ERRORS else name): list(messages)
            for name, messages in errors.items()
        }
    )
