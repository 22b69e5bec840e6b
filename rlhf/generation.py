"""Prompts out to a run; what it wrote back in, as completions with lineage and as comparisons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from annotator.models import Comparison, Completion, Project, Prompt, Purpose, Split
from rlhf.events import load_line
from rlhf.models import GeneratedCompletion, ModelVersion, Run, RunKind

BATCH = 500  # rows per insert
EVALUATION_PRIORITY = 10  # annotators are handed these before the training comparisons


# --- out --------------------------------------------------------------------------------------
def prompts_lacking_completions(
    project: Project, round_number: int, wanted: int
) -> QuerySet[Prompt]:
    """Prompts of both splits that the runs of this round have given fewer than `wanted` answers,
    or no two different ones, so that there is nothing to compare.

    So a second run in a round answers what was imported since the first, and tries again where
    the first wrote the same answer twice.
    """
    of_round = Q(
        completions__generated__run__kind=RunKind.GENERATE,
        completions__generated__run__round_number=round_number,
    )
    answered = Count("completions__generated", filter=of_round)
    compared = Comparison.objects.filter(
        prompt=OuterRef("pk"), round_number=round_number, purpose=Purpose.TRAINING
    )
    prompts = Prompt.objects.filter(project=project).annotate(n=answered)
    return prompts.exclude(split=Split.GOLD).filter(Q(n__lt=wanted) | ~Exists(compared))


def write_prompts(path: Path, prompts: QuerySet[Prompt], limit: int | None = None) -> int:
    """Write prompts.jsonl; how many lines it has.

    Where there are more than `limit`, those with the smallest keys are taken: a key is a hash,
    so this is a sample, and the same one every time.
    """
    chosen = prompts.order_by("key")[:limit].values_list("pk", "messages")
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for pk, messages in chosen.iterator():
            file.write(json.dumps({"id": pk, "messages": messages}, ensure_ascii=False) + "\n")
            n += 1
    return n


# --- in ---------------------------------------------------------------------------------------
class Answer(NamedTuple):
    """A completion as a run reports it."""

    prompt: int  # pk
    text: str
    is_truncated: bool
    score: float | None = None


def store_completions(run: Run) -> dict[str, int]:
    """Rows for all lines of completions.jsonl, and comparisons of them; what became of them.

    The distinct answers to a prompt are compared in pairs, in the order they were written: the
    first with the second, the third with the fourth, and so on.
    """
    assert run.policy is not None
    lines = read_lines(run.folder / "artifact" / "completions.jsonl")
    answers = (Answer(row["id"], row["completion"], row["truncated"]) for row in lines)
    while batch := list(islice(answers, BATCH)):
        add_completions(run, run.policy, batch)
    counts = Counter(n_comparisons=0, n_identical=0, n_repeated=0)
    written = Completion.objects.filter(generated__run=run).select_related("prompt__project")
    for _, group in groupby(written.order_by("prompt_id", "pk").iterator(BATCH), prompt_of):
        completions = list(group)
        distinct = first_of_each_text(completions)
        counts["n_identical"] += len(completions) - len(distinct)
        for pair in zip(distinct[::2], distinct[1::2], strict=False):
            counts[compare(run, pair, Purpose.TRAINING)] += 1
    return dict(counts)


def prompt_of(completion: Completion) -> int:
    return completion.prompt_id


def first_of_each_text(completions: Iterable[Completion]) -> list[Completion]:
    first: dict[str, Completion] = {}
    for completion in completions:
        first.setdefault(completion.text.strip(), completion)
    return list(first.values())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(load_line, file)


def add_completions(
    run: Run, version: ModelVersion, answers: Sequence[Answer], best_of: int = 1
) -> list[Completion | None]:
    """One completion per answer, written by `version`; None where its prompt is gone by now.

    Each is the best of `best_of`.
    """
    prompts = (
        Prompt.objects.filter(project=run.project_id)
        .select_related("project")
        .in_bulk({answer.prompt for answer in answers})
    )
    completions = [
        Completion(
            prompt=prompts[answer.prompt],
            text=answer.text,
            source=version.name,
            is_truncated=answer.is_truncated,
        )
        if answer.prompt in prompts
        else None
        for answer in answers
    ]
    Completion.objects.bulk_create(kept(completions))
    GeneratedCompletion.objects.bulk_create(
        GeneratedCompletion(
            completion=completion,
            model_version=version,
            run=run,
            sampling=sampling_of(run),
            score=answer.score,
            best_of=best_of,
        )
        for completion, answer in zip(completions, answers, strict=True)
        if completion is not None
    )
    return completions


def kept(completions: Iterable[Completion | None]) -> list[Completion]:
    return [completion for completion in completions if completion is not None]


def sampling_of(run: Run) -> dict[str, Any]:
    return {name: run.config[name] for name in ("temperature", "max_new_tokens", "seed")}


def compare(run: Run, pair: Sequence[Completion], purpose: Purpose) -> str:
    """Ask people for a verdict; the name of the counter that this pair belongs to."""
    first, second = pair
    if first.text.strip() == second.text.strip():
        return "n_identical"
    comparison = Comparison.objects.create_from(
        pair,
        round_number=run.round_number,
        purpose=purpose,
        origin=run.origin,
        priority=EVALUATION_PRIORITY if purpose == Purpose.EVALUATION else 0,
    )
    if comparison is None:
        return "n_repeated"
    return "n_held" if comparison.hold else "n_comparisons"
