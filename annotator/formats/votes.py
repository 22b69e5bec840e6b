"""What several people said of the same completions, as votes.jsonl of an export has it.

Completions are named by their place in the row, from 0, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from annotator.formats.entries import (
    Answer,
    FieldError,
    Vote,
    check_annotator,
    check_ranking,
    check_text,
    excerpt,
)

VERDICTS = ("ranking", "all_bad", "unrankable", "skipped")
MAX_STRENGTH = 100
MAX_CRITERION_STRENGTH = 4  # steps a side: what a protocol can ask for
CRITERION = re.compile(r"[a-z][a-z0-9_]{0,29}")

Answers = Sequence[Answer]


def parse_judgments(values: Any, answers: Answers) -> list[Vote]:
    """One vote for each person; skips are none. Raises FieldError."""
    if not isinstance(values, list):
        example = '[{"annotator": "7", "ranking": [[0], [1]]}]'
        raise FieldError("judgments", f"must be a list like {example}, not {excerpt(values)}")
    votes: dict[str, Vote] = {}
    for i, value in enumerate(values):
        vote = _judgment(f"judgments[{i}]", value, answers)
        if vote is None:
            continue
        if vote.annotator in votes:
            raise FieldError(
                f"judgments[{i}].annotator",
                f"is {excerpt(vote.annotator)} once more; each has one judgment of a comparison",
            )
        votes[vote.annotator] = vote
    return list(votes.values())


def _judgment(field: str, value: Any, answers: Answers) -> Vote | None:
    if not isinstance(value, dict) or value.get("annotator") is None:
        raise FieldError(
            field, f'must be an object with "annotator" and "ranking", not {excerpt(value)}'
        )
    verdict = value.get("verdict") or "ranking"
    if verdict not in VERDICTS:
        raise FieldError(
            f"{field}.verdict",
            f"must be ranking, all_bad, unrankable or skipped, not {excerpt(verdict)}",
        )
    if verdict == "skipped":
        return None
    ranking = value.get("ranking") or []
    strength, strength_of = strength_in(field, value, MAX_STRENGTH)
    return Vote(
        check_ranking(f"{field}.ranking", ranking, len(answers)) if verdict == "ranking" else [],
        check_annotator(f"{field}.annotator", value["annotator"]),
        strength,
        strength_of,
        is_unrankable=verdict == "unrankable",
        is_pick=value.get("is_pick") is True,
        judgment=number if type(number := value.get("judgment")) is int else 0,
        given=given if isinstance(given := value.get("given"), str) else "",
        order=_order(f"{field}.order", value.get("order") or [], answers),
        said={
            name: check(f"{field}.{name}", value[name], answers)
            for name, check in CHECKS.items()
            if value.get(name)
        },
    )


def strength_in(field: str, value: dict[str, Any], at_most: int) -> tuple[int | None, int | None]:
    """How strong a preference is, and how many steps the scale has."""
    strength, of = value.get("strength"), value.get("strength_of")
    if strength is None:
        return None, None
    if type(strength) is not int or type(of) is not int or not 1 <= strength <= of <= at_most:
        raise FieldError(
            f"{field}.strength",
            f'must be a whole number from 1 to "strength_of", which is {at_most} at most; it is '
            f"{excerpt(strength)} of {excerpt(of)}",
        )
    return strength, of


def _order(field: str, value: Any, answers: Answers) -> list[int]:
    """From left to right, as shown; empty if it is not known."""
    return (
        [index for group in check_ranking(field, value, len(answers)) for index in group]
        if value
        else []
    )


def _text(field: str, value: Any, answers: Answers) -> str:
    return check_text(field, value)


def _texts(field: str, value: Any, answers: Answers) -> list[str]:
    return [check_text(f"{field}[{i}]", text) for i, text in enumerate(_list(field, value))]


def _seconds(field: str, value: Any, answers: Answers) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise FieldError(field, f"must be a number of seconds, not {excerpt(value)}")
    return float(value)


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError(field, f"must be a list, not {excerpt(value)}")
    return value


def _object(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(field, f"must be an object, not {excerpt(value)}")
    return value


def _flags(field: str, value: Any, answers: Answers) -> dict[int, list[str]]:
    """Example: [["unsafe"], []] -> {0: ["unsafe"]}."""
    if len(_list(field, value)) != len(answers):
        raise FieldError(field, f"must have a list for each of the {len(answers)} completions")
    flags = {i: _texts(f"{field}[{i}]", labels, answers) for i, labels in enumerate(value)}
    return {i: labels for i, labels in flags.items() if labels}


def _criteria(field: str, value: Any, answers: Answers) -> dict[str, Any]:
    """Example: [{"criterion": "helpful", "ranking": [[0], [1]], "strength": 1, "strength_of": 2}]."""
    criteria = {}
    for i, given in enumerate(_list(field, value)):
        where = f"{field}[{i}]"
        said = _object(where, given)
        name = check_text(f"{where}.criterion", said.get("criterion"))
        if not CRITERION.fullmatch(name):
            raise FieldError(
                f"{where}.criterion",
                f"must be up to 30 small letters, digits and _, not {excerpt(name)}",
            )
        strength, of = strength_in(where, said, MAX_CRITERION_STRENGTH)
        ranking = check_ranking(f"{where}.ranking", said.get("ranking"), len(answers))
        criteria[name] = {"ranking": ranking, "strength": strength, "strength_of": of}
    return criteria


def _spans(field: str, value: Any, answers: Answers) -> list[dict[str, Any]]:
    """Example: [{"completion": 0, "start": 0, "end": 12, "label": "wrong"}]."""
    spans = []
    for i, given in enumerate(_list(field, value)):
        where = f"{field}[{i}]"
        span = _object(where, given)
        index, start, end = (span.get(name) for name in ("completion", "start", "end"))
        if type(index) is not int or not 0 <= index < len(answers):
            raise FieldError(
                f"{where}.completion", f"must be 0 to {len(answers) - 1}, not {excerpt(index)}"
            )
        length = len(answers[index].text)
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
            raise FieldError(
                where, f'must have "start" before "end", characters from 0 to {length}'
            )
        label = check_text(f"{where}.label", span.get("label"))
        spans.append({"completion": index, "start": start, "end": end, "label": label})
    return spans


CHECKS: dict[str, Callable[[str, Any, Answers], Any]] = {
    "criteria": _criteria,
    "reasons": _texts,
    "rationale": _text,
    "flags": _flags,
    "spans": _spans,
    "rewrite": _text,
    "seconds": _seconds,
}
