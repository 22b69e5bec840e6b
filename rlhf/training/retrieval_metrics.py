"""How well passages are found, where it is known which are relevant. Pure functions; no torch.

Of each question the gains are 1 for a relevant passage and 0 for any other, from the first found on. A document
may be named instead of a passage: any of its passages is then relevant, and its second one gains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rlhf.training.retrieval import Collection, Passage

RELEVANT = "relevant.jsonl"
K = 5


class Relevant(NamedTuple):
    """A line of relevant.jsonl."""

    question: str
    relevant: list[str]  # names of passages ("Opening hours#2") or titles of documents


def gains_of(found: Sequence[Passage], relevant: Iterable[str]) -> list[int]:
    """Example: passages a#1, b#1, b#2 and relevant {"b"} -> [0, 1, 0]"""
    left, gains = set(relevant), []
    for passage in found:
        hit = {passage.name, passage.document} & left
        left -= hit
        gains.append(int(bool(hit)))
    return gains


def hit_at_k(gains: Sequence[int], k: int) -> float:
    """Whether a relevant one is among the first k."""
    return float(any(gains[:k]))


def reciprocal_rank(gains: Sequence[int]) -> float:
    """1 / the place of the first relevant one; 0 if there is none. Its mean is MRR (Voorhees 1999)."""
    return next((1 / place for place, gain in enumerate(gains, 1) if gain), 0.0)


def ndcg(gains: Sequence[int], n_relevant: int, k: int) -> float:
    """Σ gain / log₂(place + 1) over the first k, as a share of the best possible (Järvelin and Kekäläinen
    2002). Example: [0, 1], one relevant, k = 2 -> (1 / log₂ 3) / 1 = 0.631"""
    best = _dcg([1] * min(n_relevant, k))
    return _dcg(gains[:k]) / best if best else 0.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, 1))


def measure(collection: Collection, rows: Sequence[Relevant], k: int = K) -> dict[str, float]:
    """Means over the questions, as the collection's page shows them."""
    found = [
        (gains_of(collection.find(row.question, k), row.relevant), len(set(row.relevant)))
        for row in rows
    ]
    return {
        "k": k,
        "n_questions": len(rows),
        "hit_at_k": fmean(hit_at_k(gains, k) for gains, _ in found),
        "mrr": fmean(reciprocal_rank(gains) for gains, _ in found),
        "ndcg": fmean(ndcg(gains, n, k) for gains, n in found),
    }


def read_relevant(path: Path) -> list[Relevant]:
    """Of a collection's folder; empty if nobody has said what is relevant."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Relevant(**json.loads(line)) for line in lines if line]
