"""The form of the run that lets a sentence encoder find passages."""

from __future__ import annotations

from typing import Any

from django import forms

from annotator.models import Project
from rlhf.forms.base import RunForm
from rlhf.forms.fields import batch_size, whole
from rlhf.models import DocumentCollection, RunKind
from rlhf.training.index_config import IndexConfig


class IndexForm(RunForm):
    kind = RunKind.INDEX
    intro = (
        "Lets a sentence encoder find passages by their meaning instead of their words. It makes the next version "
        "of the collection, with an embedding of each passage and its own copy of the encoder."
    )
    advanced = ("query_prefix", "passage_prefix", "max_tokens", "batch_size")

    collection = forms.ModelChoiceField(
        DocumentCollection.objects.none(), label="Documents", empty_label=None
    )
    encoder = forms.CharField(
        max_length=500,
        widget=forms.TextInput(
            attrs={"placeholder": "sentence-transformers/all-MiniLM-L6-v2", "spellcheck": "false"}
        ),
        help_text="A folder on the trainer's machine with an encoder in safetensors, or its name on the hub.",
    )
    query_prefix = forms.CharField(
        label="Before each question", required=False, max_length=200, strip=False,
        help_text="Some encoders were trained with one, as E5 with “query: ”.",
    )  # fmt: skip
    passage_prefix = forms.CharField(
        label="Before each passage", required=False, max_length=200, strip=False,
        help_text="As E5 with “passage: ”.",
    )  # fmt: skip
    max_tokens = whole(
        "Longest text", IndexConfig.max_tokens, "Tokens; of longer passages the end is not read.",
        high=32_768,
    )  # fmt: skip
    batch_size = batch_size(IndexConfig.batch_size)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        asked = self.initial["collection"]
        if isinstance(asked, str):  # as a run's configuration names it
            self.initial["collection"] = project.collections.filter(path=asked).first()

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "collection": self.cleaned_data["collection"].pk}
