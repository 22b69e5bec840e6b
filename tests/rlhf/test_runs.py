"""Launching, stopping, resuming and tending runs; test_supervision.py has what happens between."""

import hashlib
import json
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from rlhf import runs, supervision
from rlhf.models import ModelVersion, Round, Run, Status
from tests.factories import ProjectFactory, PromptFactory, UserFactory
from tests.rlhf.factories import (
    ExportFactory,
    GenerateRunFactory,
    PolicyFactory,
    RewardModelFactory,
    RoundFactory,
    RunFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


def ago(**duration):
    return timezone.now() - timedelta(**duration)


def messages():
    """Runs that the queue is to wake a supervisor for, in order."""
    return [message.task["args"][0] for message in OrmQ.objects.filter(key="training")]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- launch -----------------------------------------------------------------------------------
def test_launch_makes_row_folder_and_message(project, django_capture_on_commit_callbacks):
    policy = PolicyFactory(project=project)
    prompts = PromptFactory.create_batch(2, project=project)
    user = UserFactory()

    with django_capture_on_commit_callbacks(execute=True):
        run = runs.launch(
            project, "generate", {"seed": 7}, round_number=3, policy=policy, user=user
        )

    assert (run.status, run.round_number, run.policy, run.created_by) == ("queued", 3, policy, user)
    config = json.loads((run.folder / "config.json").read_text())
    assert config == {"kind": "generate", "config": run.config, "reads": [policy.path]}
    assert run.config["model"] == {"base": policy.path, "adapters": []}
    assert run.config["seed"] == 7
    assert {line["id"]: line["messages"] for line in lines(run.folder / "prompts.jsonl")} == {
        prompt.pk: prompt.messages for prompt in prompts
    }
    assert messages() == [run.pk]


def test_launch_names_what_a_reward_model_stands_on_for_launchers_that_show_nothing_else(project):
    PromptFactory(project=project)
    policy, reward_model = PolicyFactory(project=project), RewardModelFactory(project=project)

    run = runs.launch(
        project, "ppo", {}, round_number=1, policy=policy, reward_model=reward_model
    )  # fmt: skip

    config = json.loads((run.folder / "config.json").read_text())
    assert config["reads"] == [policy.path, reward_model.parent.path, reward_model.path]


def test_launch_leaves_no_other_folder_behind(project, settings):
    run = runs.launch(project, "import_model", {"source": "tiny"}, round_number=1)

    assert [path.name for path in settings.RUNS_DIR.iterdir()] == [str(run.pk)]


def test_same_token_starts_one_run(project):
    token = uuid.uuid4()

    first = runs.launch(project, "import_model", {"source": "tiny"}, round_number=1, token=token)
    second = runs.launch(project, "import_model", {"source": "tiny"}, round_number=1, token=token)

    assert first == second
    assert Run.objects.count() == 1


def test_a_run_that_the_same_token_starts_meanwhile_is_the_one(project, monkeypatch):
    token, started = uuid.uuid4(), []
    refuse_second = runs._refuse_second

    def launch():
        values = {"source": "tiny"}
        return runs.launch(project, "import_model", values, round_number=1, token=token)

    def another_request_was_faster(*args):
        monkeypatch.setattr(runs, "_refuse_second", refuse_second)
        started.append(launch())
        refuse_second(*args)

    monkeypatch.setattr(runs, "_refuse_second", another_request_was_faster)

    assert [launch()] == started


def test_second_run_of_a_kind_in_a_round_is_refused(project):
    first = runs.launch(project, "import_model", {"source": "tiny"}, round_number=1)

    with pytest.raises(runs.RunRefused, match=f"Import model run {first.pk} of round 1 is queued"):
        runs.launch(project, "import_model", {"source": "tiny"}, round_number=1)


def test_launch_without_a_policy_is_refused(project):
    with pytest.raises(runs.RunRefused, match="import a model first"):
        runs.launch(project, "generate", {}, round_number=1)


def test_launch_with_bad_settings_is_refused_and_leaves_nothing(project, settings):
    policy = PolicyFactory(project=project)

    with pytest.raises(runs.RunRefused, match=r"temperature=0 must be above 0"):
        runs.launch(project, "generate", {"temperature": 0}, round_number=1, policy=policy)

    assert (Run.objects.count(), settings.RUNS_DIR.exists()) == (0, False)


def test_launch_with_a_missing_model_folder_is_refused(project):
    policy = PolicyFactory(project=project, path="/nowhere/model")

    with pytest.raises(runs.RunRefused, match="there is no folder /nowhere/model"):
        runs.launch(project, "generate", {}, round_number=1, policy=policy)


def test_launch_with_the_model_of_another_project_is_refused(project):
    with pytest.raises(runs.RunRefused, match="is no policy of this project"):
        runs.launch(project, "generate", {}, round_number=1, policy=PolicyFactory())


def test_a_reward_model_is_launched_on_another_base(project):
    policy, encoder = PolicyFactory(project=project), PolicyFactory(project=project, kind="base")
    PromptFactory(project=project)
    chosen = {"policy": policy, "export": ExportFactory(project=project)}

    on_policy = runs.launch(project, "reward_model", {}, round_number=1, base=policy, **chosen)
    on_encoder = runs.launch(
        project, "reward_model", {"train": "full"}, round_number=2, base=encoder, **chosen
    )

    assert on_policy.config["base"] is None  # the weights are shared
    assert (on_encoder.base, on_encoder.config["base"]) == (encoder, encoder.reference())
    assert on_encoder.config["model"] == policy.reference()


def test_a_base_of_reward_models_is_no_policy(project):
    encoder = PolicyFactory(project=project, kind="base")

    with pytest.raises(runs.RunRefused, match=f"{encoder} is no policy of this project"):
        runs.launch(project, "generate", {}, round_number=1, policy=encoder)


def test_a_reward_model_is_no_base(project):
    reward_model = RewardModelFactory(project=project)
    chosen = {"policy": reward_model.parent, "export": ExportFactory(project=project)}

    with pytest.raises(runs.RunRefused, match="is no policy or base of reward models of this"):
        runs.launch(project, "reward_model", {}, round_number=1, base=reward_model, **chosen)


def test_import_of_an_unknown_folder_is_refused(project):
    source = {"source": "folder", "location": "/nowhere"}

    with pytest.raises(runs.RunRefused, match="There is no model folder or file /nowhere"):
        runs.launch(project, "import_model", source, round_number=1)


def test_import_of_a_folder_that_cannot_be_read_is_refused(project):
    source = {"source": "folder", "location": f"/{'x' * 300}"}

    with pytest.raises(runs.RunRefused, match="x cannot be read: File name too long"):
        runs.launch(project, "import_model", source, round_number=1)


def test_launch_without_prompts_is_refused_and_leaves_nothing(project, settings):
    policy = PolicyFactory(project=project)

    with pytest.raises(runs.RunRefused, match="no prompts yet"):
        runs.launch(project, "generate", {}, round_number=1, policy=policy)

    assert (Run.objects.count(), list(settings.RUNS_DIR.iterdir())) == (0, [])


def test_generate_takes_a_sample_of_the_prompts_if_asked(project):
    policy = PolicyFactory(project=project)
    prompts = PromptFactory.create_batch(5, project=project)

    run = runs.launch(project, "generate", {}, round_number=1, policy=policy, max_prompts=2)

    smallest_keys = sorted(prompts, key=lambda prompt: prompt.key)[:2]
    found = [line["id"] for line in lines(run.folder / "prompts.jsonl")]
    assert found == [prompt.pk for prompt in smallest_keys]


def test_reward_model_run_has_the_export_and_training_prompts_in_its_folder(project):
    export, policy = ExportFactory(project=project), PolicyFactory(project=project)
    train = PromptFactory(project=project)
    PromptFactory(project=project, split="test")

    run = runs.launch(project, "reward_model", {}, round_number=1, policy=policy, export=export)

    names = sorted(path.name for path in (run.folder / "data").iterdir())
    assert names == ["data.jsonl", "manifest.json"]
    assert (run.folder / "data/data.jsonl").samefile(export.folder / "data.jsonl")
    assert [line["id"] for line in lines(run.folder / "prompts.jsonl")] == [train.pk]


@pytest.mark.parametrize(("kind", "expected"), [("reward_model", True), ("dpo", False)])
def test_single_votes_are_for_reward_models_alone(project, kind, expected):
    votes = {"sha256": hashlib.sha256(b"{}\n").hexdigest()}
    export = ExportFactory(project=project, manifest={"votes": votes})
    policy = PolicyFactory(project=project)
    PromptFactory(project=project)
    (export.folder / "votes.jsonl").write_text("{}\n")

    run = runs.launch(project, kind, {}, round_number=1, policy=policy, export=export)

    assert (run.folder / "data" / "votes.jsonl").exists() == expected


def test_export_without_pairs_is_refused(project):
    export = ExportFactory(project=project, n_rows=0)
    policy = PolicyFactory(project=project)

    with pytest.raises(runs.RunRefused, match=f"Export {export.pk} has no pairs to learn from"):
        runs.launch(project, "reward_model", {}, round_number=1, policy=policy, export=export)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"rows": 9, "rows_train": 0, "rows_tied": 1}, "All 9 pairs of export .* are held out"),
        ({"rows": 40, "rows_train": 30, "rows_tied": 40}, "All 40 pairs of export .* are ties"),
        ({"rows": 40, "rows_train": 19, "rows_tied": 0}, "has at most 19 decided pairs to learn"),
        ({"rows": 40, "rows_train": 30, "rows_tied": 22}, "has at most 18 decided pairs to learn"),
    ],
)
def test_export_with_too_few_votes_is_refused(project, counts, message):
    export = ExportFactory(project=project, manifest={"counts": counts})
    policy = PolicyFactory(project=project)

    with pytest.raises(runs.RunRefused, match=message):
        runs.launch(project, "reward_model", {}, round_number=1, policy=policy, export=export)


