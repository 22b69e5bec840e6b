"""The trainer and the worker as they are started: real processes on a database of their own."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from django.utils import timezone

from annotator.models import AssignmentState, Comparison
from rlhf import tasks
from tests.factories import AssignmentFactory, ComparisonFactory

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).with_name("toy_run.py")
LAUNCH = """
from uuid import UUID
from annotator.models import Project
from rlhf import runs
project, _ = Project.objects.get_or_create(name="Toys", slug="toys")
token = UUID(int=1)
runs.launch(project, "import_model", {"source": "tiny"}, round_number=1, token=token)
"""


class House:
    """A data folder, its database, and the processes that work on it."""

    def __init__(self, folder, seconds):
        self.folder = folder
        self.processes = []
        self.environment = {
            **os.environ,
            "PREFERENDUM_DATA_DIR": str(folder),
            "PREFERENDUM_RUN_COMMAND": f"{{python}} {TOY} {seconds} {{run_dir}}",
        }
        self.environment.pop("DATABASE_URL", None)

    def manage(self, *arguments):
        with (self.folder / "output.txt").open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def check(self, *arguments):
        if self.manage(*arguments).wait():
            pytest.fail((self.folder / "output.txt").read_text())

    def shell(self, code):
        self.check("shell", "-v0", "-c", code)

    def query(self, sql):
        with sqlite3.connect(self.folder / "db.sqlite3", timeout=30) as connection:
            return connection.execute(sql).fetchall()

    def run(self):
        names = ["status", "step", "pid", "attempts", "error"]
        (row,) = self.query(f"select {', '.join(names)} from rlhf_run")
        return dict(zip(names, row, strict=True))

    def wait_for_output(self, words, times=1):
        while (self.folder / "output.txt").read_text().count(words) < times:
            time.sleep(0.05)

    def wait_for(self, **expected):
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline:
            run = self.run()
            if all(run[name] == value for name, value in expected.items()):
                return run
            time.sleep(0.05)
        pytest.fail(f"{run} is not {expected}:\n{(self.folder / 'output.txt').read_text()}")

    def wait_for_step(self, step):
        while self.run()["step"] < step:
            time.sleep(0.05)

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for (pid,) in self.query("select pid from rlhf_run where pid is not null"):
            if psutil.pid_exists(pid):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def house(tmp_path, migrated, request):
    shutil.copy(migrated, tmp_path / "db.sqlite3")
    house = House(tmp_path, seconds=request.param)
    yield house
    house.end()


def members(process):
    """Living processes of its group."""
    found = []
    for each in psutil.process_iter():
        try:
            if os.getpgid(each.pid) == process.pid and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def pids_that_worked(house):
    return {json.loads(v)["pid"] for (v,) in house.query('select "values" from rlhf_metrics')}


@pytest.mark.parametrize("house", [4], indirect=True)
def test_run_survives_the_killing_of_its_trainer_and_succeeds_once(house):
    house.shell(LAUNCH)
    trainer = house.manage("trainer")
    house.wait_for_step(1)

    os.killpg(trainer.pid, signal.SIGKILL)
    trainer.wait()
    house.manage("trainer")
    run = house.wait_for(status="succeeded")

    assert pids_that_worked(house) == {run["pid"]}
    assert house.query("select count(*) from rlhf_metrics") == [(60,)]
    assert house.query("select count(*) from rlhf_modelversion") == [(1,)]


@pytest.mark.parametrize("house", [60], indirect=True)
@pytest.mark.parametrize("send", [os.killpg, os.kill])
def test_trainer_ends_in_seconds_and_leaves_its_run(house, send):
    house.shell(LAUNCH)
    trainer = house.manage("trainer")
    house.wait_for_step(1)

    began = time.monotonic()
    send(trainer.pid, signal.SIGTERM)
    trainer.wait(timeout=5)
    while members(trainer):
        time.sleep(0.05)

    assert time.monotonic() - began < 5
    assert house.run()["status"] == "running"
    assert house.query("select supervised from rlhf_run") == [(None,)]
    assert psutil.pid_exists(house.run()["pid"])


@pytest.mark.parametrize("house", [60], indirect=True)
def test_killing_the_main_process_leaves_no_cluster_behind(house):
    house.shell(LAUNCH)
    trainer = house.manage("trainer")
    house.wait_for_step(1)

    trainer.kill()
    trainer.wait()

    deadline = time.monotonic() + 5
    while members(trainer) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(trainer) == []
    assert psutil.pid_exists(house.run()["pid"])


@pytest.mark.parametrize("house", [5], indirect=True)
def test_stopped_and_killed_runs_are_resumed_by_the_trainer(house):
    house.shell(LAUNCH)
    house.manage("trainer")
    house.wait_for_step(5)

    house.shell("from rlhf import runs; runs.request_stop(runs.Run.objects.get())")
    stopped = house.wait_for(status="stopped")
    house.shell("from rlhf import runs; runs.resume(runs.Run.objects.get())")
    house.wait_for_step(stopped["step"] + 5)
    os.killpg(house.run()["pid"], signal.SIGKILL)
    killed = house.wait_for(status="failed")
    house.shell("from rlhf import runs; runs.resume(runs.Run.objects.get())")
    resumed = house.wait_for(status="succeeded")

    assert killed["error"].startswith("The process was killed by the system (signal 9)")
    assert (killed["attempts"], resumed["attempts"]) == (1, 2)
    assert house.query("select count(*) from rlhf_metrics") == [(60,)]


@pytest.mark.parametrize("house", [0], indirect=True)
def test_the_same_token_at_once_starts_one_run(house):
    shells = [house.manage("shell", "-v0", "-c", LAUNCH) for _ in range(2)]

    assert [shell.wait() for shell in shells] == [0, 0]
    assert house.query("select count(*) from rlhf_run") == [(1,)]
    assert [path.name for path in (house.folder / "runs").iterdir()] == ["1"]


@pytest.mark.parametrize("house", [0], indirect=True)
def test_worker_has_runs_tended_every_minute_and_ends_at_once(house):
    for times in (1, 2):
        worker = house.manage("worker")
        house.wait_for_output("running.", times)
        os.killpg(worker.pid, signal.SIGTERM)
        assert worker.wait(timeout=5) == 0

    schedules = house.query("select func, schedule_type, minutes from django_q_schedule")
    assert schedules == [("rlhf.tasks.tend", "I", 1)]


@pytest.mark.django_db
def test_tending_gives_expired_leases_back_and_ends_holds():
    late = AssignmentFactory(lease_until=timezone.now())
    ComparisonFactory(hold="Until noon.", held_until=timezone.now())

    tasks.tend()

    late.refresh_from_db()
    assert late.state == AssignmentState.EXPIRED
    assert Comparison.objects.held().count() == 0
