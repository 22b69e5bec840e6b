"""The real thing: the command, the process that it starts, the tiny model. Slow, for its start."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rlhf import model_server
from rlhf.model_server import AlreadyRunning, ModelServerError
from tests.rlhf.model_server_stand_in import YES, model_server_that_says


@pytest.fixture(autouse=True)
def socket_of_the_test(settings, tmp_path):
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"


def test_lines_come_as_they_are_said_and_the_last_has_the_usage():
    with model_server_that_says(*YES, {"index": 0, "text": "never read"}):
        assert list(model_server.ask({})) == YES


def test_what_the_server_refuses_is_an_error_with_its_kind():
    with (
        model_server_that_says({"error": "Too long.", "kind": "too_long"}),
        pytest.raises(ModelServerError, match="Too long") as caught,
    ):
        list(model_server.ask({}))

    assert caught.value.kind == "too_long"


def test_an_answer_without_an_end_is_an_error():
    with (
        model_server_that_says(*YES[:2]),
        pytest.raises(ModelServerError, match="in the middle of the answer"),
    ):
        list(model_server.ask({}))


def test_only_one_listens_and_whoever_asks_knows(monkeypatch):
    monkeypatch.setattr(model_server, "LOCK_SECONDS", 0)
    before = model_server.is_running()

    with model_server.listening():
        assert (before, model_server.is_running()) == (False, True)
        with pytest.raises(AlreadyRunning), model_server.listening():
            pass

    assert not model_server.is_running()


def test_a_data_folder_with_a_very_long_name_is_no_obstacle(settings, tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    settings.MODEL_SERVER_SOCKET = folder / "model_server.sock"

    with model_server_that_says(*YES):
        assert list(model_server.ask({})) == YES


def test_nobody_else_may_connect(settings):
    with model_server.listening():
        assert settings.MODEL_SERVER_SOCKET.stat().st_mode & 0o777 == 0o600


def test_a_process_that_cannot_start_is_said_and_not_started_for_ever(settings, monkeypatch):
    monkeypatch.setattr(model_server, "MODULE", "rlhf.no_such_module")
    with model_server.listening() as listener, model_server._connected() as asking:
        asking.sendall(b"{}\n")
        turns = iter([True, False])

        model_server.serve(listener, should_go_on=lambda: next(turns))

        assert b"exit code 1, see its log" in asking.recv(1000)


# --- with PyTorch -------------------------------------------------------------------------------
@pytest.fixture
def command(settings, tmp_path):
    settings.MODEL_SERVER_SOCKET = tmp_path / "data" / "model_server.sock"
    environment = os.environ | {
        "PREFERENDUM_DATA_DIR": str(tmp_path / "data"),
        "PREFERENDUM_MODEL_SERVER_IDLE_MINUTES": "60",
    }
    process = subprocess.Popen([sys.executable, "manage.py", "model_server"], env=environment)
    wait_until(model_server.is_running)
    yield process
    process.kill()
    process.wait()


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children_of(process):
    return psutil.Process(process.pid).children()


@pytest.mark.slow
def test_a_killed_process_is_started_anew_and_nothing_outlives_the_command(command, tmp_path):
    question = {"reference": {"base": "/nowhere", "adapters": []}, "messages": []}
    answers = []

    def ask():
        with pytest.raises(ModelServerError) as caught:
            list(model_server.ask(question))
        answers.append(str(caught.value))

    assert children_of(command) == []  # nobody has asked
    ask()
    (first,) = children_of(command)
    first.kill()
    wait_until(lambda: first not in children_of(command))
    ask()
    (second,) = children_of(command)
    command.send_signal(signal.SIGKILL)
    wait_until(lambda: not second.is_running())

    assert answers == ["The model folder /nowhere does not exist. Was it moved or deleted?"] * 2
    assert not model_server.is_running()
