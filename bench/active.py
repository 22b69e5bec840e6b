"""Does asking the most informative questions first need fewer votes? Simulated, five seeds.

    python bench/active.py [--model mlp|linear] [--members 4] [--seeds 5] [--votes 600]
        [--round 50] [--pool 3000]

A pool of pairs of answers from the grammar of rlhf/training/tiny.py; people who vote as
rlhf/taste.py says, with noise, ties and a bias to the left; a reward model of `--members` small
networks (or logistic regressions) on word counts, each with bootstrap weights of its own. Both arms begin with the same
votes. Then, round by round, each trains on its own votes alone; the random arm draws its next pairs,
the active arm takes those of the highest expected information. Accuracy is the share of held-out
pairs whose better answer, by the true taste, has the higher mean score.

Prints a JSON line per seed, and one for all: `votes_needed` is with how many votes the active arm
first reached the random arm's accuracy at the end, null if it never did.
"""

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import numpy as np
import torch
from torch.nn import functional as F

from rlhf.taste import draw_manner, judge, taste
from rlhf.training.arms import ACTIVE, RANDOM, votes_needed
from rlhf.training.information import expected_information
from rlhf.training.tiny import write_answer

HELD_OUT = 3000
PRIOR = 0.1  # precision of linear weights: without it, what nobody has said yet would be infinite
NEWTON_STEPS = 12
HIDDEN = 32
ADAM_STEPS, LEARNING_RATE, WEIGHT_DECAY = 200, 1e-2, 0.3

# Features of pairs, (n, 2, d), to each member's score of the first less that of the second, (n, m).
Model = Callable[[np.ndarray], np.ndarray]


class World(NamedTuple):
    """Pairs of one seed: those to ask, those held out, and who can be asked."""

    texts: list[list[str]]
    features: np.ndarray  # (pairs, 2, d)
    held_out: np.ndarray  # (held-out pairs, 2, d)
    is_first_better: np.ndarray  # (held-out pairs,)
    rng: random.Random

    def vote(self, pair: int) -> float | None:
        """1 if the first is preferred, 0 if the second, 1/2 for a tie, None if skipped."""
        manner = draw_manner(self.rng)  # somebody else's each time
        order = self.rng.sample((0, 1), 2)
        ranking = judge(manner, [self.texts[pair][place] for place in order], self.rng)
        if ranking is None:
            return None
        return 0.5 if len(ranking) == 1 else float(order[ranking[0][0]] == 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["mlp", "linear"], default="mlp")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--votes", type=int, default=600)
    parser.add_argument("--round", type=int, default=50)
    parser.add_argument("--pool", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small
    began = time.monotonic()
    found = []
    for seed in range(arguments.seeds):
        rows = compare(seed, arguments)
        found.append(rows)
        print(json.dumps({"bench": "active", "seed": seed, **summary(rows)}), flush=True)
    print(json.dumps(overall(found, arguments, time.monotonic() - began)))


def compare(seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "n_votes": n_votes, "accuracy": accuracy}
        for arm in (ACTIVE, RANDOM)
        for n_votes, accuracy in ask(arm, seed, arguments)
    ]


def ask(arm: str, seed: int, arguments: argparse.Namespace) -> list[tuple[int, float]]:
    """Accuracy after each round of votes. The first round is the same in both arms."""
    world = make_world(seed, arguments.pool)
    left = list(range(arguments.pool))
    world.rng.shuffle(left)
    asked: list[int] = []
    votes: list[float] = []
    curve = []
    train = {"mlp": train_networks, "linear": train_regressions}[arguments.model]
    model: Model | None = None
    while len(votes) < arguments.votes:
        if arm == ACTIVE and model:
            left = most_informative_first(model, world, left)
        goal = len(votes) + arguments.round
        while len(votes) < goal:
            pair = left.pop(0)
            if (vote := world.vote(pair)) is not None:
                asked.append(pair)
                votes.append(vote)
        model = train(world.features[asked], np.array(votes), arguments.members, seed)
        margins = model(world.held_out).mean(1)
        curve.append((len(votes), float(np.mean((margins > 0) == world.is_first_better))))
    return curve


def make_world(seed: int, n_pairs: int) -> World:
    rng = random.Random(seed)
    pairs = [different_answers(rng) for _ in range(n_pairs + HELD_OUT)]
    words = sorted({word for pair in pairs for text in pair for word in words_of(text)})
    index = {word: place for place, word in enumerate(words)}
    features = np.array([[counts(text, index) for text in pair] for pair in pairs])
    features[..., -1] /= 10  # the length, in the order of magnitude of the others
    better = np.array([taste(first) - taste(second) for first, second in pairs[n_pairs:]])
    decided = better != 0
    held_out = features[n_pairs:][decided]
    return World(pairs[:n_pairs], features[:n_pairs], held_out, better[decided] > 0, rng)


