"""Coefficients of agreement with bootstrap intervals, as pure arithmetic.

Every figure here is computed from sums over comparisons. So what each comparison adds is computed
once, as a row of numbers; a resample of comparisons is a weighted sum of these rows, and hundreds
of resamples are one product of matrices.

Which of two completions comes first is arbitrary. Every pair is therefore counted from both
sides, or else the figures would depend on it. docs/quality.md has formulas and references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from annotator.quality.votes import PairVotes

REPLICATES = 500
BATCH = 50  # replicates that are in memory at once
SEED = 0
INTERVAL = (0.025, 0.975)
MIN_FOR_INTERVAL = 10  # comparisons; resamples of fewer say little
OUTCOMES = 3  # worse, tie, better

Figure = Callable[[np.ndarray], np.ndarray]  # sums (R, S) -> values (R,), NaN where undefined


class Estimate(NamedTuple):
    """A figure with its 95 % interval; None and a reason where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0  # comparisons (or votes, where it says so) that it rests on
    reason: str = ""


NOBODY_SHARES = "No comparison has been ranked by two people yet."
ALL_TIES = "All rankings are ties, so nothing could tell agreement from chance."


def estimate(
    figure: Figure, added: np.ndarray | csr_array, nothing: str, no_variation: str = ""
) -> Estimate:
    """The figure of all comparisons, and percentiles of it over resampled comparisons.

    `added` (C, S) is what each comparison adds to the sums. `nothing` is the reason if there is
    no comparison, `no_variation` if the figure is undefined all the same.
    """
    n = added.shape[0]
    if not n:
        return Estimate(None, reason=nothing)
    value = float(figure(np.ones((1, n)) @ added)[0])
    if np.isnan(value):
        return Estimate(None, n=n, reason=no_variation)
    if n < MIN_FOR_INTERVAL:
        return Estimate(value, n=n)
    replicates = np.concatenate([figure(sums) for sums in resampled_sums(added)])
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < REPLICATES / 2:
        return Estimate(value, n=n)
    low, high = np.quantile(defined, INTERVAL)
    return Estimate(value, float(low), float(high), n)


def resampled_sums(added: np.ndarray | csr_array) -> Iterator[np.ndarray]:
    """(R, S), some R at a time: sums over as many comparisons as there are, drawn with replacement.

    Comparisons that add the same are drawn together, by how many they are.
    """
    n = added.shape[0]
    rows, counts = added, np.ones(n)
    if isinstance(added, np.ndarray):
        rows, counts = np.unique(added, axis=0, return_counts=True)
    generator = np.random.default_rng(SEED)
    for start in range(0, REPLICATES, BATCH):
        size = min(BATCH, REPLICATES - start)
        yield generator.multinomial(n, counts / n, size=size) @ rows  # (R, U) @ (U, S)


