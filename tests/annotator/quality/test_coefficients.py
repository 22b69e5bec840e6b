"""Coefficients by hand, against libraries, and against published tables."""

from itertools import combinations

import krippendorff
import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa as statsmodels_cohen
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from annotator.quality import coefficients
from annotator.quality.coefficients import (
    ALL_TIES,
    NOBODY_SHARES,
    Estimate,
    alpha,
    alpha_nominal,
    alpha_ordinal,
    cohen,
    cohens_kappa,
    coincidences,
    estimate,
    fleiss,
    fleiss_kappa,
    fleiss_statistics,
    kendall,
    mean,
    mean_of_kappas,
    meetings,
    met_by_two,
    pairwise_cohen,
    resampled_sums,
    shared_counts,
)

A, B, TIE = [[1], [2]], [[2], [1]], [[1, 2]]
NONE = 0

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: 4 people, 12 units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
)
# Fleiss 1971, "Measuring nominal scale agreement among many raters": 30 patients, 6 diagnoses each.
FLEISS = [
    "444444", "222555", "233335", "555555", "222444", "113333", "333355", "113334", "114444",
    "555555", "144444", "124444", "222333", "144444", "224445", "333335", "111455", "111112",
    "224444", "133555", "555555", "244444", "224555", "114444", "144445", "222224", "111155",
    "224444", "133333", "555555",
]  # fmt: skip
# Cohen 1960, "A coefficient of agreement for nominal scales", table 1.
COHEN = [[0.44, 0.07, 0.09], [0.05, 0.20, 0.05], [0.01, 0.03, 0.06]]


