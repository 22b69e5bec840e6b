"""What people are asked about a comparison, and what they may answer.

A project has one protocol at a time. Each showing of a comparison keeps the one that was in force
when it was handed out: a verdict is read and checked against the page it was given on, whatever an
admin changes meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypedDict

from annotator.models import Assignment, Project, Verdict

MAX_STRENGTHS = 4  # a side; with a tie that is nine buttons, one for each digit
MAX_LABEL = 60  # characters of a label or name
MAX_QUESTION = 200
MAX_CRITERIA = 6
MAX_REASONS = 9  # one for each digit
MAX_MARKS = 5  # flags, or labels of highlights: one for each of the keys of `ballots.FLAG_KEYS`
MAX_RATIONALE = 10_000  # characters
MAX_REWRITE = 100_000

MANY = {"ranking": "Rank them all", "best": "Pick the best one"}
RATIONALES = {"off": "Not asked", "optional": "May be given", "required": "Must be given"}


@dataclass(frozen=True)
class Criterion:
    """Something that is asked besides the whole: which answer is better in this respect."""

    key: str  # as in `Judgment.criteria`
    name: str
    question: str

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", self.key):
            raise ValueError(
                f"a criterion's key is up to 30 small letters, digits and _, not {self.key!r}"
            )
        _check_text("name of a criterion", self.name, MAX_LABEL)
        _check_text("question of a criterion", self.question, MAX_QUESTION)


@dataclass(frozen=True)
class Protocol:
    """What is asked. The defaults are the Arena's: A, B, tie, both bad. Raises ValueError.

    Two answers are compared on the scale of `strengths`; three to nine are ranked, or the best one
    is picked. The other fields add what is asked after the choice, or may be marked on answers.
    """

    # Of a preference, the weakest first, as words after an answer's letter. One: not asked.
    strengths: tuple[str, ...] = ("better",)
    allow_tie: bool = True  # in a ranking: that answers share a rank
    allow_all_bad: bool = True
    all_bad_label: str = ""  # empty: "Both bad", or "All bad"
    allow_unrankable: bool = False  # that they cannot be ranked, which says nothing of them
    many: str = "ranking"  # of MANY: what is done with three to nine answers
    criteria: tuple[Criterion, ...] = ()
    rationale: str = "off"  # of RATIONALES; in words, for every verdict but a skip
    reasons: tuple[str, ...] = ()  # to choose from, besides or instead of words
    rewrite: bool = False  # may the best answer be written as it should be?
    span_labels: tuple[str, ...] = ()  # of passages that may be highlighted in answers
    flags: tuple[str, ...] = ()  # that may be put on each answer

    def __post_init__(self) -> None:
        _check_labels("strengths", self.strengths, MAX_STRENGTHS, at_least=1)
        _check_labels("reasons", self.reasons, MAX_REASONS)
        _check_labels("span_labels", self.span_labels, MAX_MARKS)
        _check_labels("flags", self.flags, MAX_MARKS)
        for name in ("allow_tie", "allow_all_bad", "allow_unrankable", "rewrite"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        _check_one_of("many", self.many, MANY)
        _check_one_of("rationale", self.rationale, RATIONALES)
        if self.all_bad_label:
            _check_text("all_bad_label", self.all_bad_label, MAX_LABEL)
        keys = [criterion.key for criterion in self.criteria]
        if len(keys) > MAX_CRITERIA:
            raise ValueError(f"at most {MAX_CRITERIA} criteria can be asked, not {len(keys)}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"the keys of criteria must differ: {', '.join(keys)}")

    @property
    def asks_strength(self) -> bool:
        return len(self.strengths) > 1

    @property
    def asks_more(self) -> bool:
        """Whether there is more to say than the choice, so that the choice alone sends nothing."""
        return bool(self.criteria or self.rationale != "off" or self.reasons or self.marks_answers)

    @property
    def marks_answers(self) -> bool:
        """Whether something is put on the answers themselves, or said in their place."""
        return bool(self.rewrite or self.span_labels or self.flags)


def _check_labels(name: str, labels: Any, at_most: int, at_least: int = 0) -> None:
    if not isinstance(labels, tuple) or not at_least <= len(labels) <= at_most:
        raise ValueError(f"{name} must be {at_least} to {at_most} labels, not {labels!r}")
    for label in labels:
        _check_text(f"label in {name}", label, MAX_LABEL)
    if len(set(labels)) < len(labels):
        raise ValueError(f"the labels in {name} must differ: {', '.join(labels)}")


def _check_text(what: str, text: Any, at_most: int) -> None:
    is_line = isinstance(text, str) and text.splitlines() == [text.strip()] and "\0" not in text
    if not is_line or len(text) > at_most:
        raise ValueError(f"a {what} is 1 to {at_most} characters on one line, not {text!r}")


def _check_one_of(name: str, value: Any, known: Mapping[str, str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


# --- as JSON ------------------------------------------------------------------------------------
_DEFAULTS = {
    field.name: field.default for field in fields(Protocol) if field.default is not MISSING
}


def to_json(protocol: Protocol) -> dict[str, Any]:
    """What differs from the defaults. Example: that of the Arena is {}."""
    changed = {name: value for name, value in asdict(protocol).items() if value != _DEFAULTS[name]}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()}


def from_json(value: Mapping[str, Any]) -> Protocol:
    """The protocol that `to_json` was given. Raises ValueError with what is wrong."""
    if unknown := sorted(set(value) - set(_DEFAULTS)):
        raise ValueError(f"a protocol has no {', '.join(unknown)}; it has {', '.join(_DEFAULTS)}")
    settings: dict[str, Any] = {
        name: tuple(setting) if isinstance(setting, list) else setting
        for name, setting in value.items()
    }
    if "criteria" in settings:
        if not isinstance(settings["criteria"], tuple):
            raise ValueError(f"criteria must be a list, not {settings['criteria']!r}")
        settings["criteria"] = tuple(map(_criterion, settings["criteria"]))
    return Protocol(**settings)


def _criterion(value: Any) -> Criterion:
    names = {field.name for field in fields(Criterion)}
    if not isinstance(value, Mapping) or set(value) != names:
        raise ValueError(f"a criterion has a key, a name and a question, not {value!r}")
    return Criterion(**value)


def protocol_of(project: Project) -> Protocol:
    """The one that the next comparisons are handed out with."""
    return from_json(project.protocol)


def protocol_shown(assignment: Assignment) -> Protocol:
    """The one that this showing was handed out with, and that its verdict is read by."""
    return from_json(assignment.protocol)


def picks_best(assignment: Assignment) -> bool:
    """Whether the annotator only picked the best of several answers. The last group of the ranking
    then holds the others, which nobody has compared with one another."""
    return is_pick(assignment.protocol, len(assignment.order))


def is_pick(protocol: dict[str, Any], n: int) -> bool:
    """The same of a protocol as it is stored, and n answers."""
    return protocol.get("many") == "best" and n > 2


def n_strengths(protocol: dict[str, Any]) -> int:
    """How many steps a side the scale has, of a protocol as it is stored."""
    return len(protocol.get("strengths", _DEFAULTS["strengths"]))


# --- a verdict --------------------------------------------------------------------------------
class Said(TypedDict):
    """All that an annotator said of a showing, as in the fields of `Judgment`."""

    verdict: Verdict
    ranking: list[list[int]]
    strength: int | None
    criteria: dict[str, dict[str, Any]]
    rationale: str
    reasons: list[str]
    flags: dict[str, list[str]]
    spans: list[dict[str, Any]]
    rewrite: str


def check(protocol: Protocol, order: Sequence[int], said: Said) -> None:
    """Raises ValueError, with a sentence for the annotator, unless the protocol allows all of it.

    `order` are the ids of the answers shown. That spans lie within their texts is for whoever has
    the texts: `check_spans`.
    """
    if said["verdict"] == Verdict.SKIPPED:
        besides = {name: part for name, part in said.items() if name not in ("verdict", "ranking")}
        if any(besides.values()):
            raise ValueError("A comparison that is skipped is not judged in any respect.")
        return
    if said["verdict"] == Verdict.ALL_BAD and not protocol.allow_all_bad:
        raise ValueError("This project asks for a choice also where all answers are bad.")
    if said["verdict"] == Verdict.UNRANKABLE and not protocol.allow_unrankable:
        raise ValueError("This project asks for a choice: what you cannot rank you can skip.")
    if said["verdict"] == Verdict.RANKING:
        _check_ranking(protocol, order, said["ranking"], said["strength"])
        if len(said["criteria"]) < len(protocol.criteria):
            missing = [c.name for c in protocol.criteria if c.key not in said["criteria"]]
            raise ValueError(f"Say also which answer is better in: {', '.join(missing)}.")
    elif said["strength"] is not None:
        raise ValueError("Only a preference can be strong or weak.")
    _check_criteria(protocol, order, said["criteria"])
    _check_rationale(protocol, said)
    _check_marks(protocol, order, said)
    if said["rewrite"] and not protocol.rewrite:
        raise ValueError("This project does not ask for an answer of your own.")
    if len(said["rewrite"]) > MAX_REWRITE:
        raise ValueError(f"An answer of your own has at most {MAX_REWRITE:,} characters.")


def _check_ranking(
    protocol: Protocol, order: Sequence[int], ranking: Sequence[Sequence[int]], strength: Any
) -> None:
    is_pair, is_tie = len(order) == 2, len(ranking) == 1
    if not is_pair and protocol.many == "best":
        if [len(group) for group in ranking] != [1, len(order) - 1]:
            raise ValueError("Pick one answer: the best.")
    elif not protocol.allow_tie and any(len(group) > 1 for group in ranking):
        raise ValueError("This project asks for a decision: no two answers can be equally good.")
    if not (is_pair and protocol.asks_strength and not is_tie):
        if strength is not None:
            raise ValueError("How much better an answer is was not asked here.")
    elif type(strength) is not int or not 1 <= strength <= len(protocol.strengths):
        raise ValueError(f"Say how much better it is: in {len(protocol.strengths)} steps.")


def _check_criteria(
    protocol: Protocol, order: Sequence[int], criteria: Mapping[str, Mapping[str, Any]]
) -> None:
    known = {criterion.key for criterion in protocol.criteria}
    if unknown := sorted(set(criteria) - known):
        raise ValueError(f"This project does not ask about {', '.join(unknown)}.")
    for preference in criteria.values():
        ranking = preference["ranking"]
        if sorted(pk for group in ranking for pk in group) != sorted(order):
            raise ValueError("A criterion is about the answers shown.")
        if len(order) > 2 and [len(group) for group in ranking] == [len(order)]:
            if not protocol.allow_tie:
                raise ValueError("Pick one answer for each criterion.")
            if preference["strength"] is not None:
                raise ValueError("How much better an answer is was not asked here.")
            continue
        _check_ranking(_picking(protocol), order, ranking, preference["strength"])


def _picking(protocol: Protocol) -> Protocol:
    """Of several answers only the best is asked for by criterion: ranking them all again and again
    is more than anybody does with care."""
    return Protocol(protocol.strengths, allow_tie=protocol.allow_tie, many="best")


def _check_rationale(protocol: Protocol, said: Said) -> None:
    if said["rationale"] and protocol.rationale == "off":
        raise ValueError("This project does not ask for reasons in words.")
    if not said["rationale"].strip() and protocol.rationale == "required":
        raise ValueError("Say in a few words why.")
    if len(said["rationale"]) > MAX_RATIONALE:
        raise ValueError(f"Reasons have at most {MAX_RATIONALE:,} characters.")
    _check_known("reasons", said["reasons"], protocol.reasons)


def _check_marks(protocol: Protocol, order: Sequence[int], said: Said) -> None:
    for pk, flags in said["flags"].items():
        if pk not in [str(shown) for shown in order]:
            raise ValueError("A flag is on another answer than those shown.")
        _check_known("flags", flags, protocol.flags)
    for span in said["spans"]:
        if span["completion"] not in order:
            raise ValueError("A highlight is in another answer than those shown.")
        _check_known("highlights", [span["label"]], protocol.span_labels)


def _check_known(what: str, labels: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [str(label) for label in labels if label not in known]:
        raise ValueError(f"This project has no {what} called {', '.join(unknown)}.")
    if len(set(labels)) < len(labels):
        raise ValueError(f"The same {what} are given twice.")


def check_spans(spans: Sequence[Mapping[str, Any]], lengths: Mapping[int, int]) -> None:
    """Raises ValueError unless each span is part of its completion's text of that many characters."""
    for span in spans:
        start, end, length = span["start"], span["end"], lengths[span["completion"]]
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
            raise ValueError(f"A highlight from {start} to {end} is not within its answer.")


