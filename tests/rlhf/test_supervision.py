"""From queued to the end, with real processes that keep to the run folder's protocol."""

import json
import os
import signal
import threading
import time
from datetime import timedelta

import psutil
import pytest
from django.utils import timezone

from rlhf import runs, supervision
from rlhf.charts import log_tail
from rlhf.models import Metrics, ModelVersion, Round, Run, RunKind, Sample, Status
from tests.rlhf.factories import RunFactory

pytestmark = pytest.mark.django_db


def ago(**duration):
    return timezone.now() - timedelta(**duration)


def after(seconds, action):
    threading.Timer(seconds, action).start()


def append_event(run, text):
    with (run.folder / "events.jsonl").open("a") as file:
        file.write(text)


def supervised(run):
    runs.supervise(run.pk)
    run.refresh_from_db()
    return run


def started(run):
    """The row of a run whose process works and whose supervisor has died."""
    Run.objects.filter(pk=run.pk).update(
        status=Status.RUNNING, started=timezone.now(), supervised=timezone.now()
    )
    run.refresh_from_db()
    process = supervision._start(run)
    Run.objects.filter(pk=run.pk).update(supervised=ago(minutes=1))
    run.refresh_from_db()
    return process


# --- success ----------------------------------------------------------------------------------
def test_run_succeeds_and_its_results_are_taken_over(toy):
    run = supervised(RunFactory())

    assert (run.status, run.error) == ("succeeded", "")
    assert (run.phase, run.step, run.total_steps, run.eta_seconds) == ("counting", 60, 60, None)
    version = ModelVersion.objects.get()
    assert (version.name, version.run, version.path) == ("Toy", run, str(run.folder / "artifact"))
    assert Round.objects.get().policy == version
    assert run.result.keys() == {"peak_mib", "artifact", "name", "parameters", "model_version"}
    assert run.started < run.seen < run.finished


def test_reports_are_copied_once(toy):
    run = supervised(RunFactory())

    values = [metrics.values["half"] for metrics in Metrics.objects.filter(run=run)]
    assert values == [step / 2 for step in range(1, 61)]
    sample = Sample.objects.get()
    assert (sample.step, sample.completion, sample.score) == (60, "Hello", 0.5)
    assert run.events_read == (run.folder / "events.jsonl").stat().st_size


def test_alarms_follow_the_metrics_of_ppo(toy):
    run = RunFactory(kind=RunKind.PPO)
    event = {"type": "metrics", "step": 7, "values": {"kl/k1": 51.0}, "time": 1}
    append_event(run, json.dumps(event) + "\n")

    supervised(run)

    assert [(a["name"], a["level"], a["steps"]) for a in run.alarms] == [("KL", "red", [7])]


def test_a_run_that_breaks_off_says_how_many_tokens_it_had_taken(toy):
    run = RunFactory(kind=RunKind.PPO, config={"batch_size": 4, "epochs": 2})
    event = {"type": "metrics", "step": 7, "values": {"length/mean": 2.5}, "time": 1}
    append_event(run, json.dumps(event) + "\n")
    toy("killed")

    ended = supervised(run)

    assert ended.status == "failed"
    assert ended.result["tokens"] == {"written": 10, "learned": 20}


def test_metrics_are_read_for_alarms_now_and_then_and_at_the_end(toy, monkeypatch):
    read = []
    monkeypatch.setattr(supervision, "find_alarms", lambda reports: read.append(reports) or [])
    monkeypatch.setattr(supervision, "ALARM_SECONDS", 1000.0)
    toy("1")

    supervised(RunFactory(kind=RunKind.PPO))

    assert len(read) == 2  # though it was looked after many times


def test_supervising_an_ended_run_does_nothing(toy):
    run = supervised(RunFactory())

    again = supervised(run)

    assert (again.status, ModelVersion.objects.count()) == ("succeeded", 1)


