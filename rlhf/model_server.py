"""The model server as the web side sees it: a socket that answers, whether a model is loaded or not.

`manage.py model_server` only listens. When somebody connects it starts `python -m rlhf.training.serve`
with that socket, which lets them in, loads what they ask for, and ends after idle minutes. Whoever
connects while no such process runs waits in the socket's backlog; a process that was killed is
started anew by the next one. What is said over the socket is described in rlhf/training/serve.py.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from rlhf.processes import environment, signal_name, unprivileged

logger = logging.getLogger(__name__)

MODULE = "rlhf.training.serve"
BACKLOG = 64
LONGEST_ADDRESS = 100  # bytes; Linux takes 107
LOCK_SECONDS = 2.0
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0  # for the first word, with a large model to load; or between two

NOT_RUNNING = (
    "No model server runs: start `python manage.py model_server` on the machine of the web process."
)
BROKEN_OFF = "The model server ended in the middle of the answer: try again."


class ModelServerError(Exception):
    """A sentence about a request that was not answered."""

    def __init__(self, sentence: str, kind: str = "model") -> None:
        super().__init__(sentence)
        # "not_running", "busy", "request", "too_long" or "model"
        self.kind = kind


Line = dict[str, Any]  # of an answer


# --- asking -----------------------------------------------------------------------------------
def ask(question: dict[str, Any]) -> Generator[Line]:
    """The lines of the answer as they are written; the last one has `usage`.

    Closing the iterator ends the writing. Raises ModelServerError.
    """
    with _connected() as connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(json.dumps(question).encode() + b"\n")
            for line in map(json.loads, lines):
                if "error" in line:
                    raise ModelServerError(line["error"], line["kind"])
                yield line
                if "usage" in line:
                    return
        except (OSError, ValueError):  # nothing for minutes, or half a line
            raise ModelServerError(BROKEN_OFF) from None
        raise ModelServerError(BROKEN_OFF)


@contextmanager
def _connected() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT_SECONDS)
        try:
            with _short(settings.MODEL_SERVER_SOCKET) as address:
                connection.connect(address)
        except OSError:  # no such file, or nobody listens
            raise ModelServerError(NOT_RUNNING, "not_running") from None
        connection.settimeout(ANSWER_SECONDS)
        yield connection


def is_running() -> bool:
    """Whether a model server listens. Nothing is loaded for the question."""
    try:
        with _lock_file().open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of this file that is short enough to be the address of a socket."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


# --- serving ----------------------------------------------------------------------------------
class AlreadyRunning(Exception):
    """A sentence."""


@contextmanager
def listening() -> Iterator[socket.socket]:
    """The socket, which only this user may connect to. Raises AlreadyRunning."""
    path = settings.MODEL_SERVER_SOCKET
    with _lock_file().open("w") as lock, socket.socket(socket.AF_UNIX) as listener:
        _take(lock)
        path.unlink(missing_ok=True)  # of one that was killed
        with _short(path) as address:
            mask = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(mask)
        listener.listen(BACKLOG)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _lock_file() -> Path:
    """The socket's file says nothing: it stays behind when its server is killed. A lock does not."""
    return settings.MODEL_SERVER_SOCKET.with_suffix(".lock")


def _take(lock: Any) -> None:
    """Lock the file; who asks `is_running` may hold it for a moment."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"A model server runs already on {settings.MODEL_SERVER_SOCKET}."
                ) from None
            time.sleep(0.1)


def serve(listener: socket.socket, should_go_on: Callable[[], bool] = lambda: True) -> None:
    """Start the process whenever somebody connects, and wait for its end."""
    while should_go_on():
        select.select([listener], [], [])
        with _process(listener) as process:
            code = process.wait()
        if code:
            logger.warning("the model server's process has ended: %s", _reason(code))
            _turn_away(
                listener, f"The model server's process has ended ({_reason(code)}): try again."
            )


@contextmanager
def _process(listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """The process that loads models. It ends with its standard input, however this one ends."""
    options = {
        "max_requests": settings.MODEL_SERVER_MAX_REQUESTS,
        "idle_seconds": settings.MODEL_SERVER_IDLE_MINUTES * 60,
    }
    with subprocess.Popen(  # noqa: S603 (our own module)
        unprivileged([sys.executable, "-m", MODULE, str(listener.fileno()), json.dumps(options)]),
        env=environment(online=False),
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    ) as process:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, min(settings.RUN_NICENESS, 19))
        try:
            yield process
        finally:
            process.kill()


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by the system, perhaps for its memory"
    return f"signal {signal_name(-code)}" if code < 0 else f"exit code {code}, see its log"


def _turn_away(listener: socket.socket, sentence: str) -> None:
    """Tell those whom the process did not let in: one that cannot start would be started for ever."""
    while select.select([listener], [], [], 0)[0]:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(1)
            connection.sendall(json.dumps({"error": sentence, "kind": "model"}).encode() + b"\n")
