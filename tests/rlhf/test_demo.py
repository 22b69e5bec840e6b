"""The demo: made once and whole, its answers shipped, started and stopped as one."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import pytest
from django.conf import settings

from annotator.models import Comparison, Membership, Project, Prompt, Role, Split, User
from rlhf.demo import answers, processes, project
from rlhf.models import Run, RunKind


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.django_db
def test_project_has_people_comparisons_and_a_model_on_the_way():
    assert project.create_project()

    demo = Project.objects.get(slug="demo")
    roles = Counter(Membership.objects.filter(project=demo).values_list("role", flat=True))
    assert roles == {Role.ADMIN: 1, Role.ANNOTATOR: 2}
    assert Comparison.objects.filter(project=demo, overlap=2).count() >= 60
    assert list(Run.objects.values_list("kind", "config__source")) == [
        (RunKind.IMPORT_MODEL, "embedded")
    ]


@pytest.mark.django_db
def test_project_has_enough_prompts_on_both_sides_of_the_split():
    project.create_project()

    splits = Counter(Prompt.objects.values_list("split", flat=True))
    assert splits[Split.TRAIN] >= 60
    assert splits[Split.TEST] >= 20


@pytest.mark.django_db
def test_project_is_made_once():
    project.create_project()
    before = Comparison.objects.count(), User.objects.count(), Run.objects.count()

    assert not project.create_project()
    assert (Comparison.objects.count(), User.objects.count(), Run.objects.count()) == before


@pytest.mark.django_db
def test_passwords_are_drawn_once_and_kept_private(client, data_dir):
    project.create_project()

    first, again = project.logins(), project.logins()
    assert first == again
    assert len({login.password for login in first}) == 3
    assert all(client.login(username=name, password=word) for name, word, _ in first)
    assert stat.S_IMODE((data_dir / "demo_logins.json").stat().st_mode) == 0o600


@pytest.mark.django_db
def test_password_that_was_changed_is_not_printed():
    project.create_project()
    anna = User.objects.get(username="anna")
    anna.set_password("something else")
    anna.save()

    assert [bool(login.password) for login in project.logins()] == [True, False, True]


def test_shipped_comparisons_answer_the_shipped_prompts():
    prompts = answers.read_prompts(answers.PROMPTS)
    answered = answers.read_prompts(answers.COMPARISONS)

    assert answered == [prompt for prompt in prompts if prompt in answered]
    assert len(answered) >= 150


def test_comparison_lines_leave_out_prompts_without_two_answers():
    prompts = [[{"role": "user", "content": text}] for text in ("One?", "Two?")]
    completions = [
        {"id": 0, "index": 0, "completion": "Same.", "truncated": False},
        {"id": 0, "index": 1, "completion": "Same. ", "truncated": False},
        {"id": 1, "index": 0, "completion": "This.", "truncated": False},
        {"id": 1, "index": 1, "completion": "That, and", "truncated": True},
    ]

    [line] = [json.loads(line) for line in answers.comparison_lines(prompts, completions)]

    assert line["prompt"] == prompts[1]
    assert line["completions"] == ["This.", "That, and"]
    assert line["truncated"] == [False, True]


def test_taken_port_is_named_with_the_variable_to_change(free_port):
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(processes.CannotStart, match=f"{free_port}.*PREFERENDUM_PORT="),
    ):
        processes.check_port(free_port)

    processes.check_port(free_port)


def test_second_start_on_the_same_data_is_refused(data_dir):
    with (
        processes.only_one(data_dir),
        pytest.raises(processes.CannotStart, match="running already"),
        processes.only_one(data_dir),
    ):
        pass

    with processes.only_one(data_dir):  # and may start when the first has stopped
        pass


def test_demo_answers_and_stops_within_seconds(data_dir, free_port):
    environment = os.environ | {
        "PREFERENDUM_DATA_DIR": str(data_dir),
        "PREFERENDUM_PORT": str(free_port),
        "PREFERENDUM_RUN_COMMAND": "true {run_dir}",  # the model is not imported here
        "DATABASE_URL": f"sqlite:///{data_dir / 'db.sqlite3'}",
    }
    with subprocess.Popen(
        [sys.executable, "manage.py", "demo"],
        cwd=settings.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        output = ""
        while "Ctrl-C" not in output:
            line = demo.stdout.readline()
            assert line, output
            output += line
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/") as response:
            page = response.read().decode()
        asked = time.monotonic()
        demo.send_signal(signal.SIGINT)
        output += demo.communicate(timeout=30)[0]
        seconds = time.monotonic() - asked

    assert "Sign in" in page
    assert (demo.returncode, seconds < 10) == (0, True), output
