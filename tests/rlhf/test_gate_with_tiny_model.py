"""A gate from the button to the decision, with a model that really answers."""

import pytest

from annotator.models import Comparison
from rlhf import gating
from rlhf.gate_models import GateState
from rlhf.models import RunKind, Status
from rlhf.runs import launch, run_to_end
from rlhf.sequential import Rule
from rlhf.simulation import Simulation, make_people
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import PolicyFactory


@pytest.mark.slow
@pytest.mark.django_db
def test_from_the_button_to_the_decision():
    project = ProjectFactory(overlap=3)
    PromptFactory.create_batch(12, project=project, split="test")
    run = launch(project, RunKind.IMPORT_MODEL, {"source": "tiny"}, round_number=1)
    incumbent = run_to_end(run).outputs.get()
    candidate = PolicyFactory(project=project, path=incumbent.path)

    gate = gating.open_gate(
        project, candidate, None, rule=Rule(), budget=20, votes_per_pair=1, same_share=0.1,
        sampling={"max_new_tokens": 16, "temperature": 1.0, "seed": 1}, round_number=1,
    )  # fmt: skip
    assert run_to_end(gate.run).status == Status.SUCCEEDED
    Simulation(project, make_people(project, 3, seed=0), None, 0, str).vote()
    gating.tend()

    gate.refresh_from_db()
    standing = gating.standing_of(gate)
    asked = Comparison.objects.filter(origin=gate.run.origin)
    assert (gate.state, gate.incumbent) == (GateState.DECIDED, incumbent)
    assert gate.decision in ("promote", "reject", "undecided")
    assert standing.full == asked.count() == 20 - gate.run.result["n_identical"]
    assert standing.same.votes == gate.run.result["n_same"] > 0
