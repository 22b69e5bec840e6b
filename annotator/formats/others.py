"""What rows of other tools and of well-known datasets say.

For each shape there is a question, whether a row has it, and a function that reads it. A row has
its shape by the names of its fields; what stands in them is checked when it is read. Label Studio and
Argilla have modules of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from annotator.formats.entries import (
    MIN_ANSWERS,
    Answer,
    Entry,
    FieldError,
    Vote,
    check_annotator,
    check_distinct,
    check_messages,
    check_number_of_answers,
    check_prompt,
    check_source,
    check_text,
    comparison_of_two,
    excerpt,
    ranking_by,
    split_conversations,
)
from annotator.formats.votes import parse_judgments
from annotator.jsonl import answer_to, parse_row

if TYPE_CHECKING:  # so that files can be read without Django
    from annotator.models import Message

Record = Mapping[str, Any]
PROMPTS = ("prompt", "instruction", "question", "query", "input")
TEXTS = ("response", "text", "content", "completion", "answer", "output", "body")
SOURCES = ("model", "source", "policy", "generator")
SCORES = ("overall_score", "score", "rating", "reward")


def has_object(record: Record, name: str) -> bool:
    return isinstance(record.get(name), dict)


def has_objects(record: Record, name: str) -> bool:
    """Whether the field is a list of objects, as far as its first item tells."""
    value = record.get(name)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def first_of(record: Record, names: Iterable[str]) -> str:
    """The first of the names that the record has; empty if it has none."""
    return next((name for name in names if record.get(name) is not None), "")


# --- messages ---------------------------------------------------------------------------------
def plain_messages(field: str, value: Any) -> list[Message]:
    """Messages with nothing but a role and a text: parts of text are joined, names left out."""
    if not isinstance(value, list):
        raise FieldError(field, f"must be a list of messages, not {excerpt(value)}")
    plain = [_plain_message(f"{field}[{i}]", message) for i, message in enumerate(value)]
    return check_messages(field, plain)


def _plain_message(field: str, message: Any) -> Any:
    if not isinstance(message, dict) or "role" not in message:
        return message  # `check_messages` says what is wrong
    role, content = message["role"], message.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{field}.content", part) for part in content)
    return {"role": "system" if role == "developer" else role, "content": content or ""}


def _part(field: str, part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        raise FieldError(field, f"must be text; only text can be compared, not {excerpt(part)}")
    return part["text"]


def is_messages(record: Record) -> bool:
    return isinstance(record.get("messages"), list) and "prompt" not in record


def messages(record: Record) -> Entry:
    """A conversation: its last answer is the chosen one if a rejected one stands beside it."""
    conversation = plain_messages("messages", record["messages"])
    rest = {name: value for name, value in record.items() if name != "messages"}
    if conversation[-1]["role"] != "assistant":
        return parse_row(rest | {"prompt": check_prompt(conversation, "messages")})
    prompt, last = check_prompt(conversation[:-1], "messages"), conversation[-1]["content"]
    if "rejected" in rest:
        return parse_row(rest | {"prompt": prompt, "chosen": last})
    entry = parse_row(rest | {"prompt": prompt})
    return entry._replace(ignored=[*entry.ignored, "the last answer of messages"])


def is_openai_preference(record: Record) -> bool:
    return "preferred_output" in record and "non_preferred_output" in record


def openai_preference(record: Record) -> Entry:
    """What OpenAI's preference fine-tuning takes."""
    if not has_object(record, "input"):
        raise FieldError(
            "input", f'must be an object with "messages", not {excerpt(record.get("input"))}'
        )
    prompt = check_prompt(
        plain_messages("input.messages", record["input"].get("messages")), "input.messages"
    )
    names = ("preferred_output", "non_preferred_output")
    better, worse = (
        Answer(answer_to(prompt, name, plain_messages(name, record[name]))) for name in names
    )
    return comparison_of_two(prompt, better, worse, names)


# --- completions with scores ------------------------------------------------------------------
def is_scored(record: Record) -> bool:
    return bool(_scored_field(record))


def _scored_field(record: Record) -> str:
    names = ("completions", "answers", "responses")
    return next((name for name in names if has_objects(record, name)), "")


def scored(record: Record) -> Entry:
    """UltraFeedback and its like: completions as objects with a text, and maybe a model and a score.

    Equal scores are ties; a `rank` counts from the best.
    """
    field = _scored_field(record)
    items = check_number_of_answers(field, record[field], "completions")
    answers = [_candidate(f"{field}[{i}]", item) for i, item in enumerate(items)]
    check_distinct(answers, [f"{field}[{i}]" for i in range(len(answers))])
    scores = _scores(field, items)
    return Entry(
        prompt_in(record, but=field),
        answers,
        votes=[Vote(ranking_by(scores))] if scores else [],
        ignored=sorted(record.keys() - {field, *PROMPTS}),
    )


