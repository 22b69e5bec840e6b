"""A supervised run from its launch to its page, with a model that really learns."""

import json
from pathlib import Path

import pytest
from django.urls import reverse

from rlhf.models import DatasetKind, RunKind, Status
from rlhf.runs import launch, run_to_end
from rlhf.templatetags.quantities import significant
from rlhf.training.tiny import build_tiny_model
from tests.factories import MembershipFactory
from tests.rlhf.factories import PolicyFactory, make_dataset


def conversation(number, split):
    question = {"role": "user", "content": f"What is a red cup? {number}"}
    return {"messages": [question, {"role": "assistant", "content": "Try it."}], "split": split}


def written(run):
    """The values that the run's process has written to its folder, by metric and step."""
    found = {}
    for event in map(json.loads, (run.folder / "events.jsonl").read_text().splitlines()):
        if event["type"] == "metrics":
            for metric, value in event["values"].items():
                found.setdefault(metric, {})[event["step"]] = value
    return found


@pytest.mark.slow
@pytest.mark.django_db
def test_the_page_shows_the_very_values_that_the_run_has_written(client):
    membership = MembershipFactory(role="reviewer")
    project = membership.project
    policy = PolicyFactory(project=project)
    build_tiny_model(Path(policy.path))
    rows = [conversation(n, "test" if n < 2 else "train") for n in range(10)]
    dataset = make_dataset(project, "cups", DatasetKind.DEMONSTRATIONS, rows)
    settings = {"batch_size": 4, "epochs": 2, "lora_rank": 4}

    run = launch(
        project, RunKind.SUPERVISED, settings, round_number=1, policy=policy, datasets=[dataset]
    )
    assert run_to_end(run).status == Status.SUCCEEDED

    client.force_login(membership.user)
    address = [project.slug, run.pk]
    page = client.get(reverse("rlhf:run", args=address))
    series = client.get(reverse("rlhf:run_charts", args=address)).json()["series"]
    expected = written(run)
    assert {metric: dict(zip(points["x"], points["y"], strict=True)) for metric, points in series.items()} == expected  # fmt: skip
    assert list(expected["eval_loss"]) == [0, 1, 2, 3, 4]
    assert list(expected["loss"]) == [1, 2, 3, 4]
    for value in (expected["eval_loss"][0], expected["eval_loss"][4], expected["loss"][4]):
        assert f">{significant(value)}<" in page.content.decode()
