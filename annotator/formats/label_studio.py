"""What exports of Label Studio say, of Pairwise and of Ranker, as JSON and as JSON-MIN."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from annotator.formats.entries import (
    MIN_ANSWERS,
    Answer,
    Columns,
    Entry,
    FieldError,
    Vote,
    check_annotator,
    check_distinct,
    check_number_of_answers,
    check_prompt,
    check_text,
    excerpt,
)
from annotator.formats.others import (
    PROMPTS,
    SOURCES,
    TEXTS,
    Record,
    first_of,
    has_object,
    has_objects,
    prompt_in,
)

if TYPE_CHECKING:  # so that files can be read without Django
    from annotator.models import Message

# What JSON-MIN puts beside the data of a task.
BESIDE_TASK = {
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement",
}  # fmt: skip
CONTROLS = {"selected": "pairwise", "ranker": "ranker"}  # by what their values hold
# How two texts end that are shown side by side, as in Label Studio's templates.
LEFT_RIGHT = (("1", "2"), ("a", "b"), ("A", "B"), ("left", "right"), ("Left", "Right"))


def is_label_studio(record: Record) -> bool:
    return has_object(record, "data") and isinstance(record.get("annotations"), list)


class _Marked(NamedTuple):
    """One result of an annotation: the fields it speaks of, and what it says of them."""

    names: list[str]
    texts: list[Any]
    ranking: list[list[int]]


class _Task(NamedTuple):
    data: Mapping[str, Any]
    prefix: str  # of its fields in the row
    given: Any  # what was mapped to our completions: of a pair, the left text and the right one
    prompt: Any  # what was mapped to our prompt


def label_studio(record: Record) -> Entry:
    """A task with its annotations: results of Pairwise, and of Ranker without buckets."""
    task = _Task(record["data"], "data.", record.get("completions"), record.get("prompt"))
    return _annotated(task, record["annotations"])


def is_json_min(record: Record) -> bool:
    """Each row is one annotation; without a lead time there is at least a control's result."""
    is_annotation = {"annotation_id", "annotator"} <= record.keys()
    return is_annotation and ("lead_time" in record or bool(_control(record)))


def json_min(record: Record) -> Entry:
    """Read as the task that it was exported from."""
    name = _control(record)
    if not name:
        raise FieldError(
            "annotation_id",
            "belongs to an annotation that holds no result of a Pairwise or a Ranker, or holds it as "
            "text, as CSV does: export JSON",
        )
    value = record[name][0]
    (kind,) = (CONTROLS[key] for key in CONTROLS if key in value)
    data = {key: value for key, value in record.items() if key not in {*BESIDE_TASK, name}}
    result = {"type": kind, "from_name": name, "to_name": name, "value": value}
    annotation = {"completed_by": record["annotator"], "result": [result]}
    task = _Task(data, "", record.get("completions"), record.get("prompt"))
    try:
        return _annotated(task, [annotation])
    except FieldError as error:
        field = error.field.replace("annotations[0].result[0].value", f"{name}[0]")
        raise FieldError(
            field.replace("annotations[0].completed_by", "annotator"), error.says, error.before
        ) from None


def _control(record: Record) -> str:
    """The field that holds the result; empty if there is none, or nobody could say which."""
    found = [
        name
        for name in record
        if has_objects(record, name) and len(record[name][0].keys() & CONTROLS.keys()) == 1
    ]
    return found[0] if len(found) == 1 else ""


def _annotated(task: _Task, annotations: Sequence[Any]) -> Entry:
    shown: _Marked | None = None
    votes = {}
    for i, annotation in enumerate(annotations):
        field = f"annotations[{i}]"
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        marked = _marked(f"{field}.result", annotation.get("result"), task)
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
        Answer(check_text(name, text, may_be_empty=True))
        for name, text in zip(shown.names, shown.texts, strict=True)
    ]
    check_distinct(answers, shown.names)
    return Entry(_task_prompt(task, shown.texts), answers, votes=list(votes.values()))


def _completed_by(field: str, annotation: Mapping[str, Any]) -> str:
    """By number: addresses of people are not taken along."""
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    if isinstance(who, str) and "@" in who:  # JSON-MIN may have nothing else
        who = hashlib.sha256(who.encode(errors="replace")).hexdigest()[:12]
    return check_annotator(f"{field}.completed_by", who) if who is not None else ""


def _marked(field: str, results: Any, task: _Task) -> _Marked | None:
    for i, result in enumerate(results if isinstance(results, list) else []):
        where = f"{field}[{i}]"
        if not isinstance(result, dict) or not has_object(result, "value"):
            continue
        if result.get("type") == "pairwise":
            return _pairwise(where, result, task)
        if result.get("type") == "ranker":
            return _ranker(where, result, task)
    return None