def _candidate(field: str, item: Any) -> Answer:
    if not isinstance(item, dict) or not (name := first_of(item, TEXTS)):
        raise FieldError(field, f"must be an object with a text, as response, not {excerpt(item)}")
    text = check_text(f"{field}.{name}", item[name], may_be_empty=True)
    source = first_of(item, SOURCES)
    if not source:
        return Answer(text)
    return Answer(text, check_source(f"{field}.{source}", item[source]))


def _scores(field: str, items: Sequence[Mapping[str, Any]]) -> list[float]:
    """The higher, the better; empty if there are none."""
    name = first_of(items[0], (*SCORES, "rank"))
    if not name:
        return []
    scores = [number(f"{field}[{i}].{name}", item.get(name)) for i, item in enumerate(items)]
    return [-score for score in scores] if name == "rank" else scores


def number(field: str, value: Any) -> float:
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise FieldError(field, f"must be a number, not {excerpt(value)}")
    return found


def prompt_in(record: Record, but: str = "") -> list[Message]:
    """The prompt under one of its usual names."""
    name = first_of(record, [name for name in (*PROMPTS, "messages") if name != but])
    if not name:
        raise FieldError("prompt", f"is missing; so are {', '.join(PROMPTS[1:])}", "the field ")
    value = record[name]
    if isinstance(value, list):
        value = plain_messages(name, value)
    return check_prompt(value, name)


# --- Arena ------------------------------------------------------------------------------------
WINNERS: dict[str, list[list[int]]] = {
    "model_a": [[0], [1]],
    "model_b": [[1], [0]],
    "tie": [[0, 1]],
    "tie (bothbad)": [],
    "both_bad": [],
    "bothbad": [],
}
WINNER_COLUMNS = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}


def is_arena(record: Record) -> bool:
    return {"conversation_a", "conversation_b"} <= record.keys() or (
        {"response_a", "response_b"} <= record.keys()
        and ("winner" in record or "winner_model_a" in record)
    )


def arena(record: Record) -> Entry:
    """Chatbot Arena's battles: two conversations, or a prompt and two responses; who won."""
    names = ("conversation_a", "conversation_b")
    if names[0] in record:
        one, other = (plain_messages(name, record[name]) for name in names)
    else:
        names = ("response_a", "response_b")
        one, other = (_battle(record, name) for name in names)
    _check_same_battle(one, other, names)
    prompt, first, second = split_conversations(one, other, names)
    answers = [
        Answer(text, check_source(name, record.get(name) or "import"))
        for text, name in ((first, "model_a"), (second, "model_b"))
    ]
    check_distinct(answers, names)
    known = {*names, "model_a", "model_b", "winner", "judge", "prompt", *WINNER_COLUMNS}
    return Entry(prompt, answers, votes=_arena_votes(record), ignored=sorted(record.keys() - known))


def _check_same_battle(
    one: Sequence[Message], other: Sequence[Message], names: tuple[str, str]
) -> None:
    """Of two conversations that part before their last answers people judged all of them: no answer in
    them was said to be better than another."""
    turns = zip(one[:-1], other[:-1], strict=False)
    n_alike = next((n for n, (a, b) in enumerate(turns) if a != b), -1)
    if n_alike >= 0 or len(one) != len(other):
        where = f"from message {n_alike + 1} on" if n_alike >= 0 else "in their length"
        raise FieldError(
            names[0],
            f'and "{names[1]}" must be alike up to the last answer, and differ {where}: the vote is on '
            "two conversations and not on two answers to one prompt; leave such battles out, with "
            "“skip bad rows”",
        )


