"""The rows that an export gives for each kind of training, each from what is frozen.

`data.jsonl` has one row per pair, `votes.jsonl` one record per comparison with all its judgments.
Pairs are made of records when an export is frozen; the other shapes, when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, combinations
from typing import Any, NamedTuple

from annotator.exports.pairs import (
    Judged,
    Preference,
    by_criterion,
    count_votes,
    list_votes,
    pair_weight,
    preference_of,
    ruling_as_vote,
)
from annotator.exports.schemas import MESSAGES, Type
from annotator.models import COUNTED, AssignmentState, Verdict

Row = dict[str, Any]
Record = Mapping[str, Any]  # a line of votes.jsonl

# As text: to look one up among the verdicts takes longer than to compare it, and each vote is asked.
RANKING, SKIPPED = Verdict.RANKING.value, Verdict.SKIPPED.value
SAYS_SOMETHING = frozenset(verdict.value for verdict in COUNTED)  # of the answers
RULING = "ruling-"  # before the number of a reviewer whose ruling is used
COLUMNS = {
    "prompt": "list of messages {role, content}, ending with the user",
    "chosen": "list of one assistant message: the completion preferred by more judgments",
    "rejected": "list of one assistant message: the other completion",
    "p_chosen": "share of the rankings that prefer `chosen`, a tie counting half; 0.5 to 1",
    "n_judgments": "rankings of this pair",
    "weight": (
        "how much the pair counts beside others: n_judgments · 2 / K for one of a comparison of K "
        "completions, whose K (K - 1) / 2 pairs then count as K - 1 choices per ranking; where only "
        "the best of K was picked, 1 / (K - 1) for each pick instead of 2 / K"
    ),
    "margin": (
        "mean strength of preference for `chosen`, as a share of the strongest that could be said: "
        "-1 to 1; a tie, and a ranking that was not asked for strength, counts 0.0"
    ),
    "split": "train or test; the same for all pairs of a prompt",
    "comparison": "number of the comparison; those of 3 or more completions give several pairs",
    "prompt_key": "SHA-256 of the prompt",
    "round": "round of the loop in which the comparison was made",
    "arm": "active: asked by expected information; random: drawn, for comparison; or empty",
    "first_vote": "number of the comparison's first judgment; a lower one was given earlier",
    "tie_share": "share of the rankings that are ties",
    "votes": (
        "list of one {annotator, prefers, first, strength, criteria, reasons, rationale, spans} per "
        "ranking: the annotator's number as text, with ruling- before it for a reviewer's ruling; "
        "chosen, rejected or tie; which of the two was shown first, chosen or rejected; 0.0 to 1.0; "
        "list of {criterion, prefers, strength}; chosen from a list; in words; list of {of, start, "
        "end, label} in characters of chosen or rejected"
    ),
    "criteria": (
        "list of {criterion, p_chosen, n_judgments, margin}: the same shares by what was asked for "
        "besides; below 0.5 where `rejected` is preferred in that respect"
    ),
    "chosen_flags": "list of the flags on `chosen`, as often as judgments put them",
    "rejected_flags": "list of the flags on `rejected`, likewise",
    "n_all_bad": "judgments of the comparison that call all its completions bad; not rankings",
    "chosen_source": "model version or import that `chosen` comes from",
    "rejected_source": "model version or import that `rejected` comes from",
    "chosen_truncated": "true if `chosen` was cut off at the length limit",
    "rejected_truncated": "true if `rejected` was cut off at the length limit",
}
DEMONSTRATION_COLUMNS = {
    "prompt": "list of messages {role, content}, ending with the user",
    "completion": "list of one assistant message: the answer as an annotator wrote it",
    "split": "train or test, as that of the prompt's pairs",
    "comparison": "number of the comparison that it was written at",
    "prompt_key": "SHA-256 of the prompt",
    "round": "round of the loop in which the comparison was made",
    "annotator": "the annotator's number as text",
}


# --- reward training: pairs with all that was said of them ---------------------------------------
VOTE: Type = {
    "annotator": "string", "prefers": "string", "first": "string", "strength": "float64",
    "criteria": [{"criterion": "string", "prefers": "string", "strength": "float64"}],
    "reasons": ["string"], "rationale": "string",
    "spans": [{"of": "string", "start": "int64", "end": "int64", "label": "string"}],
}  # fmt: skip
REWARD: dict[str, Type] = {
    "prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES,
    "p_chosen": "float64", "n_judgments": "int64", "weight": "float64", "margin": "float64",
    "split": "string", "comparison": "int64", "prompt_key": "string", "round": "int64",
    "arm": "string", "first_vote": "int64", "tie_share": "float64",
    "votes": [VOTE],
    "criteria": [
        {"criterion": "string", "p_chosen": "float64", "n_judgments": "int64", "margin": "float64"}
    ],
    "chosen_flags": ["string"], "rejected_flags": ["string"], "n_all_bad": "int64",
    "chosen_source": "string", "rejected_source": "string",
    "chosen_truncated": "bool", "rejected_truncated": "bool",
}  # fmt: skip


def reward_rows(record: Record) -> Iterator[Row]:
    """One per pair of completions that somebody has ranked."""
    judgments = [j for j in record["judgments"] if j["verdict"] in SAYS_SOMETHING]
    rankings = [judgment for judgment in judgments if judgment["verdict"] == RANKING]
    if not rankings:
        return
    said = [(judgment, preference_of(judgment)) for judgment in rankings]
    rulings = record["rulings"]
    preferences = [preference for _, preference in said]
    picks = [preference for preference in preferences if preference.is_pick]
    preferences += [Preference(ruling["ranking"]) for ruling in rulings]
    texts, sources, truncated = record["completions"], record["sources"], record["truncated"]
    for chosen, rejected in combinations(range(len(texts)), 2):
        votes = count_votes(chosen, rejected, preferences)
        n = votes.n
        if not n:
            continue  # each time another one was picked
        n_picks = count_votes(chosen, rejected, picks).n if picks else 0
        if votes.losses > votes.wins:
            chosen, rejected, votes = rejected, chosen, votes.swapped()
        yield {
            "prompt": record["prompt"],
            "chosen": [_message(texts[chosen])],
            "rejected": [_message(texts[rejected])],
            "p_chosen": votes.p_first,
            "n_judgments": n,
            "weight": pair_weight(n - n_picks, len(texts), n_picks),
            "margin": votes.strength / n,
            "split": record["split"],
            "comparison": record["comparison"],
            "prompt_key": record["prompt_key"],
            "round": record["round"],
            "arm": record["arm"],
            "first_vote": judgments[0]["judgment"],
            "tie_share": votes.ties / n,
            "votes": [
                *list_votes(chosen, rejected, said),
                *(ruling_as_vote(chosen, rejected, ruling) for ruling in rulings),
            ],
            "criteria": list(by_criterion(chosen, rejected, rankings)),
            "chosen_flags": _flags_on(chosen, judgments),
            "rejected_flags": _flags_on(rejected, judgments),
            "n_all_bad": len(judgments) - len(rankings),
            "chosen_source": sources[chosen],
            "rejected_source": sources[rejected],
            "chosen_truncated": truncated[chosen],
            "rejected_truncated": truncated[rejected],
        }


def _message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _flags_on(completion: int, judgments: Iterable[Judged]) -> list[str]:
    return [flag for judgment in judgments for flag in judgment["flags"][completion]]


def demonstrations(record: Record) -> Iterator[Row]:
    """Answers as annotators rewrote them, in TRL's prompt-completion format for SFT."""
    for judgment in record["judgments"]:
        if judgment["rewrite"]:
            yield {
                "prompt": record["prompt"],
                "completion": [_message(judgment["rewrite"])],
                "split": record["split"],
                "comparison": record["comparison"],
                "prompt_key": record["prompt_key"],
                "round": record["round"],
                "annotator": judgment["annotator"],
            }


