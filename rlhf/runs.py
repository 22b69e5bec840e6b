"""What can be done with runs: launch, stop, resume, and keep them going.

Only this module and supervision.py move a run's status, and only by conditional updates that say
which status they expect: whoever comes second changes nothing. Messages in the queue only wake a
supervisor. They may come twice, late, or never; the rows alone say what is to be done.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.tasks import async_task

from annotator.audit import Action, record
from annotator.locks import alone
from annotator.models import Export, Project, QueueOrder, User
from rlhf import screening, suites
from rlhf.costs import seconds_of
from rlhf.expecting import as_json, expect
from rlhf.inputs import Order, RunRefused, config_of, folders_read, write_inputs
from rlhf.models import (
    ACTIVE,
    RESUMABLE,
    STARTED,
    UNWATCHED_AFTER,
    Dataset,
    ModelKind,
    ModelVersion,
    Round,
    Run,
    RunKind,
    Status,
)
from rlhf.quarantine import TRAINING, leave_out, leave_out_now, passed_by, to_be_screened
from rlhf.questions import newest_reward_model, order_settings
from rlhf.supervision import has_ended_unseen, supervise
from rlhf.telling import tell_if_ended
from rlhf.text_lengths import Unknown
from rlhf.training.artifacts import write_json
from rlhf.training.config import Config

logger = logging.getLogger(__name__)

# A run whose message was lost is put in the queue again: soon if nobody works, else now and then.
REQUEUE_IDLE = timedelta(minutes=1)
REQUEUE_BUSY = timedelta(minutes=15)
MAKE_ROOM_AFTER = timedelta(seconds=20)


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
    base: ModelVersion | None = None,
    judge: ModelVersion | None = None,
    export: Export | None = None,
    max_prompts: int | None = None,
    datasets: Iterable[Dataset] = (),
) -> Run:
    """Queue a run. The same token again gives back the run that it started.

    `settings` are fields of the kind's config, without models and paths; `max_prompts` takes a
    sample of the prompts. Raises RunRefused with a sentence if the run cannot work.
    """
    token = token or uuid.uuid4()
    if known := project.runs.filter(token=token).first():
        return known
    order = Order(
        project,
        kind,
        round_number,
        settings,
        policy,
        rival,
        reward_model,
        base,
        export,
        max_prompts,
        tuple(datasets),
        judge=judge,
    )
    config = config_of(order)
    expected = _estimate(order, config)
    try:
        _refuse_second(project, kind, round_number)
    except RunRefused:
        if known := project.runs.filter(token=token).first():  # started since the look above
            return known
        raise
    with _staged_folder() as staged:
        try:
            write_inputs(order, config, staged)
            leave_out(order, staged)
            content = {"kind": kind, "config": config.to_dict(), "reads": folders_read(order)}
            write_json(staged / "config.json", content)
        except OSError as error:
            raise RunRefused(f"The run's folder could not be written: {error}.") from error
        return _create(order, config, expected, token, user, staged)


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


def _estimate(order: Order, config: Config) -> dict[str, Any]:
    """Empty if nobody can say."""
    try:
        return as_json(expect(order, config))
    except (Unknown, RunRefused):
        return {}


def _create(
    order: Order,
    config: Config,
    expected: dict[str, Any],
    token: uuid.UUID,
    user: User | None,
    staged: Path,
) -> Run:
    """The row, with its folder complete before anybody else can see it."""
    try:
        with transaction.atomic():
            run = Run.objects.create(
                project=order.project,
                kind=order.kind,
                round_number=order.round_number,
                token=token,
                config=config.to_dict(),
                screening=passed_by(staged),
                estimate=expected,
                policy=order.policy,
                rival=order.rival,
                reward_model=order.reward_model,
                base=order.base,
                judge=order.judge,
                export=order.export,
                created_by=user,
            )
            run.datasets.set(order.datasets)
            record(user, Action.LAUNCHED, run, project=run.project, **_told(run, order))
            _move_aside(run.folder)
            staged.rename(run.folder)
            _send_on_commit(run.pk)
            return run
    except IntegrityError:  # the same form twice at once, or another run of the kind
        if known := order.project.runs.filter(token=token).first():
            return known
        _refuse_second(order.project, order.kind, order.round_number)
        raise


def _told(run: Run, order: Order) -> dict[str, Any]:
    """What the audit log says of a launch; the run itself has all its settings."""
    models = {
        name: getattr(run, name) for name in ("policy", "rival", "reward_model", "base", "judge")
    }
    told: dict[str, Any] = {name: str(version) for name, version in models.items() if version}
    if run.export_id:
        told["export"] = run.export_id
    if order.datasets:
        told["datasets"] = ", ".join(each.name for each in order.datasets)
    return {"round": run.round_number, **told}


def _move_aside(folder: Path) -> None:
    """A folder without a row: its transaction was rolled back, or the database is another one."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-without-row-{uuid.uuid4()}"))