def test_whoever_asks_for_fewer_pairs_may_try(project):
    counts = {"rows": 4, "rows_train": 3, "rows_tied": 0}
    export = ExportFactory(project=project, manifest={"counts": counts})
    models = {"policy": PolicyFactory(project=project), "export": export}
    PromptFactory(project=project)

    run = runs.launch(project, "reward_model", {"min_pairs": 3}, round_number=1, **models)

    assert run.config["min_pairs"] == 3


def test_ppo_reads_training_prompts_and_evaluation_held_out_ones(project):
    reward_model = RewardModelFactory(project=project)
    old, new = reward_model.parent, PolicyFactory(project=project, parent=reward_model.parent)
    train = PromptFactory(project=project)
    test = PromptFactory(project=project, split="test")

    ppo = runs.launch(project, "ppo", {}, round_number=1, policy=old, reward_model=reward_model)
    evaluate = runs.launch(project, "evaluate", {}, round_number=1, policy=new, rival=old)

    assert [line["id"] for line in lines(ppo.folder / "prompts.jsonl")] == [train.pk]
    assert [line["id"] for line in lines(ppo.folder / "eval_prompts.jsonl")] == [test.pk]
    assert [line["id"] for line in lines(evaluate.folder / "prompts.jsonl")] == [test.pk]
    assert ppo.config["reward_model"] == reward_model.path
    assert evaluate.config["rival"] == old.reference()


