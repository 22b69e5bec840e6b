"""What an admin says of a prompt version: whose, which words, which examples, how long."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms

from annotator.models import Completion, Project, Prompt, Split
from rlhf.forms.fields import VersionField, version
from rlhf.models import DocumentCollection
from rlhf.prompting import PUT_AROUND, SHOWN, Draft, Judged, best_judged, why_not_around
from rlhf.training.prompting import MOST_PASSAGES, MOST_SHOTS, QUESTION, Prompting

QUESTIONS = 50  # to try the prompt on


def _text(label: str, help_text: str, rows: int, **more: Any) -> Any:
    return forms.CharField(
        label=label,
        help_text=help_text,
        max_length=50_000,
        strip=False,
        widget=forms.Textarea(attrs={"rows": rows, "dir": "auto"}),
        **more,
    )


def _whole(
    label: str, help_text: str, initial: int | None, high: int, low: int = 1, **more: Any
) -> Any:
    return forms.IntegerField(
        label=label, help_text=help_text, initial=initial, min_value=low, max_value=high, **more
    )


class QuestionField(forms.ModelChoiceField):
    def label_from_instance(self, prompt: Any) -> str:
        text = " ".join(prompt.messages[-1]["content"].split())
        return f"{text[:79]}…" if len(text) > 80 else text


class PromptForm(forms.Form):
    """The token, drawn when the form is shown, makes a form that is sent twice one version."""

    intro = "Instructions, examples and passages around each question: a candidate that needs no training."

    token = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)
    policy = version("Policy", "Who is asked: one that is here, or elsewhere.")
    name = forms.CharField(
        required=False,
        max_length=120,
        help_text="Empty: the policy's name with the number of this version.",
    )
    system = _text(
        "System message", "Before all else. A prompt's own system message follows it.", 3,
        required=False,
    )  # fmt: skip
    template = _text(
        "Template",
        f"How each question is put, those of the examples too. {QUESTION} stands for the question.",
        2,
        initial=QUESTION,
    )
    selection = forms.ChoiceField(
        label="Examples",
        choices=[
            ("hand", "By hand: those ticked below, in this order; none is fine"),
            ("random", "Random: drawn once from the best-judged answers"),
            ("similar", "Most similar: for each question those most like it, by BM25"),
        ],
        initial="hand",
        widget=forms.RadioSelect,
        help_text="They come from answers to training prompts that people put first; never from held-out ones.",
    )
    examples = forms.ModelMultipleChoiceField(
        Completion.objects.none(), label="Best-judged answers", required=False
    )
    shots = _whole(
        "So many examples", "For “random” and “most similar”.", Prompting.shots, MOST_SHOTS
    )
    seed = _whole("Seed", "For “random”: the same seed draws the same.", 0, 2**31 - 1, low=0)
    budget_tokens = _whole(
        "Token budget",
        "Of the whole prompt. What does not fit is left out: examples from the end, then passages. Empty: "
        f"{Prompting.budget_tokens:,}, or what leaves a smaller model room for an answer.",
        None,
        131_072,
        required=False,
    )
    collection = forms.ModelChoiceField(
        DocumentCollection.objects.none(),
        label="Documents",
        required=False,
        empty_label="None",
        help_text="Passages that are found for a question are quoted before it.",
    )
    passages = _whole("So many passages", "For each question.", Prompting.passages, MOST_PASSAGES)

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project = project
        self.label_suffix = ""
        versions = project.model_versions.filter(kind__in=PUT_AROUND)
        self._rows("policy", versions)
        policy = self.fields["policy"]
        assert isinstance(policy, VersionField)
        policy.versions, policy.why_not = project.model_versions.all(), why_not_around
        self._rows("collection", project.collections.all())
        answers = Completion.objects.filter(prompt__project=project, prompt__split=Split.TRAIN)
        self._rows("examples", answers)
        self.fields["examples"].error_messages["invalid_choice"] = (
            "Answer %(value)s is to a held-out prompt, which evaluations ask, or not of this project: choose "
            "answers to training prompts."
        )
        if self["policy"].initial is None:
            self.initial["policy"] = versions.first()

    def _rows(self, name: str, rows: Any) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = rows

    @property
    def draft(self) -> Draft:
        values = {name: self.cleaned_data[name] for name in Draft.__dataclass_fields__}
        return Draft(**{**values, "examples": self._ticked()})

    def _ticked(self) -> list[int]:
        """In the order in which the list has them, as they were sent."""
        kept = {completion.pk for completion in self.cleaned_data["examples"]}
        sent = self["examples"].data or []
        return [int(pk) for pk in dict.fromkeys(map(str, sent)) if int(pk) in kept]

    def candidates(self) -> list[tuple[Judged, bool]]:
        """What may be ticked, with whether it is: the ticked ones first, then the best judged."""
        chosen = [pk for pk in map(str, self["examples"].value() or []) if pk.isdecimal()]
        ticked = {int(pk): place for place, pk in enumerate(chosen)}
        own = best_judged(self.project, len(ticked), only=ticked) if ticked else []
        others = [
            each for each in best_judged(self.project, SHOWN) if each.completion.pk not in ticked
        ]
        own.sort(key=lambda each: ticked[each.completion.pk])
        return [*((each, True) for each in own), *((each, False) for each in others)]


class TrialForm(forms.Form):
    """On which question the prompt is shown."""

    question = QuestionField(
        Prompt.objects.none(), label="Shown for", required=False, empty_label=None,
        help_text="A held-out prompt, as evaluations ask it.",
    )  # fmt: skip

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        held_out = Prompt.objects.filter(project=project, split=Split.TEST).order_by("key")
        field = self.fields["question"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = held_out
        self.shown = list(held_out[:QUESTIONS])
        field.choices = [(prompt.pk, field.label_from_instance(prompt)) for prompt in self.shown]

    def prompt(self) -> Prompt | None:
        if self.is_bound and self.is_valid() and self.cleaned_data["question"]:
            return self.cleaned_data["question"]
        return self.shown[0] if self.shown else None
