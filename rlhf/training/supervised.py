"""The run *supervised fine-tuning*: a policy learns to write as demonstrations do.

    datasets -> tokens and labels, batches (supervised_data.py) -> TRL's trainer (supervised_trainer.py)

What is held out, by prompt, is never learnt from; its loss is measured before, during and after. What is
trained, one after the other, each from the same start: the policy, and for the learning curve policies
that see a part of the rows, of which only the held-out loss is kept. What is done lies in `trained/`,
so a run that was stopped or killed goes on from its last checkpoint, or with the next.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, read_json, write_json
from rlhf.training.context import at_most
from rlhf.training.forecast import course_error, forecast
from rlhf.training.forward import backbone_of, layers_of
from rlhf.training.models import stop_ids
from rlhf.training.parameter_settings import VIRTUAL
from rlhf.training.parameters import callbacks, load, make_trainable, save
from rlhf.training.reward_trainer import train
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.training.supervised_data import Part, Pool, epoch_batches, part_of, read_parts
from rlhf.training.supervised_trainer import Measured, Reporter, SupervisedTrainer

CURVE = (0.1, 0.25, 0.5)  # shares of the rows, beside all of them
WHOLE = "policy"
EVALUATIONS = 4  # of the held-out loss during a training, at most
MEASURED_ROWS = 200  # held-out rows of each dataset that are measured, at most: the first ones
NOTHING_HELD_OUT = (
    "No row was held out that is short enough, so nobody can say what was learnt: add a dataset that "
    "has held-out rows, or make one again, of more rows if it has few."
)


def run(config: SupervisedConfig, folder: RunFolder) -> dict[str, Any]:
    """Raises RunError if there is nothing to learn from."""
    if not config.datasets:
        raise RunError("There is no dataset to learn from.")
    taken = config.virtual_tokens if config.method in VIRTUAL else 0
    config = replace(config, max_tokens=at_most(config.max_tokens, config.model, taken))
    folder.phase("loading the model")
    learner = start(config)
    folder.phase("reading the datasets")
    parts = read_parts(
        folder, config, learner.tokenizer, stop_ids(learner.model, learner.tokenizer)
    )
    trainings = plan(parts, config)
    for number, training in enumerate(trainings):
        if not _kept(folder, training.name).exists():
            if number:
                learner = start(config)
            carry_out(training, trainings, learner, parts, config, folder)
    found = {each.name: read_json(_kept(folder, each.name)) for each in trainings}
    learned = n_learned(parts, trainings)
    shutil.rmtree(folder.path / ".tokens", ignore_errors=True)
    return {**result(parts, trainings, found), "tokens": {"learned": learned}}


class Learner(NamedTuple):
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase


def start(config: SupervisedConfig) -> Learner:
    """The policy as every training begins, with what moves: the same seed gives the same."""
    model, tokenizer = load(config.model, config)
    torch.manual_seed(config.seed)
    return Learner(make_trainable(model, config), tokenizer)


# --- what is trained --------------------------------------------------------------------------
class Training(NamedTuple):
    name: str  # "policy", or "part-10", … of the learning curve, in percent
    n_rows: int  # before they were packed
    epochs: list[list[list[int]]]  # places among the rows of all datasets, per optimiser step

    @property
    def n_steps(self) -> int:
        return sum(map(len, self.epochs))


def plan(parts: Sequence[Part], config: SupervisedConfig) -> list[Training]:
    """The policy, then the parts of the learning curve."""
    pools = []
    first = 0
    for part in parts:
        places = range(first, first + len(part.train))
        pools.append(Pool(places, part.lengths(), part.weight))
        first += len(part.train)
    held = [n for part in parts for n in part.conversations()]
    trainings = [_training(WHOLE, pools, held, config)]
    for share in CURVE if config.learning_curve else ():
        some = [part_of(pool, share, config.seed) for pool in pools]
        trainings.append(_training(f"part-{share:.0%}"[:-1], some, held, config))
    return trainings


def n_learned(parts: Sequence[Part], trainings: Sequence[Training]) -> int:
    """Tokens of all steps, those that are read and not imitated included."""
    lengths = [length for part in parts for length in part.lengths()]
    steps = (step for training in trainings for epoch in training.epochs for step in epoch)
    return sum(lengths[place] for step in steps for place in step)


def _training(
    name: str, pools: Sequence[Pool], held: Sequence[int], config: SupervisedConfig
) -> Training:
    """`held`: how many conversations each place holds."""
    epochs = [
        epoch_batches(pools, config.batch_size, config.mixing, config.seed, epoch)
        for epoch in range(config.epochs)
    ]
    n_rows = sum(held[place] for pool in pools for place in pool.places)
    return Training(name, n_rows, epochs)


def carry_out(
    training: Training, trainings: Sequence[Training], learner: Learner, parts: Sequence[Part],
    config: SupervisedConfig, folder: RunFolder,
) -> None:  # fmt: skip
    """Train, measure what was held out, and keep what it came to; and the policy, if it is that."""
    first_step = sum(
        each.n_steps for each in itertools.takewhile(lambda each: each is not training, trainings)
    )
    is_policy = training.name == WHOLE
    held_out: HeldOut  # measured by the trainer, whose reporter tells it when
    reporter = Reporter(
        folder,
        first_step,
        sum(each.n_steps for each in trainings),
        evaluation_steps(training.n_steps),
        lambda step: held_out.tell(step),
        is_shown=is_policy,
    )
    trainer = SupervisedTrainer(
        learner.model,
        learner.tokenizer,
        concatenate_datasets([part.train for part in parts]),
        list(itertools.chain.from_iterable(training.epochs)),
        config,
        reporter,
        callbacks(config, _n_layers(learner.model), len(training.epochs[0])),
    )
    held_out = HeldOut(parts, trainer, folder)
    before = _before(held_out, folder) if is_policy else None
    folder.phase("training" if is_policy else f"learning curve: {training.name[5:]} % of the rows")
    train(trainer)
    after = held_out.measure()
    if is_policy:
        held_out.tell(first_step + training.n_steps, after)
        folder.phase("writing the model")
        with folder.writing_artifact() as artifact:
            details = save(trainer.model, learner.tokenizer, artifact, config)
        write_json(_kept(folder, WHOLE), {
            **details,
            "before": before,
            "after": _as_json(after),
            "held_out": _of_all(after)._asdict(),
        })  # fmt: skip
    else:
        write_json(_kept(folder, training.name), {"held_out": _of_all(after)._asdict()})


def _kept(folder: RunFolder, name: str) -> Any:
    kept = folder.path / "trained"
    kept.mkdir(exist_ok=True)
    return kept / f"{name}.json"


def _n_layers(model: nn.Module) -> int:
    return len(layers_of(backbone_of(model))[1])


def evaluation_steps(n_steps: int) -> list[int]:
    """After which steps of a training the held-out loss is measured. Example: [2, 4, 6, 7] of 7."""
    every = math.ceil(n_steps / EVALUATIONS)
    return [*range(every, n_steps, every), n_steps]


# --- held-out rows ----------------------------------------------------------------------------
class HeldOut:
    """What nothing is learnt from, by dataset, and how surprised the model is by it."""

    def __init__(
        self, parts: Sequence[Part], trainer: SupervisedTrainer, folder: RunFolder
    ) -> None:
        self.trainer = trainer
        self.folder = folder
        self.rows: dict[str, Dataset] = {
            part.name: part.test.select(range(min(MEASURED_ROWS, len(part.test)))) for part in parts
        }

    def measure(self) -> dict[str, Measured]:
        return {name: self.trainer.measure(rows) for name, rows in self.rows.items()}

    def tell(self, step: int, measured: dict[str, Measured] | None = None) -> None:
        """Metrics for the run's charts: of all together, and of each dataset where there are several."""
        measured = measured or self.measure()
        values = {"eval_loss": _of_all(measured).loss}
        if len(measured) > 1:
            values |= {f"eval_loss/{name}": each.loss for name, each in measured.items()}
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            self.folder.metrics(step, known)


