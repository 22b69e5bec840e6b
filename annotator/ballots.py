"""The ballot paper: what a page offers for a comparison under a protocol, and how it is read.

The names and values of the form's fields are known here alone. Answers are named by their place
from left to right, because that is what the page shows; what is read speaks of completion ids.

    choice        first-3, tie, second-1, all_bad, unrankable, best-0, rank, skip
    rank-0        the rank of the first answer, from 1
    criterion-KEY as choice
    reason        any number of the protocol's
    rationale     text
    rewrite       text
    flag-0        any number of the protocol's, of the first answer
    spans         JSON: [{"answer": 0, "start": 0, "end": 12, "label": "wrong"}]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from annotator.models import Completion, Judgment, Verdict
from annotator.protocols import Criterion, Protocol, Said
from annotator.rendering import LETTERS

UNRANKED = (Verdict.ALL_BAD.value, Verdict.UNRANKABLE.value)  # choices that rank nothing
FLAG_KEYS = "qwert"  # a row of the keyboard, for the flags of the answer in hand
Entered = Mapping[str, Sequence[str]]  # the form's fields, each with all its values


class Choice(NamedTuple):
    """A button of the ballot and what it says."""

    value: str
    label: str
    short: str  # where there is no room
    key: str
    verdict: Verdict
    places: tuple[tuple[int, ...], ...] = ()  # tie groups of places from left to right
    strength: int | None = None
    also_key: str = ""  # of those who prefer arrows


# --- what is offered ------------------------------------------------------------------------------
def choices(protocol: Protocol, n: int) -> list[Choice]:
    """The buttons under `n` answers, from left to right; none of them ranks three or more."""
    if n == 2:
        offered = _of_two(protocol)
    elif protocol.many == "best":
        offered = _best_of(n)
    else:
        offered = []
    if protocol.allow_all_bad:
        label = protocol.all_bad_label or ("Both bad" if n == 2 else "All bad")
        key = "9" if n == 2 and not protocol.asks_strength else "x"
        offered.append(Choice(Verdict.ALL_BAD.value, label, label, key, Verdict.ALL_BAD))
    if protocol.allow_unrankable:
        label = Verdict.UNRANKABLE.label
        offered.append(Choice(Verdict.UNRANKABLE.value, label, label, "n", Verdict.UNRANKABLE))
    return offered


def choices_by_criterion(protocol: Protocol, n: int) -> list[Choice]:
    """The same for one criterion, in which all of them may be equal but not bad."""
    if n == 2:
        return _of_two(protocol)
    offered = _best_of(n)
    if protocol.allow_tie:
        everybody = (tuple(range(n)),)
        offered.append(Choice("tie", "Tie", "=", "0", Verdict.RANKING, everybody))
    return offered


def _of_two(protocol: Protocol) -> list[Choice]:
    """A much better … tie … B much better; one key for the choice and its strength."""
    steps = len(protocol.strengths)
    scale = [("A", step) for step in range(steps, 0, -1)]
    scale += [("", 0)] if protocol.allow_tie else []
    scale += [("B", step) for step in range(1, steps + 1)]
    keys = [str(place) for place in range(1, len(scale) + 1)]
    if steps == 1:  # as everywhere: 1, 2, and 0 for what lies between them
        keys = ["1", "0", "2"] if protocol.allow_tie else ["1", "2"]
    return [_on_scale(protocol, *where, key) for where, key in zip(scale, keys, strict=True)]


def _on_scale(protocol: Protocol, letter: str, step: int, key: str) -> Choice:
    if not letter:
        return Choice("tie", "Tie", "=", key, Verdict.RANKING, ((0, 1),))
    name, places = ("first", ((0,), (1,))) if letter == "A" else ("second", ((1,), (0,)))
    label = f"{letter} {protocol.strengths[step - 1]}"
    if not protocol.asks_strength:
        arrow = "ArrowLeft" if letter == "A" else "ArrowRight"
        return Choice(name, label, letter, key, Verdict.RANKING, places, None, arrow)
    return Choice(f"{name}-{step}", label, f"{letter}{step}", key, Verdict.RANKING, places, step)


def _best_of(n: int) -> list[Choice]:
    return [
        Choice(
            f"best-{place}",
            f"{LETTERS[place]} best",
            LETTERS[place],
            str(place + 1),
            Verdict.RANKING,
            ((place,), tuple(other for other in range(n) if other != place)),
        )
        for place in range(n)
    ]


def key_sheet(protocol: Protocol, n: int) -> list[tuple[list[str], str]]:
    """Keys and what they do, for the sheet."""
    offered = choices(protocol, n)
    sheet = [([choice.key, *_arrow(choice)], choice.label) for choice in offered]
    if n > 2 and protocol.many == "ranking":
        sheet.insert(0, (["1", "…", str(n)], "Rank of the answer in hand, then the next one"))
    if n > 2 or protocol.flags or protocol.span_labels:
        sheet.append((["J", "K"], "Next, previous answer"))
    if protocol.flags:
        flags = [FLAG_KEYS[place].upper() for place in range(len(protocol.flags))]
        sheet.append((flags, f"{', '.join(protocol.flags)}: on the answer in hand"))
    if protocol.span_labels:
        sheet.append((["H"], "Text of the answer in hand, to mark passages in it"))
        sheet.append((["⇧ ←", "⇧ →"], "In the text: select"))
        sheet.append((["↵", "1", "…"], "In the text: mark it with the first label, or by number"))
        sheet.append((["Esc"], "Out of the text"))
    if protocol.criteria or protocol.reasons:
        sheet.append((["1", "…"], "After the choice: what the line in hand offers"))
        sheet.append((["J", "K"], "After the choice: next, previous line"))
    if protocol.asks_more:
        sheet.append((["Esc"], "Out of a text; then back to the answers"))
        sheet.append((["↵", "Ctrl ↵"], "Send; the latter also from a text"))
    elif n > 2 and protocol.many == "ranking":
        sheet.append((["↵"], "Send the ranking"))
    return [([key.upper() if len(key) == 1 else key for key in keys], does) for keys, does in sheet]


def _arrow(choice: Choice) -> list[str]:
    arrows = {"ArrowLeft": "←", "ArrowRight": "→"}
    return [arrows[choice.also_key]] if choice.also_key else []


# --- reading what was entered ---------------------------------------------------------------------
def read(entered: Entered, protocol: Protocol, order: Sequence[int]) -> Said:
    """What the page's form says. Raises ValueError, with a sentence, if it cannot be understood;
    `protocols.check` says whether it is allowed."""
    said = _nothing(Verdict.SKIPPED)
    chosen = entered.get("choice", [])
    if "skip" in chosen:
        return said
    said["verdict"], said["ranking"], said["strength"] = _choice(entered, protocol, order)
    said["criteria"] = _criteria(entered, protocol, order)
    said["reasons"] = list(entered.get("reason", []))
    said["rationale"] = _text(entered, "rationale").strip()
    said["rewrite"] = _text(entered, "rewrite").strip("\n")
    flags = {str(pk): list(entered.get(f"flag-{place}", [])) for place, pk in enumerate(order)}
    said["flags"] = {pk: labels for pk, labels in flags.items() if labels}
    said["spans"] = _spans(entered, order)
    return said


def _nothing(verdict: Verdict) -> Said:
    return Said(
        verdict=verdict, ranking=[], strength=None, criteria={}, rationale="", reasons=[], flags={},
        spans=[], rewrite="",
    )  # fmt: skip


def _choice(
    entered: Entered, protocol: Protocol, order: Sequence[int]
) -> tuple[Verdict, list[list[int]], int | None]:
    values = list(entered.get("choice", []))
    offered = {choice.value: choice for choice in choices(protocol, len(order))}
    # The button that sends a ranking has a value too: a box for "all bad" says more.
    boxes = [value for value in values if value in UNRANKED]
    if len(boxes) > 1:
        raise ValueError("All bad, or unrankable? Choose one of them.")
    value = boxes[0] if boxes else values[-1] if values else ""
    if value in offered:
        choice = offered[value]
        return choice.verdict, _ids(choice.places, order), choice.strength
    if boxes:
        return Verdict(value), [], None  # not offered: `protocols.check` has a sentence for it
    if len(order) > 2 and protocol.many == "ranking":
        return Verdict.RANKING, _ranks(entered, order), None
    labels = ", ".join(choice.label for choice in offered.values())
    raise ValueError(f"Choose one of: {labels}.")


def _ids(places: Iterable[Iterable[int]], order: Sequence[int]) -> list[list[int]]:
    return [[order[place] for place in group] for group in places]


def _ranks(entered: Entered, order: Sequence[int]) -> list[list[int]]:
    groups: dict[str, list[int]] = {str(rank): [] for rank in range(1, len(order) + 1)}
    for place, pk in enumerate(order):
        rank = _last(entered, f"rank-{place}")
        if rank not in groups:
            raise ValueError("Give every answer a rank; equal ranks are ties.")
        groups[rank].append(pk)
    return [group for group in groups.values() if group]


def _criteria(entered: Entered, protocol: Protocol, order: Sequence[int]) -> dict[str, Any]:
    offered = {choice.value: choice for choice in choices_by_criterion(protocol, len(order))}
    said = {}
    for criterion in protocol.criteria:
        value = _last(entered, f"criterion-{criterion.key}")
        if value in offered:
            choice = offered[value]
            ranking = _ids(choice.places, order)
            said[criterion.key] = {"ranking": ranking, "strength": choice.strength}
        elif value:
            raise ValueError(f"{criterion.name}: choose one of the buttons.")
    return said


def _spans(entered: Entered, order: Sequence[int]) -> list[dict[str, Any]]:
    try:
        spans = json.loads(_last(entered, "spans") or "[]")
        shown = dict(enumerate(order))
        return [
            {
                "completion": shown[span["answer"]],
                "start": span["start"],
                "end": span["end"],
                "label": span["label"],
            }
            for span in spans
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("The highlights did not arrive whole: mark them again.") from error


def _last(entered: Entered, name: str) -> str:
    values = entered.get(name, [])
    return values[-1] if values else ""


def _text(entered: Entered, name: str) -> str:
    """With the line ends that were typed: forms send others."""
    return _last(entered, name).replace("\r\n", "\n").replace("\0", "")


# --- what was entered and not sent ----------------------------------------------------------------
def keep(entered: Entered, protocol: Protocol, n: int) -> dict[str, list[str]]:
    """Those fields that the ballot has and that say something: what a draft holds."""
    names = ["choice", "reason", "rationale", "rewrite", "spans"]
    names += [f"{name}-{place}" for name in ("rank", "flag") for place in range(n)]
    names += [f"criterion-{criterion.key}" for criterion in protocol.criteria]
    kept = {name: [v.replace("\0", "") for v in entered.get(name, []) if v] for name in names}
    kept["choice"] = [value for value in kept["choice"] if value != "skip"]
    kept["spans"] = [value for value in kept["spans"] if value != "[]"]
    return {name: values for name, values in kept.items() if values}


def entered_by(
    judgment: Judgment, protocol: Protocol, order: Sequence[int]
) -> dict[str, list[str]]:
    """What `read` would have read the judgment from: after an undo, the page shows it again."""
    place_of = {pk: place for place, pk in enumerate(order)}
    entered: dict[str, list[str]] = {
        "rationale": [judgment.rationale],
        "rewrite": [judgment.rewrite],
        "reason": judgment.reasons,
        "spans": [
            json.dumps(
                [
                    {"answer": place_of[span["completion"]]}
                    | {name: span[name] for name in ("start", "end", "label")}
                    for span in judgment.spans
                ]
            )
        ],
    }
    for pk, labels in judgment.flags.items():
        entered[f"flag-{place_of[int(pk)]}"] = labels
    if len(order) > 2 and protocol.many == "ranking":
        for rank, group in enumerate(judgment.ranking, 1):
            entered |= {f"rank-{place_of[pk]}": [str(rank)] for pk in group}
    offered = choices(protocol, len(order))
    entered["choice"] = _values(offered, judgment.ranking, judgment.strength, order)
    if judgment.verdict in UNRANKED:
        entered["choice"] = [judgment.verdict]
    offered = choices_by_criterion(protocol, len(order))
    for key, said in judgment.criteria.items():
        values = _values(offered, said["ranking"], said["strength"], order)
        entered[f"criterion-{key}"] = values
    return keep(entered, protocol, len(order))


def _values(
    offered: Iterable[Choice], ranking: Any, strength: int | None, order: Sequence[int]
) -> list[str]:
    """The value of the button that says this, if there is one."""
    return [
        choice.value
        for choice in offered
        if ranking and choice.strength == strength and _ids(choice.places, order) == ranking
    ]


# --- what the page shows ----------------------------------------------------------------------------
class Option(NamedTuple):
    """Something to press, and whether it is pressed."""

    value: str
    label: str
    short: str
    key: str  # as `data-key` has it: several are apart by spaces
    is_on: bool

    @property
    def says(self) -> str:
        """Without the strength: which answer it is about."""
        return self.value.partition("-")[0]

    @property
    def hint(self) -> str:
        """The key that is printed on it."""
        return self.key.split()[0].upper() if self.key else ""


class AnswerOnBallot(NamedTuple):
    """An answer, with what may be said of it alone."""

    letter: str
    place: int
    completion: Completion
    ranks: list[Option]
    flags: list[Option]

    @property
    def raw(self) -> str:
        """The text as JSON: an HTML parser would change its line ends."""
        return json.dumps(self.completion.text)


class Row(NamedTuple):
    """One criterion and what may be said of it."""

    criterion: Criterion
    options: list[Option]


class Ballot:
    """The form of one showing, with what has been entered already."""

    def __init__(
        self, protocol: Protocol, completions: Sequence[Completion], entered: Entered
    ) -> None:
        n = len(completions)
        self.protocol = protocol
        self.n = n
        self.is_blank = not entered
        self.ranks_many = n > 2 and protocol.many == "ranking"
        offered = _options(choices(protocol, n), entered.get("choice", []))
        self.choices = [option for option in offered if option.value not in UNRANKED]
        self.unranked = [option for option in offered if option.value in UNRANKED]
        self.has_scale = n == 2 and protocol.asks_strength
        self.must_send = protocol.asks_more or self.ranks_many
        self.answers = [
            AnswerOnBallot(
                LETTERS[place],
                place,
                completion,
                _plain_options(map(str, range(1, n + 1)), entered.get(f"rank-{place}", []))
                if self.ranks_many
                else [],
                _plain_options(protocol.flags, entered.get(f"flag-{place}", []), FLAG_KEYS),
            )
            for place, completion in enumerate(completions)
        ]
        by_criterion = choices_by_criterion(protocol, n)
        self.rows = [
            Row(criterion, _options(by_criterion, entered.get(f"criterion-{criterion.key}", [])))
            for criterion in protocol.criteria
        ]
        self.reasons = _plain_options(protocol.reasons, entered.get("reason", []), "123456789")
        self.rationale = _text(entered, "rationale")
        self.rewrite = _text(entered, "rewrite")
        self.spans = _last(entered, "spans") or "[]"
        self.marks_only = not (
            self.rows or self.reasons or protocol.rationale != "off" or protocol.rewrite
        )

    @property
    def keys(self) -> list[tuple[list[str], str]]:
        return key_sheet(self.protocol, self.n)

    @property
    def design(self) -> str:
        """The same for blank papers that differ in the answers alone."""
        return f"{self.n} {self.protocol!r}"

    @property
    def ends_with(self) -> str:
        """The right end of the scale."""
        return self.choices[-1].label


def _options(offered: Iterable[Choice], values: Sequence[str]) -> list[Option]:
    return [
        Option(
            choice.value,
            choice.label,
            choice.short,
            f"{choice.key} {choice.also_key}".strip(),
            choice.value in values,
        )
        for choice in offered
    ]


def _plain_options(labels: Iterable[str], values: Sequence[str], keys: str = "") -> list[Option]:
    return [
        Option(label, label, label, keys[place : place + 1], label in values)
        for place, label in enumerate(labels)
    ]
