"""Annotators as a reward model sees them: numbers of its run's result, with people's names.

What the numbers are is in docs/reward-model.md, *Who is believed*.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from django.db.models import Exists, OuterRef

from annotator.exporting import RULING
from annotator.models import Judgment, Ruling, User
from rlhf.models import Run


class AnnotatorRow(NamedTuple):
    name: str
    n_votes: int
    reliability: float  # 1 is typical, 0 votes at random
    weight: float  # of a vote, 0 to 1
    first_shown: float  # how often the first shown of two equal answers is preferred
    twice_as_long: float  # how often the longer of two otherwise equal answers is


def annotators_of(run: Run) -> list[AnnotatorRow]:
    """The least reliable first; empty if the run's result does not tell of annotators."""
    found: dict[str, dict[str, Any]] = run.result.get("annotators") or {}
    if not found:
        return []
    # Only of those who have voted here: a number alone must not tell a name of another project.
    votes = Judgment.objects.filter(project=run.project, annotator=OuterRef("pk"))
    rulings = Ruling.objects.filter(project=run.project, reviewer=OuterRef("pk"))
    numbers = {number.removeprefix(RULING) for number in found}
    people = User.objects.filter(
        Exists(votes) | Exists(rulings), pk__in=[int(n) for n in numbers if n.isdecimal()]
    )
    names: dict[str, str] = {}
    for number, name in people.values_list("pk", "username"):
        names |= {str(number): name, f"{RULING}{number}": f"Rulings of {name}"}
    rows = [
        AnnotatorRow(
            name=names.get(number, f"Annotator {number}"),
            n_votes=values["n_votes"],
            reliability=values["reliability"],
            weight=values["weight"],
            first_shown=_share(values["position_bias"]),
            twice_as_long=_share(values["length_bias"] * math.log(2)),
        )
        for number, values in found.items()
    ]
    return sorted(rows, key=lambda row: (row.reliability, row.name))


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
