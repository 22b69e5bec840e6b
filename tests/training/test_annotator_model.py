"""Who is believed: annotators whose faults are known are recognised by their votes."""

import json
import math
import random

import pytest
import torch

from rlhf.training.annotator_model import (
    AnnotatorModel,
    count_votes,
    crowd_weights,
    fit_annotators,
    from_json,
    length_difference,
    reweigh,
    to_json,
)
from rlhf.training.data import Pair, Vote

HONEST = ("1", "2", "3", "4")
SABOTEUR, LEFT, LONG, NEWCOMER = "5", "6", "7", "10"
PROMPT = [{"role": "user", "content": "Why?"}]


def make_pair(*votes, weight=None):
    return Pair(
        PROMPT, "a", "b", 0.5, "train", False, False,
        n_judgments=max(len(votes), 1), weight=len(votes) if weight is None else weight,
        votes=votes,
    )  # fmt: skip


def make_crowd(n_pairs=400, seed=0):
    """Margins, pairs and length differences; everybody but the newcomer votes on every pair."""
    rng = random.Random(seed)
    margins = [rng.gauss(0, 2) for _ in range(n_pairs)]
    lengths = [rng.uniform(-2, 2) for _ in range(n_pairs)]
    return margins, [make_votes(rng, *each) for each in zip(margins, lengths, strict=True)], lengths


def make_votes(rng, margin, length):
    reliability = {SABOTEUR: -1.0}
    votes = []
    for annotator in (*HONEST, SABOTEUR, LEFT, LONG):
        first = rng.choice(("chosen", "rejected"))
        logit = reliability.get(annotator, 1.0) * margin
        logit += (1 if first == "chosen" else -1) * (1.5 if annotator == LEFT else 0)
        logit += 1.0 * length if annotator == LONG else 0
        is_chosen = rng.random() < 1 / (1 + math.exp(-logit))
        votes.append(Vote(annotator, "chosen" if is_chosen else "rejected", first))
    return make_pair(*votes)


@pytest.fixture(scope="module")
def crowd():
    return make_crowd()


@pytest.fixture(scope="module")
def fitted(crowd):
    return fit_annotators(*crowd).estimates()


# --- the likelihood -----------------------------------------------------------------------------
def test_a_vote_has_the_likelihood_that_one_computes_by_hand():
    model = AnnotatorModel({"1": 1, "2": 2})
    with torch.no_grad():
        model.raw_reliability[1] = math.log(math.e**2 - 1)  # softplus gives 2, beside a 1
        model.position_bias[1] = 0.3
        model.raw_length_bias[1] = 0.5
    pairs = [
        make_pair(Vote("2", "chosen", "rejected")),
        make_pair(Vote("1", "rejected", "chosen"), Vote("2", "tie", "chosen"), weight=1.0),
    ]
    votes = model.encode(pairs, [0.0, math.log(2)])

    losses = model(torch.tensor([0.5, -1.0]), votes)

    # Believed are 1 of one vote and 2 of two, so 4/5 of the votes' trust is in annotator 2.
    (one, two), (short, long) = (1 / 1.8, 2 / 1.8), (-0.4, 0.1)
    tie = two * -1.0 + 0.3 + long * math.log(2)
    assert model.reliability().tolist() == pytest.approx([one, two])
    assert losses.tolist() == pytest.approx([
        math.log(1 + math.exp(-(two * 0.5 - 0.3))),
        math.log(1 + math.exp(one * -1.0 + short * math.log(2))),
        (math.log(1 + math.exp(-tie)) + math.log(1 + math.exp(tie))) / 2,
    ])  # fmt: skip
    assert votes.weight.tolist() == [1.0, 0.5, 0.5]


def test_the_likelihood_teaches_the_scores_as_well_as_the_annotators():
    model = AnnotatorModel({"1": 1, "2": 1})
    margins = torch.zeros(1, requires_grad=True)
    votes = model.encode([make_pair(Vote("1", "chosen", "chosen"))], [1.0])

    model(margins, votes).sum().backward()

    assert margins.grad.tolist() == pytest.approx([-0.5])
    assert model.position_bias.grad.tolist() == pytest.approx([-0.5, 0.0])
    assert model.raw_length_bias.grad.tolist() == pytest.approx([-0.25, 0.25])


def test_nothing_is_learnt_from_a_pair_without_votes():
    model = AnnotatorModel({"1": 1})

    assert model(torch.zeros(1), model.encode([make_pair()], [0.0])).tolist() == []


def test_annotators_are_typical_until_they_have_voted():
    model = AnnotatorModel({"10": 1, "9": 3})

    assert model.annotators == ["9", "10"]
    assert model.estimates()["10"] == pytest.approx((1.0, 0.0, 0.0, 1.0, 1))
    assert model.prior().item() == 0


