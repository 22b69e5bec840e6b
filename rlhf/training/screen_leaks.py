"""Held-out prompts in what is learned from: as what is asked there, nearly so, or inside of it.

A system message at the beginning does not make a prompt another one, unless it is a short one such as “Hi”:
then two different system messages do. How texts are compared, and from which length on, is in screen_alike.py.
"""

from __future__ import annotations

from typing import NamedTuple

from rlhf.training.screen_alike import SHORTEST, Index, Like, normalised, widened
from rlhf.training.screen_rows import ANSWER, TEST, Asked, Row

ANCHOR = 16  # characters by which a place in a text is found; of any SHORTEST
STRIDE = SHORTEST - ANCHOR + 1  # ones, one anchor begins at a multiple of this
LONG = 100  # characters from which on a prompt inside a text need not end a sentence there
ENDS = frozenset(".?!。؟।|<>[](){}\"'“”‘’«»「」『』*#`")  # noqa: RUF001


class Leak(NamedTuple):
    code: str  # of CLASSES
    like: Like


class HeldOut:
    """Prompts that nothing is to learn from."""

    def __init__(self, near_percent: int) -> None:
        self._long = Index(near_percent)
        self._inside = Inside()
        self._short: dict[str, dict[str, Like]] = {}  # by text, then by system message

    def add(self, asked: Asked, place: str) -> None:
        plain = normalised(asked.text)
        like = Like(place, asked.text[:80], 100)
        if not plain:
            return
        if is_short(plain):
            self._short.setdefault(plain, {}).setdefault(normalised(asked.system), like)
        else:
            self._long.add(asked.text, place)
            self._inside.add(widened(plain), like)

    def leak_in(self, row: Row) -> Leak | None:
        """The worst in a row to learn from."""
        if row.split == TEST:
            return None
        found = [like for asked in row.asked if (like := self._find(asked))]
        if found:
            like = max(found, key=lambda each: each.percent)
            return Leak("exact_leak" if like.percent == 100 else "near_leak", like)
        inside = None if row.kind == ANSWER else self._inside.find(row.text)
        return Leak("quoted_leak", inside) if inside else None

    def _find(self, asked: Asked) -> Like | None:
        plain = normalised(asked.text)
        if not is_short(plain):
            return self._long.find(asked.text)
        by_system = {} if asked.is_turn else self._short.get(plain, {})
        system = normalised(asked.system)
        if system in by_system or not system:
            return by_system.get(system) or next(iter(by_system.values()), None)
        return by_system.get("")


def is_short(plain: str) -> bool:
    return len(widened(plain)) < SHORTEST


class Inside:
    """Texts that may stand within others, wherever: each is found by the anchors in one stretch of it, so a
    text is looked at only every `STRIDE` characters, however many are looked for."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._likes: list[Like] = []
        self._anchors: dict[str, list[tuple[int, int]]] = {}  # (number of a text, place in it)
        self._known: set[str] = set()

    def add(self, plain: str, like: Like) -> None:
        """Of a text of at least `SHORTEST` characters, normalised and widened."""
        if plain in self._known:
            return
        self._known.add(plain)
        start = self._rarest_stretch(plain)
        for place in range(start, start + STRIDE):
            anchor = plain[place : place + ANCHOR]
            self._anchors.setdefault(anchor, []).append((len(self._texts), place))
        self._texts.append(plain)
        self._likes.append(like)

    def _rarest_stretch(self, plain: str) -> int:
        """Many prompts begin, or end, with the same words; those would all be looked at."""
        last = len(plain) - SHORTEST
        starts = (0, last // 2, last)
        return min(starts, key=lambda at: len(self._anchors.get(plain[at : at + ANCHOR], ())))

    def find(self, text: str) -> Like | None:
        """The first that stands in it as a whole, and is not the beginning of a longer sentence."""
        plain = widened(normalised(text)) if self._texts else ""
        for at in range(0, len(plain) - ANCHOR + 1, STRIDE):
            for number, place in self._anchors.get(plain[at : at + ANCHOR], ()):
                wanted, start = self._texts[number], at - place
                if start >= 0 and plain.startswith(wanted, start):
                    end = start + len(wanted)
                    after = plain[end : end + 2]
                    if ends_there(wanted, after) or _ends_a_line(wanted, text):
                        return self._likes[number]
        return None


def ends_there(plain: str, after: str) -> bool:
    """Whether what follows does not go on with it.

    Example: "Write a function that sorts a list" is not there in "… a list of words by length".
    """
    following = after.strip()[:1]
    return len(plain) >= LONG or plain[-1] in ENDS or not following or following in ENDS


def _ends_a_line(plain: str, text: str) -> bool:
    return any(widened(normalised(line)).endswith(plain) for line in text.splitlines())
