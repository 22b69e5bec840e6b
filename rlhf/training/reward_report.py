"""What a reward model's scores are worth, measured on held-out pairs: the honest report.

Pure arithmetic on scores that somebody else has computed. Accuracies are over decided pairs, each
counting once: of a tie, nobody can be right. Calibration is over votes, a tie being half a vote
for either completion, also where the model has ties as an outcome of their own. Intervals are
Wilson's at 95 %. Nothing here weighs by `weight` but `weighted_accuracy`. docs/reward-model.md
explains each number in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit
from scipy.stats import spearmanr
from statsmodels.stats.proportion import proportion_confint

from rlhf.training.data import Pair, Vote

MARGIN_BINS = 4
MOST_BINS, PAIRS_PER_BIN = 10, 10  # of the reliability diagram: at most, at least
FOLDS = 5
TEMPERATURES = (0.05, 20.0)  # beyond, the scores say everything or nothing
AGREEMENT = ("unanimous", "most", "split", "single")
MOST = 0.66  # two thirds, rounded or not
MOST_MISTAKES = 20
MOST_EXAMPLES = 20
OTHER = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
SIGNS = {"chosen": 1, "rejected": -1, "tie": 0}

Array = Any  # a numpy array of one dimension


class Ties(NamedTuple):
    """How the model says that differences of scores become votes; see reward_loss.py."""

    kind: str = "half"  # half a vote each way, or an outcome: "davidson", "rao-kupper"
    share: float = 0.0  # of ties between equal scores, t, where they are an outcome


HALF = Ties()


class Scored(NamedTuple):
    """A completion as the reward model sees it."""

    score: float  # as the head gives it, not normalised
    n_tokens: int  # of the completion alone


class JudgedPair(NamedTuple):
    """A held-out pair as the reward model and as people see it. Most votes prefer `chosen`."""

    place: int  # among the test pairs of data.jsonl, from 0
    prompt: str  # what tells prompts apart; pairs of one prompt are not independent
    chosen: Scored
    rejected: Scored
    p_chosen: float  # at least 1/2
    n_judgments: int
    weight: float
    votes: tuple[Vote, ...]
    tie_share: float = 0.0  # of the votes; each is in p_chosen as half

    @property
    def margin(self) -> float:
        """Δ: above 0 if the reward model agrees with most votes."""
        return self.chosen.score - self.rejected.score

    @property
    def is_decided(self) -> bool:
        return self.p_chosen != 0.5

    @property
    def agreement(self) -> str:
        """How far people agree about a decided pair: one of AGREEMENT."""
        if self.n_judgments == 1:
            return "single"
        if self.p_chosen == 1:
            return "unanimous"
        return "most" if self.p_chosen >= MOST else "split"


def judged_pair(place: int, pair: Pair, chosen: Scored, rejected: Scored) -> JudgedPair:
    """The test pair at `place`, turned so that `chosen` is what most votes prefer."""
    p_chosen, votes = pair.p_chosen, pair.votes
    if p_chosen < 0.5:
        chosen, rejected, p_chosen = rejected, chosen, 1 - p_chosen
        votes = tuple(
            Vote(vote.annotator, OTHER[vote.prefers], OTHER[vote.first]) for vote in votes
        )
    return JudgedPair(
        place, normal_prompt(pair), chosen, rejected, p_chosen, pair.n_judgments, pair.weight,
        votes, pair.tie_share,
    )  # fmt: skip


def report(judged: Sequence[JudgedPair], ties: Ties = HALF) -> dict[str, Any]:
    """For result.json. None stands where there was nothing to measure; no key is ever missing."""
    decided = [pair for pair in judged if pair.is_decided]
    return {
        "n_pairs": len(judged),
        "n_votes": sum(pair.n_judgments for pair in judged),
        "accuracy": accuracy(decided),
        "weighted_accuracy": weighted_accuracy(decided),
        "by_agreement": by_agreement(decided),
        "by_margin": by_margin(decided),
        "by_length": by_length(decided),
        "longer": longer_wins(decided),
        "random": 0.5,
        **beside_people(judged),
        "calibration": calibration(judged, ties),
        "score_and_length": score_and_length(judged),
        "mistakes": mistakes(decided),
    }


# --- shares -----------------------------------------------------------------------------------
def share(hits: float, n: float) -> tuple[float | None, float | None, float | None]:
    """hits / n and its Wilson interval at 95 %; None for all three when n is 0."""
    if n == 0:
        return None, None, None
    low, high = proportion_confint(hits, n, method="wilson")
    return hits / n, float(low), float(high)


def rate(hits: float, n: int) -> dict[str, Any]:
    """Example: rate(8, 10) -> {"n": 10, "value": 0.8, "low": 0.49, "high": 0.943}."""
    value, low, high = share(hits, n)
    return {"n": n, "value": value, "low": low, "high": high}


# --- accuracy ---------------------------------------------------------------------------------
def accuracy(decided: Sequence[JudgedPair]) -> dict[str, Any]:
    """Share of the pairs ordered as most votes do; equal scores are wrong."""
    return rate(sum(pair.margin > 0 for pair in decided), len(decided))


def weighted_accuracy(decided: Sequence[JudgedPair]) -> dict[str, Any]:
    """Each pair counts by its weight. Empty where all weights are equal: it would say nothing new.

    The interval is that of (Σw)² / Σw² pairs, Kish's effective size of a weighted sample.
    """
    weights = [pair.weight for pair in decided]
    if len(set(weights)) < 2:
        return rate(0, 0)
    shares = [weight / max(weights) for weight in weights]  # squares of tiny weights would be 0
    total = sum(shares)
    value = sum(s for s, pair in zip(shares, decided, strict=True) if pair.margin > 0) / total
    effective = total**2 / sum(s**2 for s in shares)
    _, low, high = share(value * effective, effective)
    return {"n": len(decided), "value": value, "low": low, "high": high}


def by_agreement(decided: Sequence[JudgedPair]) -> list[dict[str, Any]]:
    return [
        {"level": level, **accuracy([pair for pair in decided if pair.agreement == level])}
        for level in AGREEMENT
    ]


def by_margin(decided: Sequence[JudgedPair]) -> list[dict[str, Any]]:
    """Quarters of the pairs, from the smallest |Δ| to the largest; fewer of fewer than 4 pairs."""
    ordered = sorted(decided, key=lambda pair: abs(pair.margin))
    return [
        {
            "margin_low": abs(part[0].margin),
            "margin_high": abs(part[-1].margin),
            **accuracy(part),
        }
        for part in _parts(ordered, MARGIN_BINS)
    ]


def _parts(ordered: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    """At most n parts of (nearly) equal size, none empty. Example: abcde, 2 -> abc, de."""
    for places in np.array_split(np.arange(len(ordered)), n):
        if len(places):
            yield ordered[places[0] : places[-1] + 1]


def by_length(decided: Sequence[JudgedPair]) -> list[dict[str, Any]]:
    """Accuracy by whether the chosen completion is shorter, longer or as long as the other."""
    return [
        {"chosen": name, **accuracy([pair for pair in decided if _longer(pair) == sign])}
        for name, sign in (("shorter", -1), ("longer", 1), ("as long", 0))
    ]


def _longer(pair: JudgedPair) -> int:
    """1 if the chosen completion is longer, -1 if it is shorter, 0 if both are as long."""
    return _sign(pair.chosen.n_tokens - pair.rejected.n_tokens)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


# --- baselines --------------------------------------------------------------------------------
def longer_wins(decided: Sequence[JudgedPair]) -> dict[str, Any]:
    """What "the longer one wins" gets; equal lengths are half a hit."""
    return rate(sum((_longer(pair) + 1) / 2 for pair in decided), len(decided))


def beside_people(judged: Sequence[JudgedPair]) -> dict[str, Any]:
    """How often one annotator agrees with the majority of the others, and how often the model does.

    Of every pair with at least 2 votes each vote is left out in turn, and both are asked what most
    of the others prefer; where the others are undecided, nothing is asked. A vote for a tie is half
    a hit. Each pair counts once, as its mean: votes on one pair are not independent.
    """
    trials = [found for pair in judged if (found := list(_leave_one_out(pair)))]
    people = sum(sum(person for person, _ in found) / len(found) for found in trials)
    model = sum(sum(model for _, model in found) / len(found) for found in trials)
    return {"people": rate(people, len(trials)), "model_beside_people": rate(model, len(trials))}


def _leave_one_out(pair: JudgedPair) -> Iterator[tuple[float, float]]:
    """For each vote, if it agrees with most of the others and if the model does: 0, ½ or 1."""
    signs = [SIGNS[vote.prefers] for vote in pair.votes]
    for sign in signs:
        if others := _sign(sum(signs) - sign):
            yield (1 + sign * others) / 2, float(pair.margin * others > 0)


# --- calibration ------------------------------------------------------------------------------
def log_outcomes(margins: Array, ties: Ties) -> tuple[Array, Array, Array]:
    """log P of the votes for `chosen`, for `rejected` and for a tie, given Δ; arrays are (pairs,).

    half:        P = σ(Δ) and σ(-Δ). A tie is half of each, log P the mean of theirs.
    davidson:    with ν = 2t / (1 - t): exp(Δ/2) / z, exp(-Δ/2) / z and ν / z, where
                 z = exp(Δ/2) + exp(-Δ/2) + ν.
    rao-kupper:  with ν = (1 + t) / (1 - t): σ(Δ - log ν), σ(-Δ - log ν), and their product times
                 ν² - 1.
    """
    if ties.kind == "half":
        win, loss = log_expit(margins), log_expit(-margins)
        return win, loss, (win + loss) / 2
    if ties.kind == "davidson":
        log_nu = math.log(2 * ties.share / (1 - ties.share))
        z = np.logaddexp(np.logaddexp(margins / 2, -margins / 2), log_nu)
        return margins / 2 - z, -margins / 2 - z, log_nu - z
    lead = 2 * math.atanh(ties.share)  # log ν
    win, loss = log_expit(margins - lead), log_expit(-margins - lead)
    return win, loss, math.log(math.expm1(2 * lead)) + win + loss


def predicted_share(margins: Array, ties: Ties = HALF) -> Array:
    """What share of the votes the model expects for `chosen`: P(win) + P(tie) / 2, (pairs,).

    The labels count a tie as half a vote for either, so this is what they are to be compared with,
    and not P(win) given that there is no tie. With ties as half a vote it is σ(Δ).

    Example: Δ = log 4, t = 1/2 under Davidson: ν = 2, win 4/9, tie 4/9 -> 2/3. Under Rao-Kupper
    t = 1/3: ν = 2, win 2/3, tie 2/9 -> 7/9.
    """
    if ties.kind == "half":
        return expit(margins)
    win, _, tie = log_outcomes(margins, ties)
    return np.exp(win) + np.exp(tie) / 2


def vote_variance(margins: Array, ties: Ties = HALF) -> Array:
    """Of a vote that is 1 for `chosen`, 0 for `rejected` and 1/2 for a tie, (pairs,).

    P(win) + P(tie) / 4 - share², with which P(tie) = 0 where a tie is no outcome.
    """
    share_of_chosen = predicted_share(margins, ties)
    tie = 0.0 if ties.kind == "half" else np.exp(log_outcomes(margins, ties)[2])
    variance = share_of_chosen * (1 - share_of_chosen) - tie / 4
    return np.maximum(variance, 0)  # which rounding may miss where nearly all tie


def surprise(margins: Array, p_chosen: Array, tie_share: Array, ties: Ties = HALF) -> Array:
    """-log P of the votes on each pair, over their number: the loss of reward_loss.py, (pairs,)."""
    win, loss, tie = log_outcomes(margins, ties)
    wins, losses = p_chosen - tie_share / 2, 1 - p_chosen - tie_share / 2
    return -(wins * win + losses * loss + tie_share * tie)


class VotedPairs(NamedTuple):
    """The pairs as arrays of (pairs,)."""

    margins: Array  # Δ
    p_chosen: Array
    tie_share: Array
    votes: Array  # how many

    def at(self, places: Any) -> VotedPairs:
        return VotedPairs(*(column[places] for column in self))


def calibration(judged: Sequence[JudgedPair], ties: Ties = HALF) -> dict[str, Any]:
    """Whether `predicted_share` is the share of votes that it claims to be.

    Each pair is looked at from the side that the model prefers, never from the side that people
    preferred: of two answers the winner has by choice more than half of the votes, and a model
    that is undecided would look too modest. So predictions are between ½ and 1.

    The temperature is fitted on all held-out votes; what stands after it is cross-fitted, that is
    measured on prompts on which the temperature was not fitted. `tie_share` is what the predictions
    say of ties between equal scores, None if a tie is half a vote each way.
    """
    names = ("margin", "p_chosen", "tie_share", "n_judgments")
    pairs = VotedPairs(
        *(np.array([getattr(pair, name) for pair in judged], dtype=float) for name in names)
    )
    folds = folds_of([pair.prompt for pair in judged])
    has_folds = len(set(folds)) > 1
    after = cross_fitted(pairs, folds, ties) if has_folds else pairs.at(slice(0))
    bins = reliability(pairs, ties)
    return {
        "tie_share": None if ties.kind == "half" else ties.share,
        "brier": brier(pairs, ties),
        "ece": expected_error(bins),
        "ece_by_chance": error_by_chance(pairs, ties),
        "bins": bins,
        "temperature": fit_temperature(pairs, ties) if has_folds else None,
        "brier_after": brier(after, ties),
        "ece_after": expected_error(reliability(after, ties)),
    }


def reliability(pairs: VotedPairs, ties: Ties = HALF) -> list[dict[str, Any]]:
    """Bins of as many pairs each, from the least sure to the surest.

    `predicted` is the share of votes that the model claims for what it prefers, and `observed` the
    share that it has. The interval takes votes for independent.
    """
    predicted = predicted_share(np.abs(pairs.margins), ties)
    observed = 0.5 + np.sign(pairs.margins) * (pairs.p_chosen - 0.5)
    bins = []
    for places in _bins(predicted):
        votes = pairs.votes[places]
        n, hits = votes.sum(), (votes * observed[places]).sum()
        value, low, high = share(float(hits), float(n))
        bins.append({
            "n_pairs": len(places), "n_votes": int(n),
            "predicted": float((votes * predicted[places]).sum() / n),
            "observed": value, "low": low, "high": high,
        })  # fmt: skip
    return bins


def _bins(predicted: Array) -> Iterator[Array]:
    """The places of the pairs in each bin."""
    n = min(MOST_BINS, max(1, len(predicted) // PAIRS_PER_BIN))
    return _parts(np.argsort(predicted, kind="stable"), n)


def expected_error(bins: Sequence[dict[str, Any]]) -> float | None:
    """ECE (Guo et al. 2017): mean distance of predicted and observed share, over the votes."""
    n = sum(each["n_votes"] for each in bins)
    error = sum(each["n_votes"] * abs(each["predicted"] - each["observed"]) for each in bins)
    return error / n if n else None


def error_by_chance(pairs: VotedPairs, ties: Ties = HALF) -> float | None:
    """The ECE to expect of a perfectly calibrated model on so many votes: never 0.

    A bin's error is then nearly normal, and its mean size is sqrt(2/π) of its standard deviation.
    """
    if not len(pairs.margins):
        return None
    sizes = np.abs(pairs.margins)
    variance = pairs.votes * vote_variance(sizes, ties)
    errors = [
        math.sqrt(2 / math.pi * variance[places].sum())
        for places in _bins(predicted_share(sizes, ties))
    ]
    return float(sum(errors) / pairs.votes.sum())


def brier(pairs: VotedPairs, ties: Ties = HALF) -> float | None:
    """Mean squared distance of the predicted share from each vote, 0 or 1, a tie half of each: 0.25
    for a coin toss."""
    if not len(pairs.margins):
        return None
    predicted = predicted_share(pairs.margins, ties)
    each = pairs.p_chosen * (1 - predicted) ** 2 + (1 - pairs.p_chosen) * predicted**2
    return float((pairs.votes * each).sum() / pairs.votes.sum())


def fit_temperature(pairs: VotedPairs, ties: Ties = HALF) -> float:
    """T at which Δ / T makes the votes likeliest, within TEMPERATURES.

    Above 1 the model is surer than it should be. Where ties are an outcome, how often equal scores
    tie stays as it was learnt.
    """

    def total(log_temperature: float) -> float:
        cooled = pairs.margins / math.exp(log_temperature)
        return float((pairs.votes * surprise(cooled, pairs.p_chosen, pairs.tie_share, ties)).sum())

    bounds = tuple(math.log(limit) for limit in TEMPERATURES)
    # In 1 / T the surprise is convex, so that it has one minimum in log T as well.
    return math.exp(minimize_scalar(total, bounds=bounds, method="bounded").x)


def folds_of(prompts: Sequence[str]) -> list[int]:
    """The number of each pair's fold; all pairs of a prompt are in one. Example: aab -> 0, 0, 1."""
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return [numbers[prompt] % FOLDS for prompt in prompts]


