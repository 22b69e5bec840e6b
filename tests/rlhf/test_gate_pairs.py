import random

import pytest

from annotator.models import Comparison, Completion
from rlhf import gate_pairs
from rlhf.collecting import COLLECT
from rlhf.gate_models import GateState
from rlhf.gate_pairs import Plan
from rlhf.gating import most_votes
from rlhf.models import RunKind
from tests.factories import PromptFactory
from tests.rlhf.factories import GateFactory, write_artifact

pytestmark = pytest.mark.django_db


def rng():
    return random.Random(0)


def write_pairs(gate, n_prompts, per_prompt, *, text="{side} {prompt} {index}"):
    """What the run leaves behind."""
    prompts = PromptFactory.create_batch(n_prompts, project=gate.project, split="test")
    lines = [
        {
            "id": prompt.pk, "index": index, "new_truncated": False, "old_truncated": False,
            "new": text.format(side="new", prompt=prompt.pk, index=index),
            "old": text.format(side="old", prompt=prompt.pk, index=index),
        }
        for prompt in prompts
        for index in range(per_prompt)
    ]  # fmt: skip
    write_artifact(gate.run, "pairs.jsonl", lines)


# --- the plan ---------------------------------------------------------------------------------
def test_pairs_are_of_as_many_prompts_as_there_are():
    places = [(prompt, index) for prompt in range(10) for index in range(3)]

    found = gate_pairs.plan(places, n_pairs=12, n_same=0, rng=rng())

    assert len({prompt for prompt, _ in found.both}) == 10
    assert len(set(found.both)) == 12


def test_no_prompt_has_two_pairs_while_there_are_others():
    per_prompt = gate_pairs.answers_per_prompt(10, 2, 10)
    places = [(prompt, index) for prompt in range(10) for index in range(per_prompt)]

    found = gate_pairs.plan(places, n_pairs=10, n_same=2, rng=rng())

    assert len({prompt for prompt, _ in found.both}) == 10


@pytest.mark.parametrize("same_share", [0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("n_prompts", [10, 25, 80])
def test_every_prompt_that_can_have_an_outcome_has_one(n_prompts, same_share):
    found = {}
    for n_pairs in range(10, most_votes(n_prompts, same_share) + 1):
        n_same = round(same_share * n_pairs)
        per_prompt = gate_pairs.answers_per_prompt(n_pairs, n_same, n_prompts)
        places = [(prompt, index) for prompt in range(n_prompts) for index in range(per_prompt)]
        plan = gate_pairs.plan(places, n_pairs, n_same, rng())
        found[n_pairs] = (len(plan.both), len(plan.same), len({prompt for prompt, _ in plan.both}))

    assert found == {
        n_pairs: (n_pairs, round(same_share * n_pairs), min(n_pairs, n_prompts))
        for n_pairs in found
    }


def test_prompts_with_several_pairs_are_asked_one_after_another():
    places = [(prompt, index) for prompt in range(10) for index in range(2)]
    both = gate_pairs.plan(places, n_pairs=20, n_same=0, rng=rng()).both

    assert [one[0] == two[0] for one, two in zip(both[::2], both[1::2], strict=True)] == [True] * 10
    first, same = gate_pairs.priorities(both, [1, 2])
    assert (first, same) == ([19 - i // 2 for i in range(20)], [19, 14])
    assert gate_pairs.priorities(both[::2], [1]) == ([10] * 10, [10])


def test_no_answer_is_used_twice():
    places = [(prompt, index) for prompt in range(4) for index in range(3)]

    found = gate_pairs.plan(places, n_pairs=6, n_same=3, rng=rng())

    used = [*found.both, *(place for pair in found.same for place in pair)]
    assert (len(found.both), len(found.same), len(set(used))) == (6, 3, 12)
    assert all(first[0] == second[0] for first, second in found.same)


def test_plan_takes_what_there_is():
    assert gate_pairs.plan([(1, 0)], n_pairs=5, n_same=2, rng=rng()) == Plan([(1, 0)], [])
    assert gate_pairs.plan([], n_pairs=5, n_same=2, rng=rng()) == Plan([], [])


@pytest.mark.parametrize(
    ("n_pairs", "n_same", "n_prompts", "expected"),
    [(100, 0, 100, 1), (100, 10, 200, 2), (100, 10, 20, 6), (100, 10, 0, 120), (100, 10, 100, 3)],
)
def test_as_many_answers_as_the_pairs_need(n_pairs, n_same, n_prompts, expected):
    assert gate_pairs.answers_per_prompt(n_pairs, n_same, n_prompts) == expected


# --- what people are asked --------------------------------------------------------------------
def test_pairs_of_both_and_of_the_incumbent_alone_are_asked_alike():
    gate = GateFactory(budget=20, votes_per_pair=2, same_share=0.2)
    write_pairs(gate, n_prompts=12, per_prompt=2)

    counts = COLLECT[RunKind.EVALUATE](gate.run)

    gate.refresh_from_db()
    both = Comparison.objects.filter(origin=gate.run.origin)
    same = Comparison.objects.filter(origin=gate.same_origin)
    assert (gate.state, counts["n_comparisons"], counts["n_same"]) == (GateState.VOTING, 10, 2)
    assert {(c.purpose, c.priority, c.overlap) for c in both | same} == {("evaluation", 10, 2)}
    assert [c.source for c in same[0].completions.all()] == [gate.incumbent.name] * 2


def test_identical_answers_are_counted_and_nobody_is_asked():
    gate = GateFactory(budget=10, same_share=0.1)
    write_pairs(gate, n_prompts=11, per_prompt=2, text="the same")

    counts = COLLECT[RunKind.EVALUATE](gate.run)

    assert (counts["n_identical"], counts["n_comparisons"], counts["n_same"]) == (10, 0, 0)
    assert Comparison.objects.count() == 0


def test_a_gate_that_was_stopped_meanwhile_asks_nothing():
    gate = GateFactory(state=GateState.STOPPED)
    write_pairs(gate, n_prompts=12, per_prompt=2)

    COLLECT[RunKind.EVALUATE](gate.run)

    gate.refresh_from_db()
    assert (gate.state, Completion.objects.count()) == (GateState.STOPPED, 0)
