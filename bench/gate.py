"""The gate by simulation: how often it errs, and how many votes it takes beside a test of fixed size.

    python bench/gate.py [--repetitions 200] [--budget 300] [--margin 0.1] [--alpha 0.05] [--people 5]
    python bench/gate.py --prompts 25 [--spread 0.3] …

Simulated annotators (rlhf/taste.py: noise, position bias, ties; the last of them is a saboteur, who votes the wrong
way round) compare answers of a candidate and an incumbent, one vote per pair, in a drawn order. The
candidate's answers are so much shorter that these people prefer it with a given probability, a tie
being half a win; at 0.5 there is no difference at all, and every promotion is an error. Per win
probability, one JSON line:

    promoted, rejected, undecided    shares of the repetitions
    mean_votes       until the gate decides, or has used its budget
    fixed_size       votes of a one-sided z-test with the same error rate, which finds the margin as
                     often as the gate does: what one would have planned without a gate
    fixed_promoted   how often that test promotes in the same simulations
    known_size       votes of such a test that was planned for just this difference, with the gate's power
                     at it; null below the margin, where the gate is meant to reject
    peeking_promoted    how often a z-test promotes at which one looks after every tenth vote, and
                        stops at the first p below the error rate: what nobody should do
    uniform_votes    mean votes if the money is spread evenly over 32 shares, and not by the margin
    hoeffding_votes, bernstein_votes    the same with two other confidence sequences in its place

With --prompts there are fewer prompts than votes, each with as many pairs as the budget gives it, and the candidate is
good at some and bad at others: of half of them, drawn anew in each repetition, people prefer its answers more
often by the spread than they do on average, of the others less often. One JSON line per win probability:

    promoted, rejected, undecided, mean_votes    of the gate, to which a prompt is one outcome
    single_promoted    how often it would promote if each pair counted by itself, asked in a drawn order
    all_votes_promoted    how often a z-test promotes that has all votes of the budget, counted by prompt

Pure Python, and a minute or two on one core.
"""

import argparse
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from rlhf.sequential import (
    EVEN,
    PROMOTE,
    REJECT,
    UNDECIDED,
    Decision,
    Rule,
    decide,
    fixed_size,
    wealth_path,
)
from rlhf.taste import Manner, draw_manner, judge

DIFFERENCES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the win probability from one half, in margins
CLUSTERED = (0.0, 1.0, 2.0)  # the same, with several pairs per prompt
MEAN_WORDS, SPREAD = 24.0, 6.0
POLITE_SHARE = 0.3
CROWDS, VOTES_OF_CROWD = 100, 100  # from which a win probability is known
MOST_SHORTER, HALVINGS = 16.0, 9  # words
LOOK_EVERY, FIRST_LOOK = 10, 20
STEPS = 10  # in which prompts are asked: rlhf/gate_pairs.py


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--margin", type=float, default=0.1)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--spread", type=float, default=0.3)
    asked = parser.parse_args()
    rule = Rule(asked.alpha, asked.margin)
    if asked.prompts:
        for margins in CLUSTERED:
            mean = EVEN + margins * asked.margin
            print(json.dumps(measure_clustered(mean, rule, asked)), flush=True)
        return
    planned = simulate(asked, asked.margin)
    variance = statistics.variance(itertools.chain(*planned))  # ties make it smaller than ¼
    power = attainable(gate_of(planned, rule, asked.budget)[PROMOTE], asked.repetitions)
    size = fixed_size(asked.margin, variance, rule.alpha, power)
    for margins in DIFFERENCES:
        difference = margins * asked.margin
        drawn = simulate(asked, difference, max(size, asked.budget))
        found = {
            "win_probability": round(EVEN + difference, 4),
            **measure(drawn, rule, asked, size),
        }
        found["known_size"] = None
        if margins >= 1:
            power = attainable(found["promoted"], asked.repetitions)
            found["known_size"] = fixed_size(difference, variance, rule.alpha, power)
        print(json.dumps(found), flush=True)


def simulate(
    asked: argparse.Namespace, difference: float, n: int | None = None
) -> list[list[float]]:
    """Outcomes by repetition, of people who are others in each."""
    shorter_by = words_for(difference, asked.people)
    return [
        list(votes(random.Random(seed), shorter_by, asked.people, n or asked.budget))
        for seed in range(asked.repetitions)
    ]


def measure(
    drawn: Sequence[Sequence[float]], rule: Rule, asked: argparse.Namespace, size: int
) -> dict[str, Any]:
    found = gate_of(drawn, rule, asked.budget)
    return {
        "promoted": round(found[PROMOTE], 3),
        "rejected": round(found[REJECT], 3),
        "undecided": round(found[UNDECIDED], 3),
        "mean_votes": round(found["votes"], 1),
        "fixed_size": size,
        "fixed_promoted": round(share_of_z_tests(drawn, rule.alpha, size), 3),
        "peeking_promoted": round(share_of_peeking(drawn, rule.alpha, asked.budget), 3),
        "uniform_votes": round(mean_votes_uniform(drawn, rule, asked.budget), 1),
        "hoeffding_votes": round(mean_votes(drawn, rule, asked.budget, hoeffding), 1),
        "bernstein_votes": round(mean_votes(drawn, rule, asked.budget, bernstein), 1),
    }


