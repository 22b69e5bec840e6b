"""Who is believed: a reward model from votes of which a fifth are a saboteur's, by four methods.

    python bench/annotators.py [--seeds 5] [--pairs 200] [--people 10] [--overlap 3]

Simulated annotators (rlhf/taste.py) vote on pairs of answers of the tiny model's grammar; every fifth
of them is a saboteur. A reward model learns from the votes

    majority   one winner per pair, by most votes; pairs without one are left out
    shares     p_chosen, the share of the votes
    crowd      the shares, with each vote weighed by crowd-kit's one-coin Dawid-Skene
    joint      every vote, with its annotator's reliability and biases learnt at the same time

and orders 2000 pairs of other answers. Prints a JSON line per method: the share that it orders as the
true taste does, by seed, and what weight it gave to saboteurs and to the others. `train` is all that
is to be replaced to learn another reward model: here it is linear in the counts of words, so that
the seeds are done in seconds and its shape is not what limits it.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from rlhf.taste import Manner, draw_manner, judge, taste
from rlhf.training.annotator_model import (
    AnnotatorModel,
    count_votes,
    crowd_weights,
    length_difference,
    reweigh,
)
from rlhf.training.data import Pair, Vote
from rlhf.training.tiny import write_answer, write_question

METHODS = ("majority", "shares", "crowd", "joint")
HELD_OUT = 2000  # pairs
STEPS = 200
LEARNING_RATE = 0.05
WEIGHT_STD = 0.3  # Gaussian prior of the linear model's weights

Score = Callable[[Sequence[str]], torch.Tensor]  # texts to scores, (N,)


class Trained(NamedTuple):
    score: Score
    weights: dict[str, float]  # of each annotator's votes; 1 where the method has none


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--overlap", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float, float]]] = {method: [] for method in METHODS}
    for seed in range(arguments.seeds):
        rng = random.Random(seed)
        people = make_people(rng, arguments.people)
        pairs = [vote_on(rng, people, arguments.overlap) for _ in range(arguments.pairs)]
        held_out = [write_two(rng) for _ in range(HELD_OUT)]
        for method in METHODS:
            trained = train([pair for pair in pairs if pair.votes], method, seed)
            found[method].append((accuracy(trained.score, held_out), *believed(trained, people)))
    for method, values in found.items():
        print(json.dumps(summary(method, values)), flush=True)


# --- votes --------------------------------------------------------------------------------------
def make_people(rng: random.Random, number: int) -> dict[str, Manner]:
    """By number; every fifth is a saboteur."""
    return {str(n): draw_manner(rng, is_saboteur=n % 5 == 0) for n in range(1, number + 1)}


def write_two(rng: random.Random) -> list[str]:
    texts = [write_answer(rng), write_answer(rng)]
    return texts if texts[0] != texts[1] else write_two(rng)


def vote_on(rng: random.Random, people: dict[str, Manner], overlap: int) -> Pair:
    """Two answers as an export would give them, after votes of some of these people."""
    texts = write_two(rng)
    voters = rng.sample(sorted(people), overlap)
    said = [(voter, *vote_once(rng, people[voter], texts)) for voter in voters]
    said = [one for one in said if one[1] is not None]
    points = sum(preference for _, preference, _ in said)
    chosen = 0 if 2 * points >= len(said) else 1
    names = {chosen: "chosen", 1 - chosen: "rejected"}
    votes = tuple(
        Vote(voter, "tie" if preference == 0.5 else names[0 if preference else 1], names[first])
        for voter, preference, first in said
    )
    share = points / max(len(votes), 1)
    return Pair(
        [{"role": "user", "content": write_question(rng)}],
        texts[chosen],
        texts[1 - chosen],
        p_chosen=max(share, 1 - share),
        split="train",
        chosen_truncated=False,
        rejected_truncated=False,
        n_judgments=max(len(votes), 1),
        weight=float(len(votes)),
        votes=votes,
    )


def vote_once(rng: random.Random, manner: Manner, texts: list[str]) -> tuple[float | None, int]:
    """1 for the first text, 0 for the second, 1/2 for a tie, None if skipped; which was shown left."""
    order = rng.sample((0, 1), 2)
    ranking = judge(manner, [texts[index] for index in order], rng)
    if ranking is None:
        return None, order[0]
    if len(ranking) == 1:
        return 0.5, order[0]
    return float(order[ranking[0][0]] == 0), order[0]


# --- learning -----------------------------------------------------------------------------------
def train(pairs: Sequence[Pair], method: str, seed: int) -> Trained:
    """A reward model from these votes. `seed` is for models that start from random weights."""
    if method == "crowd":
        weights = crowd_weights(pairs)
        return Trained(learn([reweigh(pair, weights) for pair in pairs]), weights)
    if method == "joint":
        annotators = AnnotatorModel(count_votes(pairs))
        score = learn(pairs, annotators)
        estimates = annotators.estimates()
        return Trained(score, {number: each.weight for number, each in estimates.items()})
    if method == "majority":
        pairs = [pair._replace(p_chosen=1.0) for pair in pairs if pair.p_chosen != 0.5]
    return Trained(learn(pairs), {})


def learn(pairs: Sequence[Pair], annotators: AnnotatorModel | None = None) -> Score:
    """Linear in the counts of words, most probable under a Gaussian prior.

    The annotators, if there are any, are learnt at the same time.
    """
    vocabulary = {word: i for i, word in enumerate(sorted({w for p in pairs for w in words_of(p)}))}
    chosen = count_words([pair.chosen for pair in pairs], vocabulary)
    difference = chosen - count_words([pair.rejected for pair in pairs], vocabulary)  # (P, W)
    p_chosen = torch.tensor([pair.p_chosen for pair in pairs])
    weight = torch.tensor([pair.weight for pair in pairs])
    coefficients = torch.zeros(len(vocabulary), requires_grad=True)
    parameters = [coefficients]
    if annotators:
        lengths = [length_difference(len(p.chosen.split()), len(p.rejected.split())) for p in pairs]
        votes = annotators.encode(pairs, lengths)
        parameters += annotators.parameters()
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    for _ in range(STEPS):
        margins = difference @ coefficients
        if annotators:
            loss = (votes.weight * annotators(margins, votes)).sum() + annotators.prior()
        else:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                margins, p_chosen, reduction="none"
            )
            loss = (weight * losses).sum()
        loss = loss + (coefficients / WEIGHT_STD).square().sum() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learnt = coefficients.detach()
    return lambda texts: count_words(texts, vocabulary) @ learnt


def words_of(pair: Pair) -> list[str]:
    return [*pair.chosen.lower().split(), *pair.rejected.lower().split()]


def count_words(texts: Sequence[str], vocabulary: dict[str, int]) -> torch.Tensor:
    """(texts, words); words that are not in the vocabulary are left out."""
    counts = [[0.0] * len(vocabulary) for _ in texts]
    for row, text in zip(counts, texts, strict=True):
        for word in text.lower().split():
            if word in vocabulary:
                row[vocabulary[word]] += 1
    return torch.tensor(counts)


# --- the figures --------------------------------------------------------------------------------
def accuracy(score: Score, held_out: Sequence[list[str]]) -> float:
    """Share of the pairs of different taste that are ordered as the true taste orders them."""
    differences = [taste(first) - taste(second) for first, second in held_out]
    margins = score([one for one, _ in held_out]) - score([other for _, other in held_out])
    both = zip(differences, margins.tolist(), strict=True)
    hits = [true * learnt > 0 for true, learnt in both if true]
    return sum(hits) / len(hits)


def believed(trained: Trained, people: dict[str, Manner]) -> tuple[float, float]:
    """The highest weight of a saboteur and the lowest of anybody else."""
    of = {True: [0.0], False: [1.0]}
    for number, manner in people.items():
        of[manner.is_saboteur].append(trained.weights.get(number, 1.0))
    return max(of[True]), min(of[False])


def summary(method: str, values: Sequence[tuple[float, float, float]]) -> dict[str, object]:
    accuracies = [round(value, 4) for value, _, _ in values]
    return {
        "method": method,
        "accuracy_median": statistics.median(accuracies),
        "accuracy": accuracies,
        "highest_weight_of_a_saboteur": round(max(high for _, high, _ in values), 3),
        "lowest_weight_of_the_others": round(min(low for _, _, low in values), 3),
    }


if __name__ == "__main__":
    main()
