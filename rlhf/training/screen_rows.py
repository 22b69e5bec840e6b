"""The rows that a screening reads, and the keys by which rows are left out of training.

    held_out.jsonl        held-out prompts of the project, as prompts.jsonl has them
    rows.jsonl            of a project: {"kind": "prompt", "id", "prompt_key", "split", "messages"}, then
                          {"kind": "answer", "id", "prompt_key", "split", "text"}
    data/data.jsonl       of an export: pairs; data/demonstrations.jsonl and data/votes.jsonl besides, if
                          it has any: answers that people wrote, and such as nobody ranked
    dataset/data.jsonl    of a dataset: {"messages": […]} or {"text": …}

A prompt and an answer have the same key wherever they are: in a project, or in any export of it. A row of
a dataset is known by its place in the file, which never changes. No torch: the web process uses this too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.training.demonstrations import split_of

PROMPT, ANSWER, ROW = "prompt", "answer", "row"
HELD_OUT, ROWS, EXPORT_FOLDER, DATASET_FOLDER = "held_out.jsonl", "rows.jsonl", "data", "dataset"
FILES_OF_EXPORT = ("data.jsonl", "demonstrations.jsonl", "votes.jsonl")
TEST = "test"

Messages = Sequence[Mapping[str, Any]]


class Asked(NamedTuple):
    """What the user says, and how the conversation was set up."""

    text: str
    system: str = ""
    is_turn: bool = False  # one of several, without what was said before it


class Row(NamedTuple):
    key: str
    kind: str
    place: str  # where it is, in words
    text: str
    split: str  # "train", "test", or empty
    asked: Sequence[Asked] = ()  # in it, of which none must be a held-out prompt; first its prompt


# --- keys -------------------------------------------------------------------------------------
def prompt_key(key: str) -> str:
    return f"{PROMPT}-{key}"


def answer_key(key_of_prompt: str, text: str) -> str:
    """Of an answer to the prompt that has this hash."""
    digest = hashlib.sha256(f"{key_of_prompt}\n{text}".encode(errors="surrogatepass"))
    return f"{ANSWER}-{digest.hexdigest()}"


def row_key(dataset: str, number: int) -> str:
    """Example: "dataset-7-line-1" for its first row."""
    return f"{dataset}-line-{number}"


def keys_of(row: Mapping[str, Any]) -> list[str]:
    """Of a line of an export: its prompt's, and its answers'."""
    of_prompt = hash_of_prompt(row)
    answers = (answer_key(of_prompt, text) for _, text in answers_of(row))
    return [prompt_key(of_prompt), *answers]


def answers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a line of an export: what the answer is there, and its text."""
    for name in ("chosen", "rejected", "completion"):
        if name in row:
            yield name, text_of(row[name])
    for number, text in enumerate(row.get("completions", ()), 1):
        yield f"completion {number}", text


