"""Which source of answers people prefer: Bradley-Terry, as votes are and with style taken out.

P(i beats j) = σ(β_i - β_j + γ · z), with z the difference in style of the two answers: length,
headers, list items and bold passages, each as (a - b) / (a + b) over its deviation. This is how
the Chatbot Arena controls for style (Li, Angelopoulos and Chiang 2024, "Does style matter?").
Without γ it is the model of Bradley and Terry (1952). A tie is half a win for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from annotator.quality.coefficients import (
    INTERVAL,
    MIN_FOR_INTERVAL,
    SEED,
    Estimate,
    estimate,
    mean,
)
from annotator.quality.votes import Answer, PairVotes

MAX_SOURCES = 20  # those with most votes
REPLICATES = 200
STYLE = ("n_characters", "n_headers", "n_list_items", "n_bold")
MEAN, SCALE = 1000, 400 / np.log(10)  # 400 points are odds of 10 to 1, as in chess

NO_VOTES = "No answers of two different sources have been ranked against each other yet."


class Battles(NamedTuple):
    """Votes on pairs of answers by different sources."""

    comparison: np.ndarray  # (n,) places among the comparisons
    one: np.ndarray  # (n,) places among the sources
    other: np.ndarray
    won: np.ndarray  # (n,) 1, ½ or 0: by `one`
    style: np.ndarray  # (n, 4) one's less the other's, in deviations
    sources: list[str]
    n_left_out: int  # sources with fewer votes


def battles_of(table: PairVotes, answers: Mapping[int, Answer]) -> Battles:
    """Of the sources with most votes."""
    firsts = [answers[pk] for pk in table.first.tolist()]
    seconds = [answers[pk] for pk in table.second.tolist()]
    n_votes = Counter(
        answer.source
        for pair in zip(firsts, seconds, strict=True)
        if pair[0].source != pair[1].source
        for answer in pair
    )
    sources = [source for source, _ in n_votes.most_common(MAX_SOURCES)]
    place = {source: number for number, source in enumerate(sources)}
    one = np.array([place.get(answer.source, -1) for answer in firsts], dtype=int)
    other = np.array([place.get(answer.source, -1) for answer in seconds], dtype=int)
    mask = (one != other) & (one >= 0) & (other >= 0)
    _, comparison = np.unique(table.comparison[mask], return_inverse=True)
    return Battles(
        comparison,
        one[mask],
        other[mask],
        (table.outcome[mask] + 1) / 2,
        _style_differences(firsts, seconds)[mask],
        sources,
        len(n_votes) - len(sources),
    )


def _style_differences(firsts: list[Answer], seconds: list[Answer]) -> np.ndarray:
    """(n, 4): (a - b) / (a + b) of each feature, over its deviation; 0 where neither has any."""
    if not firsts:
        return np.zeros((0, len(STYLE)))
    one, other = (
        np.array([[getattr(answer, name) for name in STYLE] for answer in each], dtype=float)
        for each in (firsts, seconds)
    )
    difference = (one - other) / np.maximum(one + other, 1)
    # From both sides the mean is 0, whichever of the two comes first.
    deviation = np.sqrt((difference**2).mean(0))
    return difference / np.where(deviation > 0, deviation, 1)


# --- the model --------------------------------------------------------------------------------
def design_of(battles: Battles, *, with_style: bool) -> np.ndarray:
    """(n, K) or (n, K + 4): 1 for `one`, -1 for the other; then the style."""
    rows = np.arange(len(battles.one))
    design = np.zeros((len(rows), len(battles.sources)))
    design[rows, battles.one] = 1
    design[rows, battles.other] = -1
    return np.hstack([design, battles.style]) if with_style else design


def fit(design: np.ndarray, won: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The coefficients of a logistic regression, by Newton's method.

    Each coefficient begins with one tie against an imaginary average: it keeps a source that has
    never lost at a finite strength, and counts no more than one vote.
    """
    beta = start
    for _ in range(50):
        p, imagined = expit(design @ beta), expit(beta)
        gradient = design.T @ (weight * (won - p)) + 0.5 - imagined
        hessian = (design.T * (weight * p * (1 - p))) @ design
        hessian[np.diag_indices_from(hessian)] += imagined * (1 - imagined)
        step = np.linalg.solve(hessian, gradient)
        # Far from the solution Newton's steps may overshoot.
        beta = beta + step / max(1.0, np.abs(step).max() / 2)
        if np.abs(step).max() < 1e-6:
            break
    return beta