def _before(held_out: HeldOut, folder: RunFolder) -> dict[str, Any]:
    """Of the policy as it was; kept, because a run that goes on cannot measure it any more."""
    path = _kept(folder, "before")
    if not path.exists():
        folder.phase("measuring what is held out")
        before = held_out.measure()
        held_out.tell(0, before)
        write_json(path, _as_json(before))
    return read_json(path)


def _of_all(measured: dict[str, Measured]) -> Measured:
    return sum(measured.values(), start=Measured([], []))


def _as_json(measured: dict[str, Measured]) -> dict[str, Any]:
    return {
        "all": _loss_as_json(_of_all(measured)),
        "datasets": {name: _loss_as_json(each) for name, each in measured.items()},
    }


def _loss_as_json(measured: Measured) -> dict[str, Any]:
    loss = measured.loss
    return {
        "loss": loss,
        "perplexity": None if loss is None else math.exp(min(loss, 700.0)),
        "n_rows": len(measured.counts),
        "n_tokens": sum(measured.counts),
    }


# --- the result -------------------------------------------------------------------------------
def result(
    parts: Sequence[Part], trainings: Sequence[Training], found: dict[str, Any]
) -> dict[str, Any]:
    whole = dict(found[WHOLE])
    before, after = whole.pop("before"), whole.pop("after")
    whole.pop("held_out")
    has_held_out = bool(after["all"]["n_rows"])
    points = learning_curve(trainings, found)
    return {
        **whole,
        "is_whole": whole["train"] == "full",
        "held_out": _before_and_after("", before["all"], after["all"]),
        "datasets": [
            {
                **_before_and_after(part.name, before["datasets"][part.name], after["datasets"][part.name]),
                "n_train": part.n_train,
                "weight": part.weight,
            }
            for part in parts
        ],
        "n_train": sum(part.n_train for part in parts),
        "steps": trainings[0].n_steps,
        "left_out": {
            reason: sum(part.left_out[reason] for part in parts) for reason in parts[0].left_out
        },
        "learning_curve": points or None,
        "forecast": forecast_of(points) if points else None,
        "note": "" if has_held_out else NOTHING_HELD_OUT,
    }  # fmt: skip


