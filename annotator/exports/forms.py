"""What an admin asks of an export on its page."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import Exists, OuterRef

from annotator.exporting import MAX_LICENCE
from annotator.exports.filters import Filters
from annotator.models import Judgment, Project, Ruling, User

DATE = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")


class ExportForm(forms.Form):
    """Conditions on votes, all optional; `filters()` is what they come to."""

    first_round = forms.IntegerField(label="From round", min_value=1, required=False)
    last_round = forms.IntegerField(label="Up to round", min_value=1, required=False)
    since = forms.DateField(label="Votes from", widget=DATE, required=False)
    until = forms.DateField(label="Votes up to and with", widget=DATE, required=False)
    annotators = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(), label="Only votes of", required=False
    )
    without = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(), label="No votes of", required=False
    )
    guideline_versions = forms.TypedMultipleChoiceField(
        coerce=int, label="Only votes by versions of the guidelines", required=False
    )
    sources = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}),
        required=False,
        help_text="One a line. Only comparisons all of whose answers come from these.",
    )
    criteria = forms.CharField(
        required=False,
        help_text="Their keys, with commas. Only votes that say something of one of these.",
    )
    min_rankings = forms.IntegerField(
        label="Fewest rankings of a comparison", min_value=1, required=False
    )
    min_agreement = forms.FloatField(
        label="Least agreement",
        min_value=0.5,
        max_value=1,
        required=False,
        widget=forms.NumberInput(attrs={"step": "0.05"}),
        help_text="0.5 to 1: the mean share, over the pairs of a comparison, that says what most "
        "say. A single vote agrees with itself: ask for two rankings as well.",
    )
    use_rulings = forms.BooleanField(
        label="Count each ruling of a reviewer as one more vote", required=False
    )
    licence = forms.CharField(
        label="Licence note",
        max_length=MAX_LICENCE,
        required=False,
        help_text="For whoever gets the files, CC BY 4.0 say. It stands in the manifest.",
    )

    # What stands beside the conditions, not among them.
    BESIDES = ("use_rulings", "licence")

    def __init__(self, project: Project, data: Any = None) -> None:
        super().__init__(data)
        judgments = Judgment.objects.filter(project=project, annotator=OuterRef("pk"))
        judges = User.objects.filter(Exists(judgments)).order_by("username")
        for name in ("annotators", "without"):
            self.fields[name].queryset = judges  # type: ignore[attr-defined]
        if project.guideline_version > 1:
            numbers = range(project.guideline_version, 0, -1)
            self.fields["guideline_versions"].choices = [(n, str(n)) for n in numbers]  # type: ignore[attr-defined]
        else:
            del self.fields["guideline_versions"]
        if not Ruling.objects.filter(project=project, voided=None).exists():
            del self.fields["use_rulings"]

    def conditions(self) -> list[forms.BoundField]:
        return [field for field in self if field.name not in self.BESIDES]

    def besides(self) -> list[forms.BoundField]:
        return [field for field in self if field.name in self.BESIDES]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                self.filters()
            except ValueError as error:
                self.add_error(None, str(error))
        return cleaned

    def filters(self) -> Filters:
        given = self.cleaned_data
        return Filters(
            first_round=given["first_round"],
            last_round=given["last_round"],
            since=given["since"],
            until=given["until"],
            annotators=_pks(given["annotators"]),
            without=_pks(given["without"]),
            guideline_versions=tuple(given.get("guideline_versions", ())),
            sources=tuple(filter(None, map(str.strip, given["sources"].splitlines()))),
            criteria=tuple(filter(None, map(str.strip, given["criteria"].split(",")))),
            min_rankings=given["min_rankings"],
            min_agreement=given["min_agreement"],
        )


def _pks(people: Any) -> tuple[int, ...]:
    return tuple(sorted(person.pk for person in people))