@pytest.mark.parametrize(
    ("tokens", "difference"),
    [((20, 10), math.log(2)), ((10, 20), -math.log(2)), ((1000, 1), 2.0), ((0, 0), 0.0)],
)
def test_length_difference_is_a_bounded_log_ratio(tokens, difference):
    assert length_difference(*tokens) == pytest.approx(difference)


def test_a_ranking_is_one_vote_however_many_pairs_it_makes():
    first, second = (Vote(number, "chosen", "chosen") for number in ("1", "2"))
    of_three = [make_pair(first, second)._replace(comparison=7)] * 3
    alone = [make_pair(first), make_pair(first)]  # of comparisons that are not known

    assert count_votes([*of_three, *alone]) == {"1": 3, "2": 1}


# --- who is recognised ---------------------------------------------------------------------------
def test_a_saboteur_is_not_believed(fitted):
    least = min(fitted, key=lambda annotator: fitted[annotator].reliability)

    assert least == SABOTEUR
    assert fitted[SABOTEUR].weight < 0.01
    assert all(fitted[annotator].weight > 0.6 for annotator in HONEST)


def test_a_bias_is_told_apart_from_unreliability(fitted):
    assert fitted[LEFT].position_bias == pytest.approx(1.5, abs=0.4)
    assert fitted[LONG].length_bias == pytest.approx(1.0, abs=0.4)
    assert all(abs(fitted[annotator].position_bias) < 0.4 for annotator in HONEST)
    assert all(abs(fitted[annotator].length_bias) < 0.4 for annotator in HONEST)


def test_whoever_has_voted_little_stays_near_the_typical_annotator(crowd):
    margins, pairs, lengths = crowd
    against = Vote(NEWCOMER, "rejected", "rejected")
    new = fit_annotators([*margins, 1.0], [*pairs, make_pair(against)], [*lengths, 0.0])

    newcomer = new.estimates()[NEWCOMER]

    assert newcomer.n_votes == 1
    assert newcomer.reliability == pytest.approx(1, abs=0.4)
    assert abs(newcomer.position_bias) < 0.3


def test_the_unit_of_the_scores_does_not_matter(crowd, fitted):
    margins, pairs, lengths = crowd

    other = fit_annotators([margin / 5 for margin in margins], pairs, lengths).estimates()

    for annotator in (*HONEST, SABOTEUR):
        assert other[annotator].weight == pytest.approx(fitted[annotator].weight, abs=0.05)


def test_no_votes_cannot_be_fitted():
    with pytest.raises(ValueError, match="there are no votes"):
        fit_annotators([1.0], [make_pair()], [0.0])


def test_estimates_are_read_back_identical(fitted):
    assert from_json(json.loads(json.dumps(to_json(fitted)))) == fitted


# --- weights at work ----------------------------------------------------------------------------
def test_a_pair_follows_those_who_are_believed():
    votes = [
        Vote("1", "chosen", "chosen"),
        Vote("2", "rejected", "chosen"),
        Vote("3", "tie", "chosen"),
    ]
    pair = make_pair(*votes, weight=2.0)

    weighed = reweigh(pair, {"2": 0.0, "3": 0.5})

    assert weighed.p_chosen == pytest.approx((1 + 0.25) / 1.5)
    assert weighed.tie_share == pytest.approx(0.5 / 1.5)
    assert weighed.weight == pytest.approx(2.0 * 1.5 / 3)
    assert weighed._replace(p_chosen=0.5, tie_share=0.0, weight=2.0) == pair


def test_a_pair_of_nobody_who_is_believed_counts_nothing():
    pair = make_pair(Vote("1", "chosen", "chosen"))

    assert reweigh(pair, {"1": 0.0}) == pair._replace(weight=0.0)
    assert reweigh(make_pair(weight=1.0), {}) == make_pair(weight=1.0)


def test_the_crowd_alone_tells_who_is_not_to_be_believed(crowd):
    _, pairs, _ = crowd
    alone = make_pair(Vote(NEWCOMER, "chosen", "chosen"))

    weights = crowd_weights([*pairs, alone])

    assert weights.keys() == count_votes([*pairs, alone]).keys()
    assert weights[SABOTEUR] == 0
    assert min(weights[annotator] for annotator in HONEST) > 0.3
    assert weights[NEWCOMER] == 1


def test_it_starts_from_what_is_known():
    model = AnnotatorModel({"1": 5, "2": 5})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)

    model.start_from({"1": 1.0, "2": 0.25}, {"1": 3})

    first, second = model.reliability().tolist()
    assert second / first == pytest.approx(0.25)
    assert model.estimates()["1"][1:3] == (0, 0)
    assert model.n_votes.tolist() == [3, 0]
