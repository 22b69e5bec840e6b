"""What more data would bring: a power law through the points of a learning curve.

    loss(n) = floor + scale · n^(-exponent)        Hestness et al. 2017, Kaplan et al. 2020

Four points and three unknowns say little, so the interval counts and not the number: it is where the law
goes when each point is moved at random within its own error (a parametric bootstrap). No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEAST_POINTS = 4
EXPONENTS = np.geomspace(0.02, 2.0, 80)
RESAMPLES = 400
AHEAD = (2, 4, 10)  # times the largest size
LINE_POINTS = 24
LEVEL = 0.95


class Law(NamedTuple):
    floor: np.ndarray  # (R,), at least 0
    scale: np.ndarray  # (R,), at least 0
    exponent: np.ndarray  # (R,)

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """(N,) -> (R, N)."""
        powers = sizes ** -self.exponent[:, None]
        return self.floor[:, None] + self.scale[:, None] * powers


def course_error(misses: Sequence[Sequence[float]], counts: Sequence[float]) -> float:
    """The standard error of a curve's points, less what all of them have in common.

    `misses`, (N, rows), is the loss of each size summed over each held-out row, and `counts`, (rows,), how many
    tokens or votes it is summed over. Every size is measured on the same rows, and how difficult these
    are moves all points alike: that says nothing of where the curve goes. One error for all points, because a few
    rows tell no more, and the first and the last would weigh least by themselves. 0 with fewer than two rows.
    """
    counted = np.asarray(counts, dtype=np.float64)
    rows = np.asarray(misses, dtype=np.float64)[:, counted > 0]
    counted = counted[counted > 0]
    n_sizes, n_rows = rows.shape
    if n_sizes < 2 or n_rows < 2:
        return 0.0
    off = rows - counted * (rows.sum(1) / counted.sum())[:, None]  # of the point's own mean
    off = off - off.mean(0)  # of what this row is at every size
    spread = (off**2).sum() * n_rows / (n_rows - 1) / (n_sizes - 1)
    return float(np.sqrt(spread) / counted.sum())


def forecast(
    sizes: Sequence[float], losses: Sequence[float], errors: Sequence[float], *, seed: int = 0
) -> dict[str, Any]:
    """The law through the points, and where it goes; or `reason`, a sentence why there is none.

    `errors` are the losses' standard errors (`course_error`), 0 where they are not known. Any share of mistakes, as 1 less
    an accuracy, may stand for the loss.

    Example: {"reason": "", "floor": 1.2, "scale": 3.4, "exponent": 0.5,
              "ahead": [{"factor": 2, "size": 200, "value": 1.44, "low": 1.4, "high": 1.5}, …],
              "line": [the same without the factor, from the smallest size to the last of `ahead`]}
    """
    n, y, error = (np.asarray(values, dtype=np.float64) for values in (sizes, losses, errors))
    if reason := why_not(n, y, error):
        return {"reason": reason}
    law = fit(n, y[None, :], error)
    residuals = y - law.at(n)[0]
    scatter = np.sqrt((residuals**2).sum() / max(len(n) - 3, 1))
    noise = np.random.default_rng(seed).standard_normal((RESAMPLES, len(n)))
    others = fit(n, y + noise * np.maximum(error, scatter), error)
    last = n.max()
    line = np.geomspace(n.min(), last * AHEAD[-1], LINE_POINTS)
    return {
        "reason": "",
        "floor": float(law.floor[0]),
        "scale": float(law.scale[0]),
        "exponent": float(law.exponent[0]),
        "ahead": [
            {"factor": factor, **point}
            for factor, point in zip(
                AHEAD, _points(law, others, last * np.asarray(AHEAD, float)), strict=True
            )
        ],
        "line": _points(law, others, line),
    }


def why_not(n: np.ndarray, y: np.ndarray, error: np.ndarray) -> str:
    """A sentence, or nothing if the law can be fitted."""
    if len(np.unique(n)) < LEAST_POINTS:
        return (
            f"A forecast needs {LEAST_POINTS} different sizes, and there are {len(np.unique(n))}."
        )
    if not (np.isfinite(y).all() and np.isfinite(error).all() and (n > 0).all()):
        return "A forecast needs points that are numbers."
    first, last = n.argmin(), n.argmax()
    chance = 1.96 * float(np.hypot(error[first], error[last]))
    if y[first] - y[last] <= chance:
        return (
            f"From {n[first]:,.0f} to {n[last]:,.0f} it did not get better by more than chance could "
            "make it: there is nothing to go on with."
        )
    return ""


def fit(n: np.ndarray, y: np.ndarray, error: np.ndarray) -> Law:
    """The law with the least squared error, weighted, for each row of y, (R, N).

    For each exponent the other two have a closed form; the best of a grid of exponents is taken, which
    cannot get stuck.
    """
    weight = 1 / error**2 if (error > 0).all() else np.ones_like(error)
    weight = weight / weight.sum()
    x = n ** -EXPONENTS[:, None]  # (C, N)
    x_mean, y_mean = x @ weight, y @ weight  # (C,), (R,)
    x_off = x - x_mean[:, None]
    slope = ((y - y_mean[:, None]) * weight) @ x_off.T / ((x_off**2) @ weight)  # (R, C)
    slope = np.maximum(slope, 0)
    floor = y_mean[:, None] - slope * x_mean
    is_below = floor < 0  # then the law goes to 0: through the origin
    through = np.maximum((y * weight) @ x.T / ((x**2) @ weight), 0)
    slope, floor = np.where(is_below, through, slope), np.where(is_below, 0, floor)
    missed = y[:, None, :] - floor[..., None] - slope[..., None] * x  # (R, C, N)
    best = ((missed**2) @ weight).argmin(1)
    rows = np.arange(len(y))
    return Law(floor[rows, best], slope[rows, best], EXPONENTS[best])


def _points(law: Law, others: Law, sizes: np.ndarray) -> list[dict[str, float]]:
    low, high = np.quantile(others.at(sizes), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    value = law.at(sizes)[0]
    return [
        {"size": float(s), "value": float(v), "low": float(min(a, v)), "high": float(max(b, v))}
        for s, v, a, b in zip(sizes, value, low, high, strict=True)
    ]


def forecast_accuracy(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same of a reward model's learning curve, in accuracies, by votes."""
    known = [point for point in curve if point["accuracy"] is not None]
    found = forecast(
        [point["n_votes"] for point in known],
        [1 - point["accuracy"] for point in known],
        [point["standard_error"] for point in known],
    )
    for points in (found.get("ahead", []), found.get("line", [])):
        for point in points:
            low, high = 1 - point["high"], 1 - point["low"]
            point.update(value=1 - point["value"], low=low, high=high)
    return found
