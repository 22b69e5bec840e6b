"""What a group of votes comes to, by three methods; shown beside the votes, never instead of them.

Majority counts heads. Dawid-Skene learns how often each person is right and weighs their votes by
it. The noisy Bradley-Terry model learns besides whether somebody prefers the place where an answer
stands. docs/quality.md has the references.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene
from scipy.optimize import minimize
from scipy.special import expit

from annotator.quality.coefficients import OUTCOMES
from annotator.quality.votes import Ballot, PairVotes
from annotator.rankings import outcomes_of, places_of

# Of the noisy Bradley-Terry model, in logits: people are taken to be attentive unless their votes
# say otherwise (0.88), and to have no preference for a side.
ATTENTION_PRIOR = 2.0

Pair = tuple[int, int, int]  # comparison, lower and higher completion id


class Opinion(NamedTuple):
    """A ranking and how much speaks for it: a share of votes, or a probability."""

    ranking: list[list[int]]  # empty: undecided
    support: float


# --- Dawid and Skene --------------------------------------------------------------------------
def dawid_skene(table: PairVotes) -> dict[int, np.ndarray]:
    """By pair that two or more have ranked: the probabilities (3,) that it is worse, a tie, better.

    Each pair is given to the model from both sides, so that no side is more probable beforehand.
    """
    pairs, counts = np.unique(table.pair, return_counts=True)
    shared = table.where(np.isin(table.pair, pairs[counts > 1]))
    if not len(shared.pair):
        return {}
    votes = pd.DataFrame(
        {
            "task": np.concatenate([2 * shared.pair, 2 * shared.pair + 1]),
            "worker": np.tile(shared.annotator, 2),
            "label": np.concatenate([shared.outcome, -shared.outcome]),
        }
    )
    with warnings.catch_warnings():  # crowd-kit 1.4 uses keywords that pandas 4 will drop
        warnings.simplefilter("ignore", DeprecationWarning)
        found = DawidSkene().fit_predict_proba(votes)
    found = found.reindex(columns=[-1, 0, 1], fill_value=0.0)
    return {
        int(task) // 2: row
        for task, row in zip(found.index, found.to_numpy(), strict=True)
        if task % 2 == 0
    }


# --- noisy Bradley and Terry ------------------------------------------------------------------
class NoisyScores(NamedTuple):
    scores: dict[int, float]  # by completion; only differences within a comparison mean something
    attention: dict[int, float]  # by annotator: the share of votes that look at the answers
    left: dict[int, float]  # by annotator: how often the left one wins in the others


class NoisyVotes(NamedTuple):
    """Votes on pairs as the model sees them."""

    first: np.ndarray  # (n,) places among the completions
    second: np.ndarray
    annotator: np.ndarray  # (n,) places among the annotators
    outcome: np.ndarray  # (n,) 1: the first; ½: a tie; 0: the second
    side: np.ndarray  # (n,) 1: the first was shown to the left of the second; -1: to the right
    n_completions: int
    n_annotators: int


def noisy_scores(table: PairVotes, ballots: Sequence[Ballot]) -> NoisyScores:
    """The most probable scores and habits.

    P(the first wins) = γ σ(s_first - s_second) + (1 - γ) σ(± q), with γ and q of the annotator; a
    tie is half a vote for each. crowd-kit 1.4 has this model too, but with gradients that are not
    those of its likelihood (of γ and q only the last vote's, and at another annotator's place).
    """
    if not len(table.pair):
        return NoisyScores({}, {}, {})
    completions, places = np.unique([table.first, table.second], return_inverse=True)
    first, second = places.reshape(2, -1)
    annotators, annotator = np.unique(table.annotator, return_inverse=True)
    votes = NoisyVotes(
        first,
        second,
        annotator,
        (table.outcome + 1) / 2,
        _sides(table, ballots),
        len(completions),
        len(annotators),
    )
    start = np.zeros(len(completions) + 2 * len(annotators))
    start[len(completions) :: 2] = ATTENTION_PRIOR
    found = minimize(noisy_loss, start, args=(votes,), jac=True, method="L-BFGS-B").x
    attention, left = expit(found[len(completions) :].reshape(-1, 2).T)
    return NoisyScores(
        dict(zip(completions.tolist(), found[: len(completions)].tolist(), strict=True)),
        dict(zip(annotators.tolist(), attention.tolist(), strict=True)),
        dict(zip(annotators.tolist(), left.tolist(), strict=True)),
    )


def noisy_loss(x: np.ndarray, votes: NoisyVotes) -> tuple[float, np.ndarray]:
    """The negative log-posterior and its gradient, at scores and then (γ, q) of each annotator.

    γ and q are logits. Beforehand all are normal with deviation 1, γ around ATTENTION_PRIOR and the
    others around 0.
    """
    scores, habits = x[: votes.n_completions], x[votes.n_completions :].reshape(-1, 2)
    gamma = expit(habits[:, 0])[votes.annotator]
    by_score = expit(scores[votes.first] - scores[votes.second])
    by_side = expit(votes.side * habits[votes.annotator, 1])
    p = np.clip(gamma * by_score + (1 - gamma) * by_side, 1e-12, 1 - 1e-12)
    likelihood = (votes.outcome * np.log(p) + (1 - votes.outcome) * np.log1p(-p)).sum()

    centred = x.copy()
    centred[votes.n_completions :: 2] -= ATTENTION_PRIOR
    of_p = votes.outcome / p - (1 - votes.outcome) / (1 - p)
    of_difference = of_p * gamma * by_score * (1 - by_score)
    of_gamma = of_p * gamma * (1 - gamma) * (by_score - by_side)
    of_q = of_p * (1 - gamma) * votes.side * by_side * (1 - by_side)
    gradient = -centred
    gradient[: votes.n_completions] += np.bincount(
        votes.first, of_difference, votes.n_completions
    ) - np.bincount(votes.second, of_difference, votes.n_completions)
    gradient[votes.n_completions :: 2] += np.bincount(votes.annotator, of_gamma, votes.n_annotators)
    gradient[votes.n_completions + 1 :: 2] += np.bincount(votes.annotator, of_q, votes.n_annotators)
    return float(-likelihood + (centred**2).sum() / 2), -gradient


def _sides(table: PairVotes, ballots: Sequence[Ballot]) -> np.ndarray:
    places = [{pk: place for place, pk in enumerate(ballot.order)} for ballot in ballots]
    columns = (column.tolist() for column in (table.ballot, table.first, table.second))
    return np.array(
        [
            1 if places[ballot][first] < places[ballot][second] else -1
            for ballot, first, second in zip(*columns, strict=True)
        ]
    )


# --- of each comparison -----------------------------------------------------------------------
def consensus(
    ballots: Sequence[Ballot],
    table: PairVotes,
    probabilities: Mapping[int, np.ndarray],
    scores: Mapping[int, float],
) -> dict[int, dict[str, Any]]:
    """By comparison with two votes or more: how many, and what each method makes of them."""
    of_pair = _by_pair(table, probabilities)
    return {
        comparison: {
            "n_votes": len(votes),
            "n_all_bad": sum(not vote.ranking for vote in votes),
            "majority": majority(votes)._asdict(),
            "dawid_skene": _opinion_of_pairs(comparison, votes, of_pair)._asdict(),
            "bradley_terry": _opinion_of_scores(votes, scores)._asdict(),
        }
        for comparison, votes in shared_ballots(ballots).items()
    }


def shared_ballots(ballots: Sequence[Ballot]) -> dict[int, list[Ballot]]:
    """By comparison, where two people or more have judged it."""
    of_comparison: dict[int, list[Ballot]] = defaultdict(list)
    for ballot in ballots:
        of_comparison[ballot.comparison].append(ballot)
    return {comparison: votes for comparison, votes in of_comparison.items() if len(votes) > 1}


def majority(votes: Sequence[Ballot]) -> Opinion:
    """What more than half of all votes say of each two completions, all-bad verdicts among them.

    Example: A > B, A > B, all bad -> A > B with 2/3.
    """
    said = Counter(item for vote in votes for item in vote.outcomes.items())
    shares: dict[tuple[int, int], np.ndarray] = defaultdict(lambda: np.zeros(OUTCOMES))
    for (pair, outcome), n in said.items():
        shares[pair][outcome + 1] = n / len(votes)
    return opinion(shares)


def opinion(weights: Mapping[tuple[int, int], np.ndarray]) -> Opinion:
    """The ranking of weights (3,) of worse, tie and better for each pair.

    Completions are ordered by how many others they are better than, less how many they are worse
    than (Copeland), by what has more than half of the weight; undecided if nothing has it anywhere.
    """
    wins: Counter[int] = Counter()
    is_decided = False
    for (first, second), of_pair in weights.items():
        leading = int(np.argmax(of_pair))
        has_half = of_pair[leading] > 0.5
        is_decided = is_decided or has_half
        wins[first] += (leading - 1) * has_half
        wins[second] -= (leading - 1) * has_half
    if not is_decided:
        return Opinion([], max((float(each.max()) for each in weights.values()), default=0.0))
    ranking = grouped(wins)
    implied = outcomes_of(ranking)
    support = np.mean([of_pair[implied[pair] + 1] for pair, of_pair in weights.items()])
    return Opinion(ranking, float(support))


def disagreement(votes: Sequence[Ballot]) -> float:
    """How unlike two votes drawn at random are, from 0 to almost 1: 0 if all say the same.

    With replacement, so that one against one (½) is as split as five against five, and more than
    one against two (4/9). A tie is half-way; that all are bad is unlike any ranking.
    """
    n_ranked = sum(bool(vote.ranking) for vote in votes)
    said = Counter(item for vote in votes for item in vote.outcomes.items())
    of_pairs = [
        2 * (said[pair, 1] * said[pair, -1] + said[pair, 0] * (said[pair, 1] + said[pair, -1]) / 2)
        for pair in {pair for pair, _ in said}
    ]
    opposed = float(np.mean(of_pairs)) if of_pairs else 0.0
    return (opposed + 2 * n_ranked * (len(votes) - n_ranked)) / len(votes) ** 2


def grouped(scores: Mapping[int, float]) -> list[list[int]]:
    """Best first, equals together. Example: {7: 1.0, 8: 2.0, 9: 1.0} -> [[8], [7, 9]]."""
    groups: dict[float, list[int]] = defaultdict(list)
    for pk, score in sorted(scores.items()):
        groups[score].append(pk)
    return [groups[score] for score in sorted(groups, reverse=True)]


def _by_pair(table: PairVotes, probabilities: Mapping[int, np.ndarray]) -> dict[Pair, np.ndarray]:
    columns = (table.comparison, table.first, table.second, table.pair)
    return {
        (comparison, first, second): probabilities[pair]
        for comparison, first, second, pair in zip(*(c.tolist() for c in columns), strict=True)
        if pair in probabilities
    }


def _opinion_of_pairs(
    comparison: int, votes: Sequence[Ballot], of_pair: Mapping[Pair, np.ndarray]
) -> Opinion:
    pairs = {pair for vote in votes for pair in vote.outcomes}
    known = {pair: of_pair[comparison, *pair] for pair in pairs if (comparison, *pair) in of_pair}
    return opinion(known)


def _opinion_of_scores(votes: Sequence[Ballot], scores: Mapping[int, float]) -> Opinion:
    ranked = {pk for vote in votes for pk in places_of(vote.ranking)}
    if not ranked:
        return Opinion([], 0.0)
    ranking = grouped({pk: round(scores[pk], 6) for pk in ranked})
    places = places_of(ranking)
    differences = [
        abs(scores[first] - scores[second])
        for first in places
        for second in places
        if first < second
    ]
    return Opinion(ranking, float(expit(differences).mean()))
