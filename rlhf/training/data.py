"""Reading the files a run is given: prompts.jsonl, and data.jsonl and votes.jsonl of an export. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlhf.training.artifacts import RunError


class PromptLine(NamedTuple):
    """One line of prompts.jsonl: `{"id": …, "messages": [{"role": …, "content": …}, …]}`."""

    id: int
    messages: list[dict[str, str]]


class Generated(NamedTuple):
    """One line of completions.jsonl."""

    id: int  # of the prompt
    index: int  # type: ignore[assignment]  # among the prompt's completions; hides tuple.index
    completion: str
    n_tokens: int
    truncated: bool


class Vote(NamedTuple):
    """What one annotator said of a pair."""

    annotator: str  # a number, not a name
    prefers: str  # "chosen", "rejected" or "tie"
    first: str  # which of the two was shown first: "chosen" or "rejected"


class CompletionLine(NamedTuple):
    id: int
    text: str
    truncated: bool  # cut off at the length limit


class ComparisonLine(NamedTuple):
    """One line of comparisons.jsonl: completions of one prompt that people are to rank.

    `{"id": …, "messages": […], "completions": [{"id": …, "text": …, "truncated": …}, …]}`
    """

    id: int
    messages: list[dict[str, str]]
    completions: list[CompletionLine]


class Pair(NamedTuple):
    """One line of data.jsonl: two completions of a prompt and what people said of them."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    p_chosen: float  # share of the judgments that prefer `chosen`; a tie is half a judgment
    split: str  # "train" or "test"
    chosen_truncated: bool  # cut off at the length limit: it does not end with the end token
    rejected_truncated: bool
    n_judgments: int = 1
    weight: float = 1.0  # how much it counts in the loss, against other pairs
    margin: float = 0.0  # mean strength of preference for `chosen`
    tie_share: float = 0.0  # of the judgments; each is in p_chosen as half
    votes: tuple[Vote, ...] = ()  # one by one; empty where the export does not have them
    arm: str = ""  # "active": asked by expected information; "random": drawn; or neither
    first_vote: int = 0  # of the comparison: a lower one was given earlier
    comparison: int = 0  # its number: pairs of one ranking share it; 0 if it is unknown
    n_all_bad: int = 0  # judgments of the comparison that call all of its completions bad


class Offer(NamedTuple):
    """A comparison's completions, and how many people ranked them or found none of them good."""

    prompt: list[dict[str, str]]
    completions: list[str]
    truncated: list[bool]
    split: str
    n_bad: int
    n_ranked: int


class OfComparison(Protocol):
    @property
    def comparison(self) -> int: ...

    @property
    def n_judgments(self) -> int: ...


def n_votes(pairs: Iterable[OfComparison]) -> int:
    """Judgments on these pairs: a ranking of several completions is one, however many pairs it makes."""
    total, seen = 0, set()
    for pair in pairs:
        if pair.comparison not in seen:
            total += pair.n_judgments
        if pair.comparison:
            seen.add(pair.comparison)
    return total


def read_prompts(path: Path) -> list[PromptLine]:
    """All prompts of the file. Raises RunError with the number of the first bad line."""
    prompts = []
    for place, row in _rows(path):
        if not isinstance(row.get("id"), int):
            raise RunError(f"{place}: id must be a number, not {row.get('id')!r}")
        messages = _messages(place, "messages", row.get("messages"))
        if messages[-1]["role"] != "user":
            raise RunError(f"{place}: messages must end with what the user says")
        prompts.append(PromptLine(row["id"], messages))
    return prompts


def read_comparisons(path: Path) -> list[ComparisonLine]:
    """All comparisons of the file. Raises RunError with the number of the first bad line."""
    return [_comparison(place, row) for place, row in _rows(path)]


def _comparison(place: str, row: dict[str, Any]) -> ComparisonLine:
    if not isinstance(row.get("id"), int):
        raise RunError(f"{place}: id must be a number, not {row.get('id')!r}")
    messages = _messages(place, "messages", row.get("messages"))
    completions = row.get("completions")
    if (
        not isinstance(completions, list)
        or len(completions) < 2
        or not all(map(_is_completion, completions))
    ):
        raise RunError(
            f'{place}: completions must be a list of two or more {{"id": number, "text": text, '
            '"truncated": true or false}'
        )
    lines = [CompletionLine(c["id"], c["text"], c["truncated"]) for c in completions]
    return ComparisonLine(row["id"], messages, lines)