def _pairwise(field: str, result: Mapping[str, Any], task: _Task) -> _Marked:
    selected = result["value"].get("selected")
    sides = {"left": [[0], [1]], "right": [[1], [0]]}
    if not isinstance(selected, str) or selected not in sides:
        raise FieldError(
            f"{field}.value.selected", f"must be left or right, not {excerpt(selected)}"
        )
    if isinstance(task.given, Columns) and len(task.given) == MIN_ANSWERS:
        return _Marked(["completions[0]", "completions[1]"], task.given, sides[selected])
    tags = [name.strip().removeprefix("$") for name in str(result.get("to_name")).split(",")]
    names = _left_and_right(tags, task.data)
    if not names:
        texts = [f"{task.prefix}{name}" for name, v in task.data.items() if isinstance(v, str)]
        raise FieldError(
            f"{field}.value.selected",
            f"is {selected}, and nothing says which text that was; map the left one and the right "
            f"one to completions, as completions=LEFT,RIGHT, of {', '.join(texts)}",
        )
    texts = [task.data[name] for name in names]
    return _Marked([f"{task.prefix}{name}" for name in names], texts, sides[selected])


def _left_and_right(tags: Sequence[str], data: Mapping[str, Any]) -> list[str]:
    """The names of the two texts; empty if nothing tells them.

    An export names the tags that are compared, which may be called as the data, or only the tag that
    compares them. Then the data tell it, if they are called as in Label Studio's templates: answer1 is
    on the left, answer2 on the right.
    """
    if len(tags) == MIN_ANSWERS and data.keys() >= set(tags):
        return list(tags)
    names = _pair_in([name for name, value in data.items() if isinstance(value, str)])
    if len(tags) != MIN_ANSWERS or not names:
        return names
    return names if _pair_in(tags) == tags else names[::-1] if _pair_in(tags) else []


def _pair_in(names: Sequence[str]) -> list[str]:
    """Example: ["prompt", "answer2", "answer1"] -> ["answer1", "answer2"]; empty if there are several."""
    pairs = [
        [name, stem + right]
        for left, right in LEFT_RIGHT
        for name in names
        if name.endswith(left) and (stem := name.removesuffix(left)) + right in names
        if stem.rstrip("_-. ").lower() not in SOURCES
        if not stem or sum(other.startswith(stem) for other in names) == MIN_ANSWERS
    ]
    return pairs[0] if len(pairs) == 1 else []


def _ranker(field: str, result: Mapping[str, Any], task: _Task) -> _Marked:
    ranked = result["value"].get("ranker")
    if isinstance(ranked, dict) and len(ranked) == 1:  # by the name of the tag
        (ranked,) = ranked.values()
    if isinstance(ranked, dict):
        raise FieldError(
            f"{field}.value.ranker",
            f"sorts into the buckets {', '.join(map(excerpt, ranked))}; buckets have no order among "
            "each other, so nobody can say which item is better: only a Ranker without buckets ranks",
        )
    if not isinstance(ranked, list):
        raise FieldError(f"{field}.value.ranker", f"must be a list of ids, not {excerpt(ranked)}")
    for name, items in task.data.items():
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            ids = [str(item.get("id")) for item in items]
            if len(set(ids)) == len(ids) and sorted(ids) == sorted(map(str, ranked)):
                place = f"{task.prefix}{name}"
                check_number_of_answers(place, items, "items")
                texts = [item.get(first_of(item, (*TEXTS, "html", "title"))) for item in items]
                names = [f"{place}[{i}]" for i in range(len(items))]
                return _Marked(names, texts, [[ids.index(str(pk))] for pk in ranked])
    raise FieldError(
        f"{field}.value.ranker", "ranks ids that no list of the data has, or not all of its items"
    )


def _task_prompt(task: _Task, answers: Sequence[Any]) -> list[Message]:
    if task.prompt is not None:
        return prompt_in({"prompt": task.prompt})
    if first_of(task.data, (*PROMPTS, "messages")):
        return prompt_in(task.data)
    texts = [n for n, value in task.data.items() if isinstance(value, str) and value not in answers]
    if len(texts) != 1:
        raise FieldError(
            task.prefix.rstrip(".") or "prompt",
            f"does not say which of {texts} is the prompt; map it, as prompt={task.prefix}NAME",
        )
    return check_prompt(task.data[texts[0]], f"{task.prefix}{texts[0]}")
