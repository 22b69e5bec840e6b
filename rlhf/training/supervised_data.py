"""Text as tokens with labels, and which rows each optimiser step of a supervised run learns from.

The labels come from how chat templates write: what they write of a conversation begins with what they
write of its beginning. So an answer's tokens are those between the opening of the assistant's turn and
what comes next, whatever the template; it needs no marks of its own. Prompts become tokens as in
`models.encode`, answers as in `models.encode_completion`: what is learnt is what is asked for later.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from transformers import PreTrainedTokenizerBase
from trl import pack_dataset

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.demonstrations import Message, Row, read_rows
from rlhf.training.supervised_config import SupervisedConfig

IGNORED = -100  # the label of a token that is read, and not learnt
REWRITTEN = "rewritten_by_template"  # why conversations were left out
BATCHES_SORTED = 50  # together by length, so that little is padded and batches stay random


class Example(NamedTuple):
    input_ids: list[int]
    labels: list[int]  # the same, or IGNORED


# --- conversations ----------------------------------------------------------------------------
def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], stops: set[int]
) -> list[Example]:
    """All answers of a conversation in one example; one example per answer, where the template writes
    earlier turns differently once others follow (some leave out the reasoning).

    `stops` are the tokens that end an answer; the first of them is learnt with it, and no template's
    line end after it. Raises AnswerNotFound if a template writes an answer in other words than it has,
    RunError if it does not write it after its opening.
    """
    places = [place for place, each in enumerate(messages) if each["role"] == "assistant"]
    try:
        return [_encode(tokenizer, messages, places, stops)]
    except _Rewritten:
        pass
    try:
        return [_encode(tokenizer, messages, [place], stops) for place in places]
    except _Rewritten:
        raise RunError(
            "The model's chat template does not write an answer after the opening of the assistant's "
            "turn, so nobody can say which tokens are the answer's: choose another model."
        ) from None


class AnswerNotFound(Exception):
    """Nobody can say which of the characters that a template writes are the answer's."""


class _Rewritten(Exception):
    """What a template writes of a conversation does not begin with what it writes of its beginning."""


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    places: Sequence[int],  # of the answers to learn
    stops: set[int],
) -> Example:
    ids: list[int] = []
    labels: list[int] = []
    written = ""
    for place in places:
        before = _render(tokenizer, messages[:place], add_generation_prompt=True)
        after = _render(tokenizer, messages[: place + 1])
        if not before.startswith(written) or not after.startswith(before):
            raise _Rewritten
        prompt = _tokens(tokenizer, before.removeprefix(written))
        answer = _answer_tokens(
            tokenizer, after.removeprefix(before), messages[place]["content"], stops
        )
        ids += [*prompt, *answer.input_ids]
        labels += [*[IGNORED] * len(prompt), *answer.labels]
        written = after
    while labels and labels[-1] == IGNORED:  # a template's line end after the last answer
        ids.pop()
        labels.pop()
    if ids and ids[-1] not in stops:  # a template without end tokens: it shall end all the same
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
    return Example(ids, labels)


