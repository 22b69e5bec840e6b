"""The run *order questions*: which of the open comparisons would tell the reward model most.

Every distinct completion is scored once by the members of the reward model; information.py makes
expected information of the differences.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.config import OrderQueueConfig
from rlhf.training.data import ComparisonLine, read_comparisons
from rlhf.training.information import most_informative
from rlhf.training.models import encode, encode_completion
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import Judge, load_judge
from rlhf.training.savings import tell_savings

AT_ONCE = 64  # completions between two reports

Scores = dict[int, list[float]]  # by completion: each member's


def run(config: OrderQueueConfig, folder: RunFolder) -> dict[str, Any]:
    """comparisons.jsonl in, artifact/scores.jsonl out."""
    lines = read_comparisons(folder.path / config.comparisons)
    folder.phase("loading the reward model")
    judge = load_judge(config.reward_model)
    if savings := judge.savings:
        tell_savings(savings, folder)
    fitting = short_enough(judge, lines, config.max_tokens)
    folder.phase("scoring")
    scores = score_all(judge, fitting, folder)
    found = {
        line.id: most_informative(
            list(zip(*(scores[completion.id] for completion in line.completions), strict=True)),
            config.temperature,
            config.closeness,
        )
        for line in fitting
    }
    rows = [
        {"id": pk, "information": of_vote.total, "disagreement": of_vote.disagreement}
        for pk, of_vote in found.items()
    ]
    with folder.writing_artifact() as artifact:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (artifact / "scores.jsonl").write_text(text, encoding="utf-8")
    return {
        "n_scored": len(fitting),
        "n_completions": len(scores),
        "members": len(judge.statistics),
        "information_mean": statistics.fmean(of_vote.total for of_vote in found.values()),
        "disagreement_mean": statistics.fmean(of_vote.disagreement for of_vote in found.values()),
        "left_out": {"too_long": len(lines) - len(fitting)},
        **({"savings": savings.to_json()} if savings else {}),
    }


def short_enough(
    judge: Judge, lines: Sequence[ComparisonLine], max_tokens: int
) -> list[ComparisonLine]:
    """Raises RunError if none is."""
    fitting = [line for line in lines if _longest(judge, line) <= max_tokens]
    if not fitting:
        raise RunError(
            f"all {len(lines)} open comparisons are longer than max_tokens={max_tokens}: raise it"
            if lines
            else "comparisons.jsonl is empty: there is nothing to order"
        )
    return fitting


def _longest(judge: Judge, line: ComparisonLine) -> int:
    completions = (encode_completion(judge.tokenizer, c.text) for c in line.completions)
    return len(encode(judge.tokenizer, line.messages)) + max(map(len, completions))


def score_all(judge: Judge, lines: Sequence[ComparisonLine], folder: RunFolder) -> Scores:
    """Every distinct completion once. Raises RunError if a score is no number.

    Raw scores: the members have learnt to predict votes by their differences.
    """
    conversations = {
        completion.id: Conversation(line.messages, completion.text, 0, completion.truncated)
        for line in lines
        for completion in line.completions
    }
    began = time.monotonic()
    ids = list(conversations)
    scores: Scores = {}
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        values = judge.raw_scores([conversations[i] for i in some], folder.should_stop)
        scores |= zip(some, values.tolist(), strict=True)
        pace = (time.monotonic() - began) / len(scores)
        folder.progress(len(scores), len(ids), (len(ids) - len(scores)) * pace)
    if not all(map(math.isfinite, itertools.chain.from_iterable(scores.values()))):
        raise RunError("the reward model's scores are not finite: train another one")
    return scores