def different_answers(rng: random.Random) -> list[str]:
    first = second = write_answer(rng)
    while first == second:
        second = write_answer(rng)
    return [first, second]


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def counts(text: str, index: dict[str, int]) -> np.ndarray:
    """How often each word occurs, and how many words there are: (d,)."""
    row = np.zeros(len(index) + 1)
    for word in words_of(text):
        row[index[word]] += 1
    row[-1] = len(text.split())
    return row


def most_informative_first(model: Model, world: World, left: list[int]) -> list[int]:
    information = {
        pair: expected_information(row).total
        for pair, row in zip(left, model(world.features[left]).tolist(), strict=True)
    }
    return sorted(left, key=lambda pair: -information[pair])


# --- reward models ------------------------------------------------------------------------------
def importance(members: int, n: int, seed: int) -> np.ndarray:
    """How much each vote counts for each member, (m, n): the Bayesian bootstrap, whose weights follow
    Exp(1). A single member takes the votes as they are."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(members, n)) if members > 1 else np.ones((members, n))


def train_networks(features: np.ndarray, votes: np.ndarray, members: int, seed: int) -> Model:
    """One hidden layer each, all members at once."""
    generator = torch.Generator().manual_seed(seed)
    d = features.shape[-1]
    first = torch.randn(members, d, HIDDEN, generator=generator) / d**0.5
    second = torch.randn(members, HIDDEN, 1, generator=generator) / HIDDEN**0.5
    weights = [first.requires_grad_(), torch.zeros(members, 1, HIDDEN, requires_grad=True),
               second.requires_grad_()]  # fmt: skip

    def differences(pairs: np.ndarray) -> torch.Tensor:
        rows = torch.tensor(pairs.reshape(-1, d), dtype=torch.float32)
        scores = torch.relu(rows @ weights[0] + weights[1]) @ weights[2]  # (m, 2n, 1)
        chosen, other = scores.reshape(members, -1, 2).unbind(-1)
        return chosen - other  # (m, n)

    labels = torch.tensor(votes, dtype=torch.float32).expand(members, -1)
    counts = torch.tensor(importance(members, len(votes), seed), dtype=torch.float32)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(ADAM_STEPS):
        margins = differences(features)
        losses = F.binary_cross_entropy_with_logits(margins, labels, reduction="none")
        optimizer.zero_grad()
        (counts * losses).mean(1).sum().backward()
        optimizer.step()
    return lambda pairs: differences(pairs).detach().numpy().T


def train_regressions(features: np.ndarray, votes: np.ndarray, members: int, seed: int) -> Model:
    rows = features[:, 0] - features[:, 1]  # (n, d)
    weights = np.stack([fit(rows, votes, each) for each in importance(members, len(votes), seed)])
    return lambda pairs: (pairs[:, 0] - pairs[:, 1]) @ weights.T


def fit(rows: np.ndarray, votes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Logistic regression with shares as labels, by Newton's method: (d,)."""
    d = rows.shape[1]
    weights = np.zeros(d)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (counts * (p - votes)) + PRIOR * weights
        curvature = (rows.T * (counts * p * (1 - p))) @ rows + PRIOR * np.eye(d)
        weights = weights - np.linalg.solve(curvature, gradient)
    return weights


# --- what is printed --------------------------------------------------------------------------
def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    curves = {
        arm: {row["n_votes"]: round(row["accuracy"], 4) for row in per_hundred(rows, arm)}
        for arm in (RANDOM, ACTIVE)
    }
    return {**curves, "votes_needed": votes_needed(rows)}


def per_hundred(rows: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["arm"] == arm and row["n_votes"] % 100 == 0]


def overall(
    found: list[list[dict[str, Any]]], arguments: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    """Means over the seeds, with the lowest and the highest."""
    table: dict[str, dict[int, list[float]]] = {RANDOM: {}, ACTIVE: {}}
    for rows in found:
        for arm, by_votes in table.items():
            for row in per_hundred(rows, arm):
                by_votes.setdefault(row["n_votes"], []).append(row["accuracy"])
    shown = {
        arm: {
            n: [round(x, 4) for x in (statistics.fmean(values), min(values), max(values))]
            for n, values in by_votes.items()
        }
        for arm, by_votes in table.items()
    }
    return {
        "bench": "active",
        "model": arguments.model,
        "members": arguments.members,
        "pool": arguments.pool,
        **shown,
        "votes_needed": [votes_needed(rows) for rows in found],
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
