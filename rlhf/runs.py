"""The life of a run: launched, supervised, stopped, resumed, ended.

    queued → running → succeeded | failed | stopped, and stopping and lost besides

Only this module moves the status, and only by conditional updates that say which status they
expect: whoever comes second changes nothing. A run is one process that goes on whatever happens
to those who watch it; who watches it holds a lease, the row's `supervised`. Queue messages only
wake a supervisor. They may come twice, late, or never; the rows alone say what is to be done.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    transaction,
)
from django.db.models import F, Q
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.tasks import async_task

from annotator.models import Export, Project, User
from rlhf.collecting import COLLECT
from rlhf.events import end_last_line, read_reports, store_reports
from rlhf.inputs import Order, RunRefused, config_of, write_inputs
from rlhf.models import (
    RESUMABLE,
    STARTED,
    UNWATCHED_AFTER,
    ModelVersion,
    Round,
    Run,
    RunKind,
    Status,
)
from rlhf.processes import (
    RunProcess,
    attempt_header,
    attempt_log,
    command_for,
    crash_line,
    environment,
    explain_exit,
)
from rlhf.training.artifacts import read_json, write_json
from rlhf.training.config import Config

logger = logging.getLogger(__name__)

HOST = socket.gethostname()
POLL_SECONDS = 0.5
RENEW_INTERVAL = timedelta(seconds=2)
LEASE = timedelta(seconds=10)  # a supervisor silent for so long is taken to be dead
STOP_GRACE = timedelta(seconds=135)  # to notice a stop (15) and to save (120); then SIGTERM
TERMINATE_GRACE = timedelta(seconds=30)  # then SIGKILL
# A run whose message was lost is put in the queue again: soon if nobody works, else now and then.
REQUEUE_IDLE = timedelta(minutes=1)
REQUEUE_BUSY = timedelta(minutes=15)


# --- launch -----------------------------------------------------------------------------------
def launch(
    project: Project,
    kind: str,
    settings: dict[str, Any],
    *,
    round_number: int,
    user: User | None = None,
    token: uuid.UUID | None = None,
    policy: ModelVersion | None = None,
    rival: ModelVersion | None = None,
    reward_model: ModelVersion | None = None,
    export: Export | None = None,
    max_prompts: int | None = None,
) -> Run:
    """Queue a run. The same token again gives back the run that it started.

    `settings` are fields of the kind's config, without models and paths; `max_prompts` takes a
    sample of the prompts. Raises RunRefused with a sentence if the run cannot work.
    """
    token = token or uuid.uuid4()
    if known := project.runs.filter(token=token).first():
        return known
    order = Order(
        project, kind, round_number, settings, policy, rival, reward_model, export, max_prompts
    )
    config = config_of(order)
    _refuse_second(project, kind, round_number)
    with _staged_folder() as staged:
        try:
            write_inputs(order, config, staged)
            write_json(staged / "config.json", {"kind": kind, "config": config.to_dict()})
        except OSError as error:
            raise RunRefused(f"The run's folder could not be written: {error}.") from error
        return _create(order, config, token, user, staged)


def _refuse_second(project: Project, kind: str, round_number: int) -> None:
    if other := project.runs.active().filter(kind=kind, round_number=round_number).first():
        raise RunRefused(
            f"{other} of round {round_number} is {other.get_status_display().lower()}: "
            "wait until it ends, or stop it."
        )


@contextmanager
def _staged_folder() -> Iterator[Path]:
    staged = Path(django_settings.RUNS_DIR) / f".staged-{uuid.uuid4()}"
    staged.mkdir(parents=True)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _create(order: Order, config: Config, token: uuid.UUID, user: User | None, staged: Path) -> Run:
    """The row, with its folder complete before anybody else can see it."""
    try:
        with transaction.atomic():
            run = Run.objects.create(
                project=order.project,
                kind=order.kind,
                round_number=order.round_number,
                token=token,
                config=config.to_dict(),
                policy=order.policy,
                rival=order.rival,
                reward_model=order.reward_model,
                export=order.export,
                created_by=user,
            )
            _move_aside(run.folder)
            staged.rename(run.folder)
            transaction.on_commit(partial(_send, run.pk))
            return run
    except IntegrityError:  # the same form twice at once, or another run of the kind
        if known := order.project.runs.filter(token=token).first():
            return known
        _refuse_second(order.project, order.kind, order.round_number)
        raise


def _move_aside(folder: Path) -> None:
    """A folder without a row: its transaction was rolled back, or the database is another one."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-without-row-{uuid.uuid4()}"))


def _send(run_pk: int) -> None:
    async_task("rlhf.tasks.supervise", run_pk, cluster="training")


