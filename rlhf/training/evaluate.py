"""The run *evaluate*: fresh completions of the new and the old policy on the same prompts.

They become comparisons that people judge blind. The score, where a reward model or rules give one,
is written beside them; nobody who judges sees it.

With `best_of` = n, the new side samples n completions for each that is shown, and the score
chooses: the baseline that needs no training. It is the score that PPO would give (rewards.py).
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.ask import Asker, short_enough
from rlhf.training.config import EvaluateConfig, is_endpoint
from rlhf.training.data import Generated, PromptLine, read_prompts
from rlhf.training.endpoint import prompt_tokens
from rlhf.training.generate import (
    EncodedPrompt,
    encode_arranged,
    generate_all,
    generation_batches,
    n_written,
)
from rlhf.training.models import load_policy
from rlhf.training.ppo_math import best_of_n_kl, charge_missing_end
from rlhf.training.prompting import arrange_all, prompter_of, prompting_result
from rlhf.training.reward_rules import Conversation
from rlhf.training.rewards import Source, load_sources, score_texts

Place = tuple[int, int]  # prompt, and which of its completions
Scores = Mapping[Place, float | None]


def run(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    """prompts.jsonl in, artifact/pairs.jsonl out."""
    lines = read_prompts(folder.path / config.prompts)
    # Different seeds: policies that are still alike shall not write the same completions.
    drawn, asked_new, seconds = _answers(
        "new", config.model, lines, config, folder, seed=2 * config.seed
    )
    old, asked_old, _ = _answers(
        "old", config.rival, lines, config, folder, seed=2 * config.seed + 1
    )
    here = [rows for rows, asked in ((drawn, asked_new), (old, asked_old)) if not asked]
    written = sum(n_written(rows.values()) for rows in here)
    to_write = seconds / len(drawn) if seconds is not None and drawn else None
    # Two tokenisers may find different prompts too long, and an endpoint may owe some answers.
    fitting = complete_prompts(drawn, config.completions_per_prompt * config.best_of)
    fitting &= complete_prompts(old, config.completions_per_prompt)
    if not fitting:
        raise RunError("no prompt has answers of both policies: raise max_prompt_tokens")
    drawn, old = (
        {place: row for place, row in rows.items() if place[0] in fitting} for rows in (drawn, old)
    )
    of_drawn, of_old = score_all([drawn, old], lines, config, folder)
    best = best_places(of_drawn.totals, config.best_of)
    new = {place: drawn[chosen] for place, chosen in best.items()}
    pairs = [
        Pair(
            *place,
            new[place].completion, old[place].completion,
            new[place].truncated, old[place].truncated,
            of_drawn.totals[best[place]], of_old.totals[place],
        )
        for place in sorted(old)
    ]  # fmt: skip
    with folder.writing_artifact() as artifact:
        rows = [json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs]
        (artifact / "pairs.jsonl").write_text("".join(rows), encoding="utf-8")
    return {
        "n_pairs": len(pairs),
        "left_out": left_out(len(lines) - len(fitting), [*asked_new, *asked_old]),
        "length_new": statistics.fmean(row.n_tokens for row in new.values()),
        "length_old": statistics.fmean(row.n_tokens for row in old.values()),
        **reward_opinion(pairs),
        **by_source(of_drawn, list(best.values()), of_old),
        **(best_of_result(of_drawn.totals, best, config.best_of) if config.best_of > 1 else {}),
        "seconds_per_answer": seconds_per_answer(to_write, of_drawn, config.best_of),
        **asked_result([*asked_new, *asked_old]),
        **prompting_result(folder),
        "tokens": {"written": written},
    }


class Pair(NamedTuple):
    """One line of pairs.jsonl. Of a reward model alone, scores are in its standard deviations."""

    id: int  # of the prompt
    index: int  # type: ignore[assignment]  # among the prompt's pairs (tuples have a method so named)
    new: str
    old: str
    new_truncated: bool
    old_truncated: bool
    new_score: float | None = None
    old_score: float | None = None


def _answers(
    name: str,
    reference: dict[str, Any],
    lines: Sequence[PromptLine],
    config: EvaluateConfig,
    folder: RunFolder,
    seed: int,
) -> tuple[dict[Place, Generated], list[Asker], float | None]:
    """The policy's completions by (prompt, index), who has asked for them, if it is an endpoint, and how many
    seconds that took, without loading.

    Those of a run before a stop are kept; how long all took is not known then.
    """
    per_prompt = {
        "new": config.completions_per_prompt * config.best_of,
        "old": config.completions_per_prompt,
    }
    references = {"new": config.model, "old": config.rival}
    folder.phase(f"loading the {name} policy")
    if is_endpoint(reference):
        short = short_enough(lines, config.max_prompt_tokens)
        asked = arrange_all(prompter_of(reference), short, prompt_tokens, folder, name)
        prompts = [EncodedPrompt(line, []) for line in asked]
    else:
        policy, tokenizer = load_policy(reference, may_wrap=True)
        prompts, _ = encode_arranged(
            reference,
            tokenizer,
            lines,
            config.max_prompt_tokens,
            config.max_new_tokens,
            folder,
            name,
        )
    sizes = {
        side: len(prompts) * n
        if is_endpoint(references[side])
        else len(generation_batches(prompts, n, config.batch_size))
        for side, n in per_prompt.items()
    }
    folder.phase(f"answers of the {name} policy")
    kept = folder.path / f"{name}.jsonl"
    is_first, began = not kept.exists(), time.monotonic()
    done, total = 0 if name == "new" else sizes["new"], sum(sizes.values())
    sampling: dict[str, Any] = {
        "completions_per_prompt": per_prompt[name],
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "seed": seed,
    }
    if is_endpoint(reference):
        asker = Asker(reference, folder, side=name, done=done, total=total, **sampling)
        rows = {(row.id, row.index): row for row in asker.ask_all(asked)}
        return rows, [asker], None
    generated = generate_all(
        policy,
        tokenizer,
        prompts,
        **sampling,
        batch_size=config.batch_size,
        kept=kept,
        folder=folder,
        done=done,
        total=total,
    )
    rows = {(row.id, row.index): row for row in generated}
    return rows, [], time.monotonic() - began if is_first else None


def complete_prompts(rows: Iterable[Place], n: int) -> set[int]:
    """Prompts with all their completions: the best of fewer would be another thing."""
    counts = Counter(prompt for prompt, _ in rows)
    return {prompt for prompt, count in counts.items() if count == n}


def left_out(n: int, askers: Sequence[Asker]) -> dict[str, int]:
    """How many prompts have no pair: by what the endpoints say, and the others as too long."""
    reasons: dict[int, str] = {}
    for asker in askers:
        reasons |= asker.reasons()
    counts = Counter(reasons.values())
    counts["too_long"] += n - len(reasons)
    return dict(counts)


def asked_result(askers: Sequence[Asker]) -> dict[str, Any]:
    """Of endpoints: what the asking came to, and a sentence if money ended it."""
    if not askers:
        return {}
    notes = {note for asker in askers if (note := asker.note())}
    asked = [asker.result() for asker in askers]
    return {"asked": asked, **({"note": " ".join(sorted(notes))} if notes else {})}


class Opinion(NamedTuple):
    """The scores of one side's completions."""

    totals: Scores  # sums of all sources, less what a missing end costs; None without any source
    parts: Mapping[str, Scores]  # of each source, before its weight
    seconds: float = 0.0  # that scoring took, without loading


