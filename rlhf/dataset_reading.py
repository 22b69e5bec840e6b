"""What people send, as rows of a dataset: conversations to imitate, or running text.

Files are read by the annotator's readers, row by row: JSON lines, a JSON list, CSV, Parquet, packed with
gzip or not, and folders that `datasets` has saved. Of text, files ending in .txt, .md and the like are
taken too. All rows are good or none is taken: `BadRows` says what is wrong where.

A row's split follows from its prompt by the project's own rule, so a prompt that is held out for
evaluation is held out here as well.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from annotator.formats.entries import FieldError, check_prompt, check_text, excerpt
from annotator.formats.others import plain_messages
from annotator.formats.reading import NOT_ROWS, Row, open_rows, unpacked
from annotator.jsonl import answer_to
from annotator.models import canonical_key
from rlhf.models import DatasetKind
from rlhf.training.demonstrations import prompt_of

Record = Mapping[str, Any]
SplitOf = Callable[[str], str]  # of a key, as `Project.split_of`

BAD_ROWS_SAID = 10
ANSWERS = ("completion", "response", "output", "answer")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
            "system": "system"}  # fmt: skip
TEXT_ENDINGS = (".txt", ".md", ".markdown", ".rst", ".text")
SECTION_CHARACTERS = 4_000  # of a text file; what is cut is put together again in training
LONGEST_SECTION = 64_000  # where no blank line comes
FILES_TO_SPLIT_BY = 10  # with so many, whole files are held out


class BadRows(ValueError):
    """Some rows cannot be learnt from. The message names the first of them, a line each."""

    def __init__(self, problems: Sequence[str], *, is_cut: bool = False) -> None:
        self.problems = list(problems)
        super().__init__("\n".join([*problems, *(["… and more"] if is_cut else [])]))


class Source(NamedTuple):
    """A file, or a folder saved by `datasets`."""

    name: str  # as people know it
    path: Path


def sources_in(paths: Iterable[Path]) -> list[Source]:
    """Files as they are, and of folders all files below them that could be read, in order.

    Raises BadRows for a path that is not there, and a folder without such files.
    """
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise BadRows([f"There is no file or folder {path}."])
        if path.is_file() or (path / "state.json").exists():
            found.append(Source(path.name, path))
            continue
        inside = files_below(path)
        if not inside:
            raise BadRows([f"The folder {path} holds no file that could be read."])
        found += [Source(str(each.relative_to(path)), each) for each in inside]
    return found


def files_below(folder: Path) -> list[Path]:
    """All files in it, in order, but what is hidden and what a link leads to outside of it."""

    def is_wanted(path: Path) -> bool:
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.is_file() and not is_hidden and path.resolve().is_relative_to(folder.resolve())

    return [path for path in sorted(folder.rglob("*")) if is_wanted(path)]


def read(
    sources: Sequence[Source], kind: DatasetKind, split_of: SplitOf, *, column: str = "",
    max_bytes: int | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of a dataset of this kind, as they are read. Raises BadRows when all of it has been read, or
    so much is wrong that the rest does not matter.

    `column` is where the text stands in rows of text; else it is `text`.
    """
    problems: list[str] = []
    n_good = n_without_answer = 0
    for source, row in _rows_of(sources, kind, max_bytes):
        where = f"{source.name}, {row.place}" if len(sources) > 1 else row.place
        try:
            if isinstance(row.record, ValueError):
                raise row.record
            if kind == DatasetKind.TEXT:
                good = _text(row.record, column, split_of)
            else:
                good = demonstration(row.record, split_of)
        except NoAnswer as error:
            n_without_answer += 1
            problems.append(f"{where}: {error}")
        except ValueError as error:
            problems.append(f"{where}: {error}")
        else:
            n_good += 1
            if not problems:
                yield good
        if len(problems) > BAD_ROWS_SAID and n_good:
            break
    if problems and n_without_answer == len(problems) and not n_good:
        raise BadRows([
            "There is no answer of the assistant in any row, so there is nothing to learn: rows need "
            "messages with a turn of the assistant, or a prompt and a completion."
        ])  # fmt: skip
    if not n_good and not problems and kind == DatasetKind.DEMONSTRATIONS:
        names = ", ".join(source.name for source in sources)
        raise BadRows([
            f"{names}: no row was found. Rows are lines of JSON, a list of JSON, or a table with its columns' names "
            "in the first line."
        ])  # fmt: skip
    if problems:
        raise BadRows(problems[:BAD_ROWS_SAID], is_cut=len(problems) > BAD_ROWS_SAID)


def _rows_of(
    sources: Sequence[Source], kind: DatasetKind, max_bytes: int | None
) -> Iterator[tuple[Source, Row]]:
    by_file = len(sources) >= FILES_TO_SPLIT_BY
    for source in sources:
        try:
            if kind == DatasetKind.TEXT and is_text_file(source.name):
                with source.path.open("rb") as file:
                    for row in text_file(file, source.name, by_file=by_file):
                        yield source, row
            else:
                with open_rows(source.path, source.name, max_bytes=max_bytes) as rows:
                    for row in rows:
                        yield source, row
        except ValueError as error:  # Unreadable: the rest of the file cannot be
            raise BadRows([f"{source.name}: {error}"]) from error
        except OSError as error:
            raise BadRows([f"{source.name} cannot be read: {error.strerror or error}"]) from error