def _send_on_commit(run_pk: int) -> None:
    """A queue that is away is no reason to fail: `tend` sends the run again."""
    transaction.on_commit(partial(_send, run_pk), robust=True)


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
    beside = [  # of no step
        RunKind.CONVERSE, RunKind.ORDER_QUEUE, RunKind.MERGE, RunKind.COMBINE, RunKind.INDEX,
        RunKind.SUITE, RunKind.SCREEN, RunKind.SEARCH, RunKind.DISTILL,
    ]  # fmt: skip
    of_latest = project.runs.active().exclude(kind__in=beside)
    if latest and (active := of_latest.filter(round_number=latest.number).first()):
        raise RunRefused(f"Round {latest.number} is not over: {active} is active.")
    sampling = _latest_sampling(project) | {"seed": number} | (settings or {})
    try:
        with transaction.atomic():
            new = Round.objects.create(project=project, number=number, policy=policy)
            record(user, Action.CREATED, new, project=project, policy=str(policy))
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
def request_stop(run: Run, user: User | None = None) -> None:
    """Ask the run to save what it needs to go on, and to end. A queued run just never starts."""
    now = timezone.now()
    rows = Run.objects.filter(pk=run.pk)
    with transaction.atomic():
        never_starts = rows.filter(status=Status.QUEUED).update(
            status=Status.STOPPED, stop_requested=now, finished=now
        )
        is_asked = not never_starts and rows.filter(status=Status.RUNNING).update(
            status=Status.STOPPING, stop_requested=now
        )
        if never_starts or is_asked:
            record(user, Action.STOPPED, run, project=run.project)
        if never_starts:
            tell_if_ended(run.pk)
    if is_asked:
        run.ask_to_stop()  # the supervisor does it too, but may be down at the moment


def resume(run: Run, user: User | None = None) -> None:
    """Queue a run that has ended before its end; its process goes on from its last checkpoint."""
    try:
        with transaction.atomic():
            before = Run.objects.get(pk=run.pk)
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
                result=_kept_of(before),
            )
            if not moved:
                raise RunRefused(
                    f"{run} has not been stopped or failed: there is nothing to resume."
                )
            record(user, Action.RESUMED, run, project=run.project)
            _send_on_commit(run.pk)
    except IntegrityError:
        _refuse_second(run.project, run.kind, run.round_number)
        raise


def _kept_of(run: Run) -> dict[str, Any]:
    """What its starts took so far; nothing where that is not known."""
    seconds = seconds_of(run)
    return {"earlier_seconds": seconds} if seconds else {}


# --- keep going -------------------------------------------------------------------------------
def see_through(run_pk: int) -> None:
    """Screen what the run learns from, supervise the run, and launch what follows from its end."""
    if not screen_first(run_pk):
        return
    supervise(run_pk)
    wake_waiting(run_pk)
    order_anew(run_pk)
    evaluate_anew(run_pk)
    evaluate_left_out(run_pk)


