"""Each annotator in several figures, and where several of them point the same way.

Nobody is accused by one number: every figure has an interval and a number of votes, and only what
several figures say together is said in words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from annotator.quality.coefficients import (
    Estimate,
    Meetings,
    agreement_shares,
    estimate,
    mean,
    summed_by,
)
from annotator.quality.votes import Answer, Ballot, PairVotes
from annotator.rankings import outcomes_of

# A vote is too fast if it came before the answers could be skimmed: at about a thousand words a
# minute, four times the speed of reading (Brysbaert 2019: 238); much may be clear early on.
SKIMMED_PER_SECOND = 100  # characters
MOST_SECONDS = 15
LONGER_BY = 1.1  # shorter differences of length are none
ENOUGH_TO_VARY = 30  # comparisons; of fewer, how much they differ is known badly
SIGNALS_FOR_A_WORD = 2

NONE_SHARED = "Nobody else has ranked the same comparisons."
NONE_KNOWN = "No comparison with a known answer has been judged yet."
NONE_REPEATED = "No comparison has been judged twice by the same person yet."
NO_PAIRS = "No two answers have been ranked one above the other yet."
NO_TIMES = "No times are known."
NOTHING = np.zeros((0, 2))


class PersonFigures(NamedTuple):
    annotator: int
    n_votes: int
    agreement: Estimate  # with the others: 1 the same, ½ a tie against a preference
    reliability: Estimate  # how probable what they say is, given all votes
    known_answers: Estimate  # share of votes on known answers that are right
    self_agreement: Estimate  # as agreement, with what the same person said before
    first_shown: Estimate  # share of decided pairs won by the answer shown before the other
    longer: Estimate  # share of decided pairs won by the longer one
    too_fast: Estimate  # share of votes
    seconds: Estimate  # median

    def as_json(self) -> dict[str, Any]:
        return {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in self._asdict().items()
        }


class Evidence(NamedTuple):
    """All that figures of people are computed from; of everybody, or of one of them."""

    ballots: Sequence[Ballot]
    known: Sequence[Ballot]
    said_again: Sequence[tuple[Ballot, Ballot]]  # before, again
    agreement: np.ndarray  # (C, 2) of each comparison: agreement with the others, 1
    reliability: np.ndarray  # (C, 2)


# --- evidence ---------------------------------------------------------------------------------
def evidence_by_annotator(
    ballots: Sequence[Ballot],
    known: Sequence[Ballot],
    said_again: Sequence[tuple[Ballot, Ballot]],
    table: PairVotes,
    met: Meetings,
    probabilities: Mapping[int, np.ndarray],
) -> dict[int, Evidence]:
    agreement = _means_by_annotator(
        np.concatenate([met.one, met.other]),
        np.tile(met.comparison, 2),
        np.tile(agreement_shares(met), 2),
    )
    is_known = np.isin(table.pair, list(probabilities))
    shared = table.where(is_known)
    probable = [
        probabilities[pair][outcome + 1]
        for pair, outcome in zip(shared.pair.tolist(), shared.outcome.tolist(), strict=True)
    ]
    reliability = _means_by_annotator(shared.annotator, shared.comparison, np.array(probable))
    voted, known_to, asked_twice = (_grouped(votes) for votes in (ballots, known, said_again))
    return {
        annotator: Evidence(
            ballots=voted.get(annotator, []),
            known=known_to.get(annotator, []),
            said_again=asked_twice.get(annotator, []),
            agreement=agreement.get(annotator, NOTHING),
            reliability=reliability.get(annotator, NOTHING),
        )
        for annotator in voted.keys() | known_to.keys() | asked_twice.keys()
    }


def said_twice(before: Iterable[Ballot], repeats: Iterable[Ballot]) -> list[tuple[Ballot, Ballot]]:
    """Each repeat with what the same person had said of the same comparison."""
    said = {(vote.annotator, vote.comparison): vote for vote in before}
    found = [(said.get((again.annotator, again.comparison)), again) for again in repeats]
    return [(vote, again) for vote, again in found if vote is not None]


def everybody(evidence: Iterable[Evidence]) -> Evidence:
    of_each = list(evidence)
    return Evidence(
        ballots=[vote for each in of_each for vote in each.ballots],
        known=[vote for each in of_each for vote in each.known],
        said_again=[votes for each in of_each for votes in each.said_again],
        agreement=np.concatenate([NOTHING, *(each.agreement for each in of_each)]),
        reliability=np.concatenate([NOTHING, *(each.reliability for each in of_each)]),
    )


def _grouped(votes: Sequence[Any]) -> dict[int, list[Any]]:
    """By annotator; pairs of votes by who gave them."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for vote in votes:
        groups[vote.annotator if isinstance(vote, Ballot) else vote[0].annotator].append(vote)
    return groups


