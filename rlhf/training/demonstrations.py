"""Rows of datasets: conversations to imitate, and running text. No torch here.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    {"text": "Once upon a time …"}

More keys are kept and mean nothing here, but for `split` ("train" or "test"), and `continues`: the text
of the next row follows without an end between them. Where a row does not say its split, it follows
from its prompt or its text: the same prompt is always on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Message = Mapping[str, str]

SPLITS = ("train", "test")
HELD_OUT_PERCENT = 10  # of rows that do not say their split


def read_rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of one split, one after the other. Raises ValueError with the line's number."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                has_this_split = split_of(row) == split
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of {path.name} is no row: {error}") from error
            if has_this_split:
                yield row


def split_of(row: Row) -> str:
    """ "train" or "test"."""
    if (said := row.get("split")) in SPLITS:
        return said
    content = json.dumps(group_of(row), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
    number = int(digest[:8], 16)
    return "test" if number % 100 < HELD_OUT_PERCENT else "train"


def group_of(row: Row) -> Any:
    """What must not be learnt from and measured by at once: the prompt, or the text."""
    return prompt_of(row["messages"]) if "messages" in row else row["text"]


def prompt_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """All before the last answer."""
    places = [place for place, each in enumerate(messages) if each["role"] == "assistant"]
    return [dict(each) for each in messages[: places[-1] if places else len(messages)]]
