"""What people say of a file: which one it is, and how it is to be read and imported."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from annotator.formats.hub import ADDRESS
from annotator.imports.models import Import
from annotator.models import User

MAX_COLUMNS = 100  # to choose from
# What a column may be. The names are fields of an import file: docs/data-format.md.
FIELDS = {
    "prompt": "Prompt",
    "chosen": "Better answer",
    "rejected": "Worse answer",
    "completions": "Answers",
    "sources": "Models that wrote them",
    "scores": "Scores of the answers",
    "ranking": "Ranking of the answers",
    "annotator": "Who judged",
    "expected": "Right ranking, of a known answer",
    "explanation": "Why it is right",
}
OF_SEVERAL = {"completions", "sources", "scores"}


def check_hub_id(hub_id: str) -> None:
    if not ADDRESS.fullmatch(hub_id):
        raise ValidationError("Write it like OWNER/NAME or OWNER/NAME@test, and nothing before it.")


def check_judge(judge: str) -> None:
    """Nobody is to find votes that they never gave."""
    user = User.objects.filter(username=judge).first()
    if user and user.has_usable_password():
        raise ValidationError(
            f"{judge} is a person who signs in here. Name a user that stands for the file: "
            "a new name, or that of an earlier import."
        )


class SourceForm(forms.Form):
    """A file, pasted text, or a dataset on the hub: one of the three."""

    file = forms.FileField(
        required=False,
        help_text="JSON lines, CSV or TSV, or Parquet; also packed with gzip. A folder saved by "
        "“datasets” as a zip file.",
    )
    text = forms.CharField(
        required=False,
        strip=False,
        label="Or paste lines",
        help_text="As they would stand in such a file.",
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "class": "code"}),
    )
    hub_id = forms.CharField(
        required=False,
        max_length=200,
        label="Or a dataset on the hub",
        help_text="Its name on huggingface.co, like Anthropic/hh-rlhf; with @test for that split.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # So that a page can say at once what the server would say after an hour of sending.
        self.fields["file"].widget.attrs["data-max-bytes"] = settings.IMPORT_MAX_BYTES

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        return text if text.strip() else ""

    def clean_hub_id(self) -> str:
        hub_id: str = self.cleaned_data["hub_id"]
        if hub_id:
            check_hub_id(hub_id)
        return hub_id

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        given = [name for name in ("file", "text", "hub_id") if cleaned.get(name)]
        if len(given) != 1 and not self.errors:
            raise ValidationError("Choose a file, paste lines or name a dataset: one of the three.")
        return cleaned


class ChoicesForm(forms.Form):
    """How a file is to be imported. There is a select box for each field that a column may be."""

    overlap = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=100,
        label="Judgments per comparison",
        help_text="Empty: as the project's settings say.",
    )
    skip_bad_rows = forms.BooleanField(
        required=False,
        label="Skip bad rows",
        help_text="Otherwise one bad row is enough, and nothing is imported. "
        "What was skipped can be downloaded, with the reasons.",
    )
    judge = forms.CharField(
        required=False,
        max_length=150,
        label="Known choices become votes of",
        help_text="The name of a user that stands for the file; it is made, and cannot sign in. "
        "Empty: people are asked as if nothing was known.",
        validators=User._meta.get_field("username").validators,
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )

    def __init__(self, import_: Import, data: Any = None) -> None:
        initial: dict[str, Any] = {
            f"column-{field}": columns.split(",") if field in OF_SEVERAL else columns
            for field, columns in import_.mapping.items()
        }
        initial |= {name: getattr(import_, name) for name in ("overlap", "skip_bad_rows", "judge")}
        super().__init__(data, initial=initial)
        for field, label in FIELDS.items():
            columns = [(column, column) for column in import_.columns[:MAX_COLUMNS]]
            self.fields[f"column-{field}"] = (
                forms.MultipleChoiceField(
                    choices=columns,
                    label=label,
                    required=False,
                    widget=forms.CheckboxSelectMultiple,
                )
                if field in OF_SEVERAL
                else forms.ChoiceField(
                    choices=[("", "\u2013"), *columns], label=label, required=False
                )
            )

    def mapping_fields(self) -> list[forms.BoundField]:
        return [self[f"column-{field}"] for field in FIELDS]

    def option_fields(self) -> list[forms.BoundField]:
        return [self["overlap"], self["skip_bad_rows"], self["judge"]]

    def clean_judge(self) -> str:
        judge: str = self.cleaned_data["judge"]
        check_judge(judge)
        return judge

    def choices(self) -> dict[str, Any]:
        """What is chosen, as fields of an `Import`."""
        chosen = {field: self.cleaned_data[f"column-{field}"] for field in FIELDS}
        return {
            "overlap": self.cleaned_data["overlap"],
            "skip_bad_rows": self.cleaned_data["skip_bad_rows"],
            "judge": self.cleaned_data["judge"],
            "mapping": {
                field: columns if isinstance(columns, str) else ",".join(columns)
                for field, columns in chosen.items()
                if columns
            },
        }