def _means_by_annotator(
    annotator: np.ndarray, comparison: np.ndarray, values: np.ndarray
) -> dict[int, np.ndarray]:
    """(C, 2) of each annotator: the mean of the values in each comparison, and a 1."""
    found = {}
    for who in np.unique(annotator):
        mine = annotator == who
        rows = np.stack([values[mine], np.ones(mine.sum())], axis=1)
        means = mean(summed_by(comparison[mine], rows))
        found[int(who)] = np.stack([means, np.ones(len(means))], axis=1)
    return found


# --- figures ----------------------------------------------------------------------------------
def figures_of(annotator: int, of: Evidence, answers: Mapping[int, Answer]) -> PersonFigures:
    return PersonFigures(
        annotator=annotator,
        n_votes=len(of.ballots) + len(of.known),
        agreement=estimate(mean, of.agreement, NONE_SHARED),
        reliability=estimate(mean, of.reliability, NONE_SHARED),
        known_answers=known_answers(of.known),
        self_agreement=self_agreement(of.said_again),
        first_shown=first_shown(of.ballots),
        longer=longer(of.ballots, answers),
        too_fast=too_fast([*of.ballots, *of.known], answers),
        seconds=median_seconds([*of.ballots, *of.known]),
    )


def share(hits: Sequence[bool], nothing: str) -> Estimate:
    """With Wilson's interval; n counts votes."""
    if not hits:
        return Estimate(None, reason=nothing)
    low, high = proportion_confint(sum(hits), len(hits), method="wilson")
    return Estimate(sum(hits) / len(hits), float(low), float(high), len(hits))


def known_answers(ballots: Iterable[Ballot]) -> Estimate:
    """Of one person, who was asked each of them once; n counts votes."""
    return share([is_right(vote) for vote in ballots if vote.expected], NONE_KNOWN)


def known_answers_of_all(ballots: Iterable[Ballot]) -> Estimate:
    """Votes on one known answer stay together: where it is a hard one, many miss it."""
    asked = [vote for vote in ballots if vote.expected]
    values = [float(is_right(vote)) for vote in asked]
    return mean_by_comparison([vote.comparison for vote in asked], values, NONE_KNOWN)


def is_right(vote: Ballot) -> bool:
    """Whether it ranks all pairs that it ranks as expected; that all are bad never is right."""
    return bool(vote.ranking) and vote.outcomes.items() <= outcomes_of(vote.expected).items()


def self_agreement(said_again: Iterable[tuple[Ballot, Ballot]]) -> Estimate:
    votes = list(said_again)
    values = [likeness(before, again) for before, again in votes]
    return mean_by_comparison([again.comparison for _, again in votes], values, NONE_REPEATED)


def mean_by_comparison(
    comparisons: Sequence[int], values: Sequence[float], nothing: str
) -> Estimate:
    """Mean of values of votes; the interval draws whole comparisons."""
    added = np.array([(value, 1.0) for value in values]).reshape(-1, 2)
    return estimate(mean, summed_by(np.array(comparisons, dtype=int), added), nothing)


def likeness(one: Ballot, other: Ballot) -> float:
    """1 the same, 0 the opposite, over the pairs that both rank; that all are bad is unlike any ranking."""
    if not one.ranking or not other.ranking:
        return float(one.ranking == other.ranking)
    says, says_other = one.outcomes, other.outcomes
    both = says.keys() & says_other.keys()
    return float(np.mean([1 - abs(says[pair] - says_other[pair]) / 2 for pair in both]))


def first_shown(ballots: Iterable[Ballot]) -> Estimate:
    """Of each two answers that a vote tells apart."""
    return share_of_pairs(
        [
            (vote.comparison, vote.order.index(better) < vote.order.index(worse))
            for vote, better, worse in _decided(ballots)
        ]
    )


def longer(ballots: Iterable[Ballot], answers: Mapping[int, Answer]) -> Estimate:
    """Of such pairs of which one is longer by a tenth at least."""
    lengths = [
        (vote.comparison, answers[better].n_characters, answers[worse].n_characters)
        for vote, better, worse in _decided(ballots)
    ]
    return share_of_pairs(
        [
            (comparison, better > worse)
            for comparison, better, worse in lengths
            if max(better, worse) > LONGER_BY * min(better, worse)
        ]
    )