def cross_fitted(pairs: VotedPairs, folds: Sequence[int], ties: Ties = HALF) -> VotedPairs:
    """Each Δ divided by a temperature that was fitted on the other folds; needs two of them."""
    cooled = np.empty_like(pairs.margins)
    for fold in set(folds):
        here = np.array(folds) == fold
        cooled[here] = pairs.margins[here] / fit_temperature(pairs.at(~here), ties)
    return pairs._replace(margins=cooled)


# --- single completions and pairs -------------------------------------------------------------
def score_and_length(judged: Sequence[JudgedPair]) -> dict[str, Any]:
    """Spearman's correlation over completions, each once: near 1, it may only count words."""
    # One that stands in several pairs has the same score and length in each.
    completions = dict.fromkeys(
        (pair.prompt, scored) for pair in judged for scored in (pair.chosen, pair.rejected)
    )
    scores = [scored.score for _, scored in completions]
    lengths = [scored.n_tokens for _, scored in completions]
    is_constant = len(set(scores)) < 2 or len(set(lengths)) < 2
    value = None if is_constant else float(spearmanr(scores, lengths).statistic)
    return {"n": len(completions), "value": value}


def mistakes(decided: Sequence[JudgedPair]) -> list[dict[str, Any]]:
    """The pairs with the most negative Δ among those that people agree about, the worst first."""
    wrong = [pair for pair in decided if pair.margin < 0 and pair.agreement != "split"]
    wrong.sort(key=lambda pair: (pair.margin, pair.place))
    return [
        {
            "place": pair.place,
            "margin": pair.margin,
            "chosen_tokens": pair.chosen.n_tokens,
            "rejected_tokens": pair.rejected.n_tokens,
        }
        for pair in wrong[:MOST_MISTAKES]
    ]


