"""DPO, KTO, RLOO and GRPO, as the web side sees them."""

import json

import pytest

from rlhf import lineage, runs
from rlhf.charts import CHARTS, sections_of
from rlhf.collecting import COLLECT
from rlhf.models import ModelKind, RunKind, Status
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    ExportFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    write_artifact,
)

pytestmark = pytest.mark.django_db

PAIRS = {"rows": 40, "rows_train": 30, "rows_tied": 0}


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_votes_that_are_all_ties_are_refused_before_anything_runs(project, kind):
    ties = {"counts": PAIRS | {"rows_tied": 40}}
    models = {
        "export": ExportFactory(project=project, manifest=ties),
        "policy": PolicyFactory(project=project),
    }

    with pytest.raises(runs.RunRefused, match="are ties, which do not say"):
        runs.launch(project, kind, {}, round_number=1, **models)
    assert not project.runs.exists()


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_run_from_pairs_reads_the_export_and_no_prompts(project, kind):
    export = ExportFactory(project=project, manifest={"counts": PAIRS})
    policy = PolicyFactory(project=project)

    run = runs.launch(project, kind, {"beta": 0.2}, round_number=1, policy=policy, export=export)

    assert (run.folder / "data" / "data.jsonl").is_file()
    assert not list(run.folder.glob("*prompts.jsonl"))
    config = json.loads((run.folder / "config.json").read_text())["config"]
    assert (config["beta"], config["model"]) == (0.2, policy.reference())


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_a_run_with_groups_reads_what_ppo_reads_and_has_no_critic(project, kind):
    reward_model = RewardModelFactory(project=project)
    PromptFactory(project=project)
    held_out = PromptFactory(project=project, split="test")
    models = {"policy": reward_model.parent, "reward_model": reward_model}

    run = runs.launch(project, kind, {}, round_number=1, **models)

    assert json.loads((run.folder / "eval_prompts.jsonl").read_text())["id"] == held_out.pk
    assert run.config["reward_model"] == reward_model.path
    assert "critic" not in run.config
    with pytest.raises(runs.RunRefused, match="There is nothing to reward"):
        runs.launch(project, kind, {}, round_number=2, policy=reward_model.parent)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_trls_trainer_can_be_chosen_and_says_what_it_cannot_do(project, kind):
    reward_model = RewardModelFactory(project=project)
    PromptFactory(project=project)
    models = {"policy": reward_model.parent, "reward_model": reward_model}

    with pytest.raises(runs.RunRefused, match=r"(?i)target_kl=6.0 does not go with trainer='trl'"):
        runs.launch(project, kind, {"trainer": "trl", "target_kl": 6.0}, round_number=1, **models)
    run = runs.launch(project, kind, {"trainer": "trl"}, round_number=1, **models)

    assert run.config["trainer"] == "trl"


def test_what_they_make_is_a_policy_that_carries_the_votes(project):
    base, export = PolicyFactory(project=project), ExportFactory(project=project)
    run = RunFactory(
        project=project, kind=RunKind.DPO, policy=base, export=export, status=Status.SUCCEEDED
    )
    write_artifact(run, "adapter_config.json", [])

    COLLECT[RunKind.DPO](run)

    version = run.outputs.get()
    assert (version.kind, version.parent) == (ModelKind.POLICY, base)
    carrying = lineage.graph_of(project).ancestors([lineage.version_key(version.pk)])
    assert lineage.export_key(export.pk) in carrying.nodes


def test_charts_without_a_critic_speak_of_none():
    of_ppo, of_rloo = (
        {
            series.metric
            for section in CHARTS[kind]
            for chart in section.charts
            for series in chart.series
        }
        for kind in (RunKind.PPO, RunKind.RLOO)
    )

    assert {metric for metric in of_ppo if "value" in metric} == of_ppo - of_rloo
    assert of_ppo - of_rloo


def test_each_source_of_rewards_has_its_line_in_the_charts(project):
    rewards = [{"kind": "length", "target": 30}]
    run = RunFactory(
        project=project, kind=RunKind.GRPO, config={"rewards": rewards, "reward_model": "r"}
    )

    first, *_ = sections_of(run)

    by_source = next(chart for chart in first.charts if chart.title == "Score by source")
    assert [series.label for series in by_source.series] == ["reward_model", "length"]