def test_ppo_takes_a_reward_model_of_another_base_and_rewards_of_many_kinds(project, settings):
    settings.REWARD_FUNCTIONS = ["our.rewards.polite"]
    reward_model, policy = RewardModelFactory(project=project), PolicyFactory(project=project)
    PromptFactory(project=project)
    rewards = [
        {"kind": "callable", "function": "our.rewards.polite"},
        {"kind": "reward_model", "version": reward_model.name},
    ]

    run = runs.launch(project, "ppo", {"rewards": rewards}, round_number=1, policy=policy)

    assert run.config["reward_model"] == ""
    assert run.config["rewards"] == [rewards[0], {**rewards[1], "folder": reward_model.path}]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "There is nothing to reward"),
        ([{"kind": "callable", "function": "os.system"}], "os.system is not in PREFERENDUM_REWARD"),
        ([{"kind": "reward_model", "version": "x"}], "this project has no reward model x"),
        ([{"kind": "length"}], "length needs target=…"),
    ],
)
def test_ppo_with_wrong_rewards_is_refused(project, rewards, message):
    policy = PolicyFactory(project=project)
    RewardModelFactory(name="x")  # of another project

    with pytest.raises(runs.RunRefused, match=message):
        runs.launch(project, "ppo", {"rewards": rewards}, round_number=1, policy=policy)


