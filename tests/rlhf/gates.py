"""Gates whose pairs people can be asked, and their votes."""

from django.utils import timezone

from annotator.models import Comparison
from rlhf.gate_models import GateState
from rlhf.models import GeneratedCompletion
from tests.factories import PromptFactory, UserFactory, make_judgment
from tests.rlhf.factories import GateFactory, make_comparison

WIN, LOSS, TIE = [[0], [1]], [[1], [0]], [[0, 1]]


def voting_gate(per_prompt=1, **fields):
    """People can be asked 20 pairs, the candidate's answer first; 8 wins decide, if each is of another prompt."""
    gate = GateFactory(state=GateState.VOTING, opened=timezone.now(), budget=20, **fields)
    prompts = PromptFactory.create_batch(20 // per_prompt, project=gate.project)
    for number in range(20):
        _add_pair(gate, prompts[number // per_prompt], number)
    return gate


def _add_pair(gate, prompt, number):
    texts = (f"new {number}", f"old {number}")
    comparison = make_comparison(prompt, *texts, purpose="evaluation", origin=gate.run.origin)
    versions = (gate.candidate, gate.incumbent)
    for completion, version in zip(comparison.completions.order_by("pk"), versions, strict=True):
        GeneratedCompletion.objects.create(
            completion=completion, model_version=version, run=gate.run, sampling={}
        )


def vote(gate, *rankings):
    """One vote on each of the next open pairs."""
    open_pairs = Comparison.objects.open().filter(origin=gate.run.origin).order_by("pk")
    for comparison, ranking in zip(open_pairs[: len(rankings)], rankings, strict=True):
        make_judgment(comparison, UserFactory(), *ranking)
