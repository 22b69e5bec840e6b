"""Texts that are the same, or nearly so: hashes of normalised text, MinHash and LSH by rensa.

How much two texts are alike is the Jaccard similarity of their sets of character 5-grams, which works
in every script, with or without spaces; a Chinese, Japanese or Korean character, which says more than a
letter, counts as three. It is estimated from 128 hash values each: give or take 0.06 at two standard errors. Texts with different numbers are never nearly the same, as in
annotator/screening.py: one digit is what makes an exercise another one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH

NGRAM = 5  # characters
HASHES = 128  # per text
RECALL = 0.99  # of the pairs that are just as alike as asked for
CANDIDATES = 50  # looked at for each text
SHORTEST = 30  # characters; shorter texts have too few 5-grams to be nearly the same
LONGEST = 20_000  # characters that are compared of a long text
NUMBER = re.compile(r"\d+")
DENSE = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]"
)  # kana, Han, Hangul
# Soft hyphens, zero-width characters, marks of direction, selectors of variants, tags.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e0fff]"
)
WORD = re.compile(r"\w+")
LATIN, CYRILLIC = re.compile("[a-z]"), re.compile("[\u0430-\u052f]")
LOOKALIKES = str.maketrans("авекмнорстухіјѕһԁԛԝ", "abekmhopctyxijshdqw")


def normalised(text: str) -> str:
    """Without differences of capitals, white space and Unicode's compatible forms, without characters that
    nobody sees, and with Latin letters where Cyrillic ones stand among them."""
    if text.isascii():
        return " ".join(text.casefold().split())
    plain = unicodedata.normalize("NFKC", UNSEEN.sub("", text)).casefold()
    if CYRILLIC.search(plain):
        plain = WORD.sub(_in_one_script, plain)
    return " ".join(plain.split())


def _in_one_script(word: re.Match[str]) -> str:
    return word[0].translate(LOOKALIKES) if LATIN.search(word[0]) else word[0]


def widened(plain: str) -> str:
    """With characters that say as much as a syllable or a word three times, so that lengths mean the same."""
    return plain if plain.isascii() else DENSE.sub(r"\g<0>\g<0>\g<0>", plain)


class Like(NamedTuple):
    place: str
    excerpt: str
    percent: int  # 100: the same but for capitals and spaces


class Index:
    """Texts added so far. Of those that are alike only the first is kept, so memory follows the number
    of distinct texts: some 2.5 KB each, whatever their length."""

    def __init__(self, near_percent: int) -> None:
        self._threshold = near_percent / 100
        self._first: dict[bytes, int] = {}
        self._lsh = RMinHashLSH(
            threshold=self._threshold, num_perm=HASHES, num_bands=bands_for(self._threshold)
        )
        self._sketches: dict[int, RMinHash] = {}
        self._numbers: list[bytes] = []
        self._shown: list[tuple[str, str]] = []

    def find(self, text: str) -> Like | None:
        """The first that is the same, else one that is nearly the same, else None."""
        return self._find(normalised(text))[0]

    def add(self, text: str, place: str) -> Like | None:
        """As `find`; what is like nothing before is kept."""
        plain = normalised(text)
        like, sketch = self._find(plain)
        if like is None:
            number = len(self._shown)
            self._first[_digest(plain)] = number
            self._shown.append((place, text[:80]))
            self._numbers.append(_numbers_in(plain))
            if sketch is not None:
                self._lsh.insert(number, sketch)
                self._sketches[number] = sketch
        return like

    def _find(self, plain: str) -> tuple[Like | None, RMinHash | None]:
        if (first := self._first.get(_digest(plain))) is not None:
            return self._like(first, 100), None
        if len(widened(plain)) < SHORTEST or self._threshold == 1:
            return None, None
        sketch = sketch_of(plain)
        numbers = _numbers_in(plain)
        for candidate in sorted(self._lsh.query(sketch))[:CANDIDATES]:
            similarity = sketch.jaccard(self._sketches[candidate])
            if similarity >= self._threshold and self._numbers[candidate] == numbers:
                return self._like(candidate, min(int(similarity * 100), 99)), sketch
        return None, sketch

    def _like(self, number: int, percent: int) -> Like:
        place, excerpt = self._shown[number]
        return Like(place, excerpt, percent)


def sketch_of(plain: str) -> RMinHash:
    part = widened(plain[:LONGEST])[:LONGEST]
    sketch = RMinHash(num_perm=HASHES, seed=1)
    sketch.update(list({part[i : i + NGRAM] for i in range(len(part) - NGRAM + 1)}))
    return sketch


def are_alike(first: str, second: str, near_percent: int) -> bool:
    """Whether one would be found as the same as, or nearly, the other."""
    one, other = normalised(first), normalised(second)
    if one == other:
        return True
    if min(len(widened(one)), len(widened(other))) < SHORTEST or NUMBER.findall(
        one
    ) != NUMBER.findall(other):
        return False
    return _kept_sketch(one).jaccard(_kept_sketch(other)) * 100 >= near_percent


@lru_cache(maxsize=512)
def _kept_sketch(plain: str) -> RMinHash:
    return sketch_of(plain)


def bands_for(threshold: float) -> int:
    """The fewest bands of equal width with which LSH finds pairs at the threshold with `RECALL`:
    1 - (1 - t^r)^b with b bands of r hash values (Leskovec, Rajaraman, Ullman 2014, section 3.4).

    Example: 16 bands of 8 at 0.85, 32 of 4 at 0.8.
    """
    for rows in (16, 8, 4, 2):
        bands = HASHES // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands
    return HASHES


def _digest(plain: str) -> bytes:
    return hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=16).digest()


def _numbers_in(plain: str) -> bytes:
    return _digest(" ".join(NUMBER.findall(plain)))
