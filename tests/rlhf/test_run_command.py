"""The command that launches any kind of run, and the words that it takes."""

import json
import shlex
import time
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models import QuerySet

from rlhf.form_words import describe, read
from rlhf.forms import FORMS
from rlhf.launching import form_with, shown_form
from rlhf.models import DatasetKind, RunKind, Status
from rlhf.prompting import Draft, create_prompt_version
from rlhf.training.tiny import build_tiny_model
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    ExportFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    make_dataset,
)
from tests.rlhf.test_outlooks import MEASURED

pytestmark = pytest.mark.django_db

ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


@pytest.fixture
def policy(project):
    return PolicyFactory(project=project, name="base")


def demonstrations(project, name):
    return make_dataset(project, name, DatasetKind.DEMONSTRATIONS, [ROW])


def refusal(*words):
    with pytest.raises(CommandError) as refused:
        call_command("run", *words)
    return str(refused.value)


# --- launching ------------------------------------------------------------------------------------
def test_a_run_is_queued_with_what_is_said_and_what_its_form_suggests(project, policy, capsys):
    old, _ = ExportFactory(project=project), ExportFactory(project=project)
    PolicyFactory(project=project, name="other")

    call_command("run", "tea", "dpo", f"export={old.pk}", "policy=base", "epochs=3", "dora=true")

    run = project.runs.get()
    assert json.loads(capsys.readouterr().out) == {
        "run": run.pk, "kind": "dpo", "status": "queued", "address": f"/projects/tea/runs/{run.pk}/",
    }  # fmt: skip
    assert (run.export, run.policy, run.config["epochs"], run.config["dora"]) == (old, policy, 3, True)  # fmt: skip
    assert run.config["beta"] == 0.1


def test_datasets_and_lines_are_said_one_by_one(project, policy):
    chosen = {demonstrations(project, name) for name in ("polite", "short")}
    demonstrations(project, "rude")

    call_command(
        "run", "tea", "supervised", "datasets=polite", "datasets=short",
        "weights=polite = 2", "weights=short = 0.5",
    )  # fmt: skip

    run = project.runs.get()
    assert set(run.datasets.all()) == chosen
    assert run.config["weights"] == {"polite": 2.0, "short": 0.5}


def test_a_model_is_meant_by_its_name_before_its_number(project, policy):
    odd = PolicyFactory(project=project, name=str(policy.pk))
    form = shown_form(project, RunKind.PROBE)

    assert read(form, ["policy=base"]).values == {"policy": policy.pk}
    assert read(form, [f"policy={policy.pk}"]).values == {"policy": odd.pk}
    assert read(form, [f"policy={odd.pk}"]).values == {"policy": odd.pk}


def test_nothing_is_a_value_too(project, policy):
    PromptFactory(project=project)
    RewardModelFactory(project=project, parent=policy)

    call_command(
        "run", "tea", "ppo", "reward_model=", "rewards=length target=5", "rewards=sentiment"
    )

    run = project.runs.get()
    assert run.reward_model is None
    assert [rule["kind"] for rule in run.rewards] == ["length", "sentiment"]


def test_settings_may_stand_behind_options(project, policy, capsys, toy):
    call_command("run", "tea", "--wait", "probe", "policy=base")

    assert project.runs.get().status == Status.SUCCEEDED


def test_what_a_run_would_take_is_said_and_nothing_starts(project, capsys):
    PolicyFactory(project=project, name="base", probe=MEASURED)
    demonstrations(project, "polite")

    call_command("run", "tea", "supervised", "datasets=polite", "epochs=3", "--estimate")

    found = json.loads(capsys.readouterr().out)
    assert (found["minutes"] > 0, found["memory_mib"] > 0) == (True, True)
    assert found["tokens_trained"] > 0
    assert not project.runs.exists()


def test_what_cannot_work_has_a_sentence_instead_of_an_estimate(project, policy):
    assert refusal("tea", "generate", "temperature=9", "--estimate") == (
        "temperature: Ensure this value is less than or equal to 5.0."
    )


# --- what is wrong --------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["name", "pk"])
def test_a_prompt_version_names_the_policy_to_choose_instead(project, policy, by):
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    said = refusal("tea", "probe", f"policy={getattr(version, by)}")

    assert said.startswith("policy: base-prompt-1 is a prompt version and has no")
    assert said.endswith("Choose base instead.")


