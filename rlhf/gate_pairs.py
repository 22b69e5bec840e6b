"""What a gate asks people: pairs of both policies, and among them pairs of the incumbent with itself.

The latter (A/A pairs) look like all others. What people say of them tells how much of what they say
of the others is noise, or the place where an answer stands.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.utils import timezone

from annotator.models import Comparison, Completion, Purpose
from rlhf.gate_models import Gate, GateState
from rlhf.generation import EVALUATION_PRIORITY, Answer, add_completions, read_lines
from rlhf.models import ModelVersion, Run

Place = tuple[int, int]  # prompt, and which of its answers
STEPS = 10  # in which prompts with several pairs are asked, so that some soon have all their votes


class Plan(NamedTuple):
    """Which answers are compared, by place."""

    both: list[Place]  # the candidate's with the incumbent's; those of a prompt stand together
    same: list[tuple[Place, Place]]  # two of the incumbent's


def answers_per_prompt(n_pairs: int, n_same: int, n_prompts: int) -> int:
    """How many answers either policy must write to each prompt. A pair of the incumbent with itself takes
    two of its answers, so that nobody sees an answer twice; a third is left for a pair of both where those
    prompts are needed for one, too. Then as many prompts as can be have a pair of both, which is an outcome."""
    needed = -(-(n_pairs + 2 * n_same) // max(1, n_prompts))
    if not n_same:
        return max(needed, 1)
    return max(needed, 2 if n_pairs <= n_prompts - n_same else 3)


def plan(places: Iterable[Place], n_pairs: int, n_same: int, rng: random.Random) -> Plan:
    """Each place is used once. Pairs of both policies are of as many different prompts as possible, because
    those of one prompt count together, as one outcome."""
    free: dict[int, list[Place]] = {}
    for place in sorted(places):
        free.setdefault(place[0], []).append(place)
    prompts = rng.sample(sorted(free), len(free))
    same: list[tuple[Place, Place]] = []
    while with_two := [prompt for prompt in prompts if len(free[prompt]) > 1]:
        if len(same) >= n_same:
            break
        same += [
            (free[prompt].pop(), free[prompt].pop()) for prompt in with_two[: n_same - len(same)]
        ]
    depth = max(map(len, free.values()), default=0)
    # From the other end: a prompt that has given a pair of the incumbent with itself comes last.
    turns = [
        free[prompt][i] for i in range(depth) for prompt in prompts[::-1] if i < len(free[prompt])
    ]
    of_prompt: dict[int, list[Place]] = {}
    for place in turns[:n_pairs]:
        of_prompt.setdefault(place[0], []).append(place)
    return Plan([place for group in of_prompt.values() for place in group], same)


def priorities(chosen: Sequence[Place], same: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Of pairs of both policies, and of those of the incumbent with itself.

    Where prompts have several pairs, those that stand first are asked first, in a few steps: in a drawn order
    nearly all prompts would get their last vote at the end. Either kind is spread over all steps.
    """
    has_several = len({prompt for prompt, _ in chosen}) < len(chosen)
    steps = STEPS if has_several else 1
    first, second = (
        [EVALUATION_PRIORITY + steps - 1 - steps * i // n for i in range(n)]
        for n in (len(chosen), len(same))
    )
    return first, second


def store_gate_pairs(run: Run, gate: Gate) -> dict[str, int]:
    """Completions and blind comparisons of pairs.jsonl; what became of them. From now on people vote.

    Nothing is asked for a gate that was stopped or overruled meanwhile.
    """
    counts = Counter(n_comparisons=0, n_identical=0, n_repeated=0, n_same=0)
    preparing = Gate.objects.filter(pk=gate.pk, state=GateState.PREPARING)
    if not preparing.update(state=GateState.VOTING, opened=timezone.now()):
        return dict(counts)
    assert run.policy is not None
    assert run.rival is not None
    lines = {
        (row["id"], row["index"]): row
        for row in read_lines(run.folder / "artifact" / "pairs.jsonl")
    }
    chosen = plan(lines, gate.n_pairs, gate.n_same, random.Random(run.config["seed"]))
    new = _store(run, run.policy, "new", chosen.both, lines)
    twice = [place for pair in chosen.same for place in pair]
    old = _store(run, run.rival, "old", [*chosen.both, *twice], lines)
    of_both, of_same = priorities(chosen.both, chosen.same)
    for place, priority in zip(chosen.both, of_both, strict=True):
        counts[_ask(gate, run.origin, [new[place], old[place]], priority)] += 1
    for (first, second), priority in zip(chosen.same, of_same, strict=True):
        asked = _ask(gate, gate.same_origin, [old[first], old[second]], priority)
        counts["n_same"] += asked == "n_comparisons"
    return dict(counts)


def _store(
    run: Run,
    version: ModelVersion,
    side: str,
    places: Sequence[Place],
    lines: Mapping[Place, Mapping[str, Any]],
) -> dict[Place, Completion | None]:
    """By place; None where the prompt is gone by now."""
    answers = []
    for place in places:
        row = lines[place]
        score = row.get(f"{side}_score")
        answers.append(Answer(place[0], row[side], row[f"{side}_truncated"], score))
    return dict(zip(places, add_completions(run, version, answers), strict=True))


def _ask(gate: Gate, origin: str, pair: Sequence[Completion | None], priority: int) -> str:
    """Ask people for a verdict; the name of the counter that this pair belongs to."""
    there = [completion for completion in pair if completion is not None]
    if len(there) < 2:
        return "n_left_out"
    if there[0].text.strip() == there[1].text.strip():
        return "n_identical"
    comparison = Comparison.objects.create_from(
        there,
        overlap=gate.votes_per_pair,
        round_number=gate.run.round_number,
        purpose=Purpose.EVALUATION,
        origin=origin,
        priority=priority,
    )
    if comparison is None:
        return "n_repeated"
    return "n_held" if comparison.hold else "n_comparisons"
