"""What an admin is asked before a dataset is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

from annotator.models import Export, Project
from rlhf.models import Dataset, DatasetKind


class FilesInput(forms.ClearableFileInput):
    allow_multiple_selected = True


class FilesField(forms.FileField):
    """Several files of one field, as a list; see Django's documentation, "Uploading multiple files"."""

    widget = FilesInput

    def clean(self, data: Any, initial: Any = None) -> list[UploadedFile]:
        files: Iterable[Any] = data if isinstance(data, list | tuple) else [data]
        return [file for file in (super(FilesField, self).clean(each) for each in files) if file]


def name_field() -> Any:
    return forms.CharField(
        max_length=Dataset._meta.get_field("name").max_length,
        help_text="What runs and charts call it; no other dataset of the project has it.",
    )


class FilesForm(forms.Form):
    """Files or pasted lines."""

    name = name_field()
    kind = forms.ChoiceField(
        label="What it holds",
        choices=[
            (DatasetKind.DEMONSTRATIONS, "Demonstrations: conversations whose answers are learnt"),
            (DatasetKind.TEXT, "Text: all of it is learnt"),
        ],
        initial=DatasetKind.DEMONSTRATIONS,
        widget=forms.RadioSelect,
    )
    file = FilesField(
        label="Files",
        required=False,
        help_text="One or several: JSON lines, CSV, Parquet, also packed with gzip; for text also .txt "
        "and .md.",
    )
    text = forms.CharField(
        label="Or paste",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}),
        help_text="As it would stand in such a file. Of text, whatever you paste.",
    )
    column = forms.CharField(
        label="Column of the text",
        required=False,
        max_length=200,
        help_text="In rows of text, if it is not called text.",
        widget=forms.TextInput(attrs={"spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        attrs = self.fields["file"].widget.attrs
        attrs |= {"data-max-bytes": settings.IMPORT_MAX_BYTES, "data-command": "import_dataset"}

    def clean(self) -> None:
        super().clean()
        has_files, has_text = (
            self.cleaned_data.get("file"),
            self.cleaned_data.get("text", "").strip(),
        )
        if bool(has_files) == bool(has_text) and "file" not in self.errors:
            self.add_error("file", "Choose files, or paste something: one of the two.")


class ExportForm(forms.Form):
    """The votes of an export."""

    name = name_field()
    export = forms.ModelChoiceField(Export.objects.none(), empty_label=None)
    taken = forms.ChoiceField(
        label="What of it",
        choices=[
            ("both", "Rewrites and best answers"),
            ("rewrites", "What annotators rewrote"),
            ("best", "The answers that did best"),
        ],
        initial="both",
        help_text="The best answer of a comparison beat more than half of the others; a tie for the "
        "first place gives none.",
    )

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        field: Any = self.fields["export"]
        field.queryset = project.exports.order_by("-pk")
        self.has_exports = field.queryset.exists()
