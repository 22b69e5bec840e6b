"""The run *search*: other runs, one after the other, with settings that Optuna proposes.

Each trial is a run in a folder and a process of its own, `python -m rlhf.training trials/K`; what it
reports on what it did not learn from decides whether it goes on, and what is proposed next.

    inputs/         what every trial reads, as written at the launch
    journal.log     Optuna's own record: all that is needed to go on after a kill
    trials/K/       the K-th trial, a whole run folder; when it has ended, without checkpoints
    trials.json     all trials as a table, for the page

When a search is stopped or killed, the trial under way is resumed from its own last checkpoint. No torch here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from rlhf.training.artifacts import (
    DISK_FULL,
    RunError,
    RunFolder,
    Stopped,
    read_json,
    whole_lines,
    write_json,
)
from rlhf.training.search_config import INPUTS, TABLE, TRIALS, SearchConfig
from rlhf.training.search_space import Choice, Dimension

JOURNAL = "journal.log"
PROGRAM = ["-m", "rlhf.training"]
POLL_SECONDS = 0.5
SECONDS_BETWEEN_NOTES = 30.0  # of how long a trial has taken: a kill loses no more
PRUNE_SECONDS = 60.0  # that a trial to be ended gets to notice; nothing of it is kept anyway
IN_VAIN = 3  # trials that fail before one has come to its end: then it is not their settings
TO_COMPARE = 3  # trials that come to their end before any is ended early
FEWEST_FOR_IMPORTANCE = 5
KEPT = ("artifact", "config.json", "events.jsonl", "log.txt", "result.json")  # of an ended trial
ROOT = Path(__file__).parents[2]


def run(config: SearchConfig, folder: RunFolder) -> dict[str, Any]:
    """Which trial is the best, by what, and how many came to what end."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(config, folder.path / JOURNAL)
    while (trial := next_trial(study, config)) is not None:
        if folder.should_stop():
            raise Stopped
        folder.phase(f"trial {trial.number + 1} of {config.trials}")
        values = {each.name: suggest(trial, each) for each in config.dimensions}
        write_table(study, config, folder)
        carry_out(study, trial, values, config, folder)
        write_table(study, config, folder)
        report(study, trial, config, folder)
        refuse_to_go_on_in_vain(study)
    return result_of(study, config) | {"tokens": tokens_of(folder.path / TRIALS)}


# --- Optuna -----------------------------------------------------------------------------------
def open_study(config: SearchConfig, journal: Path) -> Study:
    """The study as far as it has come."""
    journal.with_name(f"{journal.name}.lock").unlink(
        missing_ok=True
    )  # of a process that was killed
    whole_lines(journal)  # half a line of its is cut off
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction=config.aim.direction,
        pruner=pruner_of(config),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(config.usual)  # to see what searching gains
    # Other numbers than before a stop: the same ones would propose the same trials again.
    study.sampler = sampler_of(config, config.seed + n_begun(study))
    return study


def n_begun(study: Study) -> int:
    """Without the first trial, as long as it only waits."""
    return sum(trial.state != TrialState.WAITING for trial in study.trials)


def pruner_of(config: SearchConfig) -> BasePruner:
    """Both look at reports from number 1 on."""
    if config.pruner == "median":
        return MedianPruner(n_startup_trials=TO_COMPARE, n_warmup_steps=1)
    if config.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return NopPruner()


