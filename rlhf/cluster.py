"""Running a django-q2 cluster so that it ends in seconds, however it is ended.

A cluster that is told to stop waits for its tasks, and one of ours may take as long as a run
does. Signals to a whole process group, as honcho and a terminal send them, can even hang it: the
sentinel dies of them while the main process waits for it. Nothing is lost by ending a cluster at
once: runs go on by themselves, what was read is in the database, and the next trainer goes on
from there.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import psutil
from django.db import close_old_connections, connections
from django_q.cluster import Cluster

logger = logging.getLogger(__name__)

MEANWHILE_SECONDS = 2.0
STOP_SECONDS = 3.0  # honcho kills after 5
PR_SET_PDEATHSIG = 1


def become_cluster(name: str) -> None:
    """Start this program anew as the named cluster: django-q2 reads the name when imported."""
    if os.environ.get("Q_CLUSTER_NAME") != name:
        os.environ["Q_CLUSTER_NAME"] = name
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def run_cluster(meanwhile: Callable[[], object] | None = None) -> None:
    """Run a cluster in this process until SIGTERM or SIGINT, and do `meanwhile` every two seconds.

    It is done by this process, which otherwise only waits, so no task holds it up.
    """
    connections.close_all()  # no connection may be shared with the processes of the cluster
    os.register_at_fork(after_in_child=_die_with_parent)
    cluster = Cluster()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    cluster.start()
    while cluster.sentinel.is_alive():
        if meanwhile:
            _do(meanwhile)
        cluster.sentinel.join(MEANWHILE_SECONDS)
    sys.exit("The queue has ended by itself: see the log.")


def _do(meanwhile: Callable[[], object]) -> None:
    """Whatever goes wrong, such as a database that is away, is tried again the next time."""
    close_old_connections()
    try:
        meanwhile()
    except Exception:
        logger.exception("%s failed", meanwhile)


def _die_with_parent() -> None:
    """Get SIGTERM when the parent dies, so that SIGKILL to the main process leaves nobody behind.

    Linux only. It is not passed on to the processes of runs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(*_: Any) -> NoReturn:
    """End the processes of the cluster, but not the runs, which lead sessions of their own."""
    session = os.getsid(0)
    family = [
        process
        for process in psutil.Process().children(recursive=True)
        if _session_of(process.pid) == session
    ]
    for process in family:
        _send(process, signal.SIGTERM)  # supervisors give back their leases
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in family:
        _send(process, signal.SIGKILL)
    os._exit(0)


def _is_alive(process: psutil.Process) -> bool:
    """An ended process that nobody has waited for does not count: there may be nobody to do it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