def summed_by(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(C, S): the rows (n, S) of each key added up, in the order of the keys."""
    unique, place = np.unique(keys, return_inverse=True)
    sums = np.zeros((len(unique), rows.shape[1]))
    np.add.at(sums, place, rows)
    return sums


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(denominator) > 1e-12, numerator / denominator, np.nan)


def mean(sums: np.ndarray) -> np.ndarray:
    """Sums (R, 2) of values and of how many they are."""
    return _divide(sums[:, 0], sums[:, 1])


# --- counts of votes on pairs -----------------------------------------------------------------
def shared_counts(table: PairVotes) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair that two or more have ranked: its comparison (P,), and how many said -1, 0 and
    1 (P, 3)."""
    _, start, place = np.unique(table.pair, return_index=True, return_inverse=True)
    counts = np.zeros((len(start), OUTCOMES))
    np.add.at(counts, (place, table.outcome + 1), 1)
    is_shared = counts.sum(1) > 1
    return table.comparison[start][is_shared], counts[is_shared]


# --- Krippendorff's alpha ---------------------------------------------------------------------
def coincidences(counts: np.ndarray) -> np.ndarray:
    """(P, K²): what each unit, with counts (P, K) of values, adds to the matrix of coincidences.

    o_ck = n_c (n_k - [c = k]) / (m - 1), with m values in the unit.
    """
    k = counts.shape[1]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(k)
    return pairs.reshape(-1, k * k) / (counts.sum(1, keepdims=True) - 1)


def alpha_nominal(sums: np.ndarray) -> np.ndarray:
    return _alpha(sums, is_ordinal=False)


def alpha_ordinal(sums: np.ndarray) -> np.ndarray:
    return _alpha(sums, is_ordinal=True)


def _alpha(sums: np.ndarray, *, is_ordinal: bool) -> np.ndarray:
    """1 - D_o / D_e of coincidences (R, K²), K values in their order."""
    k = int(np.sqrt(sums.shape[1]))
    coincidence = sums.reshape(-1, k, k)
    n_values = coincidence.sum(2)  # (R, K)
    n = n_values.sum(1)
    distance = _ordinal(n_values) if is_ordinal else 1 - np.eye(k)
    observed = (coincidence * distance).sum((1, 2))
    expected = (n_values[:, :, None] * n_values[:, None, :] * distance).sum((1, 2))
    return 1 - _divide(observed * (n - 1), expected)


def _ordinal(n_values: np.ndarray) -> np.ndarray:
    """(R, K, K): (sum of n_g for g from c to k, less (n_c + n_k) / 2)²; 0 on the diagonal."""
    # The middle of each value on the line of all values; its distance to another's is that sum.
    middle = np.cumsum(n_values, axis=1) - n_values / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


# --- kappas -----------------------------------------------------------------------------------
def fleiss_statistics(counts: np.ndarray) -> np.ndarray:
    """(P, K + 2): agreement in each unit with counts (P, K), its shares of values, and a 1."""
    m = counts.sum(1, keepdims=True)
    agreement = ((counts**2).sum(1, keepdims=True) - m) / (m * (m - 1))
    return np.hstack([agreement, counts / m, np.ones_like(m)])


def fleiss_kappa(sums: np.ndarray) -> np.ndarray:
    """(P̄ - P̄_e) / (1 - P̄_e) of sums (R, K + 2)."""
    means = _divide(sums, sums[:, -1:])
    observed, expected = means[:, 0], (means[:, 1:-1] ** 2).sum(1)
    return _divide(observed - expected, 1 - expected)


def cohens_kappa(sums: np.ndarray) -> np.ndarray:
    """(p_o - p_e) / (1 - p_e) of contingency tables (R, K²) of two people."""
    k = int(np.sqrt(sums.shape[1]))
    table = sums.reshape(-1, k, k)
    n = table.sum((1, 2))
    observed = _divide(np.trace(table, axis1=1, axis2=2), n)
    expected = _divide((table.sum(1) * table.sum(2)).sum(1), n**2)
    return _divide(observed - expected, 1 - expected)


def mean_of_kappas(sums: np.ndarray) -> np.ndarray:
    """Mean of Cohen's kappa of each two people, by how many pairs both have ranked.

    Of sums (R, 4 P): of each two, on how many pairs they met, said the same, one said tie, the other
    did. Seen from both sides, whoever says no tie says -1 and 1 equally often.
    """
    n, same, one_tied, other_tied = sums.reshape(len(sums), -1, 4).transpose(2, 0, 1)
    observed, one, other = _divide(same, n), _divide(one_tied, n), _divide(other_tied, n)
    expected = one * other + (1 - one) * (1 - other) / 2
    kappas = _divide(observed - expected, 1 - expected)
    weights = np.where(np.isnan(kappas), 0, n)
    return _divide((weights * np.nan_to_num(kappas)).sum(1), weights.sum(1))


# --- who has ranked the same pairs ------------------------------------------------------------
class Meetings(NamedTuple):
    """Each two votes of different people on the same pair of completions."""

    comparison: np.ndarray  # (n,)
    one: np.ndarray  # (n,) annotators; `one` is the lower number
    other: np.ndarray
    says_one: np.ndarray  # (n,) outcomes
    says_other: np.ndarray

    def where(self, mask: np.ndarray) -> Meetings:
        return Meetings._make(column[mask] for column in self)


def meetings(table: PairVotes) -> Meetings:
    found = []
    lag = 1
    # Rows of a pair stand together: each meets the next, the one after that, and so on.
    while (same := table.pair[lag:] == table.pair[:-lag]).any():
        columns = [
            np.stack([column[:-lag][same], column[lag:][same]])
            for column in (table.annotator, table.outcome)
        ]
        first_is_one = columns[0][0] < columns[0][1]
        ordered = [np.where(first_is_one, column, column[::-1]) for column in columns]
        found.append(np.vstack([table.comparison[lag:][same], *ordered]))
        lag += 1
    return Meetings._make(np.hstack(found) if found else np.zeros((5, 0), dtype=np.int64))


def contingency(met: Meetings) -> np.ndarray:
    """(n, 9): a 1 for what the two said, counted from both sides."""
    rows = np.zeros((len(met.one), OUTCOMES, OUTCOMES))
    places = np.arange(len(met.one))
    rows[places, met.says_one + 1, met.says_other + 1] += 1
    rows[places, 1 - met.says_one, 1 - met.says_other] += 1
    return rows.reshape(-1, OUTCOMES**2)


def met_by_two(met: Meetings) -> csr_array:
    """(C, 4 P): what each comparison adds to the sums of `mean_of_kappas`.

    Sparse, for of all who meet somewhere only a few meet in one comparison.
    """
    _, comparison = np.unique(met.comparison, return_inverse=True)
    two, place = np.unique(np.stack([met.one, met.other]), axis=1, return_inverse=True)
    said = [
        np.ones(len(comparison)),
        met.says_one == met.says_other,
        met.says_one == 0,
        met.says_other == 0,
    ]
    columns = 4 * place.ravel() + np.arange(4)[:, None]
    rows = np.broadcast_to(comparison, columns.shape)
    shape = (comparison.max(initial=-1) + 1, 4 * two.shape[1])
    return csr_array((np.stack(said).ravel(), (rows.ravel(), columns.ravel())), shape=shape)


def agreement_shares(met: Meetings) -> np.ndarray:
    """(n,): 1 the same, ½ a tie against a preference, 0 opposites."""
    return 1 - np.abs(met.says_one - met.says_other) / 2


def kendall_statistics(met: Meetings) -> np.ndarray:
    """(C, 2): of each comparison of three or more, the sum of tau-b over each two people, and of
    how many two.

    tau-b of two rankings = Σ ab / √(Σ a² · Σ b²) over all pairs, with what each says of the pair,
    -1, 0 or 1. Undefined, and left out, where one of them has all in one tie.
    """
    who = np.stack([met.comparison, met.one, met.other], axis=1)
    _, start, place = np.unique(who, axis=0, return_index=True, return_inverse=True)
    said = np.stack(
        [met.says_one * met.says_other, met.says_one**2, met.says_other**2, np.ones(len(who))],
        axis=1,
    )
    sums = np.zeros((len(start), 4))
    np.add.at(sums, place.ravel(), said)
    tau = _divide(sums[:, 0], np.sqrt(sums[:, 1] * sums[:, 2]))
    is_defined = (sums[:, 3] > 1) & ~np.isnan(tau)
    rows = np.stack([tau, np.ones(len(tau))], axis=1)[is_defined]
    return summed_by(met.comparison[start][is_defined], rows)


# --- the figures of a table -------------------------------------------------------------------
def alpha(table: PairVotes, figure: Figure = alpha_ordinal) -> Estimate:
    comparison, counts = shared_counts(table)
    added = coincidences(counts) + coincidences(counts[:, ::-1])
    return estimate(figure, summed_by(comparison, added), NOBODY_SHARES, ALL_TIES)


def fleiss(table: PairVotes) -> Estimate:
    comparison, counts = shared_counts(table)
    added = fleiss_statistics(counts) + fleiss_statistics(counts[:, ::-1])
    return estimate(fleiss_kappa, summed_by(comparison, added), NOBODY_SHARES, ALL_TIES)


def cohen(met: Meetings) -> Estimate:
    """Of two people, given what they met on."""
    added = summed_by(met.comparison, contingency(met))
    return estimate(cohens_kappa, added, "They have ranked no comparison in common.", ALL_TIES)


def pairwise_cohen(met: Meetings) -> Estimate:
    """Of all who met, two by two."""
    return estimate(mean_of_kappas, met_by_two(met), NOBODY_SHARES, ALL_TIES)


def kendall(met: Meetings) -> Estimate:
    return estimate(
        mean,
        kendall_statistics(met),
        "No comparison of three or more answers has been ranked by two people yet.",
    )