def test_process_gets_no_secrets_and_is_niced(toy, settings, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite:///secret")
    monkeypatch.setenv("PREFERENDUM_SECRET_KEY", "x" * 50)
    toy("environment")

    run = supervised(RunFactory())

    environment = json.loads((run.folder / "environment.json").read_text())
    secrets = {n for n in environment if "SECRET" in n or "DATABASE" in n or "DJANGO" in n}
    assert secrets == set()
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["PREFERENDUM_MODELS_DIR"] == str(settings.MODELS_DIR)
    niceness = json.loads((run.folder / "niceness.json").read_text())
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + settings.RUN_NICENESS)


def test_import_from_the_hub_is_online(toy):
    toy("environment")
    config = {"source": "hub", "location": "a/b", "output": "artifact"}

    run = supervised(RunFactory(config=config))

    environment = json.loads((run.folder / "environment.json").read_text())
    assert "HF_HUB_OFFLINE" not in environment


def test_place_of_the_models_is_there_before_the_first_import(toy, settings):
    output = settings.MODELS_DIR / "tiny"

    supervised(RunFactory(config={"source": "tiny", "location": "", "output": str(output)}))

    assert output.parent.is_dir()


def test_launcher_template_may_be_any_command(toy, settings):
    toy("environment")
    settings.RUN_COMMAND = f"env LAUNCHED=yes {settings.RUN_COMMAND}"

    run = supervised(RunFactory())

    assert json.loads((run.folder / "environment.json").read_text())["LAUNCHED"] == "yes"


def test_processes_left_behind_are_ended(toy):
    toy("parent")

    run = supervised(RunFactory())

    group = [p for p in psutil.process_iter() if group_of(p.pid) == run.pid]
    assert [p for p in group if p.status() != psutil.STATUS_ZOMBIE] == []


def group_of(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


# --- failure ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("bad_data", "The toy had bad data."),
        ("out_of_memory", "The toy had out of memory."),
        ("crash", "The process crashed: ValueError: the toy is broken (see the log)."),
        ("speechless", "The process ended well but left no result.json: see the log."),
        ("segfault", "The process was ended by signal 11 (SIGSEGV): see the log."),
    ],
)
def test_failure_is_told_in_a_sentence(toy, mode, sentence):
    toy(mode)

    run = supervised(RunFactory())

    assert (run.status, run.error) == ("failed", sentence)
    assert run.finished is not None


def test_kill_by_the_system_is_told_as_lack_of_memory(toy):
    toy("killed")

    run = supervised(RunFactory())

    assert run.status == Status.FAILED
    assert run.error.startswith("The process was killed by the system (signal 9), most likely out")


def test_unknown_launcher_is_told(settings, toy):
    settings.RUN_COMMAND = "no-such-launcher {run_dir}"

    run = supervised(RunFactory())

    assert run.status == Status.FAILED
    assert run.error == "The launcher command was not found: check PREFERENDUM_RUN_COMMAND."


def test_missing_run_folder_is_told(toy):
    run = RunFactory()
    run.folder.rename(run.folder.with_name("gone"))

    run = supervised(run)

    assert run.status == Status.FAILED
    assert run.error.startswith("The process could not be started: [Errno 2] No such file")


def test_results_that_cannot_be_taken_over_fail_the_run_and_are_made_anew(toy):
    run = RunFactory(kind="generate", config={"completions_per_prompt": 2})  # has no policy
    (run.folder / "prompts.jsonl").write_text('{"id": 1, "messages": []}\n')

    run = supervised(run)

    assert run.status == Status.FAILED
    assert run.error.startswith("The run ended well, but its results could not be taken over:")
    assert (run.folder / "result.refused.json").exists()
    assert not (run.folder / "result.json").exists()


def test_nothing_is_taken_over_from_a_folder_with_a_link(toy):
    toy("linking")

    run = supervised(RunFactory())

    assert (run.status, ModelVersion.objects.count()) == (Status.FAILED, 0)
    assert run.error == (
        "The run left a symbolic link, elsewhere, which could lead anywhere: nothing was taken over."
    )