def score_all(
    sides: Sequence[Mapping[Place, Generated]],
    lines: Sequence[PromptLine],
    config: EvaluateConfig,
    folder: RunFolder,
) -> list[Opinion]:
    """Of each side, as PPO would score it."""
    if not config.is_scored:
        return [Opinion(dict.fromkeys(side), {}) for side in sides]
    folder.phase("scoring")
    sources = load_sources(None, config)
    messages = {line.id: line.messages for line in lines}
    return [_score(side, messages, sources, config, folder) for side in sides]


def _score(
    side: Mapping[Place, Generated],
    messages: Mapping[int, list[dict[str, str]]],
    sources: Sequence[Source],
    config: EvaluateConfig,
    folder: RunFolder,
) -> Opinion:
    conversations = [
        Conversation(messages[row.id], row.completion, row.n_tokens, row.truncated)
        for row in side.values()
    ]
    began = time.monotonic()
    scored = score_texts(sources, conversations, folder.should_stop)
    seconds = time.monotonic() - began
    totals = charge_missing_end(
        scored.totals,
        torch.tensor([row.n_tokens for row in side.values()]),
        torch.tensor([row.truncated for row in side.values()]),
        mode=config.missing_eos,
        penalty=config.missing_eos_penalty,
        limit=config.max_new_tokens,
        ramp=config.missing_eos_ramp,
    )
    parts = {
        name: dict(zip(side, part.tolist(), strict=True)) for name, part in scored.parts.items()
    }
    return Opinion(dict(zip(side, totals.tolist(), strict=True)), parts, seconds)