def next_round(
    project: Project,
    user: User | None,
    policy: ModelVersion,
    *,
    settings: dict[str, Any] | None = None,
    token: uuid.UUID | None = None,
    max_prompts: int | None = None,
) -> Round:
    """The next round, started from `policy`, whose answers are sampled at once.

    Sampling is set as in the latest run that generated, if `settings` do not say otherwise, with
    the round's number as its seed. The same token again gives back the same round. Raises
    RunRefused while a run of the round before is active.
    """
    if token and (run := project.runs.filter(token=token).first()):
        return project.rounds.get(number=run.round_number)
    latest = project.rounds.order_by("-number").first()
    number = latest.number + 1 if latest else 1
    if latest and (active := project.runs.active().filter(round_number=latest.number).first()):
        raise RunRefused(f"Round {latest.number} is not over: {active} is active.")
    sampling = _latest_sampling(project) | {"seed": number} | (settings or {})
    try:
        with transaction.atomic():
            new = Round.objects.create(project=project, number=number, policy=policy)
            launch(
                project,
                RunKind.GENERATE,
                sampling,
                round_number=number,
                user=user,
                token=token,
                policy=policy,
                max_prompts=max_prompts,
            )
    except IntegrityError as error:
        raise RunRefused(f"Round {number} has just been started.") from error
    return new


def _latest_sampling(project: Project) -> dict[str, Any]:
    run = project.runs.filter(kind=RunKind.GENERATE, status=Status.SUCCEEDED).first()
    chosen = run.config if run else {}
    return {name: value for name, value in chosen.items() if name not in ("model", "prompts")}


# --- stop and resume --------------------------------------------------------------------------
def request_stop(run: Run) -> None:
    """Ask the run to save what it needs to go on, and to end. A queued run just never starts."""
    now = timezone.now()
    rows = Run.objects.filter(pk=run.pk)
    if not rows.filter(status=Status.QUEUED).update(
        status=Status.STOPPED, stop_requested=now, finished=now
    ):
        rows.filter(status=Status.RUNNING).update(status=Status.STOPPING, stop_requested=now)


def resume(run: Run) -> None:
    """Queue a run that has ended before its end; its process goes on from its last checkpoint."""
    try:
        with transaction.atomic():
            moved = Run.objects.filter(pk=run.pk, status__in=RESUMABLE).update(
                status=Status.QUEUED,
                attempts=F("attempts") + 1,
                queued=timezone.now(),
                started=None,
                finished=None,
                stop_requested=None,
                supervised=None,
                seen=None,
                pid=None,
                pid_started=None,
                host="",
                phase="",
                eta_seconds=None,
                error="",
                result={},
            )
            if not moved:
                raise RunRefused(
                    f"{run} has not been stopped or failed: there is nothing to resume."
                )
            transaction.on_commit(partial(_send, run.pk))
    except IntegrityError:
        _refuse_second(run.project, run.kind, run.round_number)
        raise


# --- keep going -------------------------------------------------------------------------------
def tend() -> None:
    """See to runs that nobody watches: end those whose process has ended, queue the others again.

    Called every minute by the worker's cluster, so that it works while the trainer is down.
    """
    now = timezone.now()
    unwatched = Q(supervised=None) | Q(supervised__lt=now - UNWATCHED_AFTER)
    for run in Run.objects.filter(unwatched, status__in=STARTED).order_by("queued"):
        if run.host == HOST and run.pid and not _process_of(run).is_alive():
            supervise(run.pk)
        else:
            _send_again(run)
    for run in Run.objects.filter(status=Status.QUEUED).order_by("queued"):
        _send_again(run)


def _send_again(run: Run) -> None:
    now = timezone.now()
    is_busy = Run.objects.filter(status__in=STARTED, supervised__gte=now - UNWATCHED_AFTER).exists()
    overdue = now - (REQUEUE_BUSY if is_busy else REQUEUE_IDLE)
    if Run.objects.filter(pk=run.pk, queued__lt=overdue).update(queued=now):
        _send(run.pk)


def send_all() -> None:
    """Put every run that has not ended in the queue, at the start of a trainer.

    What is in the queue already is dropped: a trainer that was killed keeps its messages locked.
    """
    get_broker("training").purge_queue()
    for status in (STARTED, [Status.QUEUED]):
        for pk in Run.objects.filter(status__in=status).order_by("queued").values_list("pk"):
            _send(*pk)


def run_to_end(run: Run) -> Run:
    """Supervise the run here, or wait for who does; the run as it has ended."""
    while run.is_active:
        supervise(run.pk)
        run.refresh_from_db()
        if run.is_active:
            time.sleep(POLL_SECONDS)
    return run


# --- supervise --------------------------------------------------------------------------------
class LeaseLost(Exception):
    """Somebody else watches this run now, or it has been ended."""


def supervise(run_pk: int) -> None:
    """Start the run's process or find it again, and stay with it until it ends.

    Returns early on SIGTERM, and leaves the process to the next supervisor. Does nothing if
    somebody else watches the run or it has ended.
    """
    with _noticing_sigterm() as is_leaving:
        run = _take(run_pk)
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


