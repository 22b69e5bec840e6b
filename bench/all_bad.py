"""Does it help to learn from "all bad"? Reward models with and without that term, from the same votes.

    python bench/all_bad.py [--coefficients 0 0.1 1] [--seeds 5] [--pairs 200] [--people 10]
        [--overlap 3] [--bad 0.3]

Simulated annotators (rlhf/taste.py) vote on pairs of answers of the tiny model's grammar. Each has a level
of the true taste, and calls both answers bad if the better one is below it, with the noise that they
vote with; levels lie half a point around one below which the better one of a share `--bad` of all pairs is. From the same votes the run *reward model* learns on the
tiny model, as it does from an export, with each `all_bad_coefficient`; and its artifact scores 2000 pairs
of other answers to other prompts. Prints a JSON line per coefficient: the share of these pairs that is
ordered as the true taste orders them, and Spearman's correlation of score and taste over all their
answers, which are to different prompts; by seed. Five seeds take some minutes on one thread.
"""

import argparse
import contextlib
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch
from scipy.stats import spearmanr

from bench.annotators import HELD_OUT, SETTINGS, Question, Row, ask, vote_on, write_lines
from rlhf.taste import Manner, draw_manner, taste
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import RewardModelConfig
from rlhf.training.reward_model import run
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge
from rlhf.training.tiny import build_tiny_model


class Person(NamedTuple):
    manner: Manner
    level: float  # points of taste below which answers are bad


class Votes(NamedTuple):
    """What an export says of the same judgments."""

    rows: list[Row]  # data.jsonl
    records: list[Row]  # votes.jsonl


class Learnt(NamedTuple):
    accuracy: float
    correlation: float
    n_all_bad: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coefficients", type=float, nargs="+", default=[0.0, 0.1, 1.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--bad", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[float, list[Learnt]] = {each: [] for each in arguments.coefficients}
    with tempfile.TemporaryDirectory() as scratch:
        build_tiny_model(Path(scratch) / "model")
        for seed in range(arguments.seeds):
            rng = random.Random(seed)
            people = make_people(rng, arguments.people, arguments.bad)
            asked = [ask(rng) for _ in range(arguments.pairs)]
            votes = vote(rng, asked, people, arguments.overlap)
            held_out = [ask(rng) for _ in range(HELD_OUT)]
            for coefficient, learnt in found.items():
                folder = Path(scratch) / f"{coefficient}-{seed}"
                learnt.append(learn(folder, asked, votes, held_out, coefficient, seed))
    for coefficient, learnt in found.items():
        print(json.dumps(summary(coefficient, learnt)), flush=True)


# --- votes --------------------------------------------------------------------------------------
def make_people(rng: random.Random, number: int, bad: float) -> dict[str, Person]:
    """By number. Their levels lie around one that the better answer of a share `bad` of all pairs misses."""
    best = sorted(max(map(taste, ask(rng).texts)) for _ in range(HELD_OUT))
    level = best[int(bad * HELD_OUT)]
    return {
        str(n): Person(draw_manner(rng), level + rng.uniform(-0.5, 0.5))
        for n in range(1, number + 1)
    }


def vote(
    rng: random.Random, asked: Sequence[Question], people: dict[str, Person], overlap: int
) -> Votes:
    votes = Votes([], [])
    for question in asked:
        voters = rng.sample(sorted(people), overlap)
        rank = {v: people[v].manner for v in voters if not calls_bad(rng, people[v], question)}
        row = vote_on(rng, question, rank, len(rank))
        n_bad, n_ranked = overlap - len(rank), row["n_judgments"] if row else 0
        if row:
            votes.rows.append(row | {"n_all_bad": n_bad})
        votes.records.append({
            "prompt": question.prompt, "completions": question.texts, "truncated": [False, False],
            "judgments": [{"verdict": "all_bad"}] * n_bad + [{"verdict": "ranking"}] * n_ranked,
            "rulings": [], "split": "train",
        })  # fmt: skip
    return votes


def calls_bad(rng: random.Random, person: Person, question: Question) -> bool:
    missing = person.level - max(map(taste, question.texts))
    return rng.random() < 1 / (1 + math.exp(-missing / person.manner.noise))


# --- learning -----------------------------------------------------------------------------------
def learn(
    path: Path, asked: Sequence[Question], votes: Votes, held_out: Sequence[Question],
    coefficient: float, seed: int,
) -> Learnt:  # fmt: skip
    """A run in a folder of its own, and what its artifact makes of answers that it has not seen."""
    write_lines(path / "data" / "data.jsonl", votes.rows)
    write_lines(path / "data" / "votes.jsonl", votes.records)
    prompts = [{"id": n, "messages": question.prompt} for n, question in enumerate(asked)]
    write_lines(path / "prompts.jsonl", prompts)
    config = RewardModelConfig(
        {"base": str(path.parent / "model"), "adapters": []},
        all_bad_coefficient=coefficient,
        seed=seed,
        **SETTINGS,
    )
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints what it logs
        result = run(config, RunFolder(path))
    said = [Conversation(each.prompt, text, 0, False) for each in held_out for text in each.texts]
    scores = list(map(float, load_judge(path / "artifact").scores(said)))
    true = [taste(each.completion) for each in said]
    return Learnt(
        accuracy(scores, true), float(spearmanr(scores, true).statistic), result["n_all_bad"]
    )


def accuracy(scores: Sequence[float], true: Sequence[float]) -> float:
    """Share of the pairs of different taste, one after the other, that are ordered as that is."""
    hits = [
        (true[place] - true[place + 1]) * (scores[place] - scores[place + 1]) > 0
        for place in range(0, len(true), 2)
        if true[place] != true[place + 1]
    ]
    return sum(hits) / len(hits)


def summary(coefficient: float, learnt: Sequence[Learnt]) -> dict[str, Any]:
    accuracies = [round(each.accuracy, 4) for each in learnt]
    correlations = [round(each.correlation, 3) for each in learnt]
    return {
        "coefficient": coefficient,
        "accuracy_median": statistics.median(accuracies),
        "accuracy": accuracies,
        "correlation_median": statistics.median(correlations),
        "correlation": correlations,
        "n_all_bad": [each.n_all_bad for each in learnt],
    }


if __name__ == "__main__":
    main()
