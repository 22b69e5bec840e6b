"""Asking the right next question: open comparisons out to a run, and back in the order it made.

Whoever is asked next depends on two things that are stored with a comparison: its arm, drawn once
and for ever, and in the active arm its place (annotator/assignment/finding.py). Both belong to prompts
rather than to comparisons: all comparisons of a prompt are in one arm, and the second one of a
prompt has its place behind the first ones of all others.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Count, Prefetch
from django.utils import timezone

from annotator.models import (
    Arm,
    Comparison,
    ComparisonCompletion,
    ComparisonQuerySet,
    Project,
    Purpose,
    QueueOrder,
    Split,
)
from rlhf.generation import BATCH, read_lines
from rlhf.models import ModelKind, ModelVersion, Run, RunKind, Status
from rlhf.templatetags.quantities import COUNT_CAP, counted, percent
from rlhf.training.arms import final_row, votes_needed
from rlhf.training.config import OrderQueueConfig


# --- out --------------------------------------------------------------------------------------
def write_comparisons(path: Path, project: Project) -> int:
    """Write comparisons.jsonl, the training comparisons that need somebody; how many they are."""
    entries = ComparisonCompletion.objects.order_by("position").select_related("completion")
    rows = _open(project).select_related("prompt").prefetch_related(Prefetch("entries", entries))
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for comparison in rows.order_by("pk").iterator(BATCH):
            file.write(json.dumps(_line(comparison), ensure_ascii=False) + "\n")
            n += 1
    return n


def _line(comparison: Comparison) -> dict[str, Any]:
    completions = [entry.completion for entry in comparison.entries.all()]
    return {
        "id": comparison.pk,
        "messages": comparison.prompt.messages,
        "completions": [
            {"id": completion.pk, "text": completion.text, "truncated": completion.is_truncated}
            for completion in completions
        ],
    }


def _open(project: Project) -> ComparisonQuerySet:
    return Comparison.objects.open().filter(project=project, purpose=Purpose.TRAINING)


def newest_reward_model(project: Project) -> ModelVersion | None:
    return project.model_versions.filter(kind=ModelKind.REWARD).order_by("-pk").first()


def order_settings(project: Project, reward_model: ModelVersion) -> dict[str, Any]:
    """Of an order for which nobody fills in a form: those of the last one, and the temperature that fits
    the reward model."""
    latest = project.runs.filter(kind=RunKind.ORDER_QUEUE, status=Status.SUCCEEDED).first()
    before = latest.config if latest else {}
    kept = {name: before[name] for name in ("closeness", "max_tokens") if name in before}
    return {**kept, "temperature": temperature_of(reward_model)}


def temperature_of(reward_model: ModelVersion) -> float:
    """What its report would divide differences of scores by; the default where nothing was held out."""
    calibration = reward_model.details.get("report", {}).get("calibration", {})
    fitted = calibration.get("temperature")
    return OrderQueueConfig.temperature if fitted is None else round(fitted, 2)


# --- in ---------------------------------------------------------------------------------------
def store_order(run: Run) -> dict[str, Any]:
    """Arms and places from the information that scores.jsonl gives for each comparison.

    Only comparisons that nobody has been handed yet are given an arm. Those that somebody had
    before stay in none, and are drawn. Does nothing if the order has been turned off meanwhile.
    `last_comparison` is the newest one that the run was given.
    """
    lines = read_lines(run.folder / "artifact" / "scores.jsonl")
    information = {line["id"]: line["information"] for line in lines}
    project = Project.objects.select_for_update(no_key=True).get(pk=run.project_id)
    if project.queue_order == QueueOrder.DRAWN:
        note = "The order of questions was turned off meanwhile, so nothing was stored."
        return {"n_ordered": 0, "n_random": 0, "note": note}
    # Locked in the order in which an undo locks two of them: neither waits for the other.
    rows = _open(project).select_for_update(no_key=True).order_by("pk")
    rows = rows.only("prompt", "taken", "arm", "place")
    comparisons = [row for row in rows if row.pk in information or row.place is not None]
    scored = [comparison for comparison in comparisons if comparison.pk in information]
    rng = random.Random(str(run.token))
    _draw_arms(scored, project, rng)
    information = _held_out_at_random(project, information, rng)
    active = [comparison for comparison in scored if comparison.arm == Arm.ACTIVE]
    places = places_of(active, information, _numbers_in_use(project))
    for comparison in comparisons:
        comparison.place = places.get(comparison.pk)  # what was left out this time has none
    _write(comparisons)
    Project.objects.filter(pk=project.pk).update(ordered=timezone.now())
    n_random = sum(comparison.arm == Arm.RANDOM for comparison in scored)
    found = {"n_ordered": len(active), "n_random": n_random, "note": ""}
    if not active and not n_random:
        found["note"] = (
            "Somebody had been handed each of these before, so all of them stay drawn at random: an "
            "order is made of comparisons that are new to everybody."
        )
    return found | {"last_comparison": max(information, default=0)}


def _held_out_at_random(
    project: Project, information: Mapping[int, float], rng: random.Random
) -> dict[int, float]:
    """Of held-out prompts the information is somebody else's, drawn: they come as often as they would, but
    not because a model finds them hard. What measures a model must not be chosen by it."""
    held_out = _open(project).filter(prompt__split=Split.TEST).order_by("pk")
    drawn = sorted(information.values())
    places = [pk for pk in held_out.values_list("pk", flat=True) if pk in information]
    return dict(information) | {pk: rng.choice(drawn) for pk in places}


def _write(comparisons: Iterable[Comparison]) -> None:
    """Arm and place of each. Nobody is handed anything on SQLite while this goes on, and `bulk_update`
    takes ten times as long: its statements look each row up in a list of hundreds."""
    statement = "UPDATE annotator_comparison SET arm = %s, place = %s WHERE id = %s"
    with connection.cursor() as cursor:
        cursor.executemany(statement, [(row.arm, row.place, row.pk) for row in comparisons])


def _draw_arms(comparisons: Iterable[Comparison], project: Project, rng: random.Random) -> None:
    """An arm for each that has none and is new to everybody: its prompt's, or a drawn one."""
    known = project.comparisons.exclude(arm="").values_list("prompt_id", "arm").distinct()
    arms = dict(known)
    for comparison in comparisons:
        if comparison.arm or comparison.taken:
            continue
        if comparison.prompt_id not in arms:
            is_random = rng.random() * 100 < project.random_percent
            arms[comparison.prompt_id] = Arm.RANDOM if is_random else Arm.ACTIVE
        comparison.arm = arms[comparison.prompt_id]