# --- DPO: paired ----------------------------------------------------------------------------------
_DPO = (
    "prompt", "chosen", "rejected", "p_chosen", "n_judgments", "margin", "split", "comparison",
    "prompt_key", "round", "chosen_source", "rejected_source",
)  # fmt: skip
DPO: dict[str, Type] = {name: REWARD[name] for name in _DPO}


def dpo_rows(pair: Mapping[str, Any]) -> Iterator[Row]:
    """The pair, unless it is a tie: DPO only knows chosen and rejected."""
    if pair["p_chosen"] != 0.5:
        yield {name: pair.get(name) for name in _DPO}  # early exports lack some


# --- KTO: unpaired --------------------------------------------------------------------------------
KTO: dict[str, Type] = {
    "prompt": MESSAGES, "completion": MESSAGES, "label": "bool", "share": "float64",
    "n_judgments": "int64", "split": "string", "comparison": "int64", "prompt_key": "string",
    "round": "int64", "source": "string", "truncated": "bool",
}  # fmt: skip


def shares_won(record: Record) -> list[tuple[float, int]]:
    """Of each completion: how well it did, 0 to 1, and by how many judgments.

    A ranking gives it the share of the others that it beats, a tie counting half; "all bad" gives
    nothing; the share is the mean. Example: of two answers, two votes for the first and one "all
    bad" give 2/3 and 0.
    """
    n = len(record["completions"])
    sums, counts = [0.0] * n, [0] * n
    for judgment in chain(record["judgments"], record["rulings"]):
        if judgment["verdict"] not in SAYS_SOMETHING:
            continue
        counts = [count + 1 for count in counts]
        if judgment["verdict"] == RANKING:
            preference = Preference(judgment["ranking"], 0.0, judgment["is_pick"])
            for place in range(n):
                sums[place] += _share_beaten(place, n, preference)
    return [
        (sums[place] / counts[place] if counts[place] else 0.5, counts[place]) for place in range(n)
    ]


