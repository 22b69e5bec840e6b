"""What rows of other tools and of well-known datasets say.

For each shape there is a question, whether a row has it, and a function that reads it. A row has
its shape by the names of its fields; what stands in them is checked when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from annotator.formats.entries import (
    MAX_ANSWERS,
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
from annotator.jsonl import answer_to, parse_row

if TYPE_CHECKING:  # so that files can be read without Django
    from annotator.models import Message

Record = Mapping[str, Any]
PROMPTS = ("prompt", "instruction", "question", "query", "input")
TEXTS = ("response", "text", "content", "completion", "answer", "output", "body")
SOURCES = ("model", "source", "policy", "generator")
SCORES = ("overall_score", "score", "rating", "reward")
TIES = {"tie", "equal", "both", "same", "draw"}


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


# --- Label Studio -------------------------------------------------------------------------------
def is_label_studio(record: Record) -> bool:
    return has_object(record, "data") and isinstance(record.get("annotations"), list)


class _Marked(NamedTuple):
    """One result of an annotation: the fields it speaks of, and what it says of them."""

    names: list[str]
    texts: list[str]
    ranking: list[list[int]]


def label_studio(record: Record) -> Entry:
    """A task with its annotations: results of Pairwise, and of Ranker without buckets."""
    shown: _Marked | None = None
    votes = {}
    for i, annotation in enumerate(record["annotations"]):
        field = f"annotations[{i}]"
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        marked = _marked(f"{field}.result", annotation.get("result"), record["data"])
        if marked is None:
            continue
        shown = shown or marked
        if shown.names != marked.names:
            raise FieldError(field, f"ranks {marked.names}, but another one {shown.names}")
        annotator = _completed_by(field, annotation)
        votes[annotator] = Vote(marked.ranking, annotator)
    if shown is None:
        raise FieldError("annotations", "hold no result of a Pairwise or a Ranker")
    answers = [
        Answer(check_text(f"data.{name}", text, may_be_empty=True))
        for name, text in zip(shown.names, shown.texts, strict=True)
    ]
    check_distinct(answers, [f"data.{name}" for name in shown.names])
    prompt = _task_prompt(record["data"], shown.names)
    return Entry(prompt, answers, votes=list(votes.values()))


def _completed_by(field: str, annotation: Mapping[str, Any]) -> str:
    """By number: addresses of people are not taken along."""
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    return check_annotator(f"{field}.completed_by", who) if who is not None else ""


def _marked(field: str, results: Any, task: Mapping[str, Any]) -> _Marked | None:
    for i, result in enumerate(results if isinstance(results, list) else []):
        where = f"{field}[{i}]"
        if not isinstance(result, dict) or not has_object(result, "value"):
            continue
        if result.get("type") == "pairwise":
            return _pairwise(where, result, task)
        if result.get("type") == "ranker":
            return _ranker(where, result, task)
    return None


def _pairwise(field: str, result: Mapping[str, Any], task: Mapping[str, Any]) -> _Marked:
    names = [name.strip().removeprefix("$") for name in str(result.get("to_name")).split(",")]
    if len(names) != MIN_ANSWERS or not task.keys() >= set(names):
        # Tags may be called otherwise than the data they show.
        texts = {name for name, value in task.items() if isinstance(value, str)}
        names = [name for name in task if name in texts and name not in PROMPTS]
    if len(names) != MIN_ANSWERS:
        raise FieldError(f"{field}.to_name", f"does not say which two of {list(task)} it compares")
    selected = result["value"].get("selected")
    sides = {"left": [[0], [1]], "right": [[1], [0]]}
    if not isinstance(selected, str) or selected not in sides:
        raise FieldError(
            f"{field}.value.selected", f"must be left or right, not {excerpt(selected)}"
        )
    return _Marked(names, [task[name] for name in names], sides[selected])


def _ranker(field: str, result: Mapping[str, Any], task: Mapping[str, Any]) -> _Marked:
    ranked = result["value"].get("ranker")
    if not isinstance(ranked, list):
        raise FieldError(
            f"{field}.value.ranker",
            f"must be a list of ids; buckets have no order, as in {excerpt(ranked)}",
        )
    for name, items in task.items():
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            ids = [item.get("id") for item in items]
            if len(set(map(str, ids))) == len(ids) and sorted(map(str, ids)) == sorted(
                map(str, ranked)
            ):
                order = [[list(map(str, ids)).index(str(pk))] for pk in ranked]
                check_number_of_answers(f"data.{name}", items, "items")
                texts = [item.get(first_of(item, (*TEXTS, "html", "title"))) for item in items]
                return _Marked([f"{name}[{i}]" for i in range(len(items))], texts, order)
    raise FieldError(f"{field}.value.ranker", "ranks ids that no list of the data has")


def _task_prompt(task: Mapping[str, Any], answers: Sequence[str]) -> list[Message]:
    if first_of(task, (*PROMPTS, "messages")):
        return prompt_in(task)
    texts = [n for n, value in task.items() if isinstance(value, str) and n not in answers]
    if len(texts) != 1:
        raise FieldError("data", f"does not say which of {texts} is the prompt; call it prompt")
    return check_prompt(task[texts[0]], f"data.{texts[0]}")


# --- Argilla ------------------------------------------------------------------------------------
class _Response(NamedTuple):
    question: str
    annotator: str
    value: Any


def is_argilla(record: Record) -> bool:
    return (
        (has_object(record, "fields") and "responses" in record)
        or any(name.endswith(".responses") for name in record)
        or any(_is_responses(value) for value in record.values())
    )


def _is_responses(value: Any) -> bool:
    """As in datasets that Argilla 1 has saved."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and first.keys() >= {"user_id", "value", "status"}


