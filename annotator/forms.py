"""Shape and validity of what people send in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.contrib.auth.password_validation import password_validators_help_texts
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import QueryDict
from django.utils import timezone
from django.utils.text import slugify

from annotator.assignment import forget_order
from annotator.audit import Action, changes, record
from annotator.ballots import choices
from annotator.gold import exempt_who_has_judged
from annotator.guidelines import keep_current, publish
from annotator.models import (
    Comparison,
    Completion,
    Membership,
    Project,
    QueueOrder,
    Role,
    Ruling,
    User,
    Verdict,
)
from annotator.protocols import MANY, PRESETS, RATIONALES, Criterion, Protocol
from annotator.rendering import LETTERS, MAX_RENDERED
from annotator.screening import CHECKS
from annotator.tokens import Scope

RESERVED_SLUGS = {"new"}


class JudgmentForm(forms.Form):
    """Which showing a verdict is about. What it says is read by `ballots.read`, because its fields
    depend on the protocol of that showing."""

    assignment = forms.IntegerField()
    payload_hash = forms.CharField(max_length=64)
    shown = forms.CharField(required=False, max_length=200)


class UndoForm(forms.Form):
    judgment = forms.IntegerField()  # the one that the page offered to take back


class DifferencesForm(forms.Form):
    first = forms.CharField(required=False, strip=False, max_length=MAX_RENDERED)
    second = forms.CharField(required=False, strip=False, max_length=MAX_RENDERED)


class ReadForm(forms.Form):
    version = forms.IntegerField(min_value=1)  # of the guidelines, as the page showed them


class ProjectForm(forms.ModelForm):
    # The version of the guidelines that the form was filled in from, if it says so.
    based_on = forms.IntegerField(required=False, widget=forms.HiddenInput)
    screening = forms.MultipleChoiceField(
        required=False,
        choices=[(check.name, check.label) for check in CHECKS],
        widget=forms.CheckboxSelectMultiple,
        label="Hold back new comparisons in which",
        help_text="They are listed with the reason, and can be asked all the same. Where all answers "
        "were cut off, how they begin is compared; and evaluations ask about models as they answer.",
    )

    GROUPS = {
        "": ["name", "guidelines"],
        "Queue": ["overlap", "lease_minutes", "held_out_percent", "queue_order", "random_percent"],
        "Known answers and repetitions": ["gold_percent", "repeat_percent"],
        "Qualification": [
            "qualification_items", "qualification_percent", "qualification_shows_answers",
        ],
        "Before anybody is asked": ["screening", "near_identical_percent"],
    }  # fmt: skip

    class Meta:
        model = Project
        fields = [
            "name", "guidelines", "overlap", "lease_minutes", "held_out_percent", "queue_order",
            "random_percent", "gold_percent", "repeat_percent", "qualification_items",
            "qualification_percent", "qualification_shows_answers", "screening",
            "near_identical_percent",
        ]  # fmt: skip
        labels = {
            "overlap": "Judgments per comparison",
            "lease_minutes": "Lease (minutes)",
            "held_out_percent": "Held out (percent)",
            "queue_order": "Order of questions",
            "random_percent": "At random (percent)",
            "gold_percent": "Known answers (percent)",
            "repeat_percent": "Repetitions (percent)",
            "qualification_items": "Known answers before real work",
            "qualification_percent": "Right for a pass (percent)",
            "qualification_shows_answers": "Show the right answer after each verdict",
            "near_identical_percent": "Nearly identical from (percent)",
        }
        widgets = {"guidelines": forms.Textarea(attrs={"rows": 14})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["based_on"] = self.instance.guideline_version if self.instance.pk else None

    def clean_guidelines(self) -> str:
        """With plain line ends: browsers send others, and that is no new version."""
        return self.cleaned_data["guidelines"].replace("\r\n", "\n")

    def clean(self) -> dict[str, Any]:
        """A form that was open while somebody else saved does not take their guidelines back."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        current, based_on = self.initial["based_on"], cleaned.get("based_on")
        if "guidelines" not in cleaned or None in (current, based_on) or based_on == current:
            return cleaned
        stored = Project.objects.values_list("guidelines", flat=True).get(pk=self.instance.pk)
        seen = self.instance.guideline_versions.filter(number=based_on).first()
        if seen is not None and cleaned["guidelines"] == seen.text:
            cleaned["guidelines"] = stored  # something else was changed here
        elif cleaned["guidelines"] != stored:
            # Who saves again has read this.
            sent = cast(QueryDict, self.data).copy()
            sent["based_on"] = str(current)
            self.data = sent
            self.add_error(
                "guidelines",
                f"Version {current} has been saved since you opened this page. Below is your text: work "
                "the other one in (it is under “How they look, and all versions”), then save again.",
            )
        return cleaned

    def groups(self) -> list[tuple[str, list[forms.BoundField]]]:
        """Headings with their fields, for the page; what is in no group comes at the end."""
        groups = [(title, [self[name] for name in names]) for title, names in self.GROUPS.items()]
        grouped = {name for names in self.GROUPS.values() for name in names}
        shown = [field.name for field in self.visible_fields()]
        others = [self[name] for name in shown if name not in grouped]
        return [*groups, ("More", others)] if others else groups

    def clean_qualification_items(self) -> int:
        wanted: int = self.cleaned_data["qualification_items"]
        known = Comparison.objects.gold().filter(project=self.instance.pk).count() if wanted else 0
        if known < wanted:
            raise ValidationError(
                f"There {'is' if known == 1 else 'are'} {known} known answer"
                f"{'' if known == 1 else 's'} here, fewer than {wanted}: import some, or make them "
                "of judged comparisons, and then come back."
            )
        return wanted

    def create(self, author: User) -> Project:
        """A new project, and who makes it as its admin."""
        with transaction.atomic():
            project = self.save(author=author)
            Membership.objects.create(project=project, user=author, role=Role.ADMIN)
        return project

    @transaction.atomic
    def save(self, commit: bool = True, author: User | None = None) -> Project:
        """Always stored. A new project gets a slug from its name; a change of guidelines, a new version. An order
        of questions that is turned off is forgotten: the next one is made with a newer model."""
        is_new = not self.instance.pk
        if is_new:
            self.instance.slug = unused_slug(self.cleaned_data["name"])
        project = super().save(commit=is_new)
        if is_new:
            keep_current(project, author)
            record(author, Action.CREATED, project, project=project)
        else:
            settings = set(self.changed_data) - {"guidelines", "based_on"}
            said = {name: self.cleaned_data[name] for name in sorted(settings)}
            if changed := changes({name: self.initial.get(name) for name in settings}, said):
                record(author, Action.CHANGED, project, project=project, **changed)
            # Of the rest something may be written meanwhile: when the order was made, say.
            project.save(update_fields=settings)
            publish(project, self.cleaned_data["guidelines"], author)
        project.refresh_from_db()
        if "qualification_items" in self.changed_data and not self.initial["qualification_items"]:
            exempt_who_has_judged(project)
        if project.queue_order == QueueOrder.DRAWN and "queue_order" in self.changed_data:
            forget_order(project)
        return project


