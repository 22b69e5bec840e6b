"""Settings of a run as words NAME=VALUE: read for its form, and written as the form suggests them.

Models, datasets and documents are meant by their name or their number, exports by their number. What
takes several, such as datasets, words of a list or lines, is said several times.
"""

from __future__ import annotations

import html
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django import forms
from django.forms import BoundField
from django.utils.choices import flatten_choices
from django.utils.html import strip_tags

from rlhf.forms import RunForm
from rlhf.forms.fields import VersionField

ROWS_LISTED = 20
FLAGS = {"true": True, "false": False}


class Said(NamedTuple):
    values: dict[str, Any]  # as the form takes them
    wrong: dict[str, str]  # by name, why it is no value of that field


def read(form: RunForm, words: Iterable[str]) -> Said:
    """Example: ["epochs=1", "policy=kind"] -> Said({"epochs": "1", "policy": 7}, {})."""
    texts: dict[str, list[str]] = {}
    values, wrong = {}, {}
    for word in words:
        name, equals, text = word.partition("=")
        if equals:
            texts.setdefault(name, []).append(text)
        else:
            wrong[word] = "Write NAME=VALUE."
    known = [bound.name for bound in form.visible_fields()]
    if unknown := [name for name in texts if name not in known]:
        wrong[", ".join(unknown)] = f"There is no such setting. There are: {', '.join(known)}."
    for name in [name for name in texts if name in known]:
        try:
            values[name] = _value(form.fields[name], texts[name])
        except ValueError as error:
            wrong[name] = str(error)
    return Said(values, wrong)


def _value(field: forms.Field, texts: list[str]) -> Any:
    """Raises ValueError with what would be right."""
    if isinstance(field, forms.ModelMultipleChoiceField):
        return [_find(field, text).pk for text in texts if text]
    if isinstance(field, forms.MultipleChoiceField):
        return [text for text in texts if text]
    if isinstance(field.widget, forms.Textarea):
        return "\n".join(texts)
    if len(texts) > 1:
        raise ValueError("It takes one value: say it once.")
    text = texts[0]
    if isinstance(field, forms.ModelChoiceField):
        return _find(field, text).pk if text else None
    if isinstance(field, forms.BooleanField):
        if text not in FLAGS:
            raise ValueError("Say true or false.")
        return FLAGS[text]
    return text


def _find(field: forms.ModelChoiceField, text: str) -> Any:
    rows: Any = field.queryset
    found = _row(rows, text)
    if found is None:
        if isinstance(field, VersionField) and (other := _row(field.versions, text)):
            raise ValueError(field.why_not(other))
        there = ", ".join(_name_of(row) for row in rows[:ROWS_LISTED]) or "none yet"
        raise ValueError(f"There is no “{text}” to choose. There are: {there}.")
    return found


def _row(rows: Any, text: str) -> Any:
    """The one of this name, the newest of several; else of this number; None if there is none."""
    found = rows.filter(name=text).order_by("-pk").first() if _has_names(rows.model) else None
    if found is None and text.isdecimal():
        found = rows.filter(pk=int(text)).first()
    return found


def _has_names(model: Any) -> bool:
    return any(field.name == "name" for field in model._meta.get_fields())


def _name_of(row: Any) -> str:
    return row.name if _has_names(type(row)) else str(row.pk)


def choices_of(field: forms.Field | None) -> list[str]:
    """The words that may stand in a field; none if that is no list of words."""
    if not isinstance(field, forms.ChoiceField) or isinstance(field, forms.ModelChoiceField):
        return []
    choices: Any = field.choices
    return [str(word) for word, _ in flatten_choices(choices) if word]


def describe(form: RunForm) -> Iterator[str]:
    """Each field as it would be said, with the value that the form suggests; below, what it means."""
    for bound in [*form.basic_fields(), *form.advanced_fields()]:
        yield from (shlex.quote(f"{bound.name}={text}") for text in _texts(bound))
        yield textwrap.indent(textwrap.fill(_about(bound), 92), "    ")


def _texts(bound: BoundField) -> list[str]:
    """Its value; several where it may be said several times."""
    field, value = bound.field, bound.value()
    if isinstance(field, forms.BooleanField):
        return ["true" if value else "false"]
    if value is None or value == []:
        return [""]
    values = value if isinstance(value, list) else [value]
    if isinstance(field, forms.ModelChoiceField):
        rows: Any = field.queryset
        return [_name_of(row) for row in rows.filter(pk__in=values)]
    return [line for each in values for line in str(each).splitlines()] or [""]


def _about(bound: BoundField) -> str:
    """Its label, its help and its choices, as plain text."""
    choices = choices_of(bound.field)
    parts = [
        f"{bound.label}.",
        html.unescape(strip_tags(str(bound.help_text))),
        f"One of {', '.join(choices)}." if choices else "",
    ]
    return " ".join(part for part in parts if part)
