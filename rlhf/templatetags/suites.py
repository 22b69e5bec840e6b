"""What the page of candidates reads from dictionaries and lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import template

from rlhf.suites import Candidate

register = template.Library()


@register.filter
def at(values: Mapping[str, Any], name: str) -> Any:
    """The value under a name with dots or slashes in it. Example: "rule/length"."""
    return values.get(name)


@register.filter
def beside(answers: Sequence[Any], candidates: Sequence[Candidate]) -> list[tuple[str, Any]]:
    """Each answer with the name of who wrote it."""
    return [(each.version.name, answer) for each, answer in zip(candidates, answers, strict=True)]


@register.filter
def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A single question as it is; of several messages, who says what."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