def drawn(n_comparisons, n_annotators, completions=(1, 2), seed=0):
    """Random rankings with ties, a quarter missing; people lean towards the same order."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(n_comparisons):
        quality = generator.normal(size=len(completions))
        rows.append([])
        for _ in range(n_annotators):
            seen = np.round(quality + generator.normal(size=len(completions)))
            levels = sorted(set(seen), reverse=True)
            ranking = [[pk for pk, of in zip(completions, seen, strict=True) if of == level]
                       for level in levels]  # fmt: skip
            rows[-1].append(ranking if generator.random() < 0.75 else None)
    return rows


def counted(units):
    """(units, values): how often each value was given to each unit."""
    return np.array([[(unit == value).sum() for value in range(1, 6)] for unit in units], float)


# --- published tables -------------------------------------------------------------------------
@pytest.mark.parametrize(("figure", "published"), [(alpha_nominal, 0.743), (alpha_ordinal, 0.815)])
def test_alpha_of_krippendorffs_own_example(figure, published):
    counts = counted(KRIPPENDORFF.T)
    shared = counts[counts.sum(1) > 1]

    assert figure(coincidences(shared).sum(0, keepdims=True))[0] == pytest.approx(
        published, abs=5e-4
    )


def test_fleiss_kappa_of_fleiss_own_example():
    counts = counted(np.array([[int(value) for value in unit] for unit in FLEISS]))

    found = fleiss_kappa(fleiss_statistics(counts).sum(0, keepdims=True))[0]

    assert found == pytest.approx(0.430, abs=5e-4)
    assert found == pytest.approx(statsmodels_fleiss(counts))


def test_cohens_kappa_of_cohens_own_example():
    found = cohens_kappa(np.array(COHEN).reshape(1, -1))[0]

    assert found == pytest.approx(0.492, abs=5e-4)
    assert found == pytest.approx(statsmodels_cohen(200 * np.array(COHEN)).kappa)


# --- of votes, by hand ------------------------------------------------------------------------
def test_all_are_1_where_everybody_says_the_same(voted):
    table = voted([[A, A], [B, B], [TIE, TIE]])

    met = meetings(table)
    for found in (
        alpha(table), alpha(table, alpha_nominal), fleiss(table), cohen(met), pairwise_cohen(met),
    ):  # fmt: skip
        assert (found.value, found.n) == (1.0, 3)


def test_alpha_by_hand(voted):
    """Two of four pairs agree; from both sides, 16 values: half -1, half 1.

    Observed disagreement: 2 of 4 pairs. Expected: 8·8·2 of the 16·15 pairs of values.
    """
    table = voted([[A, A], [B, B], [A, B], [B, A]])

    assert alpha(table).value == pytest.approx(1 - (2 / 4) / (8 * 8 * 2 / (16 * 15)))


def test_kappas_by_hand(voted):
    """Three of four agree; seen from both sides each says A and B equally often: chance is ½."""
    table = voted([[A, A], [A, A], [A, A], [A, B]])

    assert fleiss(table).value == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
    assert cohen(meetings(table)).value == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))


def test_no_figure_depends_on_which_completion_comes_first(voted):
    rows = drawn(30, 4)
    turned = [
        [said and [[3 - pk for pk in group] for group in said] for said in row] for row in rows
    ]
    table, other = voted(rows), voted(turned)

    assert alpha(table) == alpha(other)
    assert fleiss(table) == fleiss(other)
    assert cohen(meetings(table)) == cohen(meetings(other))
    assert pairwise_cohen(meetings(table)) == pairwise_cohen(meetings(other))


def test_mean_kappa_counts_two_by_what_both_have_ranked(voted):
    """Two say the same of three (1); a third says the opposite of one that both others rank (-1)."""
    found = pairwise_cohen(meetings(voted([[A, A, None], [B, B, None], [A, A, B]])))

    assert found == Estimate((3 * 1 + 1 * -1 + 1 * -1) / 5, n=3)


def test_kendall_by_hand(voted):
    """1 > 2 > 3 and 1 > 3 > 2: of three pairs two agree and one does not."""
    rankings = [[1], [2], [3]], [[1], [3], [2]]

    found = kendall(meetings(voted([rankings])))

    assert found == Estimate(pytest.approx(1 / 3), n=1)


# --- of votes, against libraries --------------------------------------------------------------
@pytest.mark.parametrize(
    ("figure", "level"), [(alpha_nominal, "nominal"), (alpha_ordinal, "ordinal")]
)
def test_alpha_is_that_of_the_library(voted, figure, level):
    table = voted(drawn(40, 5, completions=(1, 2, 3)))
    _, counts = shared_counts(table)
    both_sides = np.concatenate([counts, counts[:, ::-1]])

    library = krippendorff.alpha(value_counts=both_sides, level_of_measurement=level)

    assert alpha(table, figure).value == pytest.approx(library)


def test_cohens_kappa_is_that_of_scikit_learn(voted):
    table = voted(drawn(60, 2))
    met = meetings(table)
    one = np.concatenate([met.says_one, -met.says_one])
    other = np.concatenate([met.says_other, -met.says_other])

    assert cohen(met).value == pytest.approx(cohen_kappa_score(one, other))


def test_mean_kappa_is_that_of_scikit_learn_of_each_two(voted):
    """Weighted by how many both have ranked; with all there, the plain mean of Light 1971."""
    rows = drawn(60, 4)
    kappas, weights = [], []
    for one, other in combinations(range(4), 2):
        both = [(row[one], row[other]) for row in rows if row[one] and row[other]]
        said = np.array(
            [[places(ranking)[2] - places(ranking)[1] for ranking in two] for two in both]
        )
        two_sides = np.concatenate([said, -said])
        kappas.append(cohen_kappa_score(*two_sides.T))
        weights.append(len(both))

    found = pairwise_cohen(meetings(voted(rows)))

    assert len(set(weights)) > 1
    assert found.value == pytest.approx(np.average(kappas, weights=weights))


def test_kendall_is_that_of_scipy_with_ties(voted):
    rows = drawn(12, 2, completions=(1, 2, 3, 4))
    both = [row for row in rows if None not in row]
    taus = [kendalltau(*[[places(said)[pk] for pk in (1, 2, 3, 4)] for said in row]).statistic
            for row in both]  # fmt: skip

    assert len(both) > 3
    assert kendall(meetings(voted(rows))).value == pytest.approx(np.nanmean(taus))


def places(ranking):
    return {pk: place for place, group in enumerate(ranking) for pk in group}


def test_everybody_meets_everybody_on_each_pair(voted):
    table = voted([[A, B, TIE], [A, None, None], [B, B, None]])

    met = meetings(table)

    found = sorted(zip(*(column.tolist() for column in met), strict=True))
    assert found == [(0, 0, 1, 1, -1), (0, 0, 2, 1, 0), (0, 1, 2, -1, 0), (2, 0, 1, -1, -1)]


# --- undefined --------------------------------------------------------------------------------
def test_figures_say_when_nobody_shares_a_comparison(voted):
    for rows in ([], [[A, None], [None, B]]):
        table = voted(rows)

        assert alpha(table) == fleiss(table) == Estimate(None, reason=NOBODY_SHARES)
        assert pairwise_cohen(meetings(table)) == Estimate(None, reason=NOBODY_SHARES)
        assert cohen(meetings(table)).value is None
        assert kendall(meetings(table)).value is None


def test_figures_say_when_all_are_ties(voted):
    table = voted([[TIE, TIE], [TIE, TIE]])

    assert (
        alpha(table)
        == fleiss(table)
        == cohen(meetings(table))
        == pairwise_cohen(meetings(table))
        == Estimate(None, n=2, reason=ALL_TIES)
    )


def test_kendall_leaves_out_who_has_everything_in_one_tie(voted):
    table = voted([[[[1], [2], [3]], [[1, 2, 3]]]])

    assert kendall(meetings(table)).value is None


# --- intervals --------------------------------------------------------------------------------
def test_resampling_equal_comparisons_together_is_resampling_them_one_by_one(monkeypatch):
    """The sum of equal rows is certain; that of a share p of ones has variance n p (1 - p)."""
    monkeypatch.setattr(coefficients, "REPLICATES", 20_000)
    added = np.array([[1.0, 5.0]] * 30 + [[0.0, 5.0]] * 70)

    sums = np.concatenate(list(resampled_sums(added)))

    assert set(sums[:, 1]) == {500.0}
    assert sums[:, 0].mean() == pytest.approx(30, abs=0.2)
    assert sums[:, 0].var() == pytest.approx(100 * 0.3 * 0.7, rel=0.05)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).random(400)
    added = np.stack([values, np.ones(400)], axis=1)

    found = estimate(mean, added, "")

    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_the_interval_of_a_mean_kappa_is_that_of_drawing_comparisons_by_hand(voted):
    rows = drawn(40, 3, seed=2)
    generator = np.random.default_rng(3)
    samples = [[rows[place] for place in generator.integers(0, 40, 40)] for _ in range(300)]
    sums = [met_by_two(meetings(voted(sample))).sum(0) for sample in samples]

    found = pairwise_cohen(meetings(voted(rows)))

    width = found.high - found.low
    assert [found.low, found.high] == pytest.approx(
        np.quantile(mean_of_kappas(np.array(sums)), [0.025, 0.975]).tolist(), abs=0.15 * width
    )


def test_few_comparisons_have_no_interval(voted):
    table = voted([[A, A], [A, B], [B, B]])

    assert alpha(table)._replace(value=None) == Estimate(None, None, None, 3)


def test_an_interval_is_the_same_whenever_it_is_computed(voted):
    table = voted(drawn(30, 3))

    assert alpha(table) == alpha(table)
    assert alpha(table).low < alpha(table).value < alpha(table).high
