"""What one line of an import file says. docs/data-format.md lists the forms.

Every mistake is a ValueError whose message names the field, what is wrong and what would be right.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # so that files can be read without Django
    from annotator.models import Message

MAX_LINE_BYTES = 2**20
MAX_SOURCE_LENGTH = 200  # of the column in the database
FIELDS = {
    "prompt", "completions", "sources", "truncated", "chosen", "rejected", "expected",
    "explanation",
}  # fmt: skip
ROLES = ("system", "user", "assistant")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
LAST_TURN = "\n\nAssistant:"


class Answer(NamedTuple):
    """A completion as the file gives it."""

    text: str
    source: str = "import"
    is_truncated: bool = False


class Entry(NamedTuple):
    """A prompt, the completions to compare (none or 2 to 9), and the one known to be better.

    With `expected` it is a known answer: the ranking that is right, as tie groups of indices.
    """

    messages: list[Message]
    answers: list[Answer]
    chosen: int | None = None  # index into answers
    ignored: list[str] = []  # names of fields that mean nothing here
    expected: list[list[int]] | None = None
    explanation: str = ""
    hold: str = ""  # what screening finds, not the file


def parse_line(line: bytes) -> Entry:
    """Raises ValueError for everything that cannot be imported."""
    try:
        return _parse_row(_parse_object(line))
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def _parse_row(row: dict[str, Any]) -> Entry:
    ignored = sorted(row.keys() - FIELDS)
    if "chosen" in row or "rejected" in row:
        return _parse_choice(row)._replace(ignored=ignored)
    if "prompt" not in row:
        raise ValueError('the field "prompt" is missing; so are "chosen" and "rejected"')
    answers = _parse_completions(row)
    return Entry(
        check_prompt(row["prompt"]),
        answers,
        ignored=ignored,
        expected=_parse_expected(row, len(answers)),
        explanation=_parse_explanation(row),
    )


def _parse_object(line: bytes) -> dict[str, Any]:
    """The fields that are given: null is as good as missing."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}; "
            "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        where = error.doc[max(error.pos - 15, 0) : error.pos + 15].strip()
        raise ValueError(
            f"broken JSON: {error.msg.removesuffix(' at')} at column {error.colno}, "
            f"near {excerpt(where)}"
        ) from None
    except ValueError:  # Python's limit against numbers that take minutes to read
        raise ValueError("broken JSON: a number has thousands of digits") from None
    if not isinstance(row, dict):
        raise ValueError(f'a line must be an object like {{"prompt": …}}, not {excerpt(row)}')
    return {name: value for name, value in row.items() if value is not None}


# --- known choices ----------------------------------------------------------------------------
def _parse_choice(row: dict[str, Any]) -> Entry:
    for name in ("chosen", "rejected"):
        if name not in row:
            raise ValueError(f'the field "{name}" is missing; "chosen" and "rejected" go together')
    for name in ("completions", "sources", "truncated", "expected", "explanation"):
        if name in row:
            raise ValueError(f'the field "{name}" cannot stand beside "chosen" and "rejected"')
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row:
        messages = check_prompt(row["prompt"])
        chosen = _answer_to(messages, "chosen", chosen)
        rejected = _answer_to(messages, "rejected", rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        messages, chosen, rejected = _split_transcripts(chosen, rejected)
    else:
        messages, chosen, rejected = _split_conversations(chosen, rejected)
    # By their text: if the better one always came first, its place would give it away.
    answers = sorted([Answer(chosen), Answer(rejected)])
    _check_distinct(answers, ["chosen", "rejected"])
    return Entry(messages, answers, chosen=answers.index(Answer(chosen)))


def _answer_to(prompt: list[Message], field: str, value: Any) -> str:
    """The text of an answer given as such, as one message, or with the prompt before it."""
    if isinstance(value, str):
        return _check_text(field, value, may_be_empty=True)
    messages = _check_messages(field, value)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f'"{field}" must end with a message of the assistant')
    if messages[:-1] not in ([], prompt):
        raise ValueError(
            f'"{field}" must be one message of the assistant, or the prompt and that message'
        )
    return messages[-1]["content"]


