"""The form of an import of a model, and what it says of a folder that holds none."""

from __future__ import annotations

from pathlib import Path

from django import forms

from rlhf.forms.base import RunForm
from rlhf.models import RunKind


class ImportModelForm(RunForm):
    kind = RunKind.IMPORT_MODEL
    intro = (
        "Makes a chat model the policy from which the loop starts. An encoder (BERT, RoBERTa, DeBERTa, …) "
        "or a classifier writes no text: it becomes a base that reward models can be trained on."
    )

    source = forms.ChoiceField(
        choices=[
            ("embedded", "SmolLM2-135M-Instruct, which comes with Preferendum"),
            ("hub", "The Hugging Face Hub"),
            ("folder", "A folder or a GGUF file on this machine"),
        ],
        initial="embedded",
        widget=forms.RadioSelect,
        help_text="The first is small enough to train on a laptop without a GPU.",
    )
    location = forms.CharField(
        label="Hub id or path",
        required=False,
        max_length=500,
        help_text="On the Hub owner/name, for a folder or a .gguf file its absolute path, otherwise "
        "nothing.",
    )

    def clean_location(self) -> str:
        source, location = self.cleaned_data.get("source"), self.cleaned_data["location"]
        if source in ("hub", "folder") and not location:
            raise forms.ValidationError("This source needs a Hub id or a path.")
        if source == "folder" and (complaint := complaint_about_folder(Path(location))):
            raise forms.ValidationError(complaint)
        return location if source in ("hub", "folder") else ""


def complaint_about_folder(source: Path) -> str:
    """Why this can be neither a model folder nor a GGUF file, as a sentence; empty if it can."""
    if not source.is_absolute():
        return f"“{source}” is not an absolute path: start it with a slash."
    try:
        return _complaint_about_content(source)
    except OSError as error:  # no permission, a name too long: pathlib passes these on
        return f"“{source}” cannot be read: {error.strerror}."


def _complaint_about_content(source: Path) -> str:
    if source.suffix == ".gguf":
        return "" if source.is_file() else f"There is no file “{source}” on this machine."
    if not source.is_dir():
        return f"There is no folder “{source}” on this machine."
    n_ggufs = len(list(source.glob("*.gguf")))
    if n_ggufs > 1 and not any(source.glob("*.safetensors")):
        return f"“{source}” holds several GGUF files: give the path of one of them."
    if not n_ggufs and not (source / "config.json").is_file():
        return (
            f"“{source}” holds neither a config.json nor a GGUF file: it is not the folder of a "
            "Hugging Face model."
        )
    return ""