def screen_first(run_pk: int) -> bool:
    """Whether the run may start, or has ended. What it learns from and nobody has screened is screened
    before, one thing after the other, and what is then in quarantine leaves its folder.

    False if somebody else sees to that, or we are to leave: it stays in the queue.
    """
    run = Run.objects.select_related("project").filter(pk=run_pk, status=Status.QUEUED).first()
    if run is None or not to_be_screened(run):
        return True
    with alone(run.folder / ".screening") as is_alone:
        run.refresh_from_db(fields=["screening"])
        if not is_alone:
            return False
        try:
            if not all(_has_been_screened(run, name) for name in to_be_screened(run)):
                return False
            passed = leave_out_now(run)
        except RunRefused as refusal:
            _fail_unstarted(run, str(refusal))
        else:
            Run.objects.filter(pk=run.pk).update(screening=passed)
    return True


def _has_been_screened(run: Run, name: str) -> bool:
    """Screen it, if nobody has; False if it is not over when we leave. Raises RunRefused if it cannot be."""
    while not screening.is_screened(run.project, name):
        if not Run.objects.filter(pk=run.pk, status=Status.QUEUED).exists():
            return False  # it was stopped
        screen = _screening_for(run, name)
        supervise(screen.pk)
        screen.refresh_from_db()
        if screen.is_active:
            return False
        if screen.config["screened"] == name and screen.status != Status.SUCCEEDED:
            raise RunRefused(
                f"What it learns from is screened first, and {screen} {screen.get_status_display().lower()}. "
                f"{screen.error} Resume this run to try again."
            )
    return True


def _screening_for(run: Run, name: str) -> Run:
    """That which is under way, of this or of something else: there is one at a time; else a new one."""
    of_round = run.project.runs.active().filter(
        kind=RunKind.SCREEN, round_number=run.round_number
    )  # fmt: skip
    if found := screening.active(run.project, name) or of_round.first():
        return found
    return launch(
        run.project,
        RunKind.SCREEN,
        screening.settings_for(run.project, name),
        round_number=run.round_number,
        user=run.created_by,
    )


def _fail_unstarted(run: Run, error: str) -> None:
    with transaction.atomic():
        rows = Run.objects.filter(pk=run.pk, status=Status.QUEUED)
        if rows.update(status=Status.FAILED, error=error, finished=timezone.now()):
            tell_if_ended(run.pk)


def wake_waiting(run_pk: int) -> None:
    """Send the training runs again that waited for this screening, whoever carried it out."""
    screen = Run.objects.filter(pk=run_pk, kind=RunKind.SCREEN).exclude(status__in=ACTIVE).first()
    if screen is not None:
        waiting = Run.objects.filter(
            project=screen.project_id, status=Status.QUEUED, kind__in=TRAINING
        )  # fmt: skip
        for run in waiting:
            if to_be_screened(run):
                _send(run.pk)


def order_anew(run_pk: int) -> Run | None:
    """Have the questions of its project ordered, if the run has changed what is worth asking.

    That is so after a reward model, which asks for other things, after new answers, which no order
    knows, and after an order that a newer reward model has overtaken; None in all other cases, and
    while an order is being made. There is one order per run, however often this is called. The run that ended is not touched: if the order is refused,
    the project's page goes on asking for one.
    """
    ended = Run.objects.filter(
        status=Status.SUCCEEDED,
        kind__in=(RunKind.REWARD_MODEL, RunKind.GENERATE, RunKind.ORDER_QUEUE),
        project__queue_order=QueueOrder.INFORMATIVE,
    )
    run = ended.select_related("project").filter(pk=run_pk).first()
    if run is None or run.project.runs.active().filter(kind=RunKind.ORDER_QUEUE).exists():
        return None
    reward_model = newest_reward_model(run.project)
    if reward_model is None:
        return None
    if run.kind == RunKind.ORDER_QUEUE and reward_model.created < run.created:
        return None  # somebody chose an older one
    try:
        return launch(
            run.project,
            RunKind.ORDER_QUEUE,
            order_settings(run.project, reward_model),
            round_number=run.round_number,
            token=uuid.uuid5(run.token, RunKind.ORDER_QUEUE),
            reward_model=reward_model,
        )
    except RunRefused as refusal:
        logger.info("no order of questions after %s: %s", run, refusal)
        return None