def _split_conversations(chosen: Any, rejected: Any) -> tuple[list[Message], str, str]:
    """Two whole conversations that differ in their last message."""
    one, other = _check_messages("chosen", chosen), _check_messages("rejected", rejected)
    if one[-1]["role"] != "assistant" or other[-1]["role"] != "assistant":
        raise ValueError('"chosen" and "rejected" must end with a message of the assistant')
    if one[:-1] != other[:-1]:
        raise ValueError(
            '"chosen" and "rejected" must be alike up to the last message, or stand beside a "prompt"'
        )
    if len(one) == 1:
        raise ValueError(
            '"chosen" and "rejected" hold no prompt, and the field "prompt" is missing'
        )
    return check_prompt(one[:-1]), one[-1]["content"], other[-1]["content"]


def _split_transcripts(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """Two transcripts as in HH-RLHF, "\\n\\nHuman: …\\n\\nAssistant: …", alike up to the last turn."""
    parts = []
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        _check_text(field, text)
        before, turn, answer = text.rpartition(LAST_TURN)
        if not turn or "\n\nHuman:" in answer:
            raise ValueError(
                f'"{field}" must be a transcript that ends with an "Assistant:" turn, '
                f'as the field "prompt" is missing; it ends with {excerpt(text[-30:])}'
            )
        parts.append((before, answer.strip()))
    (prompt, better), (other_prompt, worse) = parts
    if prompt != other_prompt:
        at = next(
            (i for i, (a, b) in enumerate(zip(prompt, other_prompt, strict=False)) if a != b),
            min(len(prompt), len(other_prompt)),
        )
        raise ValueError(
            '"chosen" and "rejected" must be alike up to the last "Assistant:" turn; they differ '
            f"from character {at + 1}: {excerpt(chosen[at : at + 25])} against "
            f"{excerpt(rejected[at : at + 25])}"
        )
    return _parse_transcript(prompt), better, worse


def _parse_transcript(text: str) -> list[Message]:
    """Example: "\\n\\nHuman: Hi!" -> [{"role": "user", "content": "Hi!"}]."""
    before, *turns = TURN.split(text.strip())
    if before:
        raise ValueError(
            f'a transcript must begin with a "Human:" turn, not with {excerpt(before)}'
        )
    speakers, contents = turns[::2], turns[1::2]
    return check_prompt(
        [
            {"role": SPEAKERS[speaker], "content": content.strip()}
            for speaker, content in zip(speakers, contents, strict=True)
        ]
    )


# --- completions ------------------------------------------------------------------------------
def _parse_completions(row: dict[str, Any]) -> list[Answer]:
    for name in ("sources", "truncated", "expected"):
        if name in row and "completions" not in row:
            raise ValueError(f'the field "{name}" needs the field "completions"')
    if "completions" not in row:
        return []
    texts = row["completions"]
    if not isinstance(texts, list) or not 2 <= len(texts) <= 9:
        raise ValueError(f'"completions" must be a list of 2 to 9 texts, not {excerpt(texts)}')
    sources = _parallel(row, "sources", str, "text", ["import"] * len(texts))
    truncated = _parallel(row, "truncated", bool, "true or false", [False] * len(texts))
    answers = []
    for i, (text, source, is_truncated) in enumerate(zip(texts, sources, truncated, strict=True)):
        _check_text(f"completions[{i}]", text, may_be_empty=True)
        _check_text(f"sources[{i}]", source)
        if len(source) > MAX_SOURCE_LENGTH:
            raise ValueError(f'"sources[{i}]" is longer than {MAX_SOURCE_LENGTH} characters')
        answers.append(Answer(text, source, is_truncated))
    _check_distinct(answers, [f"completions[{i}]" for i in range(len(answers))])
    return answers


def _parse_expected(row: dict[str, Any], n_answers: int) -> list[list[int]] | None:
    if "expected" not in row:
        return None
    groups = row["expected"]
    is_ranking = isinstance(groups, list) and all(
        isinstance(group, list) and group and all(type(index) is int for index in group)
        for group in groups
    )
    if not is_ranking or sorted(i for group in groups for i in group) != list(range(n_answers)):
        example = [[index] for index in range(n_answers)]
        raise ValueError(
            f'"expected" must list the numbers 0 to {n_answers - 1} of the completions in groups of '
            f"ties, best first, each once, like {example}, not {excerpt(groups)}"
        )
    return groups


def _parse_explanation(row: dict[str, Any]) -> str:
    if "explanation" in row and "expected" not in row:
        raise ValueError('the field "explanation" needs the field "expected"')
    return _check_text("explanation", row.get("explanation", ""), may_be_empty=True)


def _parallel(row: dict[str, Any], name: str, kind: type, words: str, default: list[Any]) -> Any:
    values = row.get(name, default)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f'"{name}" must be a list of {words}, not {excerpt(values)}')
    if len(values) != len(default):
        raise ValueError(
            f'"{name}" must have as many items as "completions": {len(default)}, not {len(values)}'
        )
    return values