def argilla(record: Record) -> Entry:
    """A record with its submitted responses to the first question that ranks fields, or names one.

    Known are records as JSON, nested or flat, and rows of datasets of Argilla 1 and 2.
    """
    fields = record["fields"] if has_object(record, "fields") else record
    prompt_name = first_of(fields, PROMPTS)
    texts = [
        name
        for name, value in fields.items()
        if isinstance(value, str) and name != prompt_name and "." not in name
    ]
    by_question: dict[str, dict[str, tuple[list[str], Vote]]] = {}
    for response in _responses(record):
        if ranked := _ranked(response, texts, is_alone=fields is not record):
            by_question.setdefault(response.question, {})[response.annotator] = ranked
    if not by_question:
        raise FieldError(
            "responses", f"hold no submitted ranking of fields by their names, which are {texts}"
        )
    found = list(next(iter(by_question.values())).values())
    names = found[0][0]
    if any(other != names for other, _ in found):
        raise FieldError("responses", "rank different fields of one record")
    answers = [Answer(check_text(name, fields[name], may_be_empty=True)) for name in names]
    check_distinct(answers, names)
    return Entry(prompt_in(fields), answers, votes=[vote for _, vote in found])


def _responses(record: Record) -> Iterable[_Response]:
    """Those that were submitted."""
    responses = record.get("responses")
    if isinstance(responses, dict):  # {question: [{"value", "user_id", "status"}]}
        for question, given in responses.items():
            yield from _given(question, given)
    elif isinstance(responses, list):  # [{"user_id", "status", "values": {question: {"value"}}}]
        for response in responses:
            if isinstance(response, dict) and has_object(response, "values"):
                for question, value in response["values"].items():
                    yield from _given(question, [{**response, **_as_object(value)}])
    for name, value in record.items():
        if name.endswith(".responses") and isinstance(value, list):
            users = _as_list(record.get(f"{name}.users")) or [""] * len(value)
            states = _as_list(record.get(f"{name}.status")) or [None] * len(value)
            for given, user, status in zip(value, users, states, strict=False):
                row = {"value": given, "user_id": user, "status": status}
                yield from _given(name.removesuffix(".responses"), [row])
        elif _is_responses(value):
            yield from _given(name, value)


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _given(question: str, rows: Any) -> Iterable[_Response]:
    if isinstance(rows, dict):  # a list of objects as columns
        columns = [value if isinstance(value, list) else [value] for value in rows.values()]
        rows = [dict(zip(rows, row, strict=False)) for row in zip(*columns, strict=False)]
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get("status") in (None, "submitted"):
            annotator = str(row.get("user_id") or "")
            yield _Response(
                question, annotator and check_annotator(question, annotator), row.get("value")
            )


def _ranked(
    response: _Response, texts: Sequence[str], *, is_alone: bool
) -> tuple[list[str], Vote] | None:
    """The fields that are ranked, and the vote; None if the response ranks none."""
    value = response.value
    if isinstance(value, dict) and value.keys() == {"rank", "value"}:  # as columns
        columns = zip(_as_list(value["rank"]), _as_list(value["value"]), strict=False)
        value = [{"rank": rank, "value": name} for rank, name in columns]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = [{"rank": rank, "value": name} for rank, name in enumerate(value)]
    if isinstance(value, list):
        items = [item for item in value if isinstance(item, dict)]
        names = sorted(str(item.get("value")) for item in items)
        if len(items) != len(value) or not MIN_ANSWERS <= len(set(names)) == len(names):
            return None
        if not set(names) <= set(texts) or len(names) > MAX_ANSWERS:
            return None
        ranks = {str(item["value"]): number(response.question, item.get("rank")) for item in items}
        ranking = ranking_by([-ranks[name] for name in names])
        return names, Vote(ranking, response.annotator)
    names = sorted(texts)
    if not is_alone or not isinstance(value, str) or not MIN_ANSWERS <= len(names) <= MAX_ANSWERS:
        return None
    if value in names:
        best = names.index(value)
        others = [index for index in range(len(names)) if index != best]
        is_pick = len(names) > MIN_ANSWERS
        return names, Vote([[best], others], response.annotator, is_pick=is_pick)
    if value.lower() in TIES:
        return names, Vote([list(range(len(names)))], response.annotator)
    return None


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
