"""Watching a run's process: from queued to its end.

    queued → running → succeeded | failed | stopped, and stopping and lost besides

A run is one process that goes on whatever happens to those who watch it. Who watches it holds a
lease, the row's `supervised`, and every write is conditional on it: two supervisors cannot both
write, and one that was taken for dead notices that it has been replaced.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, transaction
from django.db.models import Q
from django.utils import timezone

from rlhf.alarms import as_json, find_alarms
from rlhf.collecting import COLLECT, tokens_so_far
from rlhf.endpoints import EndpointRefused, asked_by, grants_of, sharing_of
from rlhf.events import end_last_line, load_line, read_reports, store_reports
from rlhf.models import ONLINE, STARTED, Run, RunKind, Status
from rlhf.processes import (
    RunProcess,
    attempt_header,
    attempt_log,
    command_for,
    crash_line,
    environment,
    explain_exit,
    kept_apart,
)
from rlhf.run_user import first_link, hand_over, run_user, take_back
from rlhf.telling import tell_if_ended
from rlhf.training.artifacts import SHARING, following_no_link

logger = logging.getLogger(__name__)

HOST = socket.gethostname()
DATABASE_AWAY = (OperationalError, InterfaceError)
DATABASE_PAUSE_SECONDS = 5.0
POLL_SECONDS = 0.5
RENEW_INTERVAL = timedelta(seconds=2)
ALARM_SECONDS = 5.0  # at least, from one look for alarms to the next
ALARM_SHARE = 0.05  # of a supervisor's time, at most: a long run has many metrics to read
LEASE = timedelta(seconds=10)  # a supervisor silent for so long is taken to be dead
STOP_GRACE = timedelta(seconds=135)  # to notice a stop (15) and to save (120); then SIGTERM
TERMINATE_GRACE = timedelta(seconds=30)  # then SIGKILL


class LeaseLost(Exception):
    """Somebody else watches this run now, or it has been ended."""


def supervise(run_pk: int) -> None:
    """Start the run's process or find it again, and stay with it until it ends.

    Returns early on SIGTERM, and leaves the process to the next supervisor. Does nothing if
    somebody else watches the run or it has ended.
    """
    with _noticing_sigterm() as is_leaving:
        run = _take(run_pk, is_leaving)
        if run is None:
            return
        try:
            _attend_to(run, is_leaving)
        except LeaseLost:
            logger.info("%s is watched by somebody else now", run)


@contextmanager
def _noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, instead of dying of it."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _take(run_pk: int, is_leaving: Callable[[], bool]) -> Run | None:
    """The run, to be watched by us alone; None if somebody does or nothing is to be done.

    A lease that is not renewed belongs to a dead supervisor: we wait until it has run out.
    """
    found = None
    while not _claim(run_pk):
        row = Run.objects.filter(pk=run_pk, status__in=STARTED).values_list("supervised").first()
        if row is None or (found is not None and row != found) or is_leaving():
            return None
        found = row
        time.sleep(POLL_SECONDS)
    return Run.objects.select_related("project", "policy", "rival", "judge").get(pk=run_pk)


def _claim(run_pk: int) -> bool:
    now = timezone.now()
    rows = Run.objects.filter(pk=run_pk)
    if rows.filter(status=Status.QUEUED).update(status=Status.RUNNING, started=now, supervised=now):
        return True
    is_free = Q(supervised=None) | Q(supervised__lt=now - LEASE)
    return bool(rows.filter(is_free, status__in=STARTED).update(supervised=now))


def _write(run: Run, *, then: Callable[[], None] | None = None, **fields: Any) -> None:
    """Change the row, and renew our lease on it; `then` happens in the same transaction.

    Raises LeaseLost, and changes nothing, if the lease is not ours any more.
    """
    fields = {"supervised": timezone.now(), **fields}
    with transaction.atomic():
        ours = Run.objects.filter(pk=run.pk, supervised=run.supervised, status__in=STARTED)
        if not ours.update(**fields):
            raise LeaseLost
        if then:
            then()
        if "status" in fields:
            tell_if_ended(run.pk)
    for name, value in fields.items():
        setattr(run, name, value)


def _attend_to(run: Run, is_leaving: Callable[[], bool]) -> None:
    if run.pid and run.host != HOST:
        return _attend_from_afar(run)
    if run.pid is None and _result_of(run).get("status") == Status.SUCCEEDED:
        return _conclude(run, None)  # only its collecting had failed
    try:
        process = _process_of(run) if run.pid else _start(run)
    except OSError as error:
        return _fail(run, f"The process could not be started: {error}.")
    except EndpointRefused as refusal:
        return _fail(run, str(refusal))
    if _watch(run, process, is_leaving):
        process.end_leftovers()
        return _conclude_patiently(run, process.exit_code(), is_leaving)
    return _write(run, supervised=None)


def _fail(run: Run, error: str) -> None:
    _write(run, status=Status.FAILED, error=error, finished=timezone.now())


def _attend_from_afar(run: Run) -> None:
    """The process is of another machine: whether it lives can only be told from its reports."""
    _copy_all_reports(run)
    if run.is_silent or _result_of(run):
        _conclude(run, None)
    else:
        _raise_alarms(run)
        _write(run, supervised=None)


def has_ended_unseen(run: Run) -> bool:
    """Its process, which was started on this machine, is gone and nobody has concluded the run."""
    return run.host == HOST and run.pid is not None and not _process_of(run).is_alive()


def _process_of(run: Run) -> RunProcess:
    assert run.pid is not None
    assert run.pid_started is not None
    return RunProcess(run.pid, run.pid_started)


def reads_hub(run: Run) -> bool:
    """Whether it fetches a model from the hub; all other runs are offline."""
    if run.kind == RunKind.INDEX:
        return not Path(run.config["encoder"]).is_dir()
    return run.kind == RunKind.IMPORT_MODEL and run.config.get("source") == "hub"


def _start(run: Run) -> RunProcess:
    """Start the process; its pid is in the row before it may begin.

    Raises OSError, and EndpointRefused if it asks somebody whom it may not ask.
    """
    endpoints = grants_of(run)
    _say_who_shares(run)
    for name in ("stop", "result.json"):  # of the attempt before
        (run.folder / name).unlink(missing_ok=True)
    end_last_line(run.folder / "events.jsonl")
    command = command_for(run.folder, run.config.get("accelerate_config", ""))
    apart = kept_apart()
    told = f"Kept apart {apart}.\n" if apart else ""
    log_file = run.folder / "log.txt"
    with open(log_file, "a", encoding="utf-8", opener=following_no_link) as log:
        log.write(told + attempt_header(run.attempts, command))
    passed_on = environment(online=reads_hub(run), endpoints=endpoints)
    output = _output_of(run)
    if output is not None:  # what keeps the run apart lets it write there, if it is there
        output.parent.mkdir(parents=True, exist_ok=True)
    user = run_user()
    if user is not None:
        hand_over(run.folder, user, output)
    process = RunProcess.start(command, run.folder, passed_on, user)
    try:
        result = {**run.result, "kept_apart": apart} if apart else run.result
        _write(run, pid=process.pid, pid_started=process.started, host=HOST, result=result)
    except BaseException:
        process.abandon()
        raise
    process.go()
    return process


def _output_of(run: Run) -> Path | None:
    """Where it writes outside of its folder: the models of everybody, or beside what it merges."""
    output = Path(run.config.get("output", ""))
    return output if output.is_absolute() else None


def _watch(run: Run, process: RunProcess, is_leaving: Callable[[], bool]) -> bool:
    """Whether the process has ended; False if we are to leave before."""
    alarms_due = 0.0
    while process.is_alive():
        if is_leaving():
            return False
        try:
            _look_after(run, process)
            if time.monotonic() >= alarms_due:
                began = time.monotonic()
                _raise_alarms(run)
                took = time.monotonic() - began
                alarms_due = began + took + max(ALARM_SECONDS, took / ALARM_SHARE)
        except DATABASE_AWAY:
            _wait_for_database(run)
        time.sleep(POLL_SECONDS)
    return True


def _wait_for_database(run: Run) -> None:
    """The database is busy, full or away. The run goes on, and so do we when it is back."""
    logger.warning("%s could not be written", run, exc_info=True)
    close_old_connections()
    time.sleep(DATABASE_PAUSE_SECONDS)


def _look_after(run: Run, process: RunProcess) -> None:
    """One look: reports copied, lease renewed, stop and limits enforced."""
    run.refresh_from_db(fields=["status", "stop_requested"])
    assert run.supervised is not None
    if not _copy_reports(run) and timezone.now() - run.supervised > RENEW_INTERVAL:
        _write(run)
    memory_mib = process.memory_mib()
    if memory_mib > run.result.get("peak_mib", 0) * 1.01:
        _write(run, result={**run.result, "peak_mib": memory_mib})
    _enforce_limits(run, process, memory_mib)
    _say_who_shares(run)
    if run.status == Status.STOPPING:
        _enforce_stop(run, process)


def _say_who_shares(run: Run) -> None:
    """Tell the process how many ask the same endpoints just now: it has neither network to us nor the
    files of others. On a full disk it goes on with what it knows."""
    if not (versions := asked_by(run)):
        return
    path = run.folder / SHARING
    text = json.dumps(sharing_of(versions))
    with suppress(OSError):
        if path.is_file() and path.read_text() == text:
            return
        unfinished = path.with_name(f".{SHARING}")
        with open(unfinished, "w", opener=following_no_link) as file:
            os.fchmod(file.fileno(), 0o644)  # whatever our umask: it may run as another user
            file.write(text)
        unfinished.replace(path)


def _copy_reports(run: Run) -> bool:
    """Take over new reports; whether there were any."""
    reports = read_reports(run.folder / "events.jsonl", run.events_read)
    if reports.offset == run.events_read:
        return False
    _write(
        run,
        then=partial(store_reports, run, reports),
        events_read=reports.offset,
        **reports.fields,
    )
    return True


def _copy_all_reports(run: Run) -> None:
    while _copy_reports(run):
        pass


def _raise_alarms(run: Run) -> None:
    """What all metrics so far say. They are read outside of the transaction that writes."""
    if run.kind in (*ONLINE, RunKind.SUITE):
        alarms = as_json(find_alarms(run.metrics.values_list("step", "values")))
        if alarms != run.alarms:
            _write(run, alarms=alarms)


def _enforce_limits(run: Run, process: RunProcess, memory_mib: int) -> None:
    limit_mib = settings.RUN_MEMORY_LIMIT_MIB
    if limit_mib and memory_mib > limit_mib:
        _write(
            run,
            error=f"The run was ended because it used {memory_mib} MiB of memory, and the limit "
            f"is {limit_mib} MiB: start again with other settings, such as a smaller batch.",
        )
        process.signal(signal.SIGKILL)  # at once: the memory is wanted by others
    hours = settings.RUN_TIME_LIMIT_HOURS
    assert run.started is not None
    if run.status == Status.RUNNING and timezone.now() - run.started > timedelta(hours=hours):
        _write(
            run,
            status=Status.STOPPING,
            stop_requested=timezone.now(),
            error=f"The run was stopped after {hours:g} hours, the time limit.",
        )


def _enforce_stop(run: Run, process: RunProcess) -> None:
    """Ask by file; after a grace, which counts from the request, by signals."""
    assert run.stop_requested is not None
    run.ask_to_stop()
    waited = timezone.now() - run.stop_requested
    if waited > STOP_GRACE + TERMINATE_GRACE:
        process.signal(signal.SIGKILL)
    elif waited > STOP_GRACE:
        process.signal(signal.SIGTERM)


# --- end --------------------------------------------------------------------------------------
def _conclude_patiently(run: Run, code: int | None, is_leaving: Callable[[], bool]) -> None:
    """Conclude when the database can be written: the exit code is known to nobody else.

    A disk that is full for the run is often full for the database too.
    """
    while True:
        try:
            return _conclude(run, code)
        except DATABASE_AWAY:
            if is_leaving():
                raise
            _wait_for_database(run)


def _conclude(run: Run, code: int | None) -> None:
    """Move the row of an ended process to where it ends.

    A result.json is written whole, after all that matters, so what it says holds however the
    process went on to end. `code` is None if nobody saw the process end.
    """
    take_back(run.folder, _output_of(run))
    _copy_all_reports(run)
    _raise_alarms(run)
    run.refresh_from_db(fields=["status", "stop_requested"])
    result = _result_of(run)
    if link := first_link(run.folder):
        error = f"The run left a symbolic link, {link}, which could lead anywhere: nothing was taken over."
        return _fail(run, error)
    if result.get("status") == Status.SUCCEEDED:
        return _succeed(run, result)
    status, error = _how_it_ended(run, code, has_stopped=result.get("status") == Status.STOPPED)
    _write(
        run,
        status=status,
        error=error,
        finished=timezone.now(),
        eta_seconds=None,
        result={**run.result, **_tokens_of_unfinished(run)},
    )


def _tokens_of_unfinished(run: Run) -> dict[str, Any]:
    """They have their price, however it ended. All other kinds count at their end alone."""
    return {"tokens": tokens_so_far(run)} if run.kind in (*ONLINE, RunKind.CONVERSE) else {}


def _how_it_ended(run: Run, code: int | None, *, has_stopped: bool) -> tuple[Status, str]:
    """The status of a run without a result, and a sentence where there is something to say.

    `run.error` is set already where the run has reported an error or we have ended it.
    """
    if has_stopped and (run.error or run.status == Status.STOPPING):
        return Status.STOPPED, run.error
    if has_stopped:
        return Status.STOPPED, "The process was told to end from outside. It has saved its state."
    was_ended = code in (None, -signal.SIGTERM, -signal.SIGKILL) or _stop_is_overdue(run)
    if run.status == Status.STOPPING and was_ended:
        return Status.STOPPED, run.error or (
            "It did not stop in time and was ended: what came after its last checkpoint is lost."
        )
    log = attempt_log(run.folder)
    # A launcher ends with a traceback of its own, whatever has ended one of its processes.
    is_launched = bool(run.config.get("accelerate_config"))
    if run.error and (is_launched or not (code == 1 and crash_line(log))):
        return Status.FAILED, run.error
    sentence = explain_exit(code, log, run.result.get("peak_mib", 0))
    is_known = code is not None or bool(crash_line(log))
    return Status.FAILED if is_known else Status.LOST, sentence


def _stop_is_overdue(run: Run) -> bool:
    asked = run.stop_requested
    return asked is not None and timezone.now() - asked > STOP_GRACE


def _succeed(run: Run, result: dict[str, Any]) -> None:
    """Take over what the run has made, together with its status."""
    made = {name: value for name, value in result.items() if name != "status"}
    run.result = {**run.result, **made}

    def collect() -> None:
        found = COLLECT[run.kind](run)
        Run.objects.filter(pk=run.pk).update(result={**run.result, **found})

    try:
        _write(
            run,
            then=collect,
            status=Status.SUCCEEDED,
            error="",
            finished=timezone.now(),
            eta_seconds=None,
        )
    except LeaseLost:
        raise
    except Exception as error:
        logger.exception("the results of %s could not be taken over", run)
        if not _is_passing(error):  # so that resuming makes them anew, instead of failing again
            with suppress(FileNotFoundError):
                (run.folder / "result.json").rename(run.folder / "result.refused.json")
        sentence = f"The run ended well, but its results could not be taken over: {error}. Resume."
        _write(run, status=Status.FAILED, error=sentence, finished=timezone.now())


def _is_passing(error: Exception) -> bool:
    """Whether the same results may be taken over later: the disk was full, the database away."""
    is_about_place = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return is_about_place or isinstance(error, DATABASE_AWAY)


def _result_of(run: Run) -> dict[str, Any]:
    """What the process says came of it; empty if it has not said so."""
    try:
        result = load_line((run.folder / "result.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