# --- presets ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Preset:
    name: str
    description: str  # one sentence, for the settings page
    source: str  # where the protocol comes from
    protocol: Protocol


QUALITIES = (
    Criterion("helpful", "Helpful", "Which answer helps more with what was asked?"),
    Criterion(
        "honest", "Honest", "Which answer is more truthful, also about what it does not know?"
    ),
    Criterion("harmless", "Harmless", "Which answer does less harm?"),
)
PRESETS = {
    "arena": Preset(
        "Arena",
        "A, B, a tie, or both bad: one key, and the fastest of all.",
        "Chatbot Arena (Chiang et al. 2024, arXiv 2403.04132)",
        Protocol(),
    ),
    "anthropic": Preset(
        "Eight steps",
        "Four strengths on each side, and no tie: a slight preference is still one.",
        "Anthropic's helpful and harmless assistant (Bai et al. 2022, arXiv 2204.05862)",
        Protocol(
            strengths=("hardly better", "slightly better", "better", "much better"),
            allow_tie=False,
            allow_all_bad=False,
        ),
    ),
    "llama2": Preset(
        "Forced choice, four strengths",
        "One of the two must be chosen; the weakest strength stands for “unsure”.",
        "Llama 2 (Touvron et al. 2023, arXiv 2307.09288, § 3.2.1)",
        Protocol(
            strengths=(
                "negligibly better or unsure", "slightly better", "better", "significantly better"
            ),
            allow_tie=False,
            allow_all_bad=False,
        ),
    ),
    "helpsteer": Preset(
        "Seven points with reasons",
        "From A much better through a tie to B much better, and a few words that say why.",
        "HelpSteer3-Preference (Wang et al. 2025, arXiv 2505.11475)",
        Protocol(
            strengths=("slightly better", "better", "much better"),
            allow_all_bad=False,
            rationale="required",
        ),
    ),
    "instructgpt": Preset(
        "Full ranking",
        "Three to nine answers are ranked, ties allowed; or they cannot be ranked at all.",
        "InstructGPT (Ouyang et al. 2022, arXiv 2203.02155), with Open Assistant's way out",
        Protocol(allow_all_bad=False, allow_unrankable=True),
    ),
    "best_of_n": Preset(
        "Pick the best",
        "One key says which of several answers is the best; of the others nothing is said.",
        "Fine-tuning from human preferences (Ziegler et al. 2019, arXiv 1909.08593): best of four",
        Protocol(many="best"),
    ),
    "qualities": Preset(
        "Helpful, honest, harmless",
        "After the choice, each of the three is asked for by itself.",
        "A general language assistant (Askell et al. 2021, arXiv 2112.00861)",
        Protocol(criteria=QUALITIES),
    ),
}  # fmt: skip


def preset_of(protocol: Protocol) -> str:
    """The key of the preset that this is; empty if it was made by hand."""
    return next((key for key, preset in PRESETS.items() if preset.protocol == protocol), "")