def best_places(scores: Scores, n: int) -> dict[Place, Place]:
    """Which of every n completions of a prompt in a row has the highest score, the first of equals.

    Example: n = 2, scores {(7, 0): 0.1, (7, 1): 0.3, (7, 2): 0.2, (7, 3): 0.0} ->
    {(7, 0): (7, 1), (7, 1): (7, 2)}.
    """
    best: dict[Place, Place] = {}
    for place in sorted(scores):
        prompt, index = place
        group = (prompt, index // n)
        if group not in best or (scores[place] or 0.0) > (scores[best[group]] or 0.0):
            best[group] = place
    return best


def best_of_result(scores: Scores, best: Mapping[Place, Place], n: int) -> dict[str, Any]:
    """How much the choice gains by the score itself, and how far it leads away."""
    firsts = [scores[prompt, index * n] for prompt, index in best]
    return {
        "best_of": n,
        "kl": best_of_n_kl(n),
        "score_best": _mean(scores[place] for place in best.values()),
        "score_first": _mean(firsts),
    }


def seconds_per_answer(sampling: float | None, drawn: Opinion, n: int) -> float | None:
    """What each answer of the new side takes: the best of n is n answers that are written and scored. None where
    the sampling of one answer is not known.

    Example: half a second to write one, 8 answers scored in 2 seconds, the best of 4: 4 · (0.5 + 0.25) = 3.
    """
    if sampling is None:
        return None
    scoring = drawn.seconds / len(drawn.totals) if n > 1 else 0.0
    return n * (sampling + scoring)


def by_source(new: Opinion, shown: Sequence[Place], old: Opinion) -> dict[str, Any]:
    """What each source says, on average and before its weight, of the answers that people see. Empty
    without scores."""
    if not new.parts:
        return {}
    means = {
        name: {
            "new": _mean(part[place] for place in shown),
            "old": _mean(old.parts[name].values()),
        }
        for name, part in new.parts.items()
    }
    return {"by_source": means}


def _mean(scores: Iterable[float | None]) -> float:
    return statistics.fmean(score for score in scores if score is not None)


def reward_opinion(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """How often and by how much the score prefers the new policy; None without scores."""
    margins = [
        pair.new_score - pair.old_score
        for pair in pairs
        if pair.new_score is not None and pair.old_score is not None
    ]
    if not margins:
        return {"reward_rate": None, "reward_margin": None}
    hits = sum((margin > 0) + (margin == 0) / 2 for margin in margins)
    return {"reward_rate": hits / len(margins), "reward_margin": statistics.fmean(margins)}
