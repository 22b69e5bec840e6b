"""Filters as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from annotator.models import Judgment, Project, User

WORDS = {
    "first_round": "From round {}",
    "last_round": "Up to round {}",
    "since": "Votes from {}",
    "until": "Votes up to and with {}",
    "annotators": "Only votes of {}",
    "without": "No votes of {}",
    "guideline_versions": "Only votes by version {} of the guidelines",
    "sources": "Only answers from {}",
    "criteria": "Only votes that say something of {}",
    "min_rankings": "At least {} rankings of a comparison",
    "min_agreement": "Agreement of at least {}",
}


def filters_in_words(project: Project, filters: Mapping[str, Any]) -> Iterator[str]:
    """Of what a manifest says. Example: "Only votes of anna, bert"."""
    for name, words in WORDS.items():
        if name not in filters:
            continue
        value = filters[name]
        if name in ("annotators", "without"):
            value = _names(project, value)
        yield words.format(", ".join(map(str, value)) if isinstance(value, list) else value)


def _names(project: Project, pks: list[int]) -> list[str]:
    """Only of those who have judged here: a number alone must not tell a name of another project."""
    judges = Judgment.objects.filter(project=project, annotator__in=pks).order_by()
    found = User.objects.filter(pk__in=judges.values("annotator"))
    names = dict(found.values_list("pk", "username"))
    return [names.get(pk, f"annotator {pk}") for pk in pks]