def _answer_tokens(
    tokenizer: PreTrainedTokenizerBase, turn: str, content: str, stops: set[int]
) -> Example:
    """Of what a template writes from the opening of the assistant's turn on."""
    said = content if content in turn else content.strip()
    # Written with other whitespace, for instance.
    if not turn.startswith(said) and turn.count(said) != 1:
        raise AnswerNotFound
    start = turn.find(said)
    head, tail = turn[:start], turn[start + len(said) :]
    # Control tokens that are spelt out in the answer stay plain text.
    body = tokenizer(said, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = [*_tokens(tokenizer, head), *body]
    end = _tokens(tokenizer, tail)
    n_learnt = next((n for n, token in enumerate(end, 1) if token in stops), len(end))
    return Example([*ids, *end], [*ids, *end[:n_learnt], *[IGNORED] * (len(end) - n_learnt)])


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- running text -----------------------------------------------------------------------------
def text_blocks(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], size: int
) -> Iterator[Example]:
    """Documents one after the other, an end token after each, cut into blocks of `size` tokens; the
    last one may be shorter."""
    ids: list[int] = []
    for row in rows:
        ids += tokenizer(row["text"], add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        if not row.get("continues"):
            ids.append(tokenizer.eos_token_id)
        n_whole = len(ids) // size * size
        for start in range(0, n_whole, size):
            block = ids[start : start + size]
            yield Example(block, block)
        ids = ids[n_whole:]
    if len(ids) > 1:
        yield Example(ids, ids)


# --- the datasets of a run --------------------------------------------------------------------
FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


class Part(NamedTuple):
    """A dataset of the run as tokens, in files that are read as they are needed."""

    name: str
    weight: float
    train: Dataset
    test: Dataset
    n_train: int  # rows, before they were packed
    left_out: dict[str, int]

    def lengths(self) -> list[int]:
        return self._lengths_in("input_ids")

    def conversations(self) -> list[int]:
        """How many there are in each row: several where they are packed."""
        if "seq_lengths" in self.train.column_names:
            return self._lengths_in("seq_lengths")
        return [1] * len(self.train)

    def _lengths_in(self, column: str) -> list[int]:
        chunks = self.train.data.column(column).chunks  # one by one: together they are copied
        return [length for chunk in chunks for length in chunk.value_lengths().to_pylist()]


def read_parts(
    folder: RunFolder, config: SupervisedConfig, tokenizer: PreTrainedTokenizerBase, stops: set[int]
) -> list[Part]:
    """Each dataset of the run. Raises RunError if one has nothing to learn from."""
    target = folder.path / ".tokens"
    return [
        _read_part(number, each, folder.path, target, config, tokenizer, stops)
        for number, each in enumerate(config.datasets)
    ]


def _read_part(
    number: int, dataset: dict[str, str], folder: Path, target: Path, config: SupervisedConfig,
    tokenizer: PreTrainedTokenizerBase, stops: set[int],
) -> Part:  # fmt: skip
    name, source = dataset["name"], folder / dataset["folder"] / "data.jsonl"
    left_out = {"too_long": 0, REWRITTEN: 0}

    def examples(split: str) -> Iterator[Example]:
        rows = read_rows(source, split)
        first = next(rows, None)
        if first is None:
            return
        if "text" in first:
            yield from text_blocks(tokenizer, _with(first, rows), config.max_tokens)
            return
        for row in _with(first, rows):
            try:
                found = encode_conversation(tokenizer, row["messages"], stops)
            except AnswerNotFound:
                left_out[REWRITTEN] += 1
                continue
            for example in found:
                if len(example.input_ids) > config.max_tokens:
                    left_out["too_long"] += 1
                else:
                    yield example

    try:
        train, test = (
            _stored(examples(split), target / f"{number}-{split}.arrow")
            for split in ("train", "test")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"The dataset “{name}” cannot be read: {error}") from error
    if not len(train):
        raise RunError(_nothing_to_learn(name, left_out, config.max_tokens))
    n_train = len(train)
    if config.packing:
        train = pack_dataset(train, config.max_tokens, "bfd")
    return Part(name, config.weights.get(name, 1.0), train, test, n_train, left_out)


def _with(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _nothing_to_learn(name: str, left_out: dict[str, int], max_tokens: int) -> str:
    if left_out[REWRITTEN]:
        return (
            f"The model's chat template rewrites answers of the dataset “{name}”, such as their line ends, so "
            "nobody can say which tokens are the answer's: choose another model, or write the answers as "
            "the template does."
        )
    if left_out["too_long"]:
        return (
            f"All rows of the dataset “{name}” that may be learnt from are longer than {max_tokens} "
            "tokens: make them shorter, or raise max_tokens if the model can read more."
        )
    return (
        f"All rows of the dataset “{name}” are held out, so there is nothing to learn from: it needs "
        "more rows."
    )


def _stored(examples: Iterator[Example], path: Path) -> Dataset:
    """In an Arrow file, so that memory does not grow with the data. Written anew at each start."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    with ArrowWriter(features=FEATURES, path=str(path)) as writer:
        for example in examples:
            writer.write(example._asdict())
        writer.finalize()
    return Dataset.from_file(str(path))


# --- batches ----------------------------------------------------------------------------------
class Pool(NamedTuple):
    """Some rows of one dataset: their places among the rows of all, and how long they are."""

    places: Sequence[int]
    lengths: Sequence[int]
    weight: float  # how often an epoch shows each


def epoch_batches(
    pools: Sequence[Pool], batch_size: int, mixing: str, seed: int, epoch: int
) -> list[list[int]]:
    """The places of each optimiser step's rows, in an order that follows from seed and epoch.

    Rows of similar length come together. With "alternating" a batch is of one dataset, and the
    batches of each are spread evenly over the epoch.
    """
    rng = random.Random(f"{seed}-{epoch}")
    shown = [_shown(pool, rng) for pool in pools]
    if mixing == "mixed":
        return _bucketed([row for rows in shown for row in rows], batch_size, rng)
    spread = []
    for number, rows in enumerate(shown):
        batches = _bucketed(rows, batch_size, rng)
        spread += [
            ((place + 0.5) / len(batches), number, batch) for place, batch in enumerate(batches)
        ]
    return [batch for _, _, batch in sorted(spread)]


def _shown(pool: Pool, rng: random.Random) -> list[tuple[int, int]]:
    """(length, place) of each row that an epoch shows, as often as it does. A weight of 2.5 shows each
    row twice, and half of them, drawn anew in each epoch, once more; at least one row is shown."""
    rows = list(zip(pool.lengths, pool.places, strict=True))
    whole = int(pool.weight)
    n_more = round((pool.weight - whole) * len(rows))
    if not whole:
        n_more = max(n_more, min(1, len(rows)))
    return [*rows * whole, *rng.sample(rows, n_more)]


def _bucketed(rows: list[tuple[int, int]], batch_size: int, rng: random.Random) -> list[list[int]]:
    rng.shuffle(rows)
    window = BATCHES_SORTED * batch_size
    batches = []
    for start in range(0, len(rows), window):
        near = sorted(rows[start : start + window])
        batches += [
            [place for _, place in near[first : first + batch_size]]
            for first in range(0, len(near), batch_size)
        ]
    rng.shuffle(batches)
    return batches


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices into `lengths`, grouped so that padding included no group has more than `max_tokens`;
    a longer row is alone. Example: [3, 9, 4], 9 -> [[0, 2], [1]]."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # In this order the newest is the longest, to which the group is padded.
        if groups and (len(groups[-1]) + 1) * lengths[index] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def part_of(pool: Pool, share: float, seed: int) -> Pool:
    """A part of the rows, which a larger part has too; at least one."""
    order = list(range(len(pool.places)))
    random.Random(seed).shuffle(order)
    kept = sorted(order[: max(1, round(share * len(order)))])
    return pool._replace(
        places=[pool.places[index] for index in kept],
        lengths=[pool.lengths[index] for index in kept],
    )