def test_log_that_was_replaced_by_a_link_is_not_shown(tmp_path):
    (tmp_path / "secret_key").write_text("secret")
    (tmp_path / "log.txt").symlink_to(tmp_path / "secret_key")

    assert log_tail(tmp_path / "log.txt") == ""


def test_memory_limit_ends_the_run(toy, settings):
    settings.RUN_MEMORY_LIMIT_MIB = 150
    toy("greedy")

    run = supervised(RunFactory())

    assert run.status == Status.FAILED
    assert run.error.startswith(f"The run was ended because it used {run.result['peak_mib']} MiB")


def test_time_limit_stops_the_run_so_that_it_can_be_resumed(toy, settings):
    settings.RUN_TIME_LIMIT_HOURS = 0.5 / 3600
    toy("6")

    run = supervised(RunFactory())

    assert run.status == Status.STOPPED
    assert run.error == "The run was stopped after 0.000138889 hours, the time limit."
    assert run.step < 60


# --- stop and resume --------------------------------------------------------------------------
def stop_soon(run):
    """Ask as another process would, when the run has begun to work."""

    def watch_and_ask():
        while not (run.folder / "events.jsonl").exists():
            time.sleep(0.02)
        (run.folder / "stop").touch()

    after(0, watch_and_ask)


def test_stopped_run_goes_on_where_it_was(toy):
    toy("6")
    run = RunFactory()
    stop_soon(run)

    run = supervised(run)
    stopped_at = Metrics.objects.filter(run=run).count()
    toy("0")
    runs.resume(run)
    resumed = supervised(run)

    assert 0 < stopped_at < 60
    assert (resumed.status, resumed.attempts) == ("succeeded", 1)
    pids = [metrics.values["pid"] for metrics in Metrics.objects.filter(run=run)]
    assert pids == [pids[0]] * stopped_at + [pids[-1]] * (60 - stopped_at)


def test_stop_request_reaches_the_process(toy):
    toy("6")
    run = RunFactory()
    started(run)
    runs.request_stop(run)

    run = supervised(run)

    assert (run.status, run.error) == ("stopped", "")
    assert run.step < 60


def test_stubborn_process_is_killed_after_its_grace(toy, monkeypatch):
    monkeypatch.setattr(supervision, "STOP_GRACE", timedelta(seconds=0.3))
    monkeypatch.setattr(supervision, "TERMINATE_GRACE", timedelta(seconds=0.3))
    toy("stubborn")
    run = RunFactory()
    started(run)
    runs.request_stop(run)

    run = supervised(run)

    assert run.status == Status.STOPPED
    assert run.error.startswith("It did not stop in time and was ended")


def test_second_try_to_take_results_over_does_not_run_the_process_again(toy):
    run = supervised(RunFactory())
    Run.objects.filter(pk=run.pk).update(status=Status.FAILED)
    Round.objects.all().delete()
    run.outputs.all().delete()

    runs.resume(run)
    again = supervised(run)

    assert (again.status, again.pid) == ("succeeded", None)
    assert run.outputs.get().name == "Toy"


def test_run_told_to_end_from_outside_is_stopped_and_says_so(toy):
    toy("6")
    run = RunFactory()
    process = started(run)
    after(1, lambda: process.signal(signal.SIGTERM))

    run = supervised(run)

    assert run.status == Status.STOPPED
    assert run.error == "The process was told to end from outside. It has saved its state."


def test_failed_run_can_be_resumed(toy):
    toy("killed")
    run = supervised(RunFactory())
    toy("0")

    runs.resume(run)
    run = supervised(run)

    assert (run.status, run.error, run.attempts) == ("succeeded", "", 1)
    assert (run.folder / "log.txt").read_text().count("=== attempt") == 2


def test_half_written_line_of_a_killed_process_spoils_no_other(toy):
    run = RunFactory()
    append_event(run, '{"type": "metrics", "step": 1, "val')

    run = supervised(run)

    assert Metrics.objects.filter(run=run).count() == 60


