"""What a row of our own form says: a prompt, completions to compare, choices, votes.

The names are those of TRL where it has any. `formats.shapes` knows the forms of others;
docs/data-format.md lists them all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from annotator.formats.entries import (
    LAST_TURN,
    MAX_ROW_BYTES,
    TURN,
    Answer,
    Entry,
    FieldError,
    Vote,
    check_annotator,
    check_depth,
    check_distinct,
    check_messages,
    check_number_of_answers,
    check_prompt,
    check_ranking,
    check_source,
    check_text,
    comparison_of_two,
    excerpt,
    parse_transcript,
    ranking_by,
    split_conversations,
)
from annotator.formats.votes import parse_judgments

if TYPE_CHECKING:  # so that files can be read without Django
    from annotator.models import Message

MAX_LINE_BYTES = MAX_ROW_BYTES
BESIDE_COMPLETIONS = (
    "sources", "truncated", "expected", "explanation", "judgments", "ranking", "scores",
)  # fmt: skip
FIELDS = {"prompt", "completions", "chosen", "rejected", "annotator", *BESIDE_COMPLETIONS}
Answers = Sequence[Answer]


def parse_line(line: bytes) -> Entry:
    """Raises ValueError for everything that cannot be imported."""
    try:
        return parse_row(parse_object(line))
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def parse_object(line: bytes) -> dict[str, Any]:
    """The fields that are given: null is as good as missing."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start + 1}; "
            "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(broken(error)) from None
    except ValueError:  # Python's limit against numbers that take minutes to read
        raise ValueError("broken JSON: a number has thousands of digits") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None
    return fields_of(value)


def broken(error: json.JSONDecodeError) -> str:
    where = error.doc[max(error.pos - 15, 0) : error.pos + 15].strip()
    message = error.msg.removesuffix(" at")
    return f"broken JSON: {message} at column {error.colno}, near {excerpt(where)}"


def fields_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'a line must be an object like {{"prompt": …}}, not {excerpt(value)}')
    check_depth(value)
    return {name: field for name, field in value.items() if field is not None}


def parse_row(row: dict[str, Any]) -> Entry:
    """Raises FieldError."""
    ignored = sorted(row.keys() - FIELDS)
    if "chosen" in row or "rejected" in row:
        return _parse_choice(row)._replace(ignored=ignored)
    if "prompt" not in row:
        raise FieldError("prompt", 'is missing; so are "chosen" and "rejected"', "the field ")
    answers = _parse_completions(row)
    return Entry(
        check_prompt(row["prompt"]),
        answers,
        votes=_parse_votes(row, answers),
        ignored=ignored,
        expected=_parse_expected(row, len(answers)),
        explanation=_parse_explanation(row),
    )


