"""Documents in passages: whole paragraphs, as many as fit."""

from __future__ import annotations

import re

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?…]\s|[。！？]|\n")  # noqa: RUF001 (as Chinese and Japanese end theirs)


def passages_of(text: str, size: int, overlap: int) -> list[str]:
    """Passages of up to `size` characters. Each begins with the last whole paragraphs of the one before, up to
    `overlap` characters, so that what belongs together is found together.

    A paragraph that is longer is cut after a sentence, else at a space, else where it has to be.
    Example: "aa\n\nbb\n\ncc", 6, 2 -> ["aa\n\nbb", "bb\n\ncc"]
    """
    passages: list[list[str]] = []
    current: list[str] = []
    for piece in _pieces(text, size):
        if current and _length([*current, piece]) > size:
            passages.append(current)
            current = _end_of(current, min(overlap, size - len(piece) - 2))
        current = [*current, piece]
    return ["\n\n".join(pieces) for pieces in [*passages, current] if pieces]


def _pieces(text: str, size: int) -> list[str]:
    """Paragraphs, the long ones cut."""
    found = []
    for paragraph in filter(None, map(str.strip, _PARAGRAPH.split(text))):
        while len(paragraph) > size:
            place = _place_to_cut(paragraph, size)
            found.append(paragraph[:place].rstrip())
            paragraph = paragraph[place:].lstrip()
        found.append(paragraph)
    return [piece for piece in found if piece]


def _place_to_cut(paragraph: str, size: int) -> int:
    """In the second half, so that no passage is tiny."""
    window = paragraph[:size]
    ends = [match.end() for match in _SENTENCE_END.finditer(window)]
    spaces = [match.end() for match in re.finditer(r"\s", window)]
    return next((places[-1] for places in (ends, spaces) if places and places[-1] > size / 2), size)


def _end_of(pieces: list[str], room: int) -> list[str]:
    for start in range(1, len(pieces) + 1):
        if _length(pieces[start:]) <= room:
            return pieces[start:]
    return []


def _length(pieces: list[str]) -> int:
    return len("\n\n".join(pieces))