def _take(run_pk: int) -> Run | None:
    """The run, to be watched by us alone; None if somebody does or nothing is to be done.

    A lease that is not renewed belongs to a dead supervisor: we wait until it has run out.
    """
    found = None
    while not _claim(run_pk):
        row = Run.objects.filter(pk=run_pk, status__in=STARTED).values_list("supervised").first()
        if row is None or (found is not None and row != found):
            return None
        found = row
        time.sleep(POLL_SECONDS)
    return Run.objects.select_related("project", "policy", "rival").get(pk=run_pk)


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
        return _write(
            run,
            status=Status.FAILED,
            error=f"The process could not be started: {error}.",
            finished=timezone.now(),
        )
    if not _watch(run, process, is_leaving):
        return _write(run, supervised=None)
    process.end_leftovers()
    return _conclude(run, process.exit_code())


def _attend_from_afar(run: Run) -> None:
    """The process is of another machine: whether it lives can only be told from its reports."""
    _copy_all_reports(run)
    if run.is_silent:
        _conclude(run, None)
    else:
        _write(run, supervised=None)


def _process_of(run: Run) -> RunProcess:
    assert run.pid is not None
    assert run.pid_started is not None
    return RunProcess(run.pid, run.pid_started)


def _start(run: Run) -> RunProcess:
    """Start the process; its pid is in the row before it may begin. Raises OSError."""
    for name in ("stop", "result.json"):  # of the attempt before
        (run.folder / name).unlink(missing_ok=True)
    end_last_line(run.folder / "events.jsonl")
    command = command_for(run.folder)
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        log.write(attempt_header(run.attempts, command))
    is_online = run.kind == RunKind.IMPORT_MODEL and run.config.get("source") == "hub"
    process = RunProcess.start(command, run.folder, environment(online=is_online))
    try:
        _write(run, pid=process.pid, pid_started=process.started, host=HOST)
    except BaseException:
        process.abandon()
        raise
    process.go()
    return process


def _watch(run: Run, process: RunProcess, is_leaving: Callable[[], bool]) -> bool:
    """Whether the process has ended; False if we are to leave before."""
    while process.is_alive():
        if is_leaving():
            return False
        try:
            _look_after(run, process)
        except (OperationalError, InterfaceError):  # the database is busy or away; the run goes on
            logger.warning("%s could not be written", run, exc_info=True)
            close_old_connections()
        time.sleep(POLL_SECONDS)
    return True


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
    if run.status == Status.STOPPING:
        _enforce_stop(run, process)


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


def _enforce_limits(run: Run, process: RunProcess, memory_mib: int) -> None:
    limit_mib = django_settings.RUN_MEMORY_LIMIT_MIB
    if limit_mib and memory_mib > limit_mib:
        _write(
            run,
            error=f"The run was ended because it used {memory_mib} MiB of memory, and the limit "
            f"is {limit_mib} MiB: try a smaller batch, then resume.",
        )
        process.signal(signal.SIGKILL)  # at once: the memory is wanted by others
    hours = django_settings.RUN_TIME_LIMIT_HOURS
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
    with suppress(OSError):  # the disk may be full: then the signal asks
        (run.folder / "stop").touch()
    waited = timezone.now() - run.stop_requested
    if waited > STOP_GRACE + TERMINATE_GRACE:
        process.signal(signal.SIGKILL)
    elif waited > STOP_GRACE:
        process.signal(signal.SIGTERM)


# --- end --------------------------------------------------------------------------------------
def _conclude(run: Run, code: int | None) -> None:
    """Move the row of an ended process to where it ends.

    A result.json is written last and whole, so what it says holds however the process went on to
    end. `code` is None if nobody saw the process end.
    """
    _copy_all_reports(run)
    run.refresh_from_db(fields=["status"])
    result = _result_of(run)
    if result.get("status") == Status.SUCCEEDED:
        return _succeed(run, result)
    status, error = _how_it_ended(run, code, has_stopped=result.get("status") == Status.STOPPED)
    _write(run, status=status, error=error, finished=timezone.now(), eta_seconds=None)


def _how_it_ended(run: Run, code: int | None, *, has_stopped: bool) -> tuple[Status, str]:
    """The status of a run without a result, and a sentence where there is something to say.

    `run.error` is set already where the run has reported an error or we have ended it.
    """
    if has_stopped and (run.error or run.status == Status.STOPPING):
        return Status.STOPPED, run.error
    if has_stopped:
        return Status.STOPPED, "The process was told to end from outside. It has saved its state."
    if run.status == Status.STOPPING and code in (None, -signal.SIGTERM, -signal.SIGKILL):
        return Status.STOPPED, run.error or (
            "It did not stop in time and was ended: what came after its last checkpoint is lost."
        )
    if run.error:
        return Status.FAILED, run.error
    log = attempt_log(run.folder)
    sentence = explain_exit(code, log, run.result.get("peak_mib", 0))
    is_known = code is not None or bool(crash_line(log))
    return Status.FAILED if is_known else Status.LOST, sentence


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
    return is_about_place or isinstance(error, (OperationalError, InterfaceError))


def _result_of(run: Run) -> dict[str, Any]:
    """What the process says came of it; empty if it has not said so."""
    try:
        result = read_json(run.folder / "result.json")
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return result if isinstance(result, dict) else {}