def _decided(ballots: Iterable[Ballot]) -> Iterator[tuple[Ballot, int, int]]:
    """Each two answers that a vote tells apart, the better one first."""
    for vote in ballots:
        for (first, second), outcome in vote.outcomes.items():
            if outcome:
                yield (vote, first, second) if outcome > 0 else (vote, second, first)


def share_of_pairs(hits: Sequence[tuple[int, bool]]) -> Estimate:
    """Of pairs, each with its comparison; n counts comparisons.

    Pairs of a comparison are not independent. So Wilson's interval is that of as many votes as would
    vary as much from comparison to comparison (Kish 1965): of few comparisons, no more than one of
    each. Of one pair a comparison it is Wilson's own.
    """
    if not hits:
        return Estimate(None, reason=NO_PAIRS)
    comparison, hit = np.array(hits).T
    added = summed_by(comparison, np.stack([hit, np.ones(len(hit))], axis=1))  # (C, 2)
    n, (n_hits, n_pairs) = len(added), added.sum(0)
    value = n_hits / n_pairs
    variance = ((added[:, 0] - value * added[:, 1]) ** 2).sum() / n_pairs**2
    worth = value * (1 - value) / variance if variance > 1e-12 else n
    worth = min(worth, n_pairs if n >= ENOUGH_TO_VARY else n)
    low, high = proportion_confint(value * worth, worth, method="wilson")
    return Estimate(float(value), float(low), float(high), n)


def too_fast(ballots: Iterable[Ballot], answers: Mapping[int, Answer]) -> Estimate:
    return share(
        [
            vote.seconds < seconds_to_skim(vote, answers)
            for vote in ballots
            if vote.seconds is not None
        ],
        NO_TIMES,
    )


def seconds_to_skim(vote: Ballot, answers: Mapping[int, Answer]) -> float:
    """Example: two answers of 250 characters -> 5.0; of 2,000 -> 15."""
    n_characters = sum(answers[pk].n_characters for pk in vote.order)
    return min(n_characters / SKIMMED_PER_SECOND, MOST_SECONDS)


def median_seconds(ballots: Iterable[Ballot]) -> Estimate:
    """The interval is between two of the times themselves, by the binomial distribution."""
    times = sorted(vote.seconds for vote in ballots if vote.seconds is not None)
    if not times:
        return Estimate(None, reason=NO_TIMES)
    below = int(binom.ppf(0.025, len(times), 0.5))
    low, high = times[max(below - 1, 0)], times[min(len(times) - below, len(times) - 1)]
    return Estimate(float(np.median(times)), low, high, len(times))


# --- several figures together -----------------------------------------------------------------
def _is_below(figure: Estimate, other: Estimate) -> bool:
    return figure.high is not None and other.value is not None and figure.high < other.value


def _is_above(figure: Estimate, other: Estimate) -> bool:
    return figure.low is not None and other.value is not None and figure.low > other.value


SIGNALS: dict[str, Callable[[PersonFigures, PersonFigures], bool]] = {
    # Both rest on the same votes, and so they are one signal.
    "agrees less with the others": lambda person, everyone: (
        _is_below(person.agreement, everyone.agreement)
        or _is_below(person.reliability, everyone.reliability)
    ),
    "misses known answers more often": lambda person, everyone: _is_below(
        person.known_answers, everyone.known_answers
    ),
    "says the same again less often": lambda person, everyone: _is_below(
        person.self_agreement, everyone.self_agreement
    ),
    "is more often faster than one can skim": lambda person, everyone: _is_above(
        person.too_fast, everyone.too_fast
    ),
    "often prefers what stands first, or last": lambda person, _: (
        _is_below(person.first_shown, Estimate(0.5)) or _is_above(person.first_shown, Estimate(0.5))
    ),
    "prefers longer answers more than others do": lambda person, everyone: _is_above(
        person.longer, everyone.longer
    ),
}


def signals(person: PersonFigures, everyone: PersonFigures) -> list[str]:
    """What several figures say together; empty if fewer than two say anything.

    A figure says something if its whole interval is on the worse side of everybody's.
    """
    raised = [words for words, is_raised in SIGNALS.items() if is_raised(person, everyone)]
    return raised if len(raised) >= SIGNALS_FOR_A_WORD else []