def test_policy_may_be_compared_with_itself_by_the_best_of_several(project):
    reward_model = RewardModelFactory(project=project)
    policy = reward_model.parent
    PromptFactory(project=project, split="test")
    sides = {"policy": policy, "rival": policy, "reward_model": reward_model}

    run = runs.launch(project, "evaluate", {"best_of": 16}, round_number=1, **sides)

    assert (run.best_of, run.new_side) == (16, f"best of 16 of {policy.name}")


def test_rewards_choose_the_best_of_several_without_the_runs_own_reward_model(project):
    reward_model = RewardModelFactory(project=project)
    PromptFactory(project=project, split="test")
    rules = [{"kind": "sentiment"}, {"kind": "reward_model", "version": reward_model.name}]
    sides = {"policy": reward_model.parent, "rival": reward_model.parent}

    run = runs.launch(
        project, "evaluate", {"best_of": 4, "rewards": rules}, round_number=1, **sides
    )

    assert run.config["rewards"] == [rules[0], {**rules[1], "folder": reward_model.path}]


def test_weights_are_merged_beside_the_adapter(project):
    policy = PolicyFactory(project=project, parent=PolicyFactory(project=project))

    run = runs.launch(project, "merge", {"dtype": "bfloat16"}, round_number=1, policy=policy)

    assert run.config == {
        "model": policy.reference(),
        "output": f"{policy.path}-merged",
        "dtype": "bfloat16",
    }


def test_a_whole_model_needs_no_merging(project):
    policy = PolicyFactory(project=project)

    with pytest.raises(runs.RunRefused, match="whole model already"):
        runs.launch(project, "merge", {}, round_number=1, policy=policy)


def test_evaluation_without_held_out_prompts_or_second_policy_is_refused(project):
    old, new = PolicyFactory.create_batch(2, project=project)
    PromptFactory(project=project)

    with pytest.raises(runs.RunRefused, match="cannot be compared with itself"):
        runs.launch(project, "evaluate", {}, round_number=1, policy=new, rival=new)
    with pytest.raises(runs.RunRefused, match="No prompt is held out"):
        runs.launch(project, "evaluate", {}, round_number=1, policy=new, rival=old)


def test_folder_left_by_a_rolled_back_launch_is_kept_aside(project, settings):
    last = RunFactory().pk
    (settings.RUNS_DIR / str(last + 1)).mkdir()
    (settings.RUNS_DIR / str(last + 1) / "old").touch()

    run = runs.launch(project, "import_model", {"source": "tiny"}, round_number=1)

    assert not (run.folder / "old").exists()
    assert len(list(settings.RUNS_DIR.glob(f"{last + 1}-without-row-*/old"))) == 1


# --- stop and resume --------------------------------------------------------------------------
def test_stopping_a_queued_run_ends_it():
    run = RunFactory()

    runs.request_stop(run)

    run.refresh_from_db()
    assert run.status == Status.STOPPED
    assert run.finished == run.stop_requested is not None


def test_stopping_a_running_run_asks_it():
    run = RunFactory(status=Status.RUNNING)

    runs.request_stop(run)

    run.refresh_from_db()
    assert (run.status, run.finished) == ("stopping", None)
    assert run.stop_requested is not None
    assert (run.folder / "stop").exists()


@pytest.mark.parametrize("status", ["stopping", "succeeded", "failed", "lost", "stopped"])
def test_stopping_any_other_run_changes_nothing(status):
    run = RunFactory(status=status)

    runs.request_stop(run)

    run.refresh_from_db()
    assert (run.status, run.stop_requested) == (status, None)


@pytest.mark.parametrize("status", ["stopped", "failed", "lost"])
def test_resume_queues_the_run_again(status, django_capture_on_commit_callbacks):
    run = RunFactory(
        status=status, pid=1, pid_started=1.0, error="Bad.", result={"peak_mib": 1},
        stop_requested=ago(minutes=5), finished=ago(minutes=4), step=7, events_read=0,
    )  # fmt: skip

    with django_capture_on_commit_callbacks(execute=True):
        runs.resume(run)

    run.refresh_from_db()
    assert (run.status, run.attempts, run.error, run.result) == ("queued", 1, "", {})
    assert (run.pid, run.stop_requested, run.finished, run.step) == (None, None, None, 7)
    assert messages() == [run.pk]