def _before_and_after(name: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    values = {"n_rows": after["n_rows"], "n_tokens": after["n_tokens"]}
    for each, measured in (("before", before), ("after", after)):
        values |= {f"{what}_{each}": measured[what] for what in ("loss", "perplexity")}
    return {"name": name, **values} if name else values


def learning_curve(trainings: Sequence[Training], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The held-out loss after a part of the rows, and after all of them; empty if none was asked for, or
    nothing was held out."""
    if len(trainings) == 1:
        return []
    n_all = trainings[0].n_rows
    parts = sorted(trainings, key=lambda each: each.n_rows)
    on_held_out = [Measured(**found[each.name]["held_out"]) for each in parts]
    if on_held_out[0].loss is None:
        return []
    error = course_error([measured.sums for measured in on_held_out], on_held_out[0].counts)
    points = []
    for each, measured in zip(parts, on_held_out, strict=True):
        points.append({
            "share": 1.0 if each.name == WHOLE else int(each.name.removeprefix("part-")) / 100,
            "n_rows": each.n_rows,
            "loss": measured.loss,
            "standard_error": error,
        })  # fmt: skip
    assert points[-1]["n_rows"] == n_all
    return points


def forecast_of(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return forecast(
        [point["n_rows"] for point in points],
        [point["loss"] for point in points],
        [point["standard_error"] for point in points],
    )
