"""Starting web, worker and trainer under honcho, waiting for the page, and stopping them all."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from django.conf import settings

READY_SECONDS = 60
STOP_SECONDS = 20  # honcho itself kills after 5


class CannotStart(Exception):
    """A sentence that says what is in the way."""


def check_port(port: int) -> None:
    """Raises CannotStart if something else listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(
                f"Port {port} on 127.0.0.1 cannot be used ({error.strerror}). Choose another one: "
                f"PREFERENDUM_PORT={port + 1} make demo"
            ) from error


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Raises CannotStart while another demo runs on the same data: two trainers would compete."""
    with (folder / "demo.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"The demo is running already, with its data in {folder}. Stop it with Ctrl-C "
                "first, or start a second one with other data: "
                "PREFERENDUM_DATA_DIR=/other/folder PREFERENDUM_PORT=8001 make demo"
            ) from None
        yield


def run(port: int, on_ready: Callable[[], None]) -> None:
    """Start everything, call `on_ready` when the page answers, and return after Ctrl-C.

    Raises CannotStart if a process ends by itself, or the page does not answer in a minute.
    """
    requested = False

    def request_stop(signum: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, request_stop)
    # In a process group of its own: a terminal sends Ctrl-C to the whole group, and honcho
    # must hear of it once, from here.
    honcho = subprocess.Popen(
        [sys.executable, "-m", "honcho", "start"],
        cwd=settings.BASE_DIR,
        env=environment(port),
        process_group=0,
    )
    try:
        ready, deadline = False, time.monotonic() + READY_SECONDS
        while not requested and honcho.poll() is None:
            if not ready and (ready := answers(port)):
                on_ready()
            if not ready and time.monotonic() > deadline:
                raise CannotStart(f"The page did not answer within {READY_SECONDS} seconds.")
            time.sleep(0.2)
        if not requested:
            raise CannotStart("One of the processes ended, so all were stopped; see above.")
    finally:
        stop(honcho)


def environment(port: int) -> dict[str, str]:
    """That of this process, with plain http on this machine's own address only."""
    return {
        "PREFERENDUM_HTTPS": "0",
        **os.environ,
        "PREFERENDUM_BIND": f"127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
    }


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sign-in/", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def stop(honcho: subprocess.Popen[bytes]) -> None:
    if honcho.poll() is None:
        honcho.terminate()
    try:
        honcho.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(honcho.pid, signal.SIGKILL)
        honcho.wait()