def _is_completion(value: Any) -> bool:
    types = {"id": int, "text": str, "truncated": bool}
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in types.items()
    )


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of an export's data.jsonl. Raises RunError with the number of the first bad line.

    Of the columns that TRL does not know, only those in Pair are read. Without p_chosen, the
    chosen completion is always preferred; without split, all pairs are for training.
    """
    return [_pair(place, row) for place, row in _rows(path)]


def _pair(place: str, row: dict[str, Any]) -> Pair:
    p_chosen = row.get("p_chosen", 1.0)
    if not isinstance(p_chosen, int | float) or not 0 <= p_chosen <= 1:
        raise RunError(f"{place}: p_chosen must be between 0 and 1, not {p_chosen!r}")
    split = row.get("split", "train")
    if split not in ("train", "test"):
        raise RunError(f"{place}: split must be 'train' or 'test', not {split!r}")
    tie_share = _number(place, row, "tie_share", 0.0, least=0)
    if tie_share > 1 - abs(2 * p_chosen - 1) + 1e-6:
        raise RunError(
            f"{place}: tie_share={tie_share:g} does not go with p_chosen={p_chosen:g}, in which a tie "
            "counts half"
        )
    return Pair(
        _messages(place, "prompt", row.get("prompt")),
        _completion(place, "chosen", row.get("chosen")),
        _completion(place, "rejected", row.get("rejected")),
        float(p_chosen),
        split,
        bool(row.get("chosen_truncated", False)),
        bool(row.get("rejected_truncated", False)),
        n_judgments=int(_number(place, row, "n_judgments", 1, least=1)),
        weight=_number(place, row, "weight", 1.0, least=0),
        margin=_number(place, row, "margin", 0.0),
        tie_share=tie_share,
        votes=_votes(place, row.get("votes") or []),
        arm=_arm(place, row.get("arm")),
        first_vote=int(_number(place, row, "first_vote", 0)),
        comparison=int(_number(place, row, "comparison", 0, least=0)),
        n_all_bad=int(_number(place, row, "n_all_bad", 0, least=0)),
    )


def read_offers(path: Path) -> list[Offer]:
    """The comparisons of an export's votes.jsonl that somebody judged, skips aside. Raises RunError with
    the number of the first bad line."""
    offers = (_offer(place, row) for place, row in _rows(path))
    return [offer for offer in offers if offer.n_bad + offer.n_ranked]


def _offer(place: str, row: dict[str, Any]) -> Offer:
    texts: Any = row.get("completions")
    truncated: Any = row.get("truncated")
    if not _are(texts, str) or not _are(truncated, bool) or len(texts) != len(truncated):
        raise RunError(f"{place}: completions must be a list of texts, and truncated say of each")
    judgments: Any = row.get("judgments")
    rulings: Any = row.get("rulings", [])
    if not _are(judgments, dict) or not _are(rulings, dict):
        raise RunError(f"{place}: judgments and rulings must be lists of objects")
    verdicts = [judgment.get("verdict") for judgment in (*judgments, *rulings)]
    return Offer(
        _messages(place, "prompt", row.get("prompt")),
        texts,
        truncated,
        row.get("split", "train"),
        verdicts.count("all_bad"),
        verdicts.count("ranking"),
    )


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


def offers_of(pairs: Sequence[Pair]) -> list[Offer]:
    """The comparisons that these pairs are of: all but those that nobody ranked, which have no pairs."""
    by_comparison: dict[int, list[Pair]] = {}
    for place, pair in enumerate(pairs):
        by_comparison.setdefault(pair.comparison or -place - 1, []).append(pair)
    return [_offer_of(of_one) for of_one in by_comparison.values()]


def _offer_of(pairs: Sequence[Pair]) -> Offer:
    """Example: pairs (a, b), (a, c), (b, c) -> completions a, b, c."""
    cut = {pair.chosen: pair.chosen_truncated for pair in pairs}
    cut |= {pair.rejected: pair.rejected_truncated for pair in pairs}
    n_ranked = max(pair.n_judgments for pair in pairs)
    first = pairs[0]
    return Offer(
        first.prompt, list(cut), list(cut.values()), first.split, first.n_all_bad, n_ranked
    )


def _number(
    place: str, row: dict[str, Any], column: str, default: float, least: float = -math.inf
) -> float:
    value = row.get(column, default)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or value < least:
        limit = "" if least == -math.inf else f" of at least {least:g}"
        raise RunError(f"{place}: {column} must be a number{limit}, not {value!r}")
    return float(value)


def _votes(place: str, value: Any) -> tuple[Vote, ...]:
    choices = {"prefers": ("chosen", "rejected", "tie"), "first": ("chosen", "rejected")}
    if not isinstance(value, list) or not all(
        isinstance(vote, dict)
        and isinstance(vote.get("annotator"), str)
        and all(vote.get(name) in known for name, known in choices.items())
        for vote in value
    ):
        raise RunError(
            f'{place}: votes must be a list of {{"annotator": text, "prefers": "chosen", '
            '"rejected" or "tie", "first": "chosen" or "rejected"}'
        )
    return tuple(Vote(vote["annotator"], vote["prefers"], vote["first"]) for vote in value)


def _arm(place: str, value: Any) -> str:
    if value not in ("active", "random", "", None):
        raise RunError(f"{place}: arm must be 'active', 'random' or empty, not {value!r}")
    return value or ""


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line as an object, with its place for messages: "data.jsonl, line 3"."""
    if not path.is_file():
        raise RunError(f"there is no file {path}")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path.name}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # also text that is not UTF-8
                raise RunError(f"{place}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise RunError(f"{place}: expected a JSON object, not {type(row).__name__}")
            yield place, row


def _messages(place: str, column: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        raise RunError(
            f'{place}: {column} must be a list of messages {{"role": …, "content": …}} '
            "whose values are text"
        )
    return value


def _completion(place: str, column: str, value: Any) -> str:
    """The text of a completion given as TRL's list of one assistant message."""
    if (
        not isinstance(value, list)
        or len(value) != 1
        or not _is_message(value[0])
        or value[0]["role"] != "assistant"
    ):
        raise RunError(f"{place}: {column} must be a list of one message of the assistant")
    return value[0]["content"]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )
