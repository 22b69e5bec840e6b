"""What a suite reads: held-out prompts, reference answers to them, general text, pairs that people judged."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from django.db.models import Count

from annotator.models import (
    Comparison,
    Completion,
    Judgment,
    Project,
    Prompt,
    Purpose,
    Split,
    Verdict,
    canonical_key,
)
from rlhf.dataset_inputs import check_frozen, problem_with
from rlhf.evaluation import ALL_BAD, LOSS, TIE, WIN, ballot, outcome
from rlhf.general_text import datasets_learned, unlearned
from rlhf.generation import write_prompts
from rlhf.integrity import HASHED_AT_LAUNCH
from rlhf.models import Dataset, DatasetKind
from rlhf.training.artifacts import write_json
from rlhf.training.config import Config
from rlhf.training.demonstrations import split_of

MOST_REFERENCES = 4  # of a prompt
PEOPLE_SAY = {WIN: "new", LOSS: "old", TIE: "tie"}  # as the judge's outcomes are called


def problem_with_datasets(project: Project, settings: Mapping[str, Any]) -> str:
    """A sentence if a dataset that the settings name cannot be read; else empty."""
    kinds = {"text": DatasetKind.TEXT, "demonstrations": DatasetKind.DEMONSTRATIONS}
    for setting, kind in kinds.items():
        name = settings.get(setting)
        if not name:
            continue
        dataset = project.datasets.filter(name=name, kind=kind).first()
        if dataset is None:
            return f"This project has no dataset “{name}” of {kind.label.lower()}."
        if not dataset.data.is_file():
            return f"The files of dataset “{name}” are missing: there is no {dataset.data}."
        if problem := problem_with(dataset, hash_up_to=HASHED_AT_LAUNCH):
            return problem
    return ""


def write(folder: Path, project: Project, config: Config, max_prompts: int | None) -> int:
    """All files of a suite; how many prompts there are. Those are the same every time, as long as nothing
    is imported. Raises FileChanged if what is read for it is not what was frozen."""
    values = config.to_dict()
    held_out = Prompt.objects.filter(project=project, split=Split.TEST)
    n = write_prompts(folder / values["prompts"], held_out, max_prompts)
    prompts = list(held_out.order_by("key")[:max_prompts])
    dataset = project.datasets.filter(name=values["demonstrations"]).first()
    _write_lines(folder / values["references"], references_of(prompts, dataset))
    text = project.datasets.filter(name=values["text"], kind=DatasetKind.TEXT).first()
    general = unlearned(project, text)
    _write_lines(folder / values["texts"], ({"text": each} for each in general.texts))
    write_json(folder / values["general"], {"n": len(general.texts), "learned": general.n_learned})
    pairs = judged_pairs(project, values["judged_pairs"]) if values["judge"] else []
    _write_lines(folder / values["pairs"], pairs)
    return n


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- reference answers ------------------------------------------------------------------------
def references_of(prompts: Sequence[Prompt], dataset: Dataset | None) -> Iterator[dict[str, Any]]:
    """Of each prompt, up to four: demonstrations of a dataset, what people rewrote, the best by votes."""
    found: dict[int, list[str]] = defaultdict(list)
    by_key = {prompt.key: prompt.pk for prompt in prompts}
    for key, text in _demonstrations(dataset):
        if key in by_key:
            found[by_key[key]].append(text)
    for prompt, text in _said_by_people([prompt.pk for prompt in prompts]):
        found[prompt].append(text)
    for pk, texts in found.items():
        for text in list(dict.fromkeys(texts))[:MOST_REFERENCES]:
            yield {"id": pk, "text": text}


def _demonstrations(dataset: Dataset | None) -> Iterator[tuple[str, str]]:
    """(key of the prompt, answer) of each row that ends with the assistant, and from which no policy of the
    project has learned."""
    if dataset is None:
        return
    check_frozen(dataset)
    is_learned = datasets_learned(dataset.project).filter(pk=dataset.pk).exists()
    with dataset.data.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if is_learned and split_of(row) == "train":
                continue
            *asked, last = row["messages"]
            if asked and last["role"] == "assistant":
                yield canonical_key(asked), last["content"]


def _said_by_people(prompts: Sequence[int]) -> list[tuple[int, str]]:
    """Rewrites first, then of each prompt the answer that stood first alone more often than not."""
    judgments = Judgment.objects.counted().filter(comparison__prompt__in=prompts).order_by("pk")
    rewrites, score = [], defaultdict[tuple[int, int], int](int)
    for prompt, verdict, ranking, rewrite, order in judgments.values_list(
        "comparison__prompt_id", "verdict", "ranking", "rewrite", "assignment__order"
    ):
        if rewrite.strip():
            rewrites.append((prompt, rewrite))
        first = ranking[0] if verdict == Verdict.RANKING else []
        for pk in order:
            score[prompt, pk] += 1 if first == [pk] else -1
    best: dict[int, tuple[int, int]] = {}
    for (prompt, pk), points in score.items():
        if points > 0:
            best[prompt] = max(best.get(prompt, (0, 0)), (points, -pk))
    texts = Completion.objects.in_bulk([-pk for _, pk in best.values()])
    return [*rewrites, *((prompt, texts[-pk].text) for prompt, (_, pk) in best.items())]


# --- pairs that people have judged ------------------------------------------------------------
def judged_pairs(project: Project, n: int) -> Iterator[dict[str, Any]]:
    """The newest pairs on which most people agree, or agree to differ: what they would have a judge say.

    Those that most of them call all bad are left out: a judge is not asked for that.
    """
    counted = Judgment.objects.counted().filter(project=project)
    pairs = (
        Comparison.objects.filter(project=project, pk__in=counted.values("comparison"))
        .exclude(purpose=Purpose.GOLD)
        .annotate(size=Count("entries"))
        .filter(size=2)
        .select_related("prompt")
        .prefetch_related("entries__completion")
        .order_by("-pk")
    )
    newest = list(pairs[: 2 * n])
    ballots: dict[int, list[str]] = defaultdict(list)
    firsts = {pair.pk: _entries(pair)[0] for pair in newest}
    for pk, verdict, ranking in counted.filter(comparison__in=newest).values_list(
        "comparison_id", "verdict", "ranking"
    ):
        ballots[pk].append(ballot(verdict, ranking, {firsts[pk].pk}))
    said = ((pair, outcome(ballots[pair.pk])) for pair in newest)
    for pair, verdict in islice(((p, v) for p, v in said if v != ALL_BAD), n):
        first, second = _entries(pair)
        yield {
            "messages": pair.prompt.messages,
            "first": first.text,
            "second": second.text,
            "people": PEOPLE_SAY[verdict],
        }


def _entries(pair: Comparison) -> list[Completion]:
    return [e.completion for e in sorted(pair.entries.all(), key=lambda entry: entry.position)]
