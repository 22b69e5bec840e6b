"""What is different between two texts, by words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import accumulate
from typing import NamedTuple

# Scripts without spaces are compared by character.
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"(?:[{_CJK}]|[^\W{_CJK}]+|[^\w\s])\s*|\s+")


MAX_EXACT = 250_000  # words of one text times words of the other
Span = tuple[int, int]


class Piece(NamedTuple):
    kind: str  # same, removed or added
    text: str


def split_words(text: str) -> list[str]:
    """Words and signs, each with the space behind it. Example: "a b, 東京" -> ["a ", "b", ", ", "東", "京"]."""
    return _WORD.findall(text)


def matching(before: list[str], after: list[str]) -> SequenceMatcher[str]:
    """Compares words by what is in them, not by the space behind. In long texts, words that are
    everywhere are no landmarks (difflib's autojunk): without that rule it would take minutes."""
    old, new = ([word.strip() for word in words] for words in (before, after))
    return SequenceMatcher(None, old, new, autojunk=len(old) * len(new) > MAX_EXACT)


def word_changes(before: str, after: str) -> list[Piece]:
    """Example: "be kind", "be very kind" -> same "be ", added "very ", same "kind"."""
    old, new = split_words(before), split_words(after)
    pieces = []
    for kind, i, i_end, j, j_end in matching(old, new).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("same", "".join(new[j:j_end])))
            continue
        if i < i_end:
            pieces.append(Piece("removed", "".join(old[i:i_end])))
        if j < j_end:
            pieces.append(Piece("added", "".join(new[j:j_end])))
    return pieces


def differing(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """What only one of the two texts has, as (start, end) in it, in UTF-16 units.

    Example: "a b", "a c d" -> [(2, 3)] and [(2, 5)].
    """
    words = split_words(first), split_words(second)
    changed = [code for code in matching(*words).get_opcodes() if code[0] != "equal"]
    return (
        _spans(words[0], [(i, i_end) for _, i, i_end, _, _ in changed]),
        _spans(words[1], [(j, j_end) for _, _, _, j, j_end in changed]),
    )


def _spans(words: list[str], ranges: Iterable[tuple[int, int]]) -> list[Span]:
    """Where the words are in the text, without the space behind the last one."""
    begins = [0, *accumulate(utf16_length(word) for word in words)]
    return [
        (begins[start], begins[end - 1] + utf16_length(words[end - 1].rstrip()))
        for start, end in ranges
        if start < end
    ]


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def shortened(pieces: list[Piece], keep: int = 120) -> list[Piece]:
    """Of long parts that are the same, only the `keep` characters beside what has changed."""
    last = len(pieces) - 1
    return [
        Piece("same", _ends(piece.text, keep if place else 0, keep if place < last else 0))
        if piece.kind == "same"
        else piece
        for place, piece in enumerate(pieces)
    ]


def _ends(text: str, start: int, end: int) -> str:
    """Example: "abcdefgh" with 2 and 3 -> "ab … fgh"."""
    if len(text) <= start + end + 3:
        return text
    return f"{text[:start]} … {text[len(text) - end :]}"