# --- demonstrations ---------------------------------------------------------------------------
class NoAnswer(ValueError):
    pass


def demonstration(record: Record, split_of: SplitOf) -> dict[str, Any]:
    """Raises ValueError with a sentence.

    Example: {"prompt": "Hi", "completion": "Hello."} -> {"messages": [{"role": "user", "content":
    "Hi"}, {"role": "assistant", "content": "Hello."}], "split": "train"}
    """
    messages = _messages(record)
    answers = [each for each in messages if each["role"] == "assistant"]
    if not answers:
        raise NoAnswer("there is no answer of the assistant in it: nothing to learn")
    for place, message in enumerate(messages):
        if message["role"] == "system" and place:
            raise FieldError(f"messages[{place}]", "is a system message; only the first may be one")
        if not message["content"].strip():
            raise FieldError(f"messages[{place}].content", "is empty; it must say something")
    if not any(each["role"] == "user" for each in prompt_of(messages)):
        raise FieldError("messages", "must have a message of the user before the answer")
    return {"messages": messages, "split": _said_split(record) or split_of(key_of(messages))}


def key_of(messages: Sequence[Mapping[str, str]]) -> str:
    """That of the project's prompt, if it is one."""
    return canonical_key(prompt_of(messages))


def _messages(record: Record) -> list[Any]:
    if "messages" in record:
        return list(plain_messages("messages", record["messages"]))
    if isinstance(record.get("conversations"), list):  # ShareGPT
        return list(
            plain_messages("conversations", [_turn(each) for each in record["conversations"]])
        )
    prompt_name = next(
        (name for name in ("prompt", "instruction", "question") if name in record), ""
    )
    if not prompt_name:
        raise FieldError("messages", 'is missing; so are "prompt" and "instruction"', "the field ")
    prompt = _prompt(record, prompt_name)
    answer = next((name for name in ANSWERS if name in record), "")
    if not answer:
        raise NoAnswer(f'there is no answer to it: "{ANSWERS[0]}" is missing')
    return [*prompt, {"role": "assistant", "content": answer_to(prompt, answer, record[answer])}]


def _prompt(record: Record, name: str) -> list[Any]:
    """With what Alpaca's rows give beside the instruction."""
    value = record[name]
    given = record.get("input")
    if name == "instruction" and isinstance(given, str) and given.strip():
        value = f"{check_text(name, value)}\n\n{check_text('input', given)}"
    if isinstance(value, list):
        value = plain_messages(name, value)
    return list(check_prompt(value, name))


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or "from" not in turn:
        return turn  # `check_messages` says what is wrong
    return {
        "role": SPEAKERS.get(str(turn["from"]).lower(), turn["from"]),
        "content": turn.get("value"),
    }


def _said_split(record: Record) -> str:
    """As exports say it. Of other files it would be a guess what they mean by it."""
    split = record.get("split")
    return split if split in ("train", "test") and "prompt_key" in record else ""


# --- running text -----------------------------------------------------------------------------
def _text(record: Record, column: str, split_of: SplitOf) -> dict[str, Any]:
    name = column or "text"
    if name not in record:
        columns = ", ".join(excerpt(each) for each in record) or "no columns"
        raise FieldError(name, f"is missing; there are {columns}", "the column ")
    text = check_text(name, record[name])
    group = record.get("group") or text
    row = {"text": text, "split": split_of(canonical_key(group))}
    return row | ({"continues": True} if record.get("continues") is True else {})


def is_text_file(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(TEXT_ENDINGS)


def text_file(file: IO[bytes], name: str, *, by_file: bool) -> Iterator[Row]:
    """The sections of a text file, cut at blank lines. All are in one split if whole files are held out.

    Raises ValueError if it is no text in UTF-8.
    """
    file, head = unpacked(file)
    for beginning, what in NOT_ROWS.items():
        if head.startswith(beginning) and beginning != b"<":
            raise ValueError(f"the file is {what}; it must be text in UTF-8")
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    held: tuple[int, str] | None = None  # a section is given when the next one is known to come
    for number, section in _sections(lines):
        if held:
            yield _section(*held, name if by_file else "", is_last=False)
        held = number, section
    if held:
        yield _section(*held, name if by_file else "", is_last=True)


def _section(number: int, text: str, group: str, *, is_last: bool) -> Row:
    record = {"text": text, "group": group, "continues": not is_last}
    return Row(f"line {number}", number, record)


def _sections(lines: IO[str]) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each. Blank lines alone are none."""
    text, first, number = "", 1, 0
    try:
        while line := lines.readline(LONGEST_SECTION):
            number += 1
            text += line
            is_long = len(text) >= LONGEST_SECTION
            if is_long or (not line.strip() and len(text) >= SECTION_CHARACTERS):
                if text.strip():
                    yield first, text
                text, first = "", number + 1
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"not UTF-8 after line {number}: byte 0x{byte:02x}; save the file as UTF-8"
        ) from None
    if text.strip():
        yield first, text
