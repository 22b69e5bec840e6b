"""What has learned from a dataset, side by side: how much moved, what that took, and what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf.models import Dataset, ModelVersion, Run, RunKind, Status
from rlhf.training.parameter_settings import VIRTUAL, ParameterSettings

PULLS = {"l2_sp": "L2-SP", "kl": "KL"}


class Learner(NamedTuple):
    run: Run
    versions: list[ModelVersion]  # that it has made
    method: str = ""
    percent: float | None = None  # of all parameters, those that moved
    peak_mib: int | None = None
    tokens_per_second: float | None = None  # learned from, between start and end of the run
    loss_before: float | None = None  # of the dataset's held-out rows, in nats per token
    loss_after: float | None = None
    others: tuple[str, ...] = ()  # datasets that it learned from besides


def learners_of(dataset: Dataset, most: int) -> list[Learner]:
    """The newest runs; of those that have not succeeded nothing more is known. Two queries."""
    learned = dataset.runs.exclude(kind=RunKind.SUITE)  # which only reads
    runs = learned.prefetch_related("outputs").order_by("-pk")[:most]
    return [_learner(run, dataset) for run in runs]


def _learner(run: Run, dataset: Dataset) -> Learner:
    versions, result = list(run.outputs.all()), run.result
    if run.status != Status.SUCCEEDED:
        return Learner(run, versions)
    names = [each["name"] for each in result.get("datasets", [])]
    here = [each for each in result.get("datasets", []) if each["name"] == dataset.name]
    held_out = here[0] if here and here[0]["n_rows"] else {}
    return Learner(
        run,
        versions,
        way_of(run.config),
        100 * result["trainable"] / result["total"] if result.get("total") else None,
        result.get("peak_mib"),
        _speed(run, result),
        held_out.get("loss_before"),
        held_out.get("loss_after"),
        tuple(name for name in names if name != dataset.name),
    )


def way_of(config: dict[str, Any]) -> str:
    """What moved and what held it, in words.

    Example: "DoRA, rank 16, top 10 layers, one more every 0.5 epochs, KL 0.1"
    """
    method = config.get("method", "lora")
    parts = [_name_of(method, config)]
    if method == "lora":
        parts.append(f"rank {config.get('lora_rank', ParameterSettings.lora_rank)}")
    if method in VIRTUAL:
        n = config.get("virtual_tokens", ParameterSettings.virtual_tokens)
        parts.append(f"{n} tokens")
    if top := config.get("adapter_layers"):
        parts.append(f"top {top} layers")
    if every := config.get("unfreeze_every"):
        parts.append(f"one more every {every:g} epochs")
    if pull := PULLS.get(config.get("anchor", "none")):
        parts.append(f"{pull} {config['anchor_coefficient']:g}")
    return ", ".join(parts)


def _name_of(method: str, config: dict[str, Any]) -> str:
    if method != "lora":
        return {"full": "all weights", "ia3": "IA³"}.get(method, f"{method} tuning")
    name = "DoRA" if config.get("dora") else "LoRA"
    options = [("rslora", "rs"), ("four_bit", "Q")]
    return "".join(short for option, short in options if config.get(option)) + name


def _speed(run: Run, result: dict[str, Any]) -> float | None:
    """None of a run that went on after a break: what was learned before is not known by its time."""
    learned = result.get("tokens", {}).get("learned")
    if not learned or not run.started or not run.finished or run.attempts:
        return None
    return learned / max(1.0, (run.finished - run.started).total_seconds())
