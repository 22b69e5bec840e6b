"""A blind test that may be looked at after every vote: is the candidate better than the incumbent?

Each comparison gives one outcome between 0 and 1, how far people preferred the candidate: 1 it won, 0 it
lost, ½ a tie or both bad; several votes on one comparison, and several comparisons of one prompt, are averaged,
because what is said of them is not independent: a policy is good at some prompts and bad at others. So there is one
outcome per prompt, and prompts are drawn at random. What is tested is the mean of the outcomes, the
*win probability* over all prompts of which these were drawn.

Whoever looks again and again and stops when it pleases must not use intervals for a fixed number of
votes: sooner or later these exclude ½ by chance. Here a gambler tests by betting instead. He starts
with 1 and bets that the mean is above m. In each of several accounts he puts the same share c of
what he has on the next outcome x, at the price m: the account is multiplied by

    1 - c + c · x / m

If the mean is at most m, no way of betting makes money on average, so that the chance that he ever has
1/alpha is at most alpha, however often one looks (Ville 1939). Hence every m at which he has reached 1/alpha is
excluded, at an error of alpha for the whole way and not for one look; for the upper bound he bets on 1 - x.
The factors fall with m, so what is left is an interval: the *confidence sequence*.

Half of his money is in the account that does best if the candidate is just so much better as is
asked for (c = 2 · margin), the rest in five others, for differences that are larger or smaller. What
came of other ways, and of fixed-size tests, is in docs/gate.md.

References: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B
2023 (arXiv 2010.09686); Orabona and Jun, Tight concentrations and confidence sequences from the
regret of universal portfolio, 2024 (arXiv 2110.14099); Robbins, Statistical methods related to
the law of the iterated logarithm, Ann. Math. Stat. 1970.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

WIN, TIE, LOSS = 1.0, 0.5, 0.0
EVEN = 0.5  # the win probability of two policies that are equally good

PROMOTE, REJECT, UNDECIDED = "promote", "reject", "undecided"

OTHER_SHARES = (0.1, 0.25, 0.45, 0.7, 0.95)
LARGEST_SHARE = 0.95  # of 1, the first loss would leave nothing for ever
TRIFLE = 1e-9  # as much as sums of floats are wrong by
HALVINGS = 24  # of an interval below 1: bounds are right to seven digits

Counts = Mapping[float, int]  # how often each outcome came
Bets = Sequence[
    tuple[float, float]
]  # (share put on each outcome, part of the money in this account)


class Rule(NamedTuple):
    """When a gate decides. `alpha` is the error of either decision, `margin` the smallest gain in win
    probability that would be worth having: 0.1 asks for 60 %."""

    alpha: float = 0.05
    margin: float = 0.1

    @property
    def bets(self) -> Bets:
        others = [(share, 0.5 / len(OTHER_SHARES)) for share in OTHER_SHARES]
        return [(min(2 * self.margin, LARGEST_SHARE), 0.5), *others]

    @property
    def enough(self) -> float:
        """The log of what the gambler must have."""
        return math.log(1 / self.alpha)


class Decision(NamedTuple):
    verdict: str
    n: int  # outcomes that it rests on


class Point(NamedTuple):
    """The confidence sequence after n outcomes; each bound is wrong at any time with probability alpha."""

    n: int
    mean: float
    low: float
    high: float


# --- betting ----------------------------------------------------------------------------------
def log_wealth(counts: Counts, mean: float, bets: Bets) -> float:
    """The log of what the gambler has who bets that the mean is above `mean`, between 0 and 1. The order
    of the outcomes does not matter.

    Example: with a share of 0.5 in one account at the mean ½, a win multiplies it by 1.5, a loss
    by 0.5, and a tie leaves it: {1: 3, ½: 7, 0: 1} -> log(1.5³ · 0.5).
    """
    accounts = [
        math.log(part)
        + sum(n * math.log(1 - share + share * outcome / mean) for outcome, n in counts.items())
        for share, part in bets
    ]
    most = max(accounts)
    return most + math.log(sum(math.exp(account - most) for account in accounts))


def wealth_path(outcomes: Iterable[float], mean: float, bets: Bets) -> Iterator[float]:
    """What the gambler has after each outcome in turn."""
    accounts = [part for _, part in bets]
    factors: dict[float, list[float]] = {}
    for outcome in outcomes:
        if outcome not in factors:
            factors[outcome] = [1 - share + share * outcome / mean for share, _ in bets]
        accounts = [a * factor for a, factor in zip(accounts, factors[outcome], strict=True)]
        yield sum(accounts)


def lower_bound(counts: Counts, rule: Rule) -> float:
    """The smallest mean that is not excluded from below."""
    total = sum(counts.values())
    # At the observed mean the gambler has at most what he began with (Jensen's inequality).
    low, high = 0.0, _mean(counts) if total else 0.0
    if high == 0:
        return 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if log_wealth(counts, middle, rule.bets) >= rule.enough:
            low = middle
        else:
            high = middle
    return low


def upper_bound(counts: Counts, rule: Rule) -> float:
    """The largest mean that is not excluded from above."""
    return 1 - lower_bound(mirrored(counts), rule)


def mirrored(counts: Counts) -> Counts:
    """As the incumbent sees it."""
    return {1 - outcome: n for outcome, n in counts.items()}


def _mean(counts: Counts) -> float:
    return sum(outcome * n for outcome, n in counts.items()) / sum(counts.values())


# --- deciding ---------------------------------------------------------------------------------
def decide(outcomes: Sequence[float], rule: Rule, most: int) -> Decision | None:
    """The first decision on the way through the outcomes in the order in which they came; None while
    it is open. What comes after it changes nothing, so it does not matter when somebody looks.

    promote: the lower bound is above ½, so the candidate is better.
    reject: the upper bound is below ½ + margin, so it is not better by as much as was asked for.
    undecided: `most` outcomes are there, and neither holds.
    """
    counted = outcomes[:most]
    better = wealth_path(counted, EVEN, rule.bets)
    worse = wealth_path([1 - outcome for outcome in counted], EVEN - rule.margin, rule.bets)
    for n, (on_better, on_worse) in enumerate(zip(better, worse, strict=True), start=1):
        if on_better >= 1 / rule.alpha:
            return Decision(PROMOTE, n)
        if on_worse >= 1 / rule.alpha:
            return Decision(REJECT, n)
    return Decision(UNDECIDED, most) if len(outcomes) >= most else None


def sequence(outcomes: Sequence[float], rule: Rule, points: int = 100) -> list[Point]:
    """The confidence sequence at up to about `points` places, the last outcome among them."""
    step = max(1, math.ceil(len(outcomes) / points))
    counts: Counter[float] = Counter()
    found = []
    for n, outcome in enumerate(outcomes, start=1):
        counts[outcome] += 1
        if n % step == 0 or n == len(outcomes):
            found.append(standing(counts, rule))
    return found


def standing(counts: Counts, rule: Rule) -> Point:
    """Of at least one outcome."""
    low, high = lower_bound(counts, rule), upper_bound(counts, rule)
    return Point(sum(counts.values()), _mean(counts), low, high)


def outcomes_to_go(outcomes: Sequence[float], rule: Rule) -> int | None:
    """About how many more until it decides, if it goes on as on average so far; None if that does not
    tell: neither way of betting has made money yet."""
    counts = Counter(outcomes)
    best = max(
        log_wealth(counts, EVEN, rule.bets),
        log_wealth(mirrored(counts), EVEN - rule.margin, rule.bets),
    )
    if best < TRIFLE:
        return None
    return max(0, math.ceil(len(outcomes) * (rule.enough / best - 1)))


# --- to compare with --------------------------------------------------------------------------
def fixed_size(difference: float, variance: float, alpha: float, power: float) -> int:
    """How many outcomes a one-sided z-test needs, looked at once, to find a mean of ½ + difference.

    Example: 0.1, 0.25, 0.05, 0.8 -> 155.
    """
    quantiles = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    return math.ceil(quantiles**2 * variance / difference**2)