class PresetForm(forms.Form):
    preset = forms.ChoiceField(
        choices=[(key, preset.name) for key, preset in PRESETS.items()], widget=forms.RadioSelect
    )


class LinesField(forms.CharField):
    """Labels, one a line, as a tuple."""

    widget = forms.Textarea(attrs={"rows": 3})

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) or value is None else "\n".join(value)

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (super().to_python(value) or "").splitlines())
        return tuple(line for line in lines if line)


class CriteriaField(LinesField):
    """Lines as `key | name | question`, as a tuple of `Criterion`."""

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, str) or value is None:
            return value
        return "\n".join(f"{c.key} | {c.name} | {c.question}" for c in value)

    def to_python(self, value: Any) -> Any:
        return tuple(_criterion(line) for line in super().to_python(value))


def _criterion(line: str) -> Criterion:
    parts = [part.strip() for part in line.split("|", 2)]
    if len(parts) != 3:
        raise ValidationError(f"Write a key, a name and a question, with | between: not “{line}”.")
    try:
        return Criterion(*parts)
    except ValueError as error:
        raise ValidationError(f"{error}.") from error


class ProtocolForm(forms.Form):
    """A protocol by hand. Its fields are those of `Protocol`, which also checks them."""

    strengths = LinesField(
        label="Strengths of a preference",
        help_text="One to four, the weakest first, one a line, as words after “A” and “B”. "
        "With a single line strength is not asked.",
    )
    allow_tie = forms.BooleanField(required=False, label="Ties are allowed")
    allow_all_bad = forms.BooleanField(required=False, label="All answers may be called bad")
    all_bad_label = forms.CharField(
        required=False,
        label="What that is called",
        help_text="Empty: “Both bad”, or “All bad” of three and more.",
    )
    allow_unrankable = forms.BooleanField(
        required=False,
        label="Answers may be called unrankable",
        help_text="For a prompt or answers of which nobody can say which is better. It says nothing "
        "of the answers, and somebody else is asked.",
    )
    many = forms.ChoiceField(choices=list(MANY.items()), label="Three to nine answers")
    criteria = CriteriaField(
        required=False,
        label="Criteria asked for by themselves",
        help_text="One a line: a key for the export, a name and a question, as in "
        "“helpful | Helpful | Which answer helps more?”. "
        "Of three and more answers only the best is asked for.",
    )
    reasons = LinesField(
        required=False, label="Reasons to choose from", help_text="Up to nine, one a line."
    )
    rationale = forms.ChoiceField(choices=list(RATIONALES.items()), label="Reasons in words")
    rewrite = forms.BooleanField(
        required=False,
        label="The best answer may be rewritten",
        help_text="What people write is exported as demonstrations.",
    )
    flags = LinesField(
        required=False,
        label="Flags on an answer",
        help_text="Up to five, one a line: unsafe, personal data, broken, say.",
    )
    span_labels = LinesField(
        required=False,
        label="Labels of highlights",
        help_text="Up to five, one a line. With any, passages of answers can be marked.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                self.protocol = Protocol(**cleaned)
            except ValueError as error:
                raise ValidationError(f"{error}.") from error
        return cleaned


def unused_slug(name: str) -> str:
    """Example: "My Project" -> "my-project", or "my-project-2" where that is taken."""
    stem = slugify(name)[:50] or "project"
    taken = set(Project.objects.filter(slug__startswith=stem).values_list("slug", flat=True))
    taken |= RESERVED_SLUGS
    candidates = [stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))]
    return next(slug for slug in candidates if slug not in taken)


