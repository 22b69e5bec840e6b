"""Who is believed: how reliable each annotator is and what biases them, from their votes.

Annotator a says of a pair that `chosen` is better with probability

    sigmoid(c_a Δ + b_a position + l_a length_difference)

Δ is the difference of the two scores, c_a ≥ 0 the annotator's reliability, `position` 1 if `chosen`
was shown first and -1 if not, `length_difference` how much longer `chosen` is. A tie is half a vote
for either. Whoever votes at random, or the wrong way round, has c_a = 0: their votes say nothing of
Δ. Gaussian priors keep those who have voted little near the typical annotator: no biases, and c_a = 1,
which is the mean of those who are believed.

The scores may be those of a reward model that learns at the same time: Crowd-BT (Chen et al. 2013,
doi 10.1145/2433396.2433420) with a network in place of a parameter per item, and, as in GLAD
(Whitehill et al. 2009), reliability as a factor of the logit. Or they are fixed (`fit_annotators`).
`crowd_weights` needs no scores: only votes of several people on the same pairs.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlhf.training.data import Vote

# Standard deviations of the priors. Two typical annotators differ in reliability as 0.5 and 1.7,
# and prefer the first of two equal answers, or one e times as long, in 38 to 62 of 100 cases.
RELIABILITY_STD = 1.0  # of softplus⁻¹(c)
POSITION_STD = 0.5  # logits
LENGTH_STD = 0.5  # logits per unit of length_difference
TYPICAL = math.log(math.e - 1)  # softplus(TYPICAL) = 1
LONGEST = 2.0  # more than e² = 7.4 times as long counts as that
LEAST = 0.05  # reliability to begin with
SCALE_STD = 2.0  # of the logarithm of a factor for fixed scores, so that it stays finite


class Judged(Protocol):
    """A pair with its votes, whatever else it has: `Pair` is one."""

    @property
    def votes(self) -> tuple[Vote, ...]: ...

    @property
    def weight(self) -> float: ...

    @property
    def comparison(self) -> int: ...


class Votes(NamedTuple):
    """V votes on P pairs as tensors of (V,)."""

    pair: Tensor  # its place among the P pairs
    annotator: Tensor  # their place in AnnotatorModel.annotators
    preference: Tensor  # 1 for chosen, 0 for rejected, 1/2 for a tie
    position: Tensor  # 1 if chosen was shown first, else -1
    length_difference: Tensor  # of the pair
    weight: Tensor  # the pair's weight, shared out among its votes


class Estimate(NamedTuple):
    """What is known of an annotator. Biases are in logits; 0 is none."""

    reliability: float  # 1 is typical, 0 votes at random
    position_bias: float  # for what is shown first
    length_bias: float  # for what is longer, beyond what is common
    weight: float  # of their votes: 0 to 1
    n_votes: int


class AnnotatorModel(nn.Module):
    """Reliability and biases of the annotators who gave `n_votes` votes each.

    As part of a loss that is a sum over all votes, with the scores' gradient in `margins`:

        (votes.weight * model(margins, votes)).sum() + model.prior()

    In minibatches of B of N votes, the prior's share is B / N. Raises ValueError if there are none.
    """

    n_votes: Tensor  # (A,)

    def __init__(self, n_votes: Mapping[str, int]) -> None:
        if not n_votes:
            raise ValueError("there are no votes from which to learn who is believed")
        super().__init__()
        self.annotators = sorted(n_votes, key=lambda annotator: (len(annotator), annotator))
        self.places = {annotator: place for place, annotator in enumerate(self.annotators)}
        counts = [n_votes[annotator] for annotator in self.annotators]
        self.register_buffer("n_votes", torch.tensor(counts, dtype=torch.long))
        self.raw_reliability = nn.Parameter(torch.full((len(counts),), TYPICAL))
        self.position_bias = nn.Parameter(torch.zeros(len(counts)))
        self.raw_length_bias = nn.Parameter(torch.zeros(len(counts)))

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, float], n_votes: Mapping[str, int]) -> None:
        """Forget what was learned, and begin with reliabilities that stand to each other as these
        weights, of people who gave so many votes."""
        known = torch.tensor([weights.get(annotator, 1.0) for annotator in self.annotators])
        self.raw_reliability.copy_(torch.log(torch.expm1(known.clamp(min=LEAST))))  # softplus⁻¹
        self.position_bias.zero_()
        self.raw_length_bias.zero_()
        counts = [n_votes.get(each, 0) for each in self.annotators]
        # Means over votes need some: without any, nobody's votes are learned from anyway.
        self.n_votes.copy_(torch.tensor(counts if any(counts) else [1] * len(counts)))

    def encode(self, pairs: Sequence[Judged], length_differences: Sequence[float]) -> Votes:
        """All votes on these pairs; pairs without votes add none.

        Raises KeyError for an annotator whom the model does not know.
        """
        rows = [
            (
                place,
                self.places[vote.annotator],
                preference_of(vote),
                1.0 if vote.first == "chosen" else -1.0,
                difference,
                pair.weight / len(pair.votes),
            )
            for place, (pair, difference) in enumerate(zip(pairs, length_differences, strict=True))
            for vote in pair.votes
        ]
        like = self.position_bias
        columns = (
            torch.tensor(rows, dtype=torch.float64, device=like.device).reshape(len(rows), 6).T
        )
        pair, annotator, *values = columns
        return Votes(pair.long(), annotator.long(), *(value.to(like.dtype) for value in values))

    def logits(self, margins: Tensor, votes: Votes) -> Tensor:
        """Of "chosen is better", for each vote, (V,); margins are of the pairs, (P,)."""
        return (
            self.reliability()[votes.annotator] * margins[votes.pair]
            + self.position_bias[votes.annotator] * votes.position
            + self.length_bias()[votes.annotator] * votes.length_difference
        )

    def forward(self, margins: Tensor, votes: Votes) -> Tensor:
        """Negative log-likelihood of each vote, (V,), in nats; margins are of the pairs, (P,)."""
        # With a target of 1/2: the mean of "chosen is better" and "rejected is better".
        return F.binary_cross_entropy_with_logits(
            self.logits(margins, votes), votes.preference, reduction="none"
        )

    def prior(self) -> Tensor:
        """Negative log-density of the parameters, up to a constant, in nats."""
        terms = (
            (self.raw_reliability - TYPICAL) / RELIABILITY_STD,
            self.position_bias / POSITION_STD,
            self.raw_length_bias / LENGTH_STD,
        )
        return sum((term**2).sum() / 2 for term in terms)

    def reliability(self) -> Tensor:
        """c, (A,): never negative, as nobody is believed to mean the opposite of what they say.

        Its mean over the votes is 1, each vote counting as much as it is believed. Otherwise scores
        half as large with everybody twice as reliable would explain the votes as well, and a
        network that is kept small would choose them.
        """
        believed = F.softplus(self.raw_reliability)
        return believed / self._mean_of_votes(believed, believed)

    def length_bias(self) -> Tensor:
        """l, (A,): its mean over the votes is 0, each vote counting as much as it is believed.

        What those who are believed share of a liking for length is taste, and left to the scores:
        biases are learnt faster than a network's weights, and would take it from them.
        """
        believed = F.softplus(self.raw_reliability)
        return self.raw_length_bias - self._mean_of_votes(self.raw_length_bias, believed)

    def _mean_of_votes(self, values: Tensor, believed: Tensor) -> Tensor:
        trust = self.n_votes * believed  # (A,)
        return (trust * values).sum() / trust.sum()

    def weights(self) -> Tensor:
        """min(1, c²), (A,): how much there is in a vote, beside that of a typical annotator.

        c² / 4 is the Fisher information of a vote about Δ, at Δ = 0.
        """
        return self.reliability().detach().square().clamp(max=1)

    def estimates(self) -> dict[str, Estimate]:
        columns = (
            self.reliability().tolist(),
            self.position_bias.tolist(),
            self.length_bias().tolist(),
            self.weights().tolist(),
            self.n_votes.tolist(),
        )
        return dict(zip(self.annotators, map(Estimate, *columns), strict=True))


def fit_annotators(
    margins: Sequence[float], pairs: Sequence[Judged], length_differences: Sequence[float]
) -> AnnotatorModel:
    """The most probable annotators, given the scores' differences; they are not changed.

    The scores' scale is fitted too, so that 1 is the reliability of a typical annotator whatever
    the scores' unit. Deterministic. Raises ValueError if there are no votes.
    """
    model = AnnotatorModel(count_votes(pairs)).double()
    votes = model.encode(pairs, length_differences)
    fixed = torch.tensor(margins, dtype=torch.float64)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [*model.parameters(), log_scale], max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (votes.weight * model(log_scale.exp() * fixed, votes)).sum() + model.prior()
        loss = loss + (log_scale / SCALE_STD) ** 2 / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


# --- votes ------------------------------------------------------------------------------------
def count_votes(pairs: Sequence[Judged]) -> dict[str, int]:
    """Judgments by annotator: a ranking of several completions is one, however many pairs it makes."""
    # Of a comparison whose number is unknown, each pair is taken for one of its own.
    given = dict.fromkeys(
        (vote.annotator, pair.comparison or -place - 1)
        for place, pair in enumerate(pairs)
        for vote in pair.votes
    )
    return dict(Counter(annotator for annotator, _ in given))


def preference_of(vote: Vote) -> float:
    """1 for chosen, 0 for rejected, 1/2 for a tie."""
    return {"chosen": 1.0, "rejected": 0.0, "tie": 0.5}[vote.prefers]


def length_difference(chosen_tokens: int, rejected_tokens: int) -> float:
    """log of how many times as long `chosen` is, from -2 to 2; an empty answer counts as a token.

    Example: 20 and 10 tokens -> 0.69.
    """
    ratio = max(chosen_tokens, 1) / max(rejected_tokens, 1)
    return min(max(math.log(ratio), -LONGEST), LONGEST)


def reweigh(pair: Any, weights: Mapping[str, float]) -> Any:
    """The pair, a `Pair` or one that is encoded, as its annotators' weights make it: p_chosen, tie_share and weight.

    p_chosen = Σ w preference / Σ w over its votes, and its weight is multiplied by the mean of w.
    With all weights 1 nothing changes. p_chosen may fall below 1/2: most of those who are believed
    prefer `rejected` then. A pair of nobody who is believed keeps its shares, at weight 0. An annotator
    without a weight is believed.
    """
    trust = [weights.get(vote.annotator, 1.0) for vote in pair.votes]
    total = sum(trust)
    if not trust:
        return pair
    if not total:
        return pair._replace(weight=0.0)
    by_vote = list(zip(trust, pair.votes, strict=True))
    return pair._replace(
        p_chosen=sum(w * preference_of(vote) for w, vote in by_vote) / total,
        tie_share=sum(w for w, vote in by_vote if vote.prefers == "tie") / total,
        weight=pair.weight * total / len(trust),
    )


# --- estimates as JSON --------------------------------------------------------------------------
def to_json(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """{annotator: {"reliability", "position_bias", "length_bias", "weight", "n_votes"}}."""
    return {annotator: estimate._asdict() for annotator, estimate in estimates.items()}


def from_json(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {annotator: Estimate(**fields) for annotator, fields in value.items()}


# --- without scores -----------------------------------------------------------------------------
def crowd_weights(pairs: Sequence[Judged]) -> dict[str, float]:
    """max(0, 2 s - 1) with s how often an annotator is right, by crowd-kit's one-coin Dawid-Skene.

    s is found by expectation maximisation from the votes that decide a pair which several people
    have decided (Zhang et al. 2016, arXiv 1406.3824); 1/2 is a coin. Whoever shares no pair with
    anybody cannot be checked, and has weight 1.
    """
    # Imported late: it brings scikit-learn along, which takes seconds.
    import pandas as pd  # noqa: PLC0415
    from crowdkit.aggregation import OneCoinDawidSkene  # noqa: PLC0415

    weights = dict.fromkeys(count_votes(pairs), 1.0)
    decided = [[vote for vote in pair.votes if vote.prefers != "tie"] for pair in pairs]
    # Labels are turned round on every other pair: `chosen` is what most preferred, and a model
    # that knows this would believe that everybody is right.
    rows = [
        (place, vote.annotator, (vote.prefers == "chosen") == (place % 2 == 0))
        for place, votes in enumerate(decided)
        if len({vote.annotator for vote in votes}) > 1
        for vote in votes
    ]
    if rows:
        votes = pd.DataFrame(rows, columns=["task", "worker", "label"])
        with warnings.catch_warnings():  # crowd-kit 1.4 uses keywords that pandas 4 will drop
            warnings.simplefilter("ignore", DeprecationWarning)
            skills = OneCoinDawidSkene().fit(votes).skills_
        weights |= {annotator: max(0.0, 2 * skill - 1) for annotator, skill in skills.items()}
    return weights
