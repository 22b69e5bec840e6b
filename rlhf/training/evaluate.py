"""The run *evaluate*: fresh completions of the new and the old policy on the same prompts.

They become comparisons that people judge blind. The reward model's opinion, where one is given,
is written beside them; nobody who judges sees it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, RunFolder, Stopped, read_json
from rlhf.training.config import EvaluateConfig
from rlhf.training.data import PromptLine, read_prompts
from rlhf.training.forward import backbone_of, collate, score
from rlhf.training.generate import EncodedPrompt, Generated, encode_prompts, generate_all
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    encode,
    encode_completion,
    load_policy,
    load_reward_adapter,
)


def run(config: EvaluateConfig, folder: RunFolder) -> dict[str, Any]:
    """prompts.jsonl in, artifact/pairs.jsonl out."""
    lines = read_prompts(folder.path / config.prompts)
    # Different seeds: policies that are still alike shall not write the same completions.
    new = _answers("new", config.model, lines, config, folder, seed=2 * config.seed)
    old = _answers("old", config.rival, lines, config, folder, seed=2 * config.seed + 1)
    common = sorted(new.keys() & old.keys())  # two tokenisers may find different prompts too long
    if not common:
        raise RunError("no prompt is short enough for both policies: raise max_prompt_tokens")
    pairs = [
        Pair(*place, n.completion, o.completion, n.truncated, o.truncated)
        for place in common
        for n, o in [(new[place], old[place])]
    ]
    if config.reward_model:
        folder.phase("scoring")
        pairs = score_pairs(pairs, lines, config, folder)
    with folder.writing_artifact() as artifact:
        rows = [json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs]
        (artifact / "pairs.jsonl").write_text("".join(rows), encoding="utf-8")
    n_prompts = len({prompt for prompt, _ in common})
    return {
        "n_pairs": len(pairs),
        "left_out": {"too_long": len(lines) - n_prompts},
        "length_new": statistics.fmean(new[place].n_tokens for place in common),
        "length_old": statistics.fmean(old[place].n_tokens for place in common),
        **reward_opinion(pairs),
    }


class Pair(NamedTuple):
    """One line of pairs.jsonl. Scores are in standard deviations of the reward model's own scale."""

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
) -> dict[tuple[int, int], Generated]:
    """The policy's completions by (prompt, index). Those of a run before a stop are kept."""
    folder.phase(f"loading the {name} policy")
    policy, tokenizer = load_policy(reference)
    prompts, _ = encode_prompts(tokenizer, lines, config.max_prompt_tokens)
    folder.phase(f"answers of the {name} policy")
    batches = _n_batches(prompts, config)
    generated = generate_all(
        policy,
        tokenizer,
        prompts,
        completions_per_prompt=config.completions_per_prompt,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=seed,
        kept=folder.path / f"{name}.jsonl",
        folder=folder,
        done=0 if name == "new" else batches,
        total=2 * batches,
    )
    return {(row.id, row.index): row for row in generated}


def _n_batches(prompts: Sequence[EncodedPrompt], config: EvaluateConfig) -> int:
    return math.ceil(len(prompts) / max(1, config.batch_size // config.completions_per_prompt))


def score_pairs(
    pairs: Sequence[Pair], lines: Sequence[PromptLine], config: EvaluateConfig, folder: RunFolder
) -> list[Pair]:
    """The pairs with the reward model's opinion of both completions."""
    judge = load_judge(Path(config.reward_model))
    messages = {line.id: line.messages for line in lines}
    prompts = {pair.id: encode(judge.tokenizer, messages[pair.id]) for pair in pairs}
    scored = []
    size = max(1, config.batch_size // 2)
    for start in range(0, len(pairs), size):
        if folder.should_stop():
            raise Stopped
        batch = pairs[start : start + size]
        new = judge.scores([(prompts[p.id], p.new, p.new_truncated) for p in batch])
        old = judge.scores([(prompts[p.id], p.old, p.old_truncated) for p in batch])
        scored += [
            pair._replace(new_score=a, old_score=b)
            for pair, a, b in zip(batch, new, old, strict=True)
        ]
    return scored


class Judge(NamedTuple):
    """A reward model on the policy that it was trained on."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    head: ScalarHead
    scale: RewardStatistics

    def scores(self, conversations: Sequence[tuple[list[int], str, bool]]) -> list[float]:
        """Normalised scores of (prompt ids, completion, truncated), each."""
        batch = collate(
            [prompt for prompt, _, _ in conversations],
            [
                encode_completion(self.tokenizer, text, truncated=truncated)
                for _, text, truncated in conversations
            ],
            next(self.head.parameters()).device,
        )
        with torch.no_grad():
            raw = score(backbone_of(self.model), self.head, batch)  # (B,)
        return ((raw - self.scale.mean) / max(self.scale.std, 1e-6)).tolist()


def load_judge(folder: Path) -> Judge:
    """Load a reward model's folder. Its model.json names the policy that its adapter lies on.

    That policy need not be one of the two that are compared: on any other weights the adapter
    would give wrong scores without a word.
    """
    if not (folder / "model.json").is_file():
        raise RunError(f"{folder} is not a reward model: model.json is missing")
    policy, tokenizer = load_policy(read_json(folder / "model.json"))
    model = PeftModel.from_pretrained(policy, folder, adapter_name="reward")
    head, scale = load_reward_adapter(model, folder)
    return Judge(model, tokenizer, head, scale)


def reward_opinion(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """How often and by how much the reward model prefers the new policy; None without scores."""
    margins = [
        pair.new_score - pair.old_score
        for pair in pairs
        if pair.new_score is not None and pair.old_score is not None
    ]
    if not margins:
        return {"reward_rate": None, "reward_margin": None}
    hits = sum((margin > 0) + (margin == 0) / 2 for margin in margins)
    return {"reward_rate": hits / len(margins), "reward_margin": statistics.fmean(margins)}