# --- supervisors come and go ------------------------------------------------------------------
def test_supervisor_told_to_leave_leaves_the_run_running(toy):
    toy("6")
    run = RunFactory()
    after(1, lambda: os.kill(os.getpid(), signal.SIGTERM))

    run = supervised(run)

    assert (run.status, run.supervised) == ("running", None)
    assert psutil.pid_exists(run.pid)
    runs.request_stop(run)
    assert supervised(run).status == Status.STOPPED


def test_next_supervisor_finds_the_process_again(toy):
    toy("1")
    run = RunFactory()
    process = started(run)

    run = supervised(run)

    assert (run.status, run.pid, run.attempts) == ("succeeded", process.pid, 0)
    assert {m.values["pid"] for m in Metrics.objects.filter(run=run)} == {process.pid}


def test_run_killed_unseen_is_lost_and_can_be_resumed(toy):
    toy("6")
    run = RunFactory()
    process = started(run)
    process._child.kill()
    process._child.wait()

    run = supervised(run)
    assert run.status == Status.LOST
    assert run.error.startswith("The process ended without a word, and how is not known")

    toy("0")
    runs.resume(run)
    assert supervised(run).status == Status.SUCCEEDED


def test_run_that_crashed_unseen_has_failed(toy):
    toy("crash")
    run = RunFactory()
    started(run)._child.wait()

    run = supervised(run)

    assert (run.status, run.error) == (
        "failed",
        "The process crashed: ValueError: the toy is broken (see the log).",
    )


def test_two_supervisors_cannot_watch_one_run(toy):
    run = RunFactory()
    supervision._claim(run.pk)

    assert supervision._claim(run.pk) is False


def test_supervisor_whose_lease_was_taken_writes_nothing():
    run = RunFactory()
    supervision._claim(run.pk)
    run.refresh_from_db()
    Run.objects.filter(pk=run.pk).update(supervised=timezone.now())

    with pytest.raises(supervision.LeaseLost):
        supervision._write(run, status=Status.FAILED)

    run.refresh_from_db()
    assert run.status == Status.RUNNING


def test_supervisor_waits_for_the_lease_of_a_dead_one(toy, monkeypatch):
    monkeypatch.setattr(supervision, "LEASE", timedelta(seconds=0.5))
    run = RunFactory(status=Status.RUNNING, started=timezone.now(), supervised=timezone.now())

    assert supervised(run).status == Status.SUCCEEDED


def test_process_without_permission_to_go_never_runs(toy):
    run = RunFactory()
    command = supervision.command_for(run.folder)

    process = supervision.RunProcess.start(
        command, run.folder, supervision.environment(online=False)
    )
    process.abandon()
    process._child.wait()

    assert not (run.folder / "events.jsonl").exists()


def test_run_of_another_machine_is_left_alone_while_it_reports():
    run = RunFactory(
        status=Status.RUNNING, started=ago(hours=1), pid=1, pid_started=1.0, host="elsewhere"
    )
    append_event(run, json.dumps({"type": "heartbeat", "time": time.time()}) + "\n")

    run = supervised(run)

    assert (run.status, run.supervised) == ("running", None)


def test_run_of_another_machine_is_lost_when_it_has_fallen_silent():
    run = RunFactory(
        status=Status.RUNNING, started=ago(hours=1), pid=1, pid_started=1.0, host="elsewhere"
    )
    append_event(run, json.dumps({"type": "heartbeat", "time": time.time() - 600}) + "\n")

    assert supervised(run).status == Status.LOST


def test_run_of_another_machine_that_has_its_result_is_ended():
    run = RunFactory(
        status=Status.RUNNING, started=ago(minutes=1), pid=1, pid_started=1.0, host="elsewhere"
    )
    (run.folder / "result.json").write_text('{"status": "stopped"}')

    assert supervised(run).status == Status.STOPPED
