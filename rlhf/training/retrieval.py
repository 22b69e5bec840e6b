"""Finding texts by BM25: passages of documents for a question, and the examples most like it.

    passages.jsonl   one passage a line: {"document": title, "number": of it, "text": …}
    bm25/            their index, as bm25s writes it
    embeddings.safetensors, encoder/   only where an encoder finds them (dense.py)

Words are compared as they stand, without stemming and without a list of stop words, so that every
language is treated alike; scripts without spaces are compared by character. No torch here: the web
process shows what would be found.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import unicodedata
from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

PASSAGES, BM25, EMBEDDINGS = "passages.jsonl", "bm25", "embeddings.safetensors"

# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, Chinese, Japanese. Korean has spaces.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff"
# Vowel signs of Hindi or Tamil, points of Arabic or Hebrew: parts of a word that are no letters by themselves.
# Those of 16 bits: with rarer scripts' ones the search is several times slower.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c)[0] == "M")
_MARKS = re.sub(f"[{_UNSPACED}]", "", _MARKS)
_LETTERS = rf"[^\W_{_UNSPACED}]"
_TOKEN = re.compile(rf"[{_UNSPACED}]|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")


class Passage(NamedTuple):
    """A piece of a document: a line of passages.jsonl."""

    document: str  # its title
    number: int  # of the passage in it, from 1
    text: str

    @property
    def name(self) -> str:
        """Example: "Opening hours#2"."""
        return f"{self.document}#{self.number}"


class Search(Protocol):
    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Up to `k` places of texts with their scores, the best first."""


def tokens(text: str) -> list[str]:
    """Example: "Open at 9, 東京" -> ["open", "at", "9", "東", "京"]"""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


class Bm25:
    """BM25 as in Lucene (k1 = 1.5, b = 0.75), by bm25s."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        index = _bm25s().BM25()
        # A text without a word is one empty word: bm25s cannot count none.
        index.index([tokens(text) or [""] for text in texts], show_progress=False)
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(_bm25s().BM25.load(str(folder), load_corpus=False, mmap=True))

    def save(self, folder: Path) -> None:
        self._index.save(str(folder), show_progress=False)

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Only texts that share a word with the query; of equals the first."""
        words = tokens(query)
        if not words:
            return []
        scores = self._index.get_scores(words)
        best = (-scores).argsort(kind="stable")[:k]
        return [(int(place), float(scores[place])) for place in best if scores[place] > 0]


def _bm25s() -> Any:
    import bm25s  # noqa: PLC0415 (brings numpy, which most processes of the web side never need)

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of each index that it makes
    return bm25s


class PassageFile(Sequence[Passage]):
    """The lines of passages.jsonl, read one by one: a large collection stays on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _starts(self) -> array[int]:
        starts, place = array("Q"), 0
        with self.path.open("rb") as file:
            for line in file:
                starts.append(place)
                place += len(line)
        return starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, place: Any) -> Any:
        with self.path.open("rb") as file:
            file.seek(self._starts[place])
            return Passage(**json.loads(file.readline()))


class Collection:
    """A frozen folder of passages, and the way in which they are found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passages = PassageFile(folder / PASSAGES)

    @property
    def is_dense(self) -> bool:
        return (self.folder / EMBEDDINGS).exists()

    @cached_property
    def _search(self) -> Search:
        """An encoder's if the collection has one: it needs PyTorch, which only runs may import."""
        if self.is_dense:
            return importlib.import_module("rlhf.training.dense").Dense(self.folder)
        return self.by_words

    @cached_property
    def by_words(self) -> Bm25:
        return Bm25.load(self.folder / BM25)

    def find(self, query: str, k: int, *, by_words: bool = False) -> list[Passage]:
        search = self.by_words if by_words else self._search
        return [self.passages[place] for place, _ in search.search(query, k)]


@lru_cache(maxsize=4)
def collection_of(folder: str) -> Collection:
    """Kept, because collections never change."""
    return Collection(Path(folder))


def write_passages(folder: Path, passages: Sequence[Passage]) -> None:
    """passages.jsonl and the index of its words."""
    with (folder / PASSAGES).open("w", encoding="utf-8") as file:
        for passage in passages:
            file.write(json.dumps(passage._asdict(), ensure_ascii=False) + "\n")
    Bm25.of([f"{passage.document}\n{passage.text}" for passage in passages]).save(folder / BM25)
