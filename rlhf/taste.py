"""What simulated annotators like, and how they depart from it. No Django: benchmarks vote with it too.

The taste is a formula, so it can be said afterwards what nobody can say of people: who was right.
"""

from __future__ import annotations

import math
import random
import re
from typing import NamedTuple

WORDS_PER_POINT = 6.0
POLITE = re.compile(r"\b(please|thanks?|sorry|welcome|glad|happy to|hope)\b", re.IGNORECASE)
TIE_POINTS = 0.7  # a smaller difference is not noticed: four words
SKIP_SHARE = 0.02


def taste(text: str) -> float:
    """What all simulated annotators truly like, in points: short answers, and a polite word.

    Example: 24 words with one "please" are worth 1 - 24 / 6 = -3.
    """
    return min(len(POLITE.findall(text)), 1) - len(text.split()) / WORDS_PER_POINT


class Manner(NamedTuple):
    """How a simulated person departs from the shared taste."""

    noise: float  # points: the scale of the logistic error
    position_bias: float  # points that the left answer gains by being on the left
    is_saboteur: bool = False  # votes the wrong way round


def draw_manner(rng: random.Random, *, is_saboteur: bool = False) -> Manner:
    """Somebody's, as people differ."""
    return Manner(rng.uniform(0.2, 0.6), rng.uniform(-0.1, 0.3), is_saboteur)


def judge(manner: Manner, texts: list[str], rng: random.Random) -> list[list[int]] | None:
    """The ranking of two texts, left to right, as tie groups of 0 and 1; None to skip them.

    P(left is better) = 1 / (1 + exp(-(taste difference + bias) / noise)).
    """
    if rng.random() < SKIP_SHARE:
        return None
    difference = taste(texts[0]) - taste(texts[1])
    if abs(difference) < TIE_POINTS:
        return [[0, 1]]
    seen = (-difference if manner.is_saboteur else difference) + manner.position_bias
    left_wins = rng.random() < 1 / (1 + math.exp(-seen / manner.noise))
    return [[0], [1]] if left_wins else [[1], [0]]
