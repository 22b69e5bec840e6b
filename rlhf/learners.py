"""What has learned from a dataset, side by side: how much moved, what that took, and what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf.models import Dataset, ModelVersion, Run, RunKind, Status


class Learner(NamedTuple):
    run: Run
    versions: list[ModelVersion]  # that it has made
    method: str = ""
    percent: float | None = None  # of all parameters, those that moved
    peak_mib: int | None = None
    tokens_per_second: float | None = None  # learned from, between start and end of the run
    loss_before: float | None = None  # of the dataset's held-out rows, in nats per token
    loss_after: float | None = None


def learners_of(dataset: Dataset, most: int) -> list[Learner]:
    """The newest runs; of those that have not succeeded nothing more is known. Two queries."""
    learned = dataset.runs.exclude(kind=RunKind.SUITE)  # which only reads
    runs = learned.prefetch_related("outputs").order_by("-pk")[:most]
    return [_learner(run, dataset) for run in runs]


def _learner(run: Run, dataset: Dataset) -> Learner:
    versions, result = list(run.outputs.all()), run.result
    if run.status != Status.SUCCEEDED:
        return Learner(run, versions)
    here = [each for each in result.get("datasets", []) if each["name"] == dataset.name]
    held_out = here[0] if here and here[0]["n_rows"] else {}
    return Learner(
        run,
        versions,
        result.get("method", ""),
        100 * result["trainable"] / result["total"] if result.get("total") else None,
        result.get("peak_mib"),
        _speed(run, result),
        held_out.get("loss_before"),
        held_out.get("loss_after"),
    )


def _speed(run: Run, result: dict[str, Any]) -> float | None:
    """None of a run that went on after a break: what was learned before is not known by its time."""
    learned = result.get("tokens", {}).get("learned")
    if not learned or not run.started or not run.finished or run.attempts:
        return None
    return learned / max(1.0, (run.finished - run.started).total_seconds())