def gate_of(drawn: Sequence[Sequence[float]], rule: Rule, budget: int) -> dict[str, float]:
    """Share of each verdict, and the mean number of votes."""
    found = [decide(outcomes, rule, budget) for outcomes in drawn]
    decisions = [decision for decision in found if decision is not None]
    shares = {
        verdict: statistics.fmean(decision.verdict == verdict for decision in decisions)
        for verdict in (PROMOTE, REJECT, UNDECIDED)
    }
    return {**shares, "votes": statistics.fmean(decision.n for decision in decisions)}


# --- votes --------------------------------------------------------------------------------------
def votes(rng: random.Random, shorter_by: float, people: int, n: int) -> Iterator[float]:
    """Outcomes for the candidate, by people who are drawn anew with each generator."""
    crowd = [draw_manner(rng, is_saboteur=index == people - 1) for index in range(people)]
    for _ in range(n):
        yield vote(rng, rng.choice(crowd), shorter_by)


def vote(rng: random.Random, manner: Manner, shorter_by: float) -> float:
    texts = [write(rng, MEAN_WORDS - shorter_by), write(rng, MEAN_WORDS)]
    order = rng.sample((0, 1), 2)
    ranking = judge(manner, [texts[index] for index in order], rng)
    if ranking is None:  # skipped: somebody else is asked
        return vote(rng, manner, shorter_by)
    return EVEN if len(ranking) == 1 else float(order[ranking[0][0]] == 0)


def write(rng: random.Random, mean_words: float) -> str:
    """An answer of about so many words, some with a polite one: all that the taste sees."""
    words = ["word"] * max(1, round(rng.gauss(mean_words, SPREAD)))
    return " ".join([*words[1:], "please"] if rng.random() < POLITE_SHARE else words)


def words_for(difference: float, people: int) -> float:
    """By how many words the candidate's answers must be shorter; found by halving, with the same
    random numbers each time."""
    low, high = 0.0, MOST_SHORTER
    for _ in range(HALVINGS if difference else 0):
        middle = (low + high) / 2
        known = [
            outcome
            for seed in range(CROWDS)
            for outcome in votes(random.Random(f"crowd {seed}"), middle, people, VOTES_OF_CROWD)
        ]
        low, high = (middle, high) if statistics.fmean(known) - EVEN < difference else (low, middle)
    return low


# --- several pairs per prompt -------------------------------------------------------------------
def measure_clustered(mean: float, rule: Rule, asked: argparse.Namespace) -> dict[str, Any]:
    seeds, per_prompt = range(asked.repetitions), asked.budget // asked.prompts
    in_steps = [pairs(random.Random(seed), mean, asked, STEPS) for seed in seeds]
    by_prompt = [outcomes_of(drawn, per_prompt) for drawn in in_steps]
    means = [[outcome for outcome, _ in found] for found in by_prompt]
    single = [[o for _, o in pairs(random.Random(seed), mean, asked, 1)] for seed in seeds]
    found = gate_of(means, rule, asked.prompts)
    return {
        "prompts": asked.prompts,
        "pairs_per_prompt": per_prompt,
        "spread": asked.spread,
        "win_probability": round(mean, 4),
        "promoted": round(found[PROMOTE], 3),
        "rejected": round(found[REJECT], 3),
        "undecided": round(found[UNDECIDED], 3),
        "mean_votes": round(statistics.fmean(votes_until(each, rule) for each in by_prompt), 1),
        "single_promoted": round(gate_of(single, rule, per_prompt * asked.prompts)[PROMOTE], 3),
        "all_votes_promoted": round(share_of_z_tests(means, rule.alpha, asked.prompts), 3),
    }


def votes_until(found: Sequence[tuple[float, int]], rule: Rule) -> int:
    """How many votes there were at the prompt that decided."""
    decision = decide([outcome for outcome, _ in found], rule, len(found))
    return found[decision.n - 1][1] if decision else found[-1][1]