def hash_of_prompt(row: Mapping[str, Any]) -> str:
    """As the export has it; early ones lack it."""
    if known := row.get("prompt_key"):
        return str(known)
    content = json.dumps(row["prompt"], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def text_of(messages: Messages | str) -> str:
    if isinstance(messages, str):
        return messages
    return "\n\n".join(str(message.get("content") or "") for message in messages)


# --- reading ----------------------------------------------------------------------------------
def read_rows(folder: Path, screened: str) -> Iterator[Row]:
    """All that is to be looked at, each prompt and answer once."""
    if screened == "project":
        yield from of_project(folder / ROWS)
    elif screened.startswith("export-"):
        yield from of_export(folder / EXPORT_FOLDER)
    else:
        yield from of_dataset(folder / DATASET_FOLDER / "data.jsonl", screened)


def n_rows_at_most(folder: Path, screened: str) -> int:
    """Without reading what is in them: a prompt or an answer that an export repeats is counted each time."""
    if screened == "project":
        return _n_lines(folder / ROWS)
    if screened.startswith("export-"):
        pairs, written, votes = (folder / EXPORT_FOLDER / name for name in FILES_OF_EXPORT)
        return 3 * _n_lines(pairs) + 2 * _n_lines(written) + 3 * _n_lines(votes)  # mostly of two
    return _n_lines(folder / DATASET_FOLDER / "data.jsonl")


def _n_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def lines_of(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from map(json.loads, file)


def held_out_prompts(folder: Path) -> Iterator[Row]:
    """Of the project; and of what is screened itself, whose split may be another one."""
    for line in lines_of(folder / HELD_OUT):
        asked = asked_in(line["messages"])
        yield Row("", PROMPT, f"prompt {line['id']}", text_of(line["messages"]), TEST, asked)
    if (folder / EXPORT_FOLDER).exists():
        for row in of_export(folder / EXPORT_FOLDER):
            if row.kind == PROMPT and row.split == TEST:
                yield row
    if (dataset := folder / DATASET_FOLDER / "data.jsonl").exists():
        for row in of_dataset(dataset, DATASET_FOLDER):
            if row.asked and row.split == TEST:
                yield row


def of_project(path: Path) -> Iterator[Row]:
    for line in lines_of(path):
        of_prompt, split = line["prompt_key"], line["split"]
        if line["kind"] == PROMPT:
            messages = line.get(
                "messages", line.get("text")
            )  # of before, from a run that is resumed
            place, asked = f"prompt {line['id']}", asked_in(messages)
            yield Row(prompt_key(of_prompt), PROMPT, place, text_of(messages), split, asked)
        else:
            text, place = line["text"], f"answer {line['id']}"
            yield Row(answer_key(of_prompt, text), ANSWER, place, text, split)


def of_export(folder: Path) -> Iterator[Row]:
    """Prompts and answers of its pairs, answers that annotators have written, and those in comparisons
    that nobody ranked."""
    seen: set[bytes] = set()
    for name in FILES_OF_EXPORT:
        if not (folder / name).exists():
            continue
        for number, line in enumerate(lines_of(folder / name), 1):
            for row in _of_line(line, f"line {number} of {name}"):
                digest = hashlib.blake2b(row.key.encode(), digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield row


def _of_line(line: Mapping[str, Any], place: str) -> Iterator[Row]:
    of_prompt, split = hash_of_prompt(line), line.get("split", "")
    text, asked = text_of(line["prompt"]), asked_in(line["prompt"])
    yield Row(prompt_key(of_prompt), PROMPT, f"prompt in {place}", text, split, asked)
    for name, text in answers_of(line):
        yield Row(answer_key(of_prompt, text), ANSWER, f"{name} in {place}", text, split)


def of_dataset(path: Path, dataset: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path), 1):
        messages = line.get("messages")
        text = str(line.get("text") or "") if messages is None else text_of(messages)
        asked = () if messages is None else asked_in(before_last_answer(messages))
        yield Row(row_key(dataset, number), ROW, f"line {number}", text, split_of(line), asked)


def before_last_answer(messages: Messages) -> Messages:
    """The conversation up to what is to be learned.

    Example: [system, user, assistant] -> [system, user]
    """
    last = len(messages)
    while last and messages[last - 1].get("role") != "assistant":
        last -= 1
    return messages[: last - 1] if last else messages


def asked_in(prompt: Messages | str) -> list[Asked]:
    """A prompt as a whole, and each turn of the user's if there are several.

    Example: [system, user, assistant, user] -> [all but the system message, the first user's, the second's]
    """
    if isinstance(prompt, str):
        return [Asked(prompt)]
    has_system = bool(prompt) and prompt[0].get("role") == "system"
    system, said = text_of(prompt[:has_system]), prompt[has_system:]
    turns = [text_of([message]) for message in said if message.get("role") == "user"]
    whole = Asked(text_of(said), system)
    if len(said) == 1:
        return [whole]
    return [whole, *(Asked(turn, system, is_turn=True) for turn in turns)]
