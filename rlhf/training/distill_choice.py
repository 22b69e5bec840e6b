"""Which of the teacher's answers become demonstrations. Pure functions, no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rlhf.training.data import Generated, PromptLine

# How refusals begin, in English, in the words that models use for them. What is refused further down
# is not found.
REFUSAL = re.compile(
    r"""\W*(?:
        (?:i'?m|i\ am|we'?re|we\ are)\ (?:very\ |so\ |truly\ )?sorry\W+(?:but\ )?(?:as\ an\ ai|i|we)\b
      | (?:i'?m\ |i\ am\ )?(?:sorry|unfortunately|i\ apologi[sz]e)\W+(?:but\ )?
        i\ (?:can(?:no|')?t|am\ (?:not\ able|unable)|won'?t|will\ not)\b
      | i\ (?:can(?:no|')?t|am\ (?:not\ able|unable)\ to|won'?t|will\ not)\ (?:be\ able\ to\ )?
        (?:help|assist|answer|provide|comply|fulfil|create|write|do\ that|discuss|engage|support)
      | as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b[^.!?\n]{0,80}?
        (?:can(?:no|')?t|not\ able|unable|don't|do\ not)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
BINS = 20


class Candidate(NamedTuple):
    answer: Generated
    score: float | None  # None: nothing scores


class Chosen(NamedTuple):
    """The best answer to a prompt."""

    prompt: int
    answer: Generated
    score: float | None
    n: int  # answers that it is the best of
    mean_score: float | None  # of these


def is_refusal(text: str) -> bool:
    """Example: "I'm sorry, but I can't help with that." Only what it begins with is looked at."""
    return REFUSAL.match(text.replace("\u2019", "'")) is not None


def fault_of(answer: Generated, *, drop_refusals: bool) -> str:
    """Why nobody should learn from it: "empty", "cut_off", "refused"; empty if it is fine."""
    if not answer.completion.strip():
        return "empty"
    if answer.truncated:
        return "cut_off"
    return "refused" if drop_refusals and is_refusal(answer.completion) else ""


def choose(
    candidates: Sequence[Candidate], *, lowest_score: float | None, drop_refusals: bool
) -> tuple[list[Chosen], Counter[str]]:
    """The best answer to each prompt, the first of equals, and how many prompts have none, by reason.

    `candidates` of one prompt stand next to each other.
    """
    chosen, left_out = [], Counter[str]()
    for prompt, group in groupby(candidates, key=lambda candidate: candidate.answer.id):
        of_prompt = list(group)
        faults = [fault_of(each.answer, drop_refusals=drop_refusals) for each in of_prompt]
        good = [each for each, fault in zip(of_prompt, faults, strict=True) if not fault]
        if not good:
            left_out[Counter(faults).most_common(1)[0][0]] += 1
            continue
        best = max(good, key=lambda candidate: candidate.score or 0.0)
        if lowest_score is not None and best.score is not None and best.score < lowest_score:
            left_out["low_score"] += 1
            continue
        mean = mean_of([each.score for each in of_prompt])
        chosen.append(Chosen(prompt, best.answer, best.score, len(of_prompt), mean))
    return chosen, left_out


def worth(
    chosen: Sequence[Chosen], candidates: Sequence[Candidate], n_prompts: int
) -> dict[str, float]:
    """What the choice comes to over all prompts, those without an answer to learn from too, be it that they were too
    long to be asked: the share that has one, and the mean score, in which the others count as the
    worst of all answers.

    Example: 0.9 picked of 0.9 and 0.1 for one prompt, nothing of -1 for the other of two:
    {"eval_share": 0.5, "eval_score": -0.05}
    """
    found = {"eval_share": len(chosen) / n_prompts}
    scores = [each.score for each in candidates if each.score is not None]
    if scores:
        picked = sum(each.score for each in chosen if each.score is not None)
        found["eval_score"] = (picked + (n_prompts - len(chosen)) * min(scores)) / n_prompts
    return found


def mean_of(values: Sequence[float | None]) -> float | None:
    """Of those that are known, to four places; None without any."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


# --- rehearsal --------------------------------------------------------------------------------
def share_out(
    lines: Sequence[PromptLine], rehearsal_share: float
) -> tuple[list[PromptLine], list[PromptLine]]:
    """Prompts for the teacher, and others for the student. Each has one at least, if there are two.

    Example: of 10 with a share of 0.2, the first 8 and the last 2.
    """
    if not rehearsal_share:
        return list(lines), []
    n = min(len(lines) - 1, max(1, round(rehearsal_share * len(lines))))
    return list(lines[: len(lines) - n]), list(lines[len(lines) - n :])


def first_good(
    answers: Sequence[Generated], *, drop_refusals: bool
) -> tuple[list[Generated], Counter[str]]:
    """The first answer to each prompt that may be learnt from, and how many prompts have none, by reason.

    `answers` to one prompt stand next to each other. The first, not the best: it is to be what the student
    would have said.
    """
    found, left_out = [], Counter[str]()
    for _, group in groupby(answers, key=lambda answer: answer.id):
        by_fault = {
            fault_of(each, drop_refusals=drop_refusals): each for each in reversed([*group])
        }
        if "" in by_fault:
            found.append(by_fault[""])
        else:
            left_out[next(iter(by_fault))] += 1
    return found, left_out


def rehearsal_rows(n_taught: int, n_own: int, rehearsal_share: float) -> int:
    """How many of the student's answers are taken, so that they are this share of all rows.

    Example: with 8 of the teacher and a share of 0.2, 2 of however many there are.
    """
    wanted = round(n_taught * rehearsal_share / (1 - rehearsal_share))
    return min(n_own, wanted)


# --- for the page -----------------------------------------------------------------------------
def histogram(scores: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Counts in equal bins from the lowest to the highest of all, by name.

    Example: {"all": [0.0, 1.0]} -> {"low": 0.0, "high": 1.0, "counts": {"all": [1, 0, …, 1]}}
    """
    every = [score for group in scores.values() for score in group]
    if not every:
        return {}
    low, high = min(every), max(every)
    width = (high - low) / BINS or 1.0
    counts = {name: [0] * BINS for name in scores}
    for name, group in scores.items():
        for score in group:
            counts[name][min(BINS - 1, int((score - low) / width))] += 1
    return {"low": low, "high": high, "counts": counts}
