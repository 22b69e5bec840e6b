"""Where rewards come from: reward models and rule functions, each with its weight.

A reward model that was trained on the very policy that PPO starts from is one more adapter on the
base in memory, and scores the trunk's states that the rollout kept (ppo.py). Every other source is
shown text: a reward model on weights of its own, which has its own tokenizer and chat template, or
a rule (reward_rules.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, Stopped, read_json
from rlhf.training.config import PPOConfig
from rlhf.training.forward import collate, score, similar_lengths
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    encode,
    encode_completion,
    load_policy,
    load_reward_adapter,
    load_reward_head,
)
from rlhf.training.reward_rules import (
    Conversation,
    Rule,
    call_function,
    complete,
    load_function,
    names_of,
    scores_of,
)

TOKENS_AT_ONCE = 2048  # scored together, padding included

ScoreText = Callable[[Sequence[Conversation], Callable[[], bool]], list[float]]


class Source(NamedTuple):
    """One term of the reward. Its raw scores are normalised, clipped and weighted."""

    name: str
    weight: float
    statistics: RewardStatistics
    clip: float
    folder: str = ""  # of a reward model on the shared base:
    adapter: str = ""
    head: ScalarHead | None = None
    score_text: ScoreText | None = None  # of every other source
    memory_mib: int | None = None  # of a reward model on weights of its own


def load_sources(model: PeftModel, config: PPOConfig) -> list[Source]:
    """All sources of a PPO run, its reward model first. Raises RunError if one does not work."""
    rules = [complete(rule) for rule in config.rewards]
    names = names_of(bool(config.reward_model), rules)
    if config.reward_model:
        first = {
            "kind": "reward_model", "folder": config.reward_model,
            "weight": config.reward_weight, "clip": config.score_clip,
        }  # fmt: skip
        rules = [first, *rules]
    # Checked before another model is loaded, which takes a while.
    functions = {
        name: load_function(rule["function"], allowed_functions())
        for name, rule in zip(names, rules, strict=True)
        if rule["kind"] == "callable"
    }
    sources: list[Source] = []
    for name, rule in zip(names, rules, strict=True):
        if rule["kind"] == "reward_model":
            n_shared = sum(bool(source.adapter) for source in sources)
            adapter = f"reward_{n_shared + 1}" if n_shared else "reward"
            sources.append(_load_reward_model(model, config, name, rule, adapter))
            continue
        if rule["kind"] == "callable":
            score_all = partial(call_function, rule["function"], functions[name])
        else:
            score_all = partial(scores_of, rule)
        statistics = RewardStatistics(rule["mean"], rule["std"])
        sources.append(
            Source(name, rule["weight"], statistics, rule["clip"], score_text=_at_once(score_all))
        )
    return sources


def allowed_functions() -> list[str]:
    """What the web process has passed on of the setting of that name."""
    names = os.environ.get("PREFERENDUM_REWARD_FUNCTIONS", "").split(",")
    return [name.strip() for name in names if name.strip()]


def _at_once(score_all: Callable[[Sequence[Conversation]], list[float]]) -> ScoreText:
    """Rules are quick: a request to stop is heard before them."""

    def score_text(
        conversations: Sequence[Conversation], should_stop: Callable[[], bool]
    ) -> list[float]:
        if should_stop():
            raise Stopped
        return score_all(conversations)

    return score_text


def _load_reward_model(
    model: PeftModel, config: PPOConfig, name: str, rule: Rule, adapter: str
) -> Source:
    folder, weight, clip = rule["folder"], rule["weight"], rule["clip"]
    if lies_on(folder, config.model):
        head, statistics = load_reward_adapter(model, folder, adapter)
        return Source(name, weight, statistics, clip, folder, adapter, head)
    before = memory_in_use()
    judge = load_judge(folder)
    added = max(0, memory_in_use() - before) // 2**20
    return Source(name, weight, judge.scale, clip, score_text=judge.raw_scores, memory_mib=added)


def lies_on(folder: str | Path, policy: dict[str, Any]) -> bool:
    """Whether a reward model's adapter was trained on this policy, by its own model.json.

    Without one, as it may be for an adapter that was made by hand, the answer is yes.
    """
    path = Path(folder) / "model.json"
    if not path.is_file():
        return True
    trained_on = read_json(path)
    return [trained_on["base"], *trained_on["adapters"]] == [policy["base"], *policy["adapters"]]


def memory_in_use() -> int:
    """Bytes: resident memory of this process, and what it holds on a GPU."""
    on_gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return psutil.Process().memory_info().rss + on_gpu


class Judge(NamedTuple):
    """A reward model on weights of its own: text in, score out."""

    layers: nn.Module  # the backbone, the reward adapter merged in
    tokenizer: PreTrainedTokenizerBase
    head: ScalarHead
    scale: RewardStatistics

    @torch.no_grad()
    def raw_scores(
        self, conversations: Sequence[Conversation], should_stop: Callable[[], bool]
    ) -> list[float]:
        """In its own tokens. Raises Stopped before the next micro-batch if that was asked for."""
        prompts = [encode(self.tokenizer, c.prompt) for c in conversations]
        completions = [
            encode_completion(self.tokenizer, c.completion, truncated=c.truncated)
            for c in conversations
        ]
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        scores = [0.0] * len(conversations)
        for rows in similar_lengths(lengths, TOKENS_AT_ONCE):
            if should_stop():
                raise Stopped
            batch = collate(
                [prompts[row] for row in rows],
                [completions[row] for row in rows],
                next(self.head.parameters()).device,
            )
            for row, value in zip(rows, score(self.layers, self.head, batch).tolist(), strict=True):
                scores[row] = value
        return scores

    def scores(
        self,
        conversations: Sequence[Conversation],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[float]:
        """In standard deviations of its policy's own answers."""
        raw = self.raw_scores(conversations, should_stop)
        return [(value - self.scale.mean) / max(self.scale.std, 1e-6) for value in raw]


def load_judge(folder: str | Path) -> Judge:
    """Load a reward model's folder. Its model.json names the policy that its adapter lies on.

    On any other weights the adapter would give wrong scores without a word.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        raise RunError(f"{folder} is not a reward model: model.json is missing")
    head, scale = load_reward_head(folder)
    policy = read_json(folder / "model.json")
    merged = {"base": policy["base"], "adapters": [*policy["adapters"], str(folder)]}
    model, tokenizer = load_policy(merged)
    return Judge(model.base_model, tokenizer, head.to(model.device), scale)