class NewMemberForm(forms.Form):
    username = forms.CharField(
        max_length=150,
        validators=User._meta.get_field("username").validators,
        help_text="Somebody who has an account here, or a new name: then an account is made.",
    )
    role = forms.ChoiceField(choices=Role.choices)


class MembershipForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices)
    is_qualified = forms.BooleanField(required=False)


class InvitationForm(forms.Form):
    role = forms.ChoiceField(choices=Role.choices)
    max_uses = forms.IntegerField(
        label="For how many people", initial=1, min_value=1, max_value=1000
    )
    days = forms.IntegerField(label="Valid for (days)", initial=7, min_value=1, max_value=365)


class TokenForm(forms.Form):
    name = forms.CharField(max_length=60, help_text="What it is for: “nightly export”, say.")
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        initial=[Scope.READ],
        widget=forms.CheckboxSelectMultiple,
        label="What it may be used for",
    )
    days = forms.IntegerField(label="Valid for (days)", initial=90, min_value=1, max_value=365)


class AccountForm(UserCreationForm):
    """A new account: name, and a password twice that Django's validators let pass."""

    class Meta:
        model = User
        fields = ["username"]
        help_texts = {"username": "Letters, digits and @ . + - _ only."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password1"].help_text = " ".join(password_validators_help_texts())
        self.fields["password2"].label = "The same password again"
        self.fields["password2"].help_text = ""


class RulingForm(forms.Form):
    """A reviewer's verdict on the completions of a comparison, in the order stored.

    `cleaned_data` has the `verdict` and its `ranking` of completion ids.
    """

    choice = forms.ChoiceField(label="Verdict")
    explanation = forms.CharField(
        required=False,
        max_length=5000,
        widget=forms.Textarea(attrs={"rows": 4, "dir": "auto"}),
        help_text="Why this is the right verdict.",
    )
    is_example = forms.BooleanField(
        required=False, label="Show it below the guidelines as a worked example"
    )

    def __init__(
        self, completions: Sequence[int], ruling: Ruling | None = None, data: Any = None
    ) -> None:
        self.completions = completions
        super().__init__(data, initial=self._initial(ruling) if ruling else None)
        choice = self.fields["choice"]
        assert isinstance(choice, forms.ChoiceField)
        if len(completions) == 2:
            choice.choices = [
                ("first", "A is better"),
                ("second", "B is better"),
                ("tie", "Both are equally good"),
                ("all_bad", "Both are bad"),
                ("unrankable", "They cannot be ranked"),
            ]
            return
        choice.choices = [
            ("rank", "Ranked as follows"),
            ("all_bad", "All are bad"),
            ("unrankable", "They cannot be ranked"),
        ]
        ranks = [("", "-"), *((str(n), str(n)) for n in range(1, len(completions) + 1))]
        for place in range(len(completions)):
            self.fields[f"rank-{place}"] = forms.ChoiceField(
                choices=ranks, required=False, label=f"Rank of {LETTERS[place]}"
            )
        self.order_fields(["choice", *self._rank_names()])

    def _rank_names(self) -> list[str]:
        return [f"rank-{place}" for place in range(len(self.completions))]

    def _initial(self, ruling: Ruling) -> dict[str, Any]:
        rank_of = {pk: rank for rank, group in enumerate(ruling.ranking, 1) for pk in group}
        ranks = [rank_of.get(pk, 0) for pk in self.completions]
        choice = ruling.verdict
        if ruling.verdict == Verdict.RANKING:
            choice = "rank"
            if len(ranks) == 2:
                choice = {(1, 2): "first", (2, 1): "second"}.get((ranks[0], ranks[1]), "tie")
        return {
            "choice": choice,
            "explanation": ruling.explanation,
            "is_example": ruling.is_example,
            **dict(zip(self._rank_names(), ranks, strict=True)),
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("is_example") and not (cleaned.get("explanation") or "").strip():
            self.add_error("explanation", "Say why: a worked example is there to explain.")
        if (choice := cleaned.get("choice")) == "rank":
            cleaned |= {"verdict": Verdict.RANKING, "ranking": self._ranking(cleaned)}
        elif choice:
            protocol = Protocol(allow_unrankable=True)
            offered = {each.value: each for each in choices(protocol, len(self.completions))}
            said = offered[choice]
            ranking = [[self.completions[place] for place in group] for group in said.places]
            cleaned |= {"verdict": said.verdict, "ranking": ranking}
        return cleaned

    def _ranking(self, cleaned: dict[str, Any]) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for name, pk in zip(self._rank_names(), self.completions, strict=True):
            if not cleaned.get(name):
                self.add_error(name, "Give every answer a rank; equal ranks are ties.")
                continue
            groups.setdefault(int(cleaned[name]), []).append(pk)
        return [groups[rank] for rank in sorted(groups)]


def plain_text(max_length: int, rows: int) -> forms.CharField:
    widget = forms.Textarea(attrs={"rows": rows, "dir": "auto"})
    return forms.CharField(max_length=max_length, widget=widget)


class CommentForm(forms.Form):
    text = plain_text(5000, rows=3)


class ProposalForm(forms.Form):
    text = plain_text(5000, rows=4)


class DeclineForm(forms.Form):
    reason = plain_text(2000, rows=2)


class WorkForm(forms.ModelForm):
    """How much a member may do, and whether they may."""

    class Meta:
        model = Membership
        fields = ["qualification", "quota_total", "quota_per_day"]
        labels = {"quota_total": "Quota in all", "quota_per_day": "Quota a day"}
        help_texts = {
            "qualification": "Not yet: they begin it anew, with known answers that they have not "
            "seen. Only asked for if the settings say so, and only of annotators."
        }


class PauseForm(forms.Form):
    note = forms.CharField(
        required=False,
        max_length=200,
        label="What annotators read",
        help_text="Why, and when it goes on. May be empty.",
    )


class MoveForm(forms.Form):
    """Empty: give it back to the queue."""

    to = forms.ModelChoiceField(
        User.objects.none(), required=False, empty_label="the queue", to_field_name="username"
    )

    def __init__(self, project: Project, data: Any = None, **kwargs: Any) -> None:
        super().__init__(data, **kwargs)
        self.fields["to"].queryset = User.objects.filter(memberships__project=project)  # type: ignore[attr-defined]


class PriorityForm(forms.Form):
    priority = forms.IntegerField(
        min_value=-100,
        max_value=100,
        help_text="Higher ones are asked first. Imports begin at 0, evaluations at 10.",
    )


class HoldForm(forms.Form):
    """The time is read by the clock of whoever wrote it, or by the server's where the page could not
    tell which zone that is."""

    reason = forms.CharField(max_length=200, help_text="As a sentence: others will read it.")
    until = forms.DateTimeField(
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text="Empty: until somebody ends it.",
    )
    zone = forms.CharField(
        required=False, max_length=60, widget=forms.HiddenInput(attrs={"data-zone": "zone-words"})
    )

    def full_clean(self) -> None:
        name = self.data.get(self.add_prefix("zone"), "")
        is_known = name and name in available_timezones()
        with timezone.override(ZoneInfo(name) if is_known else None):
            super().full_clean()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        zone = cleaned.get("zone")
        if cleaned.get("until") and zone and zone not in available_timezones():
            self.add_error(
                "until", f"The time zone {zone} is not known here: hold it without a time."
            )
        return cleaned

    def clean_until(self) -> datetime | None:
        until: datetime | None = self.cleaned_data["until"]
        if until is not None and until <= timezone.now():
            raise ValidationError("This time is over: choose a later one, or none.")
        return until


class GoldForm(forms.Form):
    """A rank from 1, the best, for each answer; equal ranks are ties."""

    explanation = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Why. Shown to annotators in their qualification, if the settings say so.",
    )

    def __init__(
        self,
        completions: Sequence[Completion],
        expected: Sequence[Sequence[int]],
        explanation: str = "",
        data: Any = None,
    ) -> None:
        """What is expected, a ranking of all completions or nothing, and why, fill the form in."""
        super().__init__(data, initial={"explanation": explanation}, auto_id="known_%s")
        self.completions = completions
        place = {pk: n for n, group in enumerate(expected, 1) for pk in group}
        ranks = [("", "-"), *((n, str(n)) for n in range(1, len(completions) + 1))]
        for letter, completion in zip(LETTERS, completions, strict=False):
            self.fields[f"rank-{completion.pk}"] = forms.TypedChoiceField(
                choices=ranks,
                coerce=int,
                initial=place.get(completion.pk),
                label=f"Rank of {letter}",
            )
        self.order_fields([f"rank-{completion.pk}" for completion in completions])

    def expected(self) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for completion in self.completions:
            groups.setdefault(self.cleaned_data[f"rank-{completion.pk}"], []).append(completion.pk)
        return [groups[rank] for rank in sorted(groups)]
