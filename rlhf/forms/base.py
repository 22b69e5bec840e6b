"""What the forms of all runs have in common: the token, the rows to choose from, the presets."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any, Self

from django import forms
from django.db.models import QuerySet
from django.forms import BoundField

from annotator.models import Export, Project
from rlhf.forms.fields import VersionField
from rlhf.inputs import version_kinds, why_not
from rlhf.models import ModelVersion, RunKind
from rlhf.presets import Preset


class ExportField(forms.ModelChoiceField):
    """Says so of an export that leaves nothing to measure the reward model by."""

    def label_from_instance(self, export: Any) -> str:
        counts = export.manifest.get("counts", {})
        return f"{export}, no pair held out" if counts.get("rows_test") == 0 else str(export)


def _first_of(field: Any) -> Any:
    """The newest row, as the field's initial value; None if there is none."""
    newest = field.queryset.first()
    is_of_several = isinstance(field, forms.ModelMultipleChoiceField)
    return [newest] if newest and is_of_several else newest


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
                if isinstance(field, VersionField):
                    field.versions = project.model_versions.all()
                    field.why_not = partial(why_not, self.kind, name)
                if field.required and name not in self.initial:
                    self.initial[name] = _first_of(field)

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
        if name == "collection":
            return project.collections.all()
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
