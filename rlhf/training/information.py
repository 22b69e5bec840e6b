"""How much a vote is expected to tell: pure functions of what the members of an ensemble score.

BALD (Houlsby et al. 2011, arXiv 1112.5745): the mutual information between the vote and the member
is the entropy of the mean prediction less the mean entropy of the predictions. It is high where the
members are sure and contradict each other, and 0 where all of them say the same, also if that is
"50:50": a vote on such a pair would only be noise. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple


class Information(NamedTuple):
    """Of a vote, in nats."""

    total: float  # what questions are ordered by
    disagreement: float  # of the members: the mutual information of vote and member


def sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def entropy(p: float) -> float:
    """H(p) of a coin, in nats: 0 at 0 and 1, log 2 at one half."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def expected_information(
    differences: Sequence[float], temperature: float = 1.0, closeness: float = 0.05
) -> Information:
    """Of a vote on a pair, given each member's score of the one completion less that of the other.

    With p_m = sigmoid(difference_m / temperature) the disagreement is H(mean p) - mean H(p), from 0
    to log 2. `closeness` · H(mean p) is added, which alone decides if there is one member.

    Example: differences of ±9 -> disagreement 0.69 (log 2 = 0.693); of 0 and 0 -> 0.0.
    """
    probabilities = [sigmoid(difference / temperature) for difference in differences]
    of_mean = entropy(fmean(probabilities))
    disagreement = max(0.0, of_mean - fmean(map(entropy, probabilities)))  # rounding may go below
    return Information(disagreement + closeness * of_mean, disagreement)


def most_informative(
    scores: Sequence[Sequence[float]], temperature: float = 1.0, closeness: float = 0.05
) -> Information:
    """Of a ranking, given the scores of its completions by each member: (members, completions).

    The most informative of its pairs stands for all of them. Their sum would put comparisons of
    many completions first because they are large, and they take as much longer to rank.
    """
    return max(
        expected_information([row[a] - row[b] for row in scores], temperature, closeness)
        for a, b in combinations(range(len(scores[0])), 2)
    )