def _numbers_in_use(project: Project) -> dict[int, int]:
    """By prompt: how many of its training comparisons somebody has judged or is judging."""
    used = project.comparisons.filter(purpose=Purpose.TRAINING, taken__gt=0)
    return dict(used.order_by().values_list("prompt_id").annotate(n=Count("pk")))


def places_of(
    comparisons: Iterable[Comparison],
    information: Mapping[int, float],
    in_use: Mapping[int, int],
) -> dict[int, float]:
    """By comparison: its turn, plus 1 less its information, which lies in [0, 1).

    The turn is 0 for what is begun, and for the most informative comparison of a prompt without any
    in use; it is 1 for the prompt's next one, and so on: the lowest place is asked first.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    turns: dict[int, int] = {}
    for comparison in comparisons:
        if comparison.taken:
            turns[comparison.pk] = 0
        else:
            waiting[comparison.prompt_id].append(comparison.pk)
    for prompt, pks in waiting.items():
        best_first = sorted(pks, key=lambda pk: -information[pk])
        turns |= {pk: in_use.get(prompt, 0) + n for n, pk in enumerate(best_first)}
    return {pk: turn + 1 - information[pk] for pk, turn in turns.items()}


# --- how it stands ----------------------------------------------------------------------------
class Standing(NamedTuple):
    """How the order of questions of a project stands."""

    is_on: bool
    run: Run | None  # that made it
    making: Run | None  # one that is queued or at work
    newest: ModelVersion | None  # reward model
    n_unscored: int  # open comparisons that have come since; none above the cap is counted

    @property
    def unscored(self) -> str:
        """Example: "3 newer comparisons"."""
        return counted(self.n_unscored, "newer comparison")

    @property
    def is_stale(self) -> bool:
        """A newer reward model would make another order."""
        assert self.run is None or self.run.reward_model is not None
        return bool(self.run and self.newest and self.run.reward_model != self.newest)


def standing_of(project: Project) -> Standing:
    """Four queries at most."""
    newest = newest_reward_model(project)
    if project.queue_order == QueueOrder.DRAWN:
        return Standing(False, None, None, newest, 0)
    orders = project.runs.filter(kind=RunKind.ORDER_QUEUE)
    making = orders.active().first()
    made = orders.filter(status=Status.SUCCEEDED)
    run = made.select_related("reward_model").order_by("-finished").first()
    if run is None or project.ordered is None:  # none, or it was forgotten
        return Standing(True, None, making, newest, 0)
    since = _open(project).filter(pk__gt=run.result.get("last_comparison", 0))
    return Standing(True, run, making, newest, since[: COUNT_CAP + 1].count())


class ArmsRow(NamedTuple):
    """What a reward model came to that was trained on so many votes of one arm, or the other."""

    n_votes: int
    active: Mapping[str, Any]
    random: Mapping[str, Any]


TOO_FEW = (
    "The arms could not be compared: each needs 100 votes that were asked for in that arm, and some "
    "pairs have to be held out."
)


class Arms(NamedTuple):
    rows: list[ArmsRow]
    sentence: str


def arms_of(result: Mapping[str, Any]) -> Arms | None:
    """The two arms of a reward model's result side by side; None if nobody asked for it."""
    rows = result.get("arms")
    if rows is None:
        return None
    final = final_row(rows)
    if final is None:
        return Arms([], TOO_FEW)
    by_place = {(row["n_votes"], row["arm"]): row for row in rows}
    numbers = sorted({row["n_votes"] for row in rows})
    return Arms(
        [ArmsRow(n, by_place[n, Arm.ACTIVE], by_place[n, Arm.RANDOM]) for n in numbers],
        _sentence(final, votes_needed(rows)),
    )


def _sentence(final: Mapping[str, Any], needed: int | None) -> str:
    goal = (
        f"the random arm's final accuracy ({percent(final['accuracy'])}, {final['n_votes']} votes)"
    )
    if needed is None:
        return f"The active arm did not reach {goal}."
    return f"The active arm reached {goal} after {needed} votes."