def pairs(
    rng: random.Random, mean: float, asked: argparse.Namespace, steps: int
) -> list[tuple[int, float]]:
    """(prompt, outcome) in the order in which they are asked: in steps, drawn within each."""
    chances = [mean + rng.choice((-asked.spread, asked.spread)) for _ in range(asked.prompts)]
    places = [
        (steps * prompt // asked.prompts, rng.random(), prompt)
        for prompt in range(asked.prompts)
        for _ in range(asked.budget // asked.prompts)
    ]
    return [(prompt, float(rng.random() < chances[prompt])) for _, _, prompt in sorted(places)]


def outcomes_of(drawn: Sequence[tuple[int, float]], per_prompt: int) -> list[tuple[float, int]]:
    """The mean of each prompt that is full, and the number of votes at which it was."""
    of_prompt: dict[int, list[float]] = {}
    found = []
    for n, (prompt, outcome) in enumerate(drawn, start=1):
        of_prompt.setdefault(prompt, []).append(outcome)
        if len(of_prompt[prompt]) == per_prompt:
            found.append((statistics.fmean(of_prompt[prompt]), n))
    return found


# --- tests of fixed size ------------------------------------------------------------------------
def attainable(power: float, repetitions: int) -> float:
    """No test of any size has a power of 1: taken for half a repetition less."""
    return min(power, 1 - 0.5 / repetitions)


def share_of_z_tests(drawn: Sequence[Sequence[float]], alpha: float, size: int) -> float:
    return statistics.fmean(is_significant(outcomes[:size], alpha) for outcomes in drawn)


def share_of_peeking(drawn: Sequence[Sequence[float]], alpha: float, budget: int) -> float:
    looks = range(FIRST_LOOK, budget + 1, LOOK_EVERY)
    return statistics.fmean(
        any(is_significant(outcomes[:n], alpha) for n in looks) for outcomes in drawn
    )


def is_significant(outcomes: Sequence[float], alpha: float) -> bool:
    error = statistics.stdev(outcomes) / math.sqrt(len(outcomes))
    return statistics.fmean(outcomes) - EVEN > NormalDist().inv_cdf(1 - alpha) * error


# --- other confidence sequences -----------------------------------------------------------------
def mean_votes_uniform(drawn: Sequence[Sequence[float]], rule: Rule, budget: int) -> float:
    return statistics.fmean(
        decide_by(uniform(outcomes[:budget], rule), rule, budget).n for outcomes in drawn
    )


def uniform(outcomes: Sequence[float], rule: Rule) -> Iterator[tuple[float, float]]:
    """Bounds just beyond ½ and the margin as soon as either is excluded, else none."""
    bets = [((2 * i + 1) / 64, 1 / 32) for i in range(32)]
    better = wealth_path(outcomes, EVEN, bets)
    worse = wealth_path([1 - outcome for outcome in outcomes], EVEN - rule.margin, bets)
    for on_better, on_worse in zip(better, worse, strict=True):
        yield float(on_better >= 1 / rule.alpha), float(on_worse < 1 / rule.alpha)


def mean_votes(drawn: Sequence[Sequence[float]], rule: Rule, budget: int, bounds: Any) -> float:
    return statistics.fmean(
        decide_by(bounds(outcomes[:budget], rule.alpha), rule, budget).n for outcomes in drawn
    )


def decide_by(bounds: Iterator[tuple[float, float]], rule: Rule, budget: int) -> Decision:
    """The gate's rule with another sequence of lower and upper bounds."""
    for n, (low, high) in enumerate(bounds, start=1):
        if low > EVEN:
            return Decision(PROMOTE, n)
        if high < EVEN + rule.margin:
            return Decision(REJECT, n)
    return Decision(UNDECIDED, budget)


def hoeffding(outcomes: Sequence[float], alpha: float) -> Iterator[tuple[float, float]]:
    """Predictable plug-in Hoeffding: Waudby-Smith and Ramdas 2023, theorem 1, each side at alpha."""
    stake = weighted = squares = 0.0
    for n, outcome in enumerate(outcomes, start=1):
        bet = min(1.0, math.sqrt(8 * math.log(1 / alpha) / (n * math.log(n + 1))))
        stake, weighted, squares = stake + bet, weighted + bet * outcome, squares + bet**2 / 8
        width = (math.log(1 / alpha) + squares) / stake
        yield weighted / stake - width, weighted / stake + width


def bernstein(outcomes: Sequence[float], alpha: float) -> Iterator[tuple[float, float]]:
    """Predictable plug-in empirical Bernstein: theorem 2 there, each side at alpha."""
    stake = weighted = spent = 0.0
    total, squares, n_before = 0.5, 0.25, 0
    mean, variance = 0.5, 0.25
    for n, outcome in enumerate(outcomes, start=1):
        bet = min(0.5, math.sqrt(2 * math.log(1 / alpha) / (variance * n * math.log(n + 1))))
        spent += 4 * (outcome - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        stake, weighted = stake + bet, weighted + bet * outcome
        width = (math.log(1 / alpha) + spent) / stake
        yield weighted / stake - width, weighted / stake + width
        total, n_before = total + outcome, n
        mean = total / (n_before + 1)
        squares += (outcome - mean) ** 2
        variance = squares / (n_before + 1)


if __name__ == "__main__":
    main()