# --- duplicates -------------------------------------------------------------------------------
def duplicates(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Held-out pairs with a prompt or a completion that also stands in a training pair.

    White space and case do not count, nor do completions that say nothing. `examples` names the
    first of them by the place among the test pairs and among the training pairs, from 0.
    """
    train = [pair for pair in pairs if pair.split == "train"]
    test = [pair for pair in pairs if pair.split == "test"]
    prompts = _matches(test, train, lambda pair: {normal_prompt(pair)})
    completions = _matches(test, train, _completions)
    found = [("prompt", *match) for match in prompts]
    found += [("completion", *match) for match in completions]
    return {
        "n_test": len(test),
        "same_prompt": len(prompts),
        "same_completion": len(completions),
        "examples": [
            {"what": what, "place": place, "train_place": train_place}
            for what, place, train_place in found[:MOST_EXAMPLES]
        ],
    }


def _matches(
    test: Sequence[Pair], train: Sequence[Pair], texts_of: Callable[[Pair], set[str]]
) -> list[tuple[int, int]]:
    """The places of each test pair that shares a text with a training pair, and of that one."""
    known: dict[str, int] = {}
    for place, pair in enumerate(train):
        for text in texts_of(pair):
            known.setdefault(text, place)
    shared = [[known[text] for text in texts_of(pair) if text in known] for pair in test]
    return [(place, min(places)) for place, places in enumerate(shared) if places]


def normal_prompt(pair: Pair) -> str:
    """All messages of the prompt, whatever their white space and case."""
    return "\n".join(
        f"{message['role']}: {normal_text(message['content'])}" for message in pair.prompt
    )


def _completions(pair: Pair) -> set[str]:
    return {normal_text(pair.chosen), normal_text(pair.rejected)} - {""}


def normal_text(text: str) -> str:
    """Example: " Hello,\\n World" -> "hello, world"."""
    return " ".join(text.split()).casefold()
