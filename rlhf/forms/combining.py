"""The form of the run that combines adapters."""

from __future__ import annotations

from typing import Any

from django import forms

from annotator.models import Project
from rlhf.combining import candidates, find_parts
from rlhf.downloads import base_of
from rlhf.forms.base import RunForm
from rlhf.forms.fields import decimal, seed
from rlhf.models import ModelVersion, RunKind
from rlhf.training.combine_config import CombineConfig, Part, format_parts, parse_parts
from rlhf.training.config_base import LONGEST_NAME

AT_FIRST = 2  # parts that the form suggests


class CombineForm(RunForm):
    kind = RunKind.COMBINE
    intro = (
        "Adds up LoRA adapters of one base with weights, and keeps the sum as a new policy, which people "
        "can judge like any other. Nothing is trained."
    )
    arguments = ("policy",)
    advanced = ("density", "rank", "seed")

    parts = forms.CharField(
        label="Parts",
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false"}),
        help_text="One a line: a weight, a space, the name of a policy. Weights need not add up to 1; one "
        "below 0 takes away what the policy learned.",
    )
    way = forms.ChoiceField(
        label="How they are added up",
        choices=[
            ("cat", "Side by side"),
            ("svd", "SVD"),
            ("linear", "Linear"),
            ("ties", "TIES"),
            ("ties_svd", "TIES, then SVD"),
            ("dare_linear", "DARE"),
            ("dare_linear_svd", "DARE, then SVD"),
            ("dare_ties", "DARE and TIES"),
            ("dare_ties_svd", "DARE and TIES, then SVD"),
            ("magnitude_prune", "Largest numbers"),
            ("magnitude_prune_svd", "Largest numbers, then SVD"),
        ],
        initial=CombineConfig.way,
        help_text="Side by side is exactly the weighted sum, and the ranks add up; SVD says it in one rank "
        "as well as it can. TIES and DARE leave out what contradicts or is small; without SVD they and "
        "“Linear” want adapters of one rank.",
    )
    name = forms.CharField(
        label="Name of the new policy",
        required=False,
        max_length=LONGEST_NAME,
        help_text="By this name answers, exports and other runs know it from then on. Empty: by its run.",
    )
    density = decimal(
        "Share that is kept",
        CombineConfig.density,
        "Of each part's numbers, by TIES, DARE and pruning.",
    )
    rank = forms.IntegerField(
        label="Rank",
        required=False,
        min_value=1,
        max_value=4096,
        help_text="Of the result, by SVD. Empty: the largest of the parts.",
    )
    seed = seed(CombineConfig.seed)

    base: ModelVersion  # of all parts, once the form is valid

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(project, *args, **kwargs)
        known = candidates(project)
        if isinstance(like := self.initial.get("parts"), list):
            self.initial["parts"] = format_parts(like)
        else:
            self.initial["parts"] = format_parts(_suggested(known, self.initial.get("policy")))
        names = ", ".join(version.name for version in known) or "none yet: train one first"
        self.fields["parts"].help_text += f" There are: {names}."

    def missing(self) -> list[str]:
        few = len(candidates(self.project)) < AT_FIRST
        return [*super().missing(), *(["Two policies that are adapters"] if few else [])]

    def clean_parts(self) -> list[Part]:
        try:
            parts = parse_parts(self.cleaned_data["parts"])
            self.base = base_of(find_parts(self.project, parts)[0].version)
        except ValueError as error:
            raise forms.ValidationError(f"This does not work: {error}.") from error
        return parts

    @property
    def named_arguments(self) -> dict[str, Any]:
        return {"token": self.cleaned_data["token"], "policy": self.base}


def _suggested(known: list[ModelVersion], asked: ModelVersion | None) -> list[Part]:
    """The policy that was asked for, if it can be a part, and the newest others of its base, all with
    the same weight."""
    first = asked if asked in known else next(iter(known), None)
    if first is None:
        return []
    base = base_of(first)
    others = [each for each in known if each != first and base_of(each) == base]
    chosen = [first, *others][:AT_FIRST]
    return [{"version": each.name, "weight": round(1 / len(chosen), 3)} for each in chosen]