def test_all_that_is_wrong_is_said_at_once(project, policy):
    demonstrations(project, "polite")

    said = refusal(
        "tea", "supervised", "loud", "epoch=1", "lr=2", "epochs=many", "method=lora2", "dora=perhaps",
        "policy=nobody", "datasets=rude", "seed=1", "seed=2",
    )  # fmt: skip

    known = ", ".join(
        bound.name for bound in shown_form(project, RunKind.SUPERVISED).visible_fields()
    )
    assert set(said.splitlines()) == {
        "loud: Write NAME=VALUE.",
        f"epoch, lr: There is no such setting. There are: {known}.",
        "epochs: Enter a whole number.",
        "method: Select a valid choice. lora2 is not one of the available choices. "
        "There are: lora, full, ia3, prompt, prefix.",
        "dora: Say true or false.",
        "policy: There is no “nobody” to choose. There are: base.",
        "datasets: There is no “rude” to choose. There are: polite.",
        "seed: It takes one value: say it once.",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name a project and a kind of run"),
        (["coffee", "dpo"], "There is no project 'coffee'"),
        (["tea"], "Name a kind of run. There are: import_model, generate"),
        (["tea", "sft"], "There is no kind of run 'sft'. There are: import_model"),
        (["tea", "dpo"], "There is no export to learn from: create one first."),
        (
            ["tea", "supervised"],
            "datasets: Choose at least one dataset. There is no dataset to learn",
        ),
        (["tea", "merge"], "is a whole model already"),
        (["tea", "--stop", "7"], "Tea has no run 7."),
        (["tea", "dpo", "--resume", "7"], "only the number is said"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(policy, words, sentence):
    assert sentence in refusal(*words)


# --- what there is to say -------------------------------------------------------------------------
def test_the_list_has_a_line_for_each_kind(capsys):
    call_command("run", "--list")

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FORMS)
    assert lines[0].endswith("Makes a chat model the policy from which the loop starts.")


@pytest.mark.parametrize("kind", FORMS)
def test_the_fields_that_are_printed_can_be_said(project, policy, kind):
    PromptFactory(project=project)
    ExportFactory(project=project)
    RewardModelFactory(project=project, parent=policy)
    form = shown_form(project, RunKind(kind))
    printed = "\n".join(describe(form)).splitlines()
    words = [word for line in printed if line[0] != " " for word in shlex.split(line)]

    said = read(form, words)

    suggested, repeated = (
        form_with(project, RunKind(kind), values) for values in ({}, said.values)
    )
    assert said.wrong == {}
    assert repeated.errors == suggested.errors
    assert values_of(repeated) == values_of(suggested)


def values_of(form):
    """Two queries for the same rows are not equal, and two tokens never."""
    values = form.cleaned_data.items()
    return {n: list(v) if isinstance(v, QuerySet) else v for n, v in values if n != "token"}


def test_a_field_says_what_it_means_and_what_may_stand_there(policy, capsys):
    call_command("run", "tea", "dpo", "--fields")

    printed = " ".join(capsys.readouterr().out.split())
    assert "policy=base Policy. The policy to train; as it is now it also stays" in printed
    assert "votes=majority Where people disagree." in printed
    assert "takes a step for every vote. One of majority, each." in printed


# --- to its end -----------------------------------------------------------------------------------
def test_whoever_waits_gets_what_came_of_it(project, toy, capsys):
    call_command("run", "tea", "import_model", "--wait")

    run = project.runs.get()
    version = run.outputs.get()
    assert json.loads(capsys.readouterr().out) == {
        "run": run.pk, "kind": "import_model", "status": "succeeded",
        "address": f"/projects/tea/runs/{run.pk}/", "error": "",
        "models": [version.name], "datasets": [], "result": run.result,
    }  # fmt: skip
    assert run.result["model_version"] == version.pk


def test_a_run_that_fails_is_an_error(project, toy, capsys):
    toy("bad_data")

    said = refusal("tea", "import_model", "--wait")

    run = project.runs.get()
    assert said == f"Import model run {run.pk} failed. The toy had bad data."
    assert json.loads(capsys.readouterr().out)["status"] == "failed"


def test_whoever_stops_waiting_leaves_the_run_alone(project, toy, monkeypatch):
    def press_control_c(seconds):
        raise KeyboardInterrupt

    toy("3")
    monkeypatch.setattr(time, "sleep", press_control_c)

    with pytest.raises(CommandError, match="goes on without you") as left:
        call_command("run", "tea", "import_model", "--wait")

    run = project.runs.get()
    assert left.value.returncode == 130
    assert run.status == Status.RUNNING
    run.ask_to_stop()


# --- runs that are there --------------------------------------------------------------------------
def test_a_run_is_stopped_and_resumed(project, capsys):
    run = RunFactory(project=project)

    call_command("run", "tea", "--stop", run.pk)
    call_command("run", "tea", "--resume", run.pk)

    stopped, resumed = map(json.loads, capsys.readouterr().out.splitlines())
    assert (stopped["status"], resumed["status"]) == ("stopped", "queued")
    assert refusal("tea", "--resume", run.pk).endswith("there is nothing to resume.")


def test_what_has_ended_cannot_be_stopped(project):
    run = RunFactory(project=project, status=Status.SUCCEEDED)

    assert refusal("tea", "--stop", run.pk) == f"{run} has ended already: there is nothing to stop."


@pytest.mark.slow
def test_a_policy_is_tuned_by_one_command(project, policy, capsys):
    build_tiny_model(Path(policy.path))
    make_dataset(project, "cups", DatasetKind.DEMONSTRATIONS, [ROW] * 8)

    call_command(
        "run", "tea", "supervised", "--wait", "datasets=cups", "epochs=1", "batch_size=4", "lora_rank=4",
    )  # fmt: skip

    said = json.loads(capsys.readouterr().out)
    tuned = project.model_versions.get(name=said["models"][0])
    assert (said["status"], tuned.parent) == ("succeeded", policy)
    assert (Path(tuned.path) / "adapter_model.safetensors").is_file()