def _check_distinct(answers: list[Answer], names: list[str]) -> None:
    seen: dict[str, str] = {}
    for answer, name in zip(answers, names, strict=True):
        text = answer.text.strip()
        if text in seen:
            raise ValueError(
                f'"{seen[text]}" and "{name}" are the same text, {excerpt(text)}: '
                "there is nothing to compare"
            )
        seen[text] = name


# --- messages and text ------------------------------------------------------------------------
def check_prompt(value: Any) -> list[Message]:
    """The messages of a prompt given as messages, as a text, or as a transcript of the HH kind.

    A transcript may end with "Assistant:", where the answer would begin.
    """
    if isinstance(value, str):
        _check_text("prompt", value)
        text = value.strip()
        if TURN.match(text):
            return _parse_transcript(text.removesuffix(LAST_TURN))
        return [{"role": "user", "content": value}]
    messages = _check_messages("prompt", value)
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise ValueError(
                f'"prompt[{i}]" is a system message; only the first message may be one'
            )
        if not message["content"].strip():
            raise ValueError(f'"prompt[{i}].content" is empty; every message must say something')
    if messages[-1]["role"] != "user":
        raise ValueError(
            f'"prompt" must end with a message of the user, not of the {messages[-1]["role"]}'
        )
    return messages


def _check_messages(field: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'"{field}" must be text or a list of messages {{"role": …, "content": …}}, '
            f"not {excerpt(value)}"
        )
    return [_check_message(f"{field}[{i}]", message) for i, message in enumerate(value)]


def _check_message(field: str, value: Any) -> Message:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise ValueError(
            f'"{field}" must be a message {{"role": …, "content": …}}, not {excerpt(value)}'
        )
    if value["role"] not in ROLES:
        raise ValueError(
            f'"{field}.role" must be system, user or assistant, not {excerpt(value["role"])}'
        )
    content = _check_text(f"{field}.content", value["content"], may_be_empty=True)
    return {"role": value["role"], "content": content}


def _check_text(field: str, value: Any, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise ValueError(f'"{field}" must be text, not {excerpt(value)}')
    if not may_be_empty and not value.strip():
        raise ValueError(f'"{field}" is empty; it must say something')
    if "\0" in value:
        raise ValueError(f'"{field}" holds the character U+0000, which cannot be stored; remove it')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f'"{field}" holds half of a surrogate pair, \\u{ord(value[error.start]):04x}, '
            "which is not a character; write the whole pair or remove it"
        ) from None
    return value


def excerpt(value: Any, length: int = 40) -> str:
    """The beginning of a value as JSON, for a message."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"