def _battle(record: Record, name: str) -> list[Message]:
    """The turns of one side, from texts or from lists of texts in JSON, one item a turn."""
    questions, answers = (_turns(field, record.get(field)) for field in ("prompt", name))
    if len(questions) != len(answers):
        raise FieldError(name, f"has {len(answers)} turns, but the prompt has {len(questions)}")
    return [
        {"role": role, "content": text}
        for turn in zip(questions, answers, strict=True)
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _turns(field: str, value: Any) -> list[str]:
    turns = value
    if isinstance(value, str) and value.startswith("["):
        try:
            turns = json.loads(value)
        except (ValueError, RecursionError):
            turns = value
    if not isinstance(turns, list):
        turns = [value]
    return [check_text(field, text or "", may_be_empty=True) for text in turns]


def _arena_votes(record: Record) -> list[Vote]:
    winner = record.get("winner")
    if winner is None:
        said = [name for name in WINNER_COLUMNS if str(record.get(name)) in ("1", "1.0", "True")]
        winner = WINNER_COLUMNS[said[0]] if len(said) == 1 else None
    if winner is None:
        return []
    if not isinstance(winner, str) or winner not in WINNERS:
        raise FieldError("winner", f"must be one of {', '.join(WINNERS)}, not {excerpt(winner)}")
    judge = record.get("judge")
    return [Vote(WINNERS[winner], check_annotator("judge", judge) if judge else "")]


# --- summarize-from-feedback --------------------------------------------------------------------
CONFIDENCE_MIDDLE = 5  # of 1, the first is much better, to 9


def is_summaries(record: Record) -> bool:
    return has_objects(record, "summaries") and has_object(record, "info")


def summaries(record: Record) -> Entry:
    """OpenAI's comparisons of summaries; the prompt of a post is that of the paper's code (2009.01325)."""
    items = check_number_of_answers("summaries", record["summaries"], "summaries")
    answers = [_candidate(f"summaries[{i}]", item) for i, item in enumerate(items)]
    check_distinct(answers, [f"summaries[{i}]" for i in range(len(answers))])
    known = {"info", "summaries", "choice", "worker", "extra"}
    return Entry(
        [{"role": "user", "content": _post(record["info"])}],
        answers,
        votes=_summary_votes(record, len(answers)),
        ignored=sorted(record.keys() - known),
    )


def _post(info: Mapping[str, Any]) -> str:
    if info.get("article"):
        return f"Article: {check_text('info.article', info['article'])}\n\nTL;DR:"
    labels = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: "}
    lines = [
        label + check_text(f"info.{name}", info[name])
        for name, label in labels.items()
        if info.get(name)
    ]
    if not info.get("post"):
        raise FieldError("info", f'must have a "post" or an "article", not {excerpt(info)}')
    return "\n\n".join([*lines, "TL;DR:"])


def _summary_votes(record: Record, n: int) -> list[Vote]:
    choice = record.get("choice")
    if choice is None:
        return []
    if type(choice) is not int or not 0 <= choice < n:
        raise FieldError("choice", f"must be 0 to {n - 1}, not {excerpt(choice)}")
    others = [index for index in range(n) if index != choice]
    worker = record.get("worker")
    strength = _confidence(record, choice) if n == MIN_ANSWERS else None
    vote = Vote(
        [[choice], others],
        check_annotator("worker", worker) if worker else "",
        strength,
        CONFIDENCE_MIDDLE - 1 if strength else None,
        is_pick=n > MIN_ANSWERS,
    )
    return [vote]


def _confidence(record: Record, choice: int) -> int | None:
    """How far the slider was from the middle, on the side of the choice."""
    extra = record.get("extra")
    confidence = extra.get("confidence") if isinstance(extra, dict) else None
    if type(confidence) is not int or not 1 <= confidence <= 2 * CONFIDENCE_MIDDLE - 1:
        return None
    strength = confidence - CONFIDENCE_MIDDLE if choice else CONFIDENCE_MIDDLE - confidence
    return strength if strength > 0 else None


# --- our own pairs ------------------------------------------------------------------------------
def is_export_pair(record: Record) -> bool:
    return {"chosen", "rejected", "p_chosen", "votes"} <= record.keys()


def export_pair(record: Record) -> Entry:
    """A line of data.jsonl: a pair, and what most say of it.

    Its votes are left out: of a ranking of three and more there are several pairs, and whoever
    reads all of them would count one vote several times. votes.jsonl has each once.
    """
    prompt = prompt_in(record)
    given = {
        name: Answer(
            answer_to(prompt, name, record[name]),
            check_source(f"{name}_source", record.get(f"{name}_source") or "import"),
            record.get(f"{name}_truncated") is True,
        )
        for name in ("chosen", "rejected")
    }
    entry = comparison_of_two(prompt, given["chosen"], given["rejected"], ("chosen", "rejected"))
    if number("p_chosen", record["p_chosen"]) == 0.5:
        return entry._replace(votes=[Vote([[0, 1]])])
    return entry


def is_showing(record: Record) -> bool:
    return {"completions", "order", "showing"} <= record.keys()


def showing(record: Record) -> Entry:
    """A line of showings.jsonl, or of the raw votes that are made of an export.

    Only a first answer is a vote. What was not answered is a comparison that nobody has judged, and a
    known answer is one again.
    """
    entry = parse_row({name: record[name] for name in ASKED if name in record})
    is_vote = record.get("outcome", "judged") == "judged" and not _cell(record.get("is_repeat"))
    if not is_vote or entry.expected is not None:
        return entry
    said = {name: value if name in WRITTEN else _cell(value) for name, value in record.items()}
    try:
        return entry._replace(votes=parse_judgments([said], entry.answers))
    except FieldError as error:  # the row itself is the judgment
        field = error.field.removeprefix("judgments[0].")
        raise FieldError(field, error.says, error.before) from None


ASKED = ("prompt", "completions", "sources", "truncated", "expected")
WRITTEN = ("annotator", "verdict", "rationale", "rewrite", "given")  # as texts, whatever is in them


def _cell(value: Any) -> Any:
    """What a cell of a table holds. Example: "[[1], [0]]" -> [[1], [0]]."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        return json.loads(value)
    return value