# --- known choices ----------------------------------------------------------------------------
def _parse_choice(row: dict[str, Any]) -> Entry:
    for name in ("chosen", "rejected"):
        if name not in row:
            raise FieldError(name, 'is missing; "chosen" and "rejected" go together', "the field ")
    for name in ("completions", *BESIDE_COMPLETIONS):
        if name in row:
            raise FieldError(name, 'cannot stand beside "chosen" and "rejected"', "the field ")
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row:
        messages = check_prompt(row["prompt"])
        chosen = answer_to(messages, "chosen", chosen)
        rejected = answer_to(messages, "rejected", rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        messages, chosen, rejected = _split_texts(chosen, rejected, is_alone=row.keys() <= FIELDS)
    else:
        messages, chosen, rejected = split_conversations(chosen, rejected, ("chosen", "rejected"))
    return comparison_of_two(
        messages,
        Answer(chosen),
        Answer(rejected),
        ("chosen", "rejected"),
        annotator=_parse_annotator(row),
    )


def answer_to(prompt: list[Message], field: str, value: Any) -> str:
    """The text of an answer given as such, as one message, or with the prompt before it."""
    if isinstance(value, str):
        return check_text(field, value, may_be_empty=True)
    messages = check_messages(field, value)
    if messages[-1]["role"] != "assistant":
        raise FieldError(field, "must end with a message of the assistant")
    if messages[:-1] not in ([], prompt):
        raise FieldError(
            field, "must be one message of the assistant, or the prompt and that message"
        )
    return messages[-1]["content"]


def _split_texts(chosen: str, rejected: str, *, is_alone: bool) -> tuple[list[Message], str, str]:
    """Two transcripts as in HH-RLHF, or two texts that begin alike, as TRL's implicit prompts do."""
    check_text("chosen", chosen)
    check_text("rejected", rejected)
    if any(TURN.search(text) for text in (chosen, rejected)):
        return _split_transcripts(chosen, rejected)
    # Cut between words. Beside other fields the prompt is more likely one of them.
    shared = chosen[: _n_alike(chosen, rejected)] if is_alone else ""
    shared = shared[: max(shared.rfind(" "), shared.rfind("\n")) + 1]
    if not shared.strip():
        raise FieldError(
            "prompt",
            'is missing, and "chosen" and "rejected" are neither transcripts that end with an '
            '"Assistant:" turn nor texts that begin alike; say which field holds the prompt',
            "the field ",
        )
    messages: list[Message] = [{"role": "user", "content": shared.strip()}]
    return messages, chosen[len(shared) :], rejected[len(shared) :]


def _split_transcripts(chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    """Two transcripts as in HH-RLHF, "\\n\\nHuman: …\\n\\nAssistant: …", alike up to the last turn."""
    parts = []
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        before, turn, answer = text.rpartition(LAST_TURN)
        if not turn or "\n\nHuman:" in answer:
            raise FieldError(
                field,
                'must be a transcript that ends with an "Assistant:" turn, '
                f'as the field "prompt" is missing; it ends with {excerpt(text[-30:])}',
            )
        parts.append((before, answer.strip()))
    (prompt, better), (other_prompt, worse) = parts
    if prompt != other_prompt:
        at = _n_alike(prompt, other_prompt)
        raise FieldError(
            "chosen",
            'and "rejected" must be alike up to the last "Assistant:" turn; they differ '
            f"from character {at + 1}: {excerpt(chosen[at : at + 25])} against "
            f"{excerpt(rejected[at : at + 25])}",
        )
    return parse_transcript(prompt), better, worse


def _n_alike(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# --- completions ------------------------------------------------------------------------------
def _parse_completions(row: dict[str, Any]) -> list[Answer]:
    if "completions" not in row:
        for name in BESIDE_COMPLETIONS:
            if name in row and name != "explanation":
                raise FieldError(name, 'needs the field "completions"', "the field ")
        return []
    texts = check_number_of_answers("completions", row["completions"])
    sources = parallel(row, "sources", str, "text", ["import"] * len(texts))
    truncated = parallel(row, "truncated", bool, "true or false", [False] * len(texts))
    answers = []
    for i, (text, source, is_truncated) in enumerate(zip(texts, sources, truncated, strict=True)):
        check_text(f"completions[{i}]", text, may_be_empty=True)
        check_source(f"sources[{i}]", source)
        answers.append(Answer(text, source, is_truncated))
    check_distinct(answers, [f"completions[{i}]" for i in range(len(answers))])
    return answers


def _parse_expected(row: dict[str, Any], n_answers: int) -> list[list[int]] | None:
    return check_ranking("expected", row["expected"], n_answers) if "expected" in row else None


def _parse_explanation(row: dict[str, Any]) -> str:
    if "explanation" in row and "expected" not in row:
        raise FieldError("explanation", 'needs the field "expected"', "the field ")
    return check_text("explanation", row.get("explanation", ""), may_be_empty=True)


def parallel(
    row: dict[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    words: str,
    default: list[Any],
) -> Any:
    values = row.get(name, default)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise FieldError(name, f"must be a list of {words}, not {excerpt(values)}")
    if len(values) != len(default):
        raise FieldError(
            name, f'must have as many items as "completions": {len(default)}, not {len(values)}'
        )
    return values


# --- votes ------------------------------------------------------------------------------------
def _parse_votes(row: dict[str, Any], answers: Answers) -> list[Vote]:
    given = [name for name in ("judgments", "ranking", "scores", "expected") if name in row]
    if len(given) > 1:
        raise FieldError(given[0], f'cannot stand beside "{given[1]}"', "the field ")
    if "judgments" in row:
        return parse_judgments(row["judgments"], answers)
    annotator = _parse_annotator(row)
    if "ranking" in row:
        return [Vote(check_ranking("ranking", row["ranking"], len(answers)), annotator)]
    if "scores" in row:
        scores = parallel(row, "scores", (int, float), "numbers", [0] * len(answers))
        if not all(map(math.isfinite, scores)):
            raise FieldError("scores", f"must be a list of numbers, not {excerpt(scores)}")
        return [Vote(ranking_by(scores), annotator)]
    return []


def _parse_annotator(row: dict[str, Any]) -> str:
    return check_annotator("annotator", row["annotator"]) if "annotator" in row else ""