def sampler_of(config: SearchConfig, seed: int) -> BaseSampler:
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=max(3, min(10, config.trials // 3)))


def next_trial(study: Study, config: SearchConfig) -> Trial | None:
    """The trial that was under way, or a new one; None when there have been enough."""
    under_way = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    if under_way:
        return Trial(study, under_way[0]._trial_id)
    if n_begun(study) >= config.trials or is_out_of_time(study, config):
        return None
    return study.ask()


def is_out_of_time(study: Study, config: SearchConfig) -> bool:
    if config.max_hours is None:
        return False
    return sum(map(seconds_of, study.trials)) >= 3600 * config.max_hours


def seconds_of(trial: FrozenTrial) -> float:
    return trial.user_attrs.get("seconds", 0.0)


def suggest(trial: Trial, dimension: Dimension) -> Any:
    """A value for it: the same one again, if the trial has one already."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(dimension.name, dimension.values)
    name, low, high, log = dimension
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


# --- one trial --------------------------------------------------------------------------------
def carry_out(
    study: Study, trial: Trial, values: dict[str, Any], config: SearchConfig, folder: RunFolder
) -> None:
    """Run it to an end, and tell the study which. Raises Stopped and, for a full disk, RunError; then
    it goes on when the search does."""
    watch = Watch(trial)
    place = folder.path / TRIALS / str(trial.number)
    try:
        prepare(place, values, config, folder)
    except ValueError as error:  # settings that work by themselves and not together
        return fail(study, trial, str(error))
    reports = Reports(place / "events.jsonl", config.aim.metric)
    first, is_pruned = first_number(config), False
    process = start(place)
    try:
        while process.poll() is None:
            if tell_values(trial, reports, first):
                write_table(study, config, folder)
            watch.note_at_times()
            if folder.should_stop():
                ask_to_stop(place)
            elif trial.should_prune():
                is_pruned = True
                end(process, place)
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()
        process.wait()
        watch.note()
    tell_values(trial, reports, first)
    conclude(study, trial, process.returncode, is_pruned, config, folder, reports)


class Watch:
    """How long a trial has taken over all attempts, in the journal: what a killed one took counts too."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.before = trial, trial.user_attrs.get("seconds", 0.0)
        self.began = self.noted = time.monotonic()

    def note(self) -> None:
        self.noted = time.monotonic()
        self.trial.set_user_attr("seconds", round(self.before + self.noted - self.began, 1))

    def note_at_times(self) -> None:
        if time.monotonic() - self.noted >= SECONDS_BETWEEN_NOTES:
            self.note()


def prepare(place: Path, values: dict[str, Any], config: SearchConfig, folder: RunFolder) -> None:
    """The trial's run folder, with other names for the search's inputs. One that is there is gone on
    with. Raises ValueError if the settings do not work together."""
    content = {"kind": config.tries, "config": config.trial(values).to_dict()}
    for name in ("stop", "result.json"):
        (place / name).unlink(missing_ok=True)
    if (place / "config.json").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder.path / INPUTS, place, copy_function=link)
    write_json(place / "config.json", content)


def link(source: str, target: str) -> None:
    """Frozen files need no copies, if the file system has a second name for them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def start(place: Path) -> subprocess.Popen[bytes]:
    """In this process's group, so that who ends the search ends its trial."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, *PROGRAM, str(place)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def ask_to_stop(place: Path) -> None:
    (place / "stop").touch()


def end(process: subprocess.Popen[bytes], place: Path) -> None:
    """Ask it to stop, and do not wait for long."""
    ask_to_stop(place)
    try:
        process.wait(PRUNE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Reports:
    """What a trial has said of the metric so far, by its own steps: a resumed one repeats some."""

    def __init__(self, path: Path, metric: str) -> None:
        self.path, self.metric, self.offset = path, metric, 0
        self.values: dict[int, float] = {}
        self.error = ""
        self.is_broken = False  # the latest value is not finite

    def read(self) -> None:
        """What was added since; half a line is left for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            if line:
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "error":
            self.error = event["message"]
        if event["type"] == "metrics" and self.metric in event["values"]:
            value = event["values"][self.metric]
            self.is_broken = value is None
            if value is not None:
                self.values[event["step"]] = value

    def value(self, settings: dict[str, Any], direction: str) -> float | None:
        """What the trial comes to: its last value, or its best where its best step is what it keeps."""
        if not self.values or self.is_broken:
            return None
        if settings.get("keep") == "best":
            return (min if direction == "minimize" else max)(self.values.values())
        return next(reversed(self.values.values()))


def first_number(config: SearchConfig) -> int:
    """Of a trial's first report. Of policies it is of before learning, equal in all trials but for how
    floats are rounded, so no trial is ended by it. A distillation reports once, before it writes rows."""
    return 1 if config.tries == "distill" else 0


def tell_values(trial: Trial, reports: Reports, first: int) -> bool:
    """Hand on new values, numbered from `first`; whether there were any.

    Trials are compared at the same number of reports, not of steps: with other batch sizes these differ.
    """
    reports.read()
    known = trial.storage.get_trial(trial._trial_id).intermediate_values
    fresh = [(k, v) for k, v in enumerate(reports.values.values(), first) if k not in known]
    for number, value in fresh:
        trial.report(value, number)
    return bool(fresh)


def conclude(
    study: Study, trial: Trial, code: int, is_pruned: bool, config: SearchConfig, folder: RunFolder,
    reports: Reports,
) -> None:  # fmt: skip
    place = folder.path / TRIALS / str(trial.number)
    status = read_json(place / "result.json")["status"] if (place / "result.json").exists() else ""
    if status != "succeeded" and not is_pruned and folder.should_stop():
        raise Stopped
    if code == DISK_FULL:
        raise RunError(f"Trial {trial.number + 1}: {reports.error}", DISK_FULL)
    if status == "succeeded":
        value = reports.value(config.trial(trial.params).to_dict(), config.aim.direction)
        if value is None:
            fail(study, trial, no_value(reports, config))
        else:
            study.tell(trial, value)
    elif is_pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        fail(study, trial, reports.error or f"its process ended with exit code {code}: see its log")
    clear(place, keep_artifact=status == "succeeded")


def no_value(reports: Reports, config: SearchConfig) -> str:
    if reports.is_broken:
        return f"its {config.aim.metric} is not a finite number"
    return f"it has reported no {config.aim.metric}: nothing may be held out to measure it on"


def fail(study: Study, trial: Trial, sentence: str) -> None:
    trial.set_user_attr("error", sentence)
    study.tell(trial, state=TrialState.FAIL)


def clear(place: Path, *, keep_artifact: bool) -> None:
    """What an ended trial would go on from is of no use any more."""
    kept = KEPT if keep_artifact else KEPT[1:]
    for path in place.iterdir():
        if path.name in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_to_go_on_in_vain(study: Study) -> None:
    states = [trial.state for trial in study.trials]
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    if len(failed) == IN_VAIN and TrialState.COMPLETE not in states:
        raise RunError(
            f"The first {IN_VAIN} trials that ended failed, so the others would too. The last one said: "
            f"{failed[-1].user_attrs['error']}"
        )


# --- what came of it --------------------------------------------------------------------------
def report(study: Study, trial: Trial, config: SearchConfig, folder: RunFolder) -> None:
    """For the charts and the bar of the search itself."""
    trials, whole = study.trials, completed(study)
    n, ended = len(trials), trials[trial.number]
    if ended.state == TrialState.COMPLETE and ended.value is not None:
        values = {"search/value": ended.value, "search/best": study.best_value}
        folder.metrics(trial.number + 1, values)
    per_trial = sum(map(seconds_of, trials)) / n
    folder.progress(
        n, config.trials, eta_seconds=per_trial * (config.trials - n) if whole else None
    )


def completed(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


class Row(NamedTuple):
    """A trial in trials.json."""

    number: int
    state: str  # "running", "complete", "pruned" or "fail"
    values: dict[str, Any]  # of what varies
    value: float | None  # of the metric: what it came to, or the latest
    reports: list[float]
    seconds: float
    error: str


def write_table(study: Study, config: SearchConfig, folder: RunFolder) -> None:
    trials = study.get_trials(deepcopy=False)
    write_json(
        folder.path / TABLE,
        {
            "metric": config.aim.metric,
            "direction": config.aim.direction,
            "trials": [row_of(trial)._asdict() for trial in trials],
            "importance": importance_of(study),
        },
    )


def row_of(trial: FrozenTrial) -> Row:
    reports = [value for _, value in sorted(trial.intermediate_values.items())]
    latest = reports[-1] if reports else None
    return Row(
        trial.number,
        trial.state.name.lower(),
        dict(trial.params),
        trial.value if trial.value is not None else latest,
        reports,
        seconds_of(trial),
        trial.user_attrs.get("error", ""),
    )


def importance_of(study: Study) -> dict[str, float]:
    """The share of each setting in how much the value differs (PED-ANOVA, Watanabe et al. 2023); empty
    while too few trials are done to say."""
    values = {trial.value for trial in completed(study)}
    if len(values) < FEWEST_FOR_IMPORTANCE:
        return {}
    return optuna.importance.get_param_importances(study)


def result_of(study: Study, config: SearchConfig) -> dict[str, Any]:
    """Raises RunError if there is no best trial."""
    if not completed(study):
        raise RunError(
            "No trial came to its end, so none is the best: see the errors in their table, or choose "
            "another space."
        )
    best = study.best_trial
    return {
        "metric": config.aim.metric,
        "best_trial": best.number,
        "best_value": best.value,
        "best_settings": best.params,
        **count_states(study.trials),
    }


def tokens_of(trials: Path) -> dict[str, int]:
    """What all trials wrote and learned from, as far as they have said. Example: {"learned": 5200}

    One that was ended early says it only if it writes answers, whose lengths it reports.
    """
    found: Counter[str] = Counter()
    for place in trials.iterdir():
        found.update(_tokens_of_trial(place))
    return dict(found)


def _tokens_of_trial(place: Path) -> dict[str, int]:
    result = read_json(place / "result.json") if (place / "result.json").exists() else {}
    if "tokens" in result:
        return result["tokens"]
    lengths = Reports(place / "events.jsonl", "length/mean")
    lengths.read()
    if not lengths.values:
        return {}
    config = read_json(place / "config.json")["config"]
    written = round(sum(lengths.values.values()) * config["batch_size"])
    return {"written": written, "learned": written * config["epochs"]}


def count_states(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Example: {"n_complete": 8, "n_pruned": 3, "n_fail": 1}"""
    states = [trial.state.name.lower() for trial in trials]
    return {f"n_{state}": states.count(state) for state in ("complete", "pruned", "fail")}
