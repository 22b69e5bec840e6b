"""Which savings a run works with, and why one is missing that was asked for. No torch.

In result.json:

    {"layers": 30, "trunk_layers": 10, "merged": true, "notes": [],
     "shares_prompts": true, "rows": 150, "completions": 600}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf.training.artifacts import RunFolder

RUN_ALONE = "run alone, those do not repeat what they compute in the whole model"
NO_TRUNK_OF_ENCODERS = "of an encoder no states are kept"
TWO_TYPES = "what learns is in float32 and the layers below are not, so that they share no states"

SEES_ALL = "each token of an encoder sees all others"
IN_WINDOWS = "the model attends in windows"
SCORES_DIFFER = "in a shared row this model scores an answer differently"


class Savings(NamedTuple):
    """What is in force."""

    layers: int  # of the model
    trunk_layers: int  # top ones that run on the kept states of those below; 0: all run each time
    merged: bool | None  # adapters are one product with the weights; None: there are none
    notes: list[str]  # a sentence on each saving that was asked for and not had
    # Of a reward model that learns:
    shares_prompts: bool | None = None  # a prompt is computed once for all its completions
    rows: int | None = None  # prompts with one completion or several
    completions: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


def tell_savings(savings: Savings, folder: RunFolder) -> None:
    """In the log, before the work begins."""
    for sentence in (savings_in_words(savings.to_json()), *savings.notes):
        folder.say(sentence)


def trunk_note(layers: int, asked: int, running: int, reason: str) -> str:
    """Example: 30, 10, 30, RUN_ALONE -> "All 30 layers run each time, not the top 10 alone: …"."""
    which = f"All {layers}" if running == layers else f"The top {running} of {layers}"
    return f"{which} layers run each time, not the top {asked} alone: {reason}."


def prompts_note(reason: str) -> str:
    return f"Each answer is computed together with its prompt, which is not shared: {reason}."


def savings_in_words(found: Mapping[str, Any]) -> str:
    """Of what `to_json` gives, a sentence for the log and the run's page."""
    layers, top = found["layers"], found["trunk_layers"]
    parts = [
        f"the top {top} of {layers} layers run on kept states of those below"
        if top
        else f"all {layers} layers run each time"
    ]
    if "shares_prompts" in found:
        counts = f"{found['rows']:,} rows for {found['completions']:,} answers"
        parts.append(f"prompts are {'' if found['shares_prompts'] else 'not '}shared ({counts})")
    if "merged" in found:
        way = "in one product with" if found["merged"] else "beside"
        parts.append(f"adapters are {way} the weights")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."
