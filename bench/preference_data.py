"""The pairs that bench/reward.py and its peer learn from, and those that tell how well: the same for
both.

A file of pairs is what the importer reads (known choices, in HH-RLHF's transcripts or any other
form), packed with gzip or not, or the data.jsonl of an export.
"""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from annotator.jsonl import parse_line
from rlhf.training.data import Pair, read_pairs
from rlhf.training.models import encode, encode_completion


class Selection(NamedTuple):
    train: list[Pair]
    held_out: list[Pair]  # of other prompts
    tokens: int  # of all conversations to learn from, two a pair, without padding


def select_pairs(
    path: Path, tokenizer: PreTrainedTokenizerBase, n: int, max_tokens: int
) -> Selection:
    """The first n pairs whose conversations fit into `max_tokens` tokens, and the next n that fit and
    whose prompts are none of theirs; of an export, the first n of each split.

    Ends the program with a sentence if there are not as many.
    """
    pairs = read_choices(path)
    rest = [pair for pair in pairs if pair.split == "test"]
    fitting = _fitting([pair for pair in pairs if pair.split == "train"], tokenizer, max_tokens)
    train = list(itertools.islice(fitting, n))
    seen = {_key(pair) for pair, _ in train}
    others = _fitting(rest, tokenizer, max_tokens) if rest else fitting
    unseen = (pair for pair, _ in others if _key(pair) not in seen)
    held_out = list(itertools.islice(unseen, n))
    if len(held_out) < n:
        sys.exit(
            f"{path} has {len(train)} pairs to learn from and {len(held_out)} to hold out that fit "
            f"into {max_tokens} tokens, but {n} of each are asked for: lower --pairs or raise "
            "--max-tokens."
        )
    return Selection([pair for pair, _ in train], held_out, sum(tokens for _, tokens in train))


def read_choices(path: Path) -> list[Pair]:
    """All pairs of which one is the better. Lines that cannot be imported are left out."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = file.readlines()
    if "p_chosen" in json.loads(lines[0]):
        return [pair for pair in read_pairs(path) if pair.p_chosen > 0.5]
    return list(_known_choices(lines))


def _known_choices(lines: Iterable[bytes]) -> Iterator[Pair]:
    for line in lines:
        try:
            entry = parse_line(line)
        except ValueError:
            continue
        if entry.chosen is not None:
            better, worse = entry.answers[entry.chosen], entry.answers[1 - entry.chosen]
            yield Pair(entry.messages, better.text, worse.text, 1.0, "train", False, False)


def _fitting(
    pairs: Iterable[Pair], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Iterator[tuple[Pair, int]]:
    """Those that fit, each with the tokens of both conversations."""
    for pair in pairs:
        prompt = len(encode(tokenizer, pair.prompt))
        lengths = [
            prompt + len(encode_completion(tokenizer, text))
            for text in (pair.chosen, pair.rejected)
        ]
        if max(lengths) <= max_tokens:
            yield pair, sum(lengths)


def _key(pair: Pair) -> str:
    return json.dumps(pair.prompt)
