"""What a ranking says of each two answers. Rankings are tie groups of completion ids, best first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Ranking = Sequence[Sequence[int]]


def places_of(ranking: Ranking) -> dict[int, int]:
    """Example: [[7], [8, 9]] -> {7: 0, 8: 1, 9: 1}."""
    return {pk: place for place, group in enumerate(ranking) for pk in group}


def outcomes_of(ranking: Ranking, *, is_pick: bool = False) -> dict[tuple[int, int], int]:
    """Of each two completions, the lower id first: 1 if that is better, 0 if equal, -1 if worse.

    Who only picked the best (`is_pick`) has said nothing of the others among themselves.
    Example: [[8], [7, 9]] -> {(7, 8): -1, (7, 9): 0, (8, 9): 1}, as a pick without (7, 9).
    """
    places = places_of(ranking)
    return {
        (first, second): (places[second] > places[first]) - (places[second] < places[first])
        for first, second in combinations(sorted(places), 2)
        if not (is_pick and places[first] > 0 and places[second] > 0)
    }