def estimates(battles: Battles, *, with_style: bool) -> list[Estimate]:
    """Of each source, in points around 1000; and of each feature of style, if it is in the model.

    Intervals are percentiles over resampled comparisons.
    """
    design = design_of(battles, with_style=with_style)
    n, k = int(battles.comparison.max()) + 1, len(battles.sources)
    best = fit(design, battles.won, np.ones(len(design)), np.zeros(design.shape[1]))
    values = _in_points(best, k)
    if n < MIN_FOR_INTERVAL:
        return [Estimate(float(value), n=n) for value in values]
    generator = np.random.default_rng(SEED)
    replicates = []
    for _ in range(REPLICATES):
        drawn = np.bincount(generator.integers(0, n, n), minlength=n)[battles.comparison]
        replicates.append(_in_points(fit(design, battles.won, drawn, best), k))
    low, high = np.quantile(replicates, INTERVAL, axis=0)
    return [
        Estimate(*bounds, n)
        for bounds in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def _in_points(beta: np.ndarray, n_sources: int) -> np.ndarray:
    """Strengths in points around 1000; the coefficients of style as they are, in log-odds."""
    strengths = beta[:n_sources]
    points = MEAN + SCALE * (strengths - strengths.mean())
    return np.concatenate([points, beta[n_sources:]])


# --- the board --------------------------------------------------------------------------------
def leaderboard(battles: Battles) -> dict[str, Any]:
    """As JSON: `rows` best first, `matrix` in the same order, `style`, `groups`; or a `reason`."""
    if not len(battles.one):
        return {"rows": [], "n_left_out": 0, "reason": NO_VOTES}
    k = len(battles.sources)
    raw = estimates(battles, with_style=False)
    controlled = estimates(battles, with_style=True)
    order = sorted(range(k), key=lambda place: -(raw[place].value or 0))
    wins, n_battles = win_counts(battles)
    return {
        "reason": "",
        "n_left_out": battles.n_left_out,
        "rows": [
            {
                "source": battles.sources[place],
                "n_votes": int(n_battles[place].sum()),
                "wins": win_share(battles, place)._asdict(),
                "strength": raw[place]._asdict(),
                "controlled": controlled[place]._asdict(),
            }
            for place in order
        ],
        "matrix": [
            [
                {"share": wins[i, j] / n_battles[i, j], "n": int(n_battles[i, j])}
                if n_battles[i, j]
                else None
                for j in order
            ]
            for i in order
        ],
        "style": {
            name: figure._asdict() for name, figure in zip(STYLE, controlled[k:], strict=True)
        },
        "groups": [[battles.sources[place] for place in group] for group in groups_of(n_battles)],
    }


def win_counts(battles: Battles) -> tuple[np.ndarray, np.ndarray]:
    """(K, K): wins of the row over the column, a tie as half; and how many votes they are of."""
    k = len(battles.sources)
    wins, n_battles = np.zeros((k, k)), np.zeros((k, k))
    np.add.at(wins, (battles.one, battles.other), battles.won)
    np.add.at(wins, (battles.other, battles.one), 1 - battles.won)
    np.add.at(n_battles, (battles.one, battles.other), 1)
    np.add.at(n_battles, (battles.other, battles.one), 1)
    return wins, n_battles


def win_share(battles: Battles, place: int) -> Estimate:
    is_one, is_other = battles.one == place, battles.other == place
    won = is_one * battles.won + is_other * (1 - battles.won)
    rows = np.stack([won, (is_one | is_other).astype(float)], axis=1)
    sums = np.zeros((int(battles.comparison.max()) + 1, 2))
    np.add.at(sums, battles.comparison, rows)
    return estimate(mean, sums[sums[:, 1] > 0], NO_VOTES)


def groups_of(n_battles: np.ndarray) -> list[list[int]]:
    """Sources that are linked by votes, directly or through others."""
    n, label = connected_components(n_battles > 0, directed=False)
    return [np.flatnonzero(label == group).tolist() for group in range(n)]