def _share_beaten(place: int, n: int, preference: Preference) -> float:
    outcomes = [preference.outcome(place, other) for other in range(n) if other != place]
    said = [outcome for outcome in outcomes if outcome is not None]
    return sum((outcome + 1) / 2 for outcome in said) / len(said)


def kto_rows(record: Record) -> Iterator[Row]:
    """One per completion that did better or worse than half."""
    for place, (share, n) in enumerate(shares_won(record)):
        if share != 0.5:
            yield {
                "prompt": record["prompt"],
                "completion": [_message(record["completions"][place])],
                "label": share > 0.5,
                "share": share,
                "n_judgments": n,
                "split": record["split"],
                "comparison": record["comparison"],
                "prompt_key": record["prompt_key"],
                "round": record["round"],
                "source": record["sources"][place],
                "truncated": record["truncated"][place],
            }


# --- SFT: rewrites and best answers ---------------------------------------------------------------
SFT: dict[str, Type] = {
    "prompt": MESSAGES, "completion": MESSAGES, "kind": "string", "share": "float64",
    "n_judgments": "int64", "annotator": "string", "split": "string", "comparison": "int64",
    "prompt_key": "string", "round": "int64", "source": "string", "truncated": "bool",
}  # fmt: skip


def sft_rows(record: Record) -> Iterator[Row]:
    """What annotators wrote, and the completion that did best by itself and better than half."""
    for row in demonstrations(record):
        added = {
            "kind": "rewrite",
            "share": None,
            "n_judgments": 1,
            "source": "",
            "truncated": False,
        }
        yield {name: (row | added)[name] for name in SFT}
    shares = shares_won(record)
    share, n = max(shares)
    if share > 0.5 and [s for s, _ in shares].count(share) == 1:
        best = shares.index((share, n))
        yield {
            "prompt": record["prompt"],
            "completion": [_message(record["completions"][best])],
            "kind": "best",
            "share": share,
            "n_judgments": n,
            "annotator": "",
            "split": record["split"],
            "comparison": record["comparison"],
            "prompt_key": record["prompt_key"],
            "round": record["round"],
            "source": record["sources"][best],
            "truncated": record["truncated"][best],
        }


