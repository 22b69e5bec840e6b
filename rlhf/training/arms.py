"""Does asking the informative questions first pay? The two arms at equal numbers of votes. No torch.

A model is trained on the first votes of each arm alone, in the order in which they were given, and
measured on the same held-out votes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rlhf.training.data import Pair, n_votes

ACTIVE, RANDOM = "active", "random"
VOTES = 100  # a point of the comparison every so many
MOST_POINTS = 5  # of each arm: each costs a training


class Part(NamedTuple):
    """The first votes of one arm."""

    arm: str
    n_votes: int
    places: list[int]  # of its pairs among all


# Accuracy on held-out pairs after learning from a part, and its interval; None thrice if unknown.
TrainAndMeasure = Callable[[Part], tuple[float | None, float | None, float | None]]


def compare_arms(parts: Iterable[Part], train_and_measure: TrainAndMeasure) -> list[dict[str, Any]]:
    """For each part `{"arm", "n_votes", "accuracy", "accuracy_low", "accuracy_high"}`."""
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return [
        {
            "arm": part.arm,
            "n_votes": part.n_votes,
            **dict(zip(names, train_and_measure(part), strict=True)),
        }
        for part in parts
    ]


def arm_parts(pairs: Sequence[Pair]) -> list[Part]:
    """The parts to learn from, the smallest first, equally large ones of both arms.

    Only pairs for training that are in an arm count. Empty if one of the arms has fewer than VOTES
    votes.
    """
    in_order = sorted(range(len(pairs)), key=lambda place: pairs[place].first_vote)
    arms = {
        arm: [p for p in in_order if pairs[p].arm == arm and pairs[p].split == "train"]
        for arm in (ACTIVE, RANDOM)
    }
    fewest = min(n_votes(pairs[place] for place in places) for places in arms.values())
    return [
        Part(arm, n, _first_votes(pairs, places, n))
        for n in points(fewest)
        for arm, places in arms.items()
    ]


def _first_votes(pairs: Sequence[Pair], places: Sequence[int], most: int) -> list[int]:
    """From the beginning, those that have no more than so many votes together; all pairs of a
    comparison or none."""
    chosen: list[int] = []
    for _, of_comparison in groupby(
        places, key=lambda place: pairs[place].comparison or -place - 1
    ):
        added = list(of_comparison)
        most -= n_votes(pairs[place] for place in added)
        if most < 0:
            break
        chosen += added
    return chosen


def points(n_votes: int) -> list[int]:
    """Every VOTES votes; of many such points MOST_POINTS, with the last one.

    Example: 350 -> [100, 200, 300]; 1250 -> [300, 600, 900, 1200].
    """
    n = n_votes // VOTES
    every = math.ceil(n / MOST_POINTS) or 1
    return [VOTES * number for number in range(n % every or every, n + 1, every)]


# --- reading the result -----------------------------------------------------------------------
def final_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The random arm's, at its most votes; None if there is none, or nothing was held out."""
    of_random = [row for row in rows if row["arm"] == RANDOM and row["accuracy"] is not None]
    return max(of_random, key=lambda row: row["n_votes"], default=None)


def votes_needed(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """With how many votes the active arm first was as good as the random arm at its end; None if
    it never was."""
    final = final_row(rows)
    if final is None:
        return None
    of_active = [row for row in rows if row["arm"] == ACTIVE and row["accuracy"] is not None]
    reached = [row["n_votes"] for row in of_active if row["accuracy"] >= final["accuracy"]]
    return min(reached, default=None)