def test_resuming_twice_queues_once():
    run = RunFactory(status=Status.FAILED)
    runs.resume(run)

    with pytest.raises(runs.RunRefused, match="nothing to resume"):
        runs.resume(run)

    run.refresh_from_db()
    assert run.attempts == 1


def test_resume_is_refused_while_another_run_of_the_kind_is_active():
    stopped = RunFactory(status=Status.STOPPED)
    other = RunFactory(project=stopped.project)

    with pytest.raises(runs.RunRefused, match=f"Import model run {other.pk} of round 1 is queued"):
        runs.resume(stopped)


# --- tend -------------------------------------------------------------------------------------
def test_tend_queues_runs_whose_message_may_be_lost():
    forgotten = RunFactory(queued=ago(minutes=2))
    RunFactory(queued=ago(seconds=5))

    runs.tend()

    assert messages() == [forgotten.pk]


def test_tend_lets_queued_runs_wait_while_another_is_watched():
    RunFactory(status=Status.RUNNING, supervised=ago(seconds=1))
    RunFactory(queued=ago(minutes=2))

    runs.tend()

    assert messages() == []


def test_tend_queues_a_forgotten_run_once_a_minute():
    RunFactory(queued=ago(minutes=2))

    runs.tend()
    runs.tend()

    assert len(messages()) == 1


def test_tend_wakes_a_supervisor_for_a_run_that_nobody_watches(toy):
    toy("6")
    run = RunFactory(queued=ago(minutes=2))
    process = start(run)

    runs.tend()

    assert messages() == [run.pk]
    process.kill()


def start(run):
    """A process of the run whose supervisor has died."""
    run.status, run.supervised = Status.RUNNING, ago(minutes=1)
    run.started = ago(minutes=1)
    run.save()
    process = supervision._start(run)
    Run.objects.filter(pk=run.pk).update(supervised=ago(minutes=1))
    return process._child


def test_tend_ends_a_run_whose_process_has_ended_unseen(toy):
    run = RunFactory()
    process = start(run)
    process.wait()

    runs.tend()

    run.refresh_from_db()
    assert (run.status, run.error) == ("succeeded", "")
    assert ModelVersion.objects.get().run == run


def test_starting_trainer_queues_all_that_has_not_ended_once():
    waiting = RunFactory()
    running = RunFactory(status=Status.RUNNING, supervised=ago(seconds=1))
    RunFactory(status=Status.FAILED)
    runs._send(waiting.pk)

    runs.send_all()

    assert messages() == [running.pk, waiting.pk]


# --- next round -------------------------------------------------------------------------------
def test_next_round_samples_from_the_new_policy(project):
    RoundFactory(project=project)
    PromptFactory(project=project)
    GenerateRunFactory(
        project=project, status=Status.SUCCEEDED,
        config={"model": {}, "prompts": "prompts.jsonl", "temperature": 0.5, "seed": 3},
    )  # fmt: skip
    policy = PolicyFactory(project=project)

    new = runs.next_round(project, None, policy)

    run = Run.objects.get(round_number=2)
    assert (new.number, new.policy) == (2, policy)
    assert (run.kind, run.status, run.policy) == ("generate", "queued", policy)
    assert (run.config["temperature"], run.config["seed"]) == (0.5, 2)


def test_next_round_waits_for_the_runs_of_the_last(project):
    RoundFactory(project=project)
    active = RunFactory(project=project, kind="ppo")
    PromptFactory(project=project)

    with pytest.raises(runs.RunRefused, match=f"Round 1 is not over: PPO run {active.pk}"):
        runs.next_round(project, None, PolicyFactory(project=project))

    assert Round.objects.count() == 1


def test_next_round_that_cannot_generate_is_not_begun(project):
    with pytest.raises(runs.RunRefused, match="no prompts yet"):
        runs.next_round(project, None, PolicyFactory(project=project))

    assert Round.objects.count() == 0


def test_next_round_with_the_same_token_is_one_round(project):
    PromptFactory(project=project)
    policy, token = PolicyFactory(project=project), uuid.uuid4()

    first = runs.next_round(project, None, policy, token=token)
    second = runs.next_round(project, None, policy, token=token)

    assert first == second
    assert (Round.objects.count(), Run.objects.count()) == (1, 1)