def evaluate_anew(run_pk: int) -> Run | None:
    """Have the suite run for the policy that a training run has made, unless the project does not want
    that; None in all other cases. There is one suite per training run, however often this is called."""
    ended = Run.objects.filter(status=Status.SUCCEEDED).exclude(
        kind__in=(RunKind.IMPORT_MODEL, RunKind.SEARCH)  # a search makes one when somebody says so
    )
    run = ended.filter(pk=run_pk).first()
    policy = run.outputs.filter(kind=ModelKind.POLICY).first() if run else None
    return launch_suite(policy) if policy else None


def evaluate_left_out(run_pk: int) -> Run | None:
    """After a suite, that of a policy which was made while one ran, as there is one at a time; None without
    any."""
    ended = Run.objects.filter(kind=RunKind.SUITE).exclude(status__in=ACTIVE)
    suite = ended.select_related("project").filter(pk=run_pk).first()
    if suite is None:
        return None
    of_project = suite.project.runs.filter(kind=RunKind.SUITE)
    then = of_project.filter(
        round_number=suite.round_number,
        created__lte=OuterRef("created"),
        finished__gte=OuterRef("created"),
    )
    left_out = suite.project.model_versions.filter(
        Exists(then),
        ~Exists(of_project.filter(policy=OuterRef("pk"))),
        kind=ModelKind.POLICY,
        run__round_number=suite.round_number,
    ).exclude(run__kind=RunKind.IMPORT_MODEL)
    launched = (launch_suite(policy) for policy in left_out.order_by("pk"))
    return next(filter(None, launched), None)


def launch_suite(policy: ModelVersion) -> Run | None:
    """The suite that follows what makes a policy; None if the project does not want that, or it is refused,
    which the version then says. There is one of each policy, however often this is called."""
    run = policy.run
    if run is None or not suites.runs_after_training(run.project):
        return None
    trial = policy.details.get("trial")  # of a search, which may make several
    name = RunKind.SUITE if trial is None else f"{RunKind.SUITE} of trial {trial}"
    settings, versions = suites.after_training(policy)
    try:
        suite = launch(
            run.project,
            RunKind.SUITE,
            settings,
            round_number=run.round_number,
            token=uuid.uuid5(run.token, name),
            policy=policy,
            **versions,
        )
    except RunRefused as refusal:
        logger.info("no suite after %s: %s", run, refusal)
        suites.keep_refusal(policy, str(refusal))
        return None
    suites.keep_refusal(policy, "")
    return suite


def tend() -> None:
    """See to runs that nobody watches: end those whose process has ended, queue the others again.

    Called every minute by the worker's cluster, so that it works while the trainer is down.
    """
    make_room()
    now = timezone.now()
    unwatched = Q(supervised=None) | Q(supervised__lt=now - UNWATCHED_AFTER)
    for run in Run.objects.filter(unwatched, status__in=STARTED).order_by("queued"):
        if has_ended_unseen(run):
            see_through(run.pk)
        else:
            _send_again(run)
    for run in Run.objects.filter(status=Status.QUEUED).order_by("queued"):
        _send_again(run)


def make_room() -> None:
    """A run that still waits finds no trainer free: conversations end for it, which would go on for
    hours, while people can do prepared comparisons instead."""
    waiting = timezone.now() - MAKE_ROOM_AFTER
    if Run.objects.filter(status=Status.QUEUED, queued__lt=waiting).exists():
        for talking in Run.objects.filter(kind=RunKind.CONVERSE, status=Status.RUNNING):
            request_stop(talking)


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
        see_through(run.pk)
        run.refresh_from_db()
        if run.is_active:
            time.sleep(0.5)
    return run
