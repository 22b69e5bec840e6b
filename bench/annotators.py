"""Who is believed: reward models from votes of which a fifth are a saboteur's, by four methods.

    python bench/annotators.py [--seeds 5] [--pairs 200] [--people 10] [--overlap 3]

Simulated annotators (rlhf/taste.py) vote on pairs of answers of the tiny model's grammar; every fifth
of them is a saboteur. From the same votes the run *reward model* learns on the tiny model, as it
does from an export, with

    majority   one winner per pair, by most votes; pairs without one are left out
    equal      annotators = "equal": the shares of the votes
    crowd      annotators = "crowd": the shares, each vote weighed by crowd-kit's one-coin Dawid-Skene
    joint      annotators = "joint": every vote, with its annotator's reliability and biases

and its artifact orders 2000 pairs of other answers to other prompts. Prints a JSON line per method:
the share of these that is ordered as the true taste orders them, by seed, and the weights that it
found for saboteurs and for the others. Five seeds take some minutes on one thread.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch

from rlhf.taste import Manner, draw_manner, judge, taste
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import RewardModelConfig
from rlhf.training.reward_model import run
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import load_judge
from rlhf.training.tiny import build_tiny_model, write_answer, write_question

METHODS = ("majority", "equal", "crowd", "joint")
HELD_OUT = 2000  # pairs
# As the tiny simulation trains (docs/simulation.md); what is sampled only sets the score's unit.
SETTINGS: dict[str, Any] = {
    "epochs": 3, "learning_rate": 3e-3, "batch_size": 16, "micro_batch_tokens": 2048,
    "policy_samples": 8, "max_new_tokens": 16,
}  # fmt: skip

Row = dict[str, Any]  # a line of data.jsonl, see docs/data-format.md


class Question(NamedTuple):
    """A prompt and two different answers to it."""

    prompt: list[dict[str, str]]
    texts: list[str]


class Learnt(NamedTuple):
    """What came of one method and seed."""

    accuracy: float
    saboteurs: float  # the highest weight of a saboteur
    others: float  # the lowest of anybody else


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
    found: dict[str, list[Learnt]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as scratch:
        build_tiny_model(Path(scratch) / "model")
        for seed in range(arguments.seeds):
            rng = random.Random(seed)
            people = make_people(rng, arguments.people)
            asked = [ask(rng) for _ in range(arguments.pairs)]
            rows = [vote_on(rng, question, people, arguments.overlap) for question in asked]
            held_out = [ask(rng) for _ in range(HELD_OUT)]
            for method in METHODS:
                folder = Path(scratch) / f"{method}-{seed}"
                found[method].append(learn(folder, rows, people, held_out, method, seed))
    for method, learnt in found.items():
        print(json.dumps(summary(method, learnt)), flush=True)


# --- votes --------------------------------------------------------------------------------------
def make_people(rng: random.Random, number: int) -> dict[str, Manner]:
    """By number; every fifth is a saboteur."""
    return {str(n): draw_manner(rng, is_saboteur=n % 5 == 0) for n in range(1, number + 1)}


def ask(rng: random.Random) -> Question:
    texts = [write_answer(rng), write_answer(rng)]
    if texts[0] == texts[1]:
        return ask(rng)
    return Question([{"role": "user", "content": write_question(rng)}], texts)


def vote_on(
    rng: random.Random, question: Question, people: dict[str, Manner], overlap: int
) -> Row | None:
    """The line of an export after votes of some of these people; None if all of them skipped it."""
    voters = rng.sample(sorted(people), overlap)
    said = [(voter, *vote_once(rng, people[voter], question.texts)) for voter in voters]
    said = [one for one in said if one[1] is not None]
    if not said:
        return None
    share = sum(preference for _, preference, _ in said) / len(said)
    chosen, rejected = (0, 1) if share >= 0.5 else (1, 0)
    names = {chosen: "chosen", rejected: "rejected"}
    votes = [
        {
            "annotator": voter,
            "prefers": "tie" if preference == 0.5 else names[0 if preference else 1],
            "first": names[first],
        }
        for voter, preference, first in said
    ]
    return {
        "prompt": question.prompt,
        "chosen": [{"role": "assistant", "content": question.texts[chosen]}],
        "rejected": [{"role": "assistant", "content": question.texts[rejected]}],
        "p_chosen": max(share, 1 - share),
        "n_judgments": len(votes),
        "weight": len(votes),
        "tie_share": sum(vote["prefers"] == "tie" for vote in votes) / len(votes),
        "votes": votes,
        "split": "train",
    }


def vote_once(rng: random.Random, manner: Manner, texts: list[str]) -> tuple[float | None, int]:
    """1 for the first text, 0 for the second, 1/2 for a tie, None if skipped; which was shown left."""
    order = rng.sample((0, 1), 2)
    ranking = judge(manner, [texts[index] for index in order], rng)
    if ranking is None:
        return None, order[0]
    if len(ranking) == 1:
        return 0.5, order[0]
    return float(order[ranking[0][0]] == 0), order[0]


def majority(row: Row) -> Row | None:
    """What is left of a line by most votes: a winner, and nothing of who said so."""
    if row["p_chosen"] == 0.5:
        return None
    return row | {"p_chosen": 1.0, "n_judgments": 1, "weight": 1, "tie_share": 0.0, "votes": []}


# --- learning -----------------------------------------------------------------------------------
def learn(
    path: Path, rows: Sequence[Row | None], people: dict[str, Manner],
    held_out: Sequence[Question], method: str, seed: int,
) -> Learnt:  # fmt: skip
    """A run in a folder of its own, and what its artifact makes of pairs that it has not seen."""
    learnt_from = [row for row in rows if row is not None]
    if method == "majority":
        learnt_from = [left for row in learnt_from if (left := majority(row)) is not None]
    prompts = [{"id": n, "messages": row["prompt"]} for n, row in enumerate(learnt_from)]
    write_lines(path / "data" / "data.jsonl", learnt_from)
    write_lines(path / "prompts.jsonl", prompts)
    config = RewardModelConfig(
        {"base": str(path.parent / "model"), "adapters": []},
        annotators="equal" if method == "majority" else method,
        seed=seed,
        **SETTINGS,
    )
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints what it logs
        result = run(config, RunFolder(path))
    weights = {number: each["weight"] for number, each in result["annotators"].items()}
    return Learnt(accuracy(path / "artifact", held_out), *believed(weights, people))


def write_lines(path: Path, lines: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- the figures --------------------------------------------------------------------------------
def accuracy(artifact: Path, held_out: Sequence[Question]) -> float:
    """Share of the pairs of different taste that are ordered as the true taste orders them."""
    said = [
        Conversation(question.prompt, text, 0, False)
        for question in held_out
        for text in question.texts
    ]
    scores = iter(load_judge(artifact).scores(said))
    hits = []
    for question in held_out:
        margin = next(scores) - next(scores)
        if true := taste(question.texts[0]) - taste(question.texts[1]):
            hits.append(true * margin > 0)
    return sum(hits) / len(hits)


def believed(weights: dict[str, float], people: dict[str, Manner]) -> tuple[float, float]:
    """The highest weight of a saboteur and the lowest of anybody else; 1 where none was found."""
    of: dict[bool, list[float]] = {True: [], False: []}
    for number, manner in people.items():
        of[manner.is_saboteur].append(weights.get(number, 1.0))
    return max(of[True], default=0.0), min(of[False], default=1.0)


def summary(method: str, learnt: Sequence[Learnt]) -> dict[str, Any]:
    accuracies = [round(each.accuracy, 4) for each in learnt]
    return {
        "method": method,
        "accuracy_median": statistics.median(accuracies),
        "accuracy": accuracies,
        "highest_weight_of_a_saboteur": round(max(each.saboteurs for each in learnt), 3),
        "lowest_weight_of_the_others": round(min(each.others for each in learnt), 3),
    }


if __name__ == "__main__":
    main()