# --- raw votes: one row per showing ---------------------------------------------------------------
JUDGED: dict[str, Type] = {
    "annotator": "string", "verdict": "string", "ranking": [["int64"]], "strength": "int64",
    "strength_of": "int64", "is_pick": "bool",
    "criteria": [
        {
            "criterion": "string", "ranking": [["int64"]], "strength": "int64",
            "strength_of": "int64",
        }
    ],
    "reasons": ["string"], "rationale": "string", "flags": [["string"]],
    "spans": [{"completion": "int64", "start": "int64", "end": "int64", "label": "string"}],
    "rewrite": "string", "order": ["int64"], "seconds": "float64",
    "first_interaction_ms": "int64", "ui_version": "string", "guideline_version": "int64",
    "given": "string", "judgment": "int64", "showing": "int64",
}  # fmt: skip
VOTES: dict[str, Type] = {
    "prompt": MESSAGES, "completions": ["string"], "sources": ["string"], "truncated": ["bool"],
    **JUDGED,
    "outcome": "string", "shown": "string", "is_repeat": "bool", "expected": [["int64"]],
    "split": "string", "comparison": "int64", "prompt_key": "string", "round": "int64",
    "arm": "string",
}  # fmt: skip
NOTHING_SAID: Row = dict.fromkeys(JUDGED) | {
    "ranking": [], "is_pick": False, "criteria": [], "reasons": [], "rationale": "", "spans": [],
    "rewrite": "",
}  # fmt: skip


def vote_rows(record: Record) -> Iterator[Row]:
    """One per showing that was answered or skipped; rulings are nobody's showing."""
    for judgment in record["judgments"]:
        is_skip = judgment["verdict"] == SKIPPED
        outcome = AssignmentState.SKIPPED if is_skip else AssignmentState.JUDGED
        yield row_of_showing(record, judgment, outcome=outcome)


def row_of_showing(
    record: Record,
    judgment: Mapping[str, Any],
    *,
    outcome: str,
    shown: str | None = None,
    is_repeat: bool = False,
    expected: list[list[int]] | None = None,
) -> Row:
    """`outcome` is a state of an assignment; `expected` ranks the answers where that is known."""
    more = {"outcome": outcome, "shown": shown, "is_repeat": is_repeat, "expected": expected}
    row = {**record, **judgment, **more}
    return {name: row.get(name) for name in VOTES}  # early exports lack some


# --- all of them ----------------------------------------------------------------------------------
class Shape(NamedTuple):
    """What an export can be asked for."""

    title: str
    explanation: str
    columns: dict[str, Type]
    source: str  # the frozen file that its rows are made of
    rows: (
        Callable[[Mapping[str, Any]], Iterable[Row]] | None
    )  # of one line; None: the lines themselves
    more_rows: str = ""  # a frozen file whose lines are rows too, if the export has it


SHAPES = {
    "reward": Shape(
        "Reward training", "Pairs with shares, weights, margins and each vote.",
        REWARD, "data.jsonl", None,
    ),
    "dpo": Shape(
        "DPO", "Pairs that were decided: chosen and rejected.", DPO, "data.jsonl", dpo_rows
    ),
    "kto": Shape(
        "KTO", "Single answers, each good or bad; “all bad” counts.", KTO, "votes.jsonl", kto_rows
    ),
    "sft": Shape(
        "SFT", "What annotators wrote, and the best answers.", SFT, "votes.jsonl", sft_rows
    ),
    "votes": Shape(
        "Raw votes", "One row per showing, answered or not: order, outcome, verdict, seconds.",
        VOTES, "votes.jsonl", vote_rows, "showings.jsonl",
    ),
}  # fmt: skip
