"""What a row says once it is understood, and the checks that all shapes of rows share.

Every mistake is a ValueError whose message names the field, what is wrong and what would be right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Message = dict[str, str]  # as `annotator.models` has it: files can be read without Django

MAX_ROW_BYTES = 2**20
MAX_DEPTH = 100  # of lists and objects in a row
MAX_SOURCE_LENGTH = 200  # of the column in the database
MAX_ANNOTATOR_LENGTH = 60  # a user's name has room for where the file comes from, and this
MIN_ANSWERS, MAX_ANSWERS = 2, 9
ROLES = ("system", "user", "assistant")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
LAST_TURN = "\n\nAssistant:"


class FieldError(ValueError):
    """A mistake in a field, which may be a path in a column, as in `prompt[0].content`."""

    def __init__(self, field: str, says: str, before: str = "") -> None:
        self.field, self.says, self.before = field, says, before
        super().__init__(f'{before}"{field}" {says}')

    @property
    def column(self) -> str:
        return re.split(r"[.\[]", self.field, maxsplit=1)[0]

    def of_column(self, column: str) -> FieldError:
        """The same mistake, in the words of a file that calls the field otherwise."""
        return FieldError(column + self.field[len(self.column) :], self.says, self.before)


class Columns(list[Any]):
    """The values of several columns that are mapped to one field of ours, which knows their names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values.values())
        self.names = list(values)


class Answer(NamedTuple):
    """A completion as the file gives it."""

    text: str
    source: str = "import"
    is_truncated: bool = False


class Vote(NamedTuple):
    """What somebody said of the answers, which are named by their indices."""

    ranking: list[list[int]]  # tie groups, best first; none: all of them are bad, or …
    annotator: str = ""  # as the file calls them; empty: nobody in particular
    strength: int | None = None  # from 1 to `strength_of`
    strength_of: int | None = None
    is_unrankable: bool = False  # … they cannot be ranked
    is_pick: bool = False  # of the best: nothing is said of the others among themselves
    order: list[int] = []  # as shown, from left to right; empty if it is not known
    judgment: int = 0  # its number in the installation that exported it; 0: no export of ours
    given: str = ""  # when, as an export of ours says it
    # Of `Judgment`: criteria, reasons, rationale, flags, spans, rewrite, seconds, as far as given.
    said: dict[str, Any] = {}


class Entry(NamedTuple):
    """A prompt, the completions to compare (none or 2 to 9), and what was said of them.

    With `expected` it is a known answer: the ranking that is right, as tie groups of indices.
    """

    messages: list[Message]
    answers: list[Answer]
    votes: list[Vote] = []
    ignored: list[str] = []  # names of fields that mean nothing here
    expected: list[list[int]] | None = None
    explanation: str = ""
    hold: str = ""  # what screening finds, not the file

    @property
    def chosen(self) -> int | None:
        """Index of the better one of two, if that is all that was said."""
        if len(self.answers) != 2 or len(self.votes) != 1 or len(self.votes[0].ranking) != 2:
            return None
        return self.votes[0].ranking[0][0]


def excerpt(value: Any, length: int = 40) -> str:
    """The beginning of a value as JSON, for a message."""
    if isinstance(value, str):
        value = value[:length]  # escapes only make it longer
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "what is nested too deeply"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"


def printable(text: str, length: int = 500) -> str:
    """As any file and database takes it: without U+0000 and halves of surrogate pairs, not endless."""
    return text[:length].replace("\0", "␀").encode(errors="backslashreplace").decode()


