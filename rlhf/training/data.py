"""Reading the files a run is given: prompts.jsonl, and the data.jsonl of an export. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from rlhf.training.artifacts import RunError


class PromptLine(NamedTuple):
    """One line of prompts.jsonl: `{"id": …, "messages": [{"role": …, "content": …}, …]}`."""

    id: int
    messages: list[dict[str, str]]


def read_prompts(path: Path) -> list[PromptLine]:
    """All prompts of the file. Raises RunError with the line number of the first bad line."""
    prompts = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                prompts.append(PromptLine(row["id"], row["messages"]))
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{path.name}, line {number}: expected an object with id and messages ({error})"
                ) from error
    return prompts
