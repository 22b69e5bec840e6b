"""How much text a run is about: prompts, pairs and rows are counted, and their lengths are means of a few.

The web process has no tokenizer: how many letters a token has is known of a policy by its probe.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from annotator.models import Export, Project, Prompt, Split
from rlhf.estimates import SAMPLE, Probe, Tokens, answer_tokens, prompt_tokens
from rlhf.general_text import texts_of
from rlhf.models import Dataset, ModelKind, ModelVersion
from rlhf.prompting import prompting_in
from rlhf.training.artifacts import RunError
from rlhf.training.demonstrations import split_of
from rlhf.training.prompting import Prompting
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.work import Pairs, Rows, Texts, Writer

PASSAGE_CHARACTERS = 800  # of a passage of documents, about


class Unknown(Exception):
    """Nobody can say. The message is a sentence; `version`: what would have to be measured, if that helps."""

    def __init__(self, sentence: str, version: ModelVersion | None = None) -> None:
        super().__init__(sentence)
        self.version = version


def texts_for(
    version: ModelVersion, writer: Writer, longest_prompt: int, longest_answer: int, *splits: Split
) -> Texts:
    """Of prompts that a version answers, with what a prompt version puts around them."""
    prompt = min(prompt_tokens(version.project_id, writer, *splits), longest_prompt)
    if version.kind == ModelKind.PROMPT:
        prompt = _with_around(version, writer, prompt)
    return Texts(prompt, min(answer_tokens(version, writer), longest_answer))


def tokens_around(version: ModelVersion, writer: Tokens, prompt: float) -> float:
    """How many more a prompt version makes of a prompt of so many; none, if it is no prompt version."""
    if version.kind != ModelKind.PROMPT:
        return 0.0
    return _with_around(version, writer, prompt) - prompt


def _with_around(version: ModelVersion, tokens: Tokens, prompt: float) -> float:
    try:
        prompting = prompting_in(version)
    except RunError as error:
        raise Unknown(str(error)) from None
    around = tokens.tokens_of(_characters_around(prompting))
    return max(prompt, min(prompt + around, prompting.budget_tokens))


def _characters_around(prompting: Prompting) -> float:
    lengths = [
        _characters(example["messages"]) + len(example["answer"]) for example in prompting.examples
    ]
    n = len(lengths)
    shown = min(n, prompting.shots) if prompting.selection == "similar" else n
    examples = shown * fmean(lengths) if lengths else 0.0
    passages = prompting.passages * PASSAGE_CHARACTERS if prompting.collection else 0
    return len(prompting.system) + len(prompting.template) + examples + passages


def _characters(text: Any) -> int:
    """Of a text, or of all messages of a conversation."""
    if isinstance(text, str):
        return len(text)
    return sum(len(message.get("content") or "") for message in text or [])


def _lines(path: Path) -> list[dict[str, Any]]:
    """The first of a file; what cannot be read is for the run itself to complain about."""
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in islice(file, SAMPLE)]
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)]


def pairs_of(export: Export, tokens: Tokens, max_tokens: int) -> Pairs:
    """Counts by its manifest, lengths by its first pairs. Raises Unknown if these cannot be read."""
    lines = [line for line in _lines(export.folder / "data.jsonl") if "prompt" in line]
    if not lines:
        raise Unknown(f"The pairs of {export} cannot be read, so there is no estimate.")
    prompts = [_characters(line["prompt"]) for line in lines]
    sides = [_characters(line.get(side)) for line in lines for side in ("chosen", "rejected")]
    texts = Texts(
        tokens.template_tokens + tokens.tokens_of(fmean(prompts)),
        tokens.tokens_of(fmean(sides)) + 1,
    )
    scale = min(1.0, max_tokens / texts.both)  # longer ones are left out
    texts = Texts(scale * texts.prompt, scale * texts.answer)
    counts = export.manifest.get("counts", {})
    n_train = counts.get("rows_train", export.n_rows)
    n_tied = counts.get("rows_tied", 0) * n_train / max(1, export.n_rows)
    n_prompts, n_answers = _distinct(lines)
    shared = (n_prompts * texts.prompt + n_answers * texts.answer) / len(lines)
    votes = [line.get("n_judgments", 1) for line in lines]
    n_test = counts.get("rows_test", 0)
    return Pairs(n_train, n_tied, n_test, texts, shared, max(1.0, fmean(votes)))


def _distinct(lines: list[dict[str, Any]]) -> tuple[int, int]:
    """How many prompts and answers pairs hold, where those of one ranking share them."""
    prompts, answers = set(), set()
    for line in lines:
        prompt = json.dumps(line["prompt"], sort_keys=True)
        prompts.add(prompt)
        answers |= {(prompt, json.dumps(line.get(side))) for side in ("chosen", "rejected")}
    return len(prompts), len(answers)


def rows_of(dataset: Dataset, probe: Probe, config: SupervisedConfig) -> Rows:
    """By its first rows. Raises Unknown if these cannot be read."""
    lines = [line for line in _lines(dataset.data) if "text" in line or "messages" in line]
    lengths = [_characters(line.get("text", line.get("messages"))) for line in lines]
    if not any(lengths):
        raise Unknown(f"The rows of dataset “{dataset}” cannot be read, so there is no estimate.")
    n_train = dataset.n_rows * sum(split_of(line) == "train" for line in lines) / len(lines)
    tokens = probe.tokens_of(fmean(lengths))
    if "messages" in lines[0]:
        tokens = min(tokens + probe.template_tokens, config.max_tokens)
    weight = config.weights.get(dataset.name, 1.0)
    return Rows(weight * n_train, dataset.n_rows - n_train, tokens)


def count_prompts(project: Project, split: Split, limit: int | None) -> int:
    n = Prompt.objects.filter(project=project, split=split).count()
    return min(n, limit or n)


def general_characters(project: Project, name: str) -> int:
    """Of a suite's general text, at most. Raises Unknown if it cannot be read."""
    dataset = project.datasets.filter(name=name).first() if name else None
    try:
        return sum(map(len, texts_of(dataset)))
    except (OSError, ValueError, KeyError):
        raise Unknown(f"The dataset “{name}” cannot be read, so there is no estimate.") from None