def check_depth(value: Any, levels: int = MAX_DEPTH) -> None:
    """Raises ValueError where lists and objects are nested deeper than any reader of them may go."""
    if levels < 0:
        raise ValueError(f"the row is nested too deeply, beyond {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            check_depth(item, levels - 1)


# --- texts ------------------------------------------------------------------------------------
def check_text(field: str, value: Any, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise FieldError(field, f"must be text, not {excerpt(value)}")
    if not may_be_empty and not value.strip():
        raise FieldError(field, "is empty; it must say something")
    if "\0" in value:
        raise FieldError(field, "holds the character U+0000, which cannot be stored; remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FieldError(
            field,
            f"holds half of a surrogate pair, \\u{ord(value[error.start]):04x}, "
            "which is not a character; write the whole pair or remove it",
        ) from None
    return value


def check_source(field: str, value: Any) -> str:
    if len(check_text(field, value)) > MAX_SOURCE_LENGTH:
        raise FieldError(field, f"is longer than {MAX_SOURCE_LENGTH} characters")
    return value


def check_annotator(field: str, value: Any) -> str:
    """A name or a number that tells people apart."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = check_text(field, value).strip()
    if len(name) > MAX_ANNOTATOR_LENGTH:
        raise FieldError(field, f"is longer than {MAX_ANNOTATOR_LENGTH} characters")
    return name


# --- messages ---------------------------------------------------------------------------------
def check_prompt(value: Any, field: str = "prompt") -> list[Message]:
    """The messages of a prompt given as messages, as a text, or as a transcript of the HH kind.

    A transcript may end with "Assistant:", where the answer would begin.
    """
    if isinstance(value, str):
        check_text(field, value)
        text = value.strip()
        if TURN.match(text):
            return parse_transcript(text.removesuffix(LAST_TURN), field)
        return [{"role": "user", "content": value}]
    messages = check_messages(field, value)
    for i, message in enumerate(messages):
        if message["role"] == "system" and i > 0:
            raise FieldError(
                f"{field}[{i}]", "is a system message; only the first message may be one"
            )
        if not message["content"].strip():
            raise FieldError(f"{field}[{i}].content", "is empty; every message must say something")
    if messages[-1]["role"] != "user":
        raise FieldError(
            field, f"must end with a message of the user, not of the {messages[-1]['role']}"
        )
    return messages


def check_messages(field: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise FieldError(
            field,
            f'must be text or a list of messages {{"role": …, "content": …}}, not {excerpt(value)}',
        )
    return [_check_message(f"{field}[{i}]", message) for i, message in enumerate(value)]


def _check_message(field: str, value: Any) -> Message:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise FieldError(
            field, f'must be a message {{"role": …, "content": …}}, not {excerpt(value)}'
        )
    if value["role"] not in ROLES:
        raise FieldError(
            f"{field}.role", f"must be system, user or assistant, not {excerpt(value['role'])}"
        )
    content = check_text(f"{field}.content", value["content"], may_be_empty=True)
    return {"role": value["role"], "content": content}


def split_conversations(one: Any, other: Any, names: tuple[str, str]) -> tuple[Any, str, str]:
    """The messages that two conversations have in common, and their last ones, which differ."""
    first, second = check_messages(names[0], one), check_messages(names[1], other)
    if first[-1]["role"] != "assistant" or second[-1]["role"] != "assistant":
        raise FieldError(names[0], f'and "{names[1]}" must end with a message of the assistant')
    if first[:-1] != second[:-1]:
        raise FieldError(
            names[0],
            f'and "{names[1]}" must be alike up to the last message, or stand beside a "prompt"',
        )
    if len(first) == 1:
        raise FieldError(
            names[0], f'and "{names[1]}" hold no prompt, and the field "prompt" is missing'
        )
    return check_prompt(first[:-1], names[0]), first[-1]["content"], second[-1]["content"]


def parse_transcript(text: str, field: str = "prompt") -> list[Message]:
    """Example: "\\n\\nHuman: Hi!" -> [{"role": "user", "content": "Hi!"}]."""
    before, *turns = TURN.split(text.strip())
    if before:
        raise ValueError(
            f'a transcript must begin with a "Human:" turn, not with {excerpt(before)}'
        )
    speakers, contents = turns[::2], turns[1::2]
    messages = [
        {"role": SPEAKERS[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]
    return check_prompt(messages, field)


# --- answers and what was said of them ----------------------------------------------------------
def check_distinct(answers: Sequence[Answer], names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for answer, name in zip(answers, names, strict=True):
        text = answer.text.strip()
        if text in seen:
            raise FieldError(
                seen[text],
                f'and "{name}" are the same text, {excerpt(text)}: there is nothing to compare',
            )
        seen[text] = name


def check_number_of_answers(field: str, values: Any, kind: str = "texts") -> list[Any]:
    if not isinstance(values, list) or not MIN_ANSWERS <= len(values) <= MAX_ANSWERS:
        raise FieldError(
            field,
            f"must be a list of {MIN_ANSWERS} to {MAX_ANSWERS} {kind}, not {excerpt(values)}",
        )
    return values


def check_ranking(field: str, groups: Any, n_answers: int) -> list[list[int]]:
    """Groups of ties, best first; numbers instead of groups stand for themselves."""
    if isinstance(groups, list):
        groups = [[group] if type(group) is int else group for group in groups]
    is_ranking = isinstance(groups, list) and all(
        isinstance(group, list) and group and all(type(index) is int for index in group)
        for group in groups
    )
    if not is_ranking or sorted(i for group in groups for i in group) != list(range(n_answers)):
        example = [[index] for index in range(n_answers)]
        raise FieldError(
            field,
            f"must list the numbers 0 to {n_answers - 1} of the completions in groups of ties, "
            f"best first, each once, like {example}, not {excerpt(groups)}",
        )
    return groups


def ranking_by(scores: Sequence[float]) -> list[list[int]]:
    """Equal scores are ties. Example: [3, 9, 3] -> [[1], [0, 2]]."""
    groups: dict[float, list[int]] = {}
    for index, score in enumerate(scores):
        groups.setdefault(score, []).append(index)
    return [groups[score] for score in sorted(groups, reverse=True)]


def comparison_of_two(
    messages: list[Message], better: Answer, worse: Answer, names: tuple[str, str], **vote: Any
) -> Entry:
    """In the order of their texts: if the better one always came first, its place would tell."""
    answers = sorted([better, worse])
    check_distinct(answers, names)
    chosen = answers.index(better)
    return Entry(messages, answers, votes=[Vote([[chosen], [1 - chosen]], **vote)])


def renamed(error: FieldError, columns: Mapping[str, str]) -> FieldError:
    """In the words of the file. Example: completions[1] of "answer_a,answer_b" -> answer_b."""
    if error.column not in columns:
        return error
    theirs = columns[error.column]
    item = re.fullmatch(r"\w+\[(\d+)\]", error.field)
    if item and "," in theirs:
        theirs = [name.strip() for name in theirs.split(",")][int(item[1])]
        return FieldError(theirs, error.says, error.before)
    return error.of_column(theirs)
