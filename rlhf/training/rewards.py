"""Where rewards come from: reward models and rule functions, each with its weight.

A reward model that was trained on the very policy that PPO starts from is one more adapter on the
base in memory, and scores the trunk's states that the rollout kept (ppo.py). Every other source is
shown text: a reward model on weights of its own, which has its own tokenizer and chat template, or
a rule (reward_rules.py).

A reward model may be an ensemble of M members, each an adapter and a head on the same base. Every
source gives M raw scores per completion, a rule or a single reward model one.
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
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError, Stopped, read_json
from rlhf.training.classifiers import (
    Reader,
    classifier_scores,
    cut,
    is_whole,
    load_base,
    load_reader,
)
from rlhf.training.config import EvaluateConfig, PPOConfig
from rlhf.training.distill_config import DistillConfig
from rlhf.training.forward import (
    backbone_of,
    collate,
    layers_of,
    score,
    similar_lengths,
    top_layers,
    watching,
)
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    encode,
    encode_completion,
    load_reward_adapter,
    load_reward_head,
    load_statistics,
    member_folders,
    merges_adapters,
    n_reusing_layers,
    n_top_layers,
    using_adapter,
)
from rlhf.training.ppo_math import combine_members, normalise_scores, total_scores
from rlhf.training.reward_rules import (
    Conversation,
    Rule,
    call_function,
    complete,
    load_function,
    names_of,
    scores_of,
)
from rlhf.training.savings import RUN_ALONE, Savings, trunk_note

TOKENS_AT_ONCE = 2048  # scored together, padding included

ScoreText = Callable[[Sequence[Conversation], Callable[[], bool]], Tensor]  # raw scores, (B, M)
Rewarded = PPOConfig | DistillConfig | EvaluateConfig


class Member(NamedTuple):
    """One member of a reward model: its adapter on the base, by name, and its head."""

    adapter: str
    head: ScalarHead


class Source(NamedTuple):
    """One term of the reward. The raw scores of its members are normalised, and combined; the
    outcome is clipped and weighted."""

    name: str
    weight: float
    clip: float
    statistics: Sequence[RewardStatistics]  # of each member
    ensemble: str = "mean"
    uncertainty_coefficient: float = 1.0
    folder: str = ""  # of a reward model on the shared base:
    members: Sequence[Member] = ()
    score_text: ScoreText | None = None  # of every other source
    memory_mib: int | None = None  # of a reward model on weights of its own

    def combine(self, members: Tensor) -> Tensor:
        """The members' normalised scores as one, clipped, (B, M) -> (B,).

        The doubt is about what the source adds to the reward. With a weight below 0 that is the
        score turned round, whose worst case is what one member likes most.

        Example: members that say 1 and 3 with "worst" are 1, and 3 with a weight of -1.
        """
        sign = -1 if self.weight < 0 else 1
        combined = combine_members(sign * members, self.ensemble, self.uncertainty_coefficient)
        return (sign * combined).clamp(-self.clip, self.clip)


def load_sources(model: PeftModel | None, config: Rewarded) -> list[Source]:
    """All sources of a run, its reward model first. Raises RunError if one does not work.

    Reward models that lie on `model` become adapters of it; without one, every source reads text.
    """
    rules = [complete(rule) for rule in config.rewards]
    names = names_of(bool(config.reward_model), rules)
    if config.reward_model:
        first = {
            "kind": "reward_model", "folder": config.reward_model,
            "weight": config.reward_weight, "clip": config.score_clip,
            "ensemble": config.ensemble,
            "uncertainty_coefficient": config.uncertainty_coefficient,
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
            n_shared = sum(len(source.members) for source in sources)
            sources.append(_load_reward_model(model, config, name, rule, n_shared))
            continue
        if rule["kind"] == "callable":
            score_all = partial(call_function, rule["function"], functions[name])
        else:
            score_all = partial(scores_of, rule)
        statistics = [RewardStatistics(rule["mean"], rule["std"])]
        sources.append(
            Source(name, rule["weight"], rule["clip"], statistics, score_text=_at_once(score_all))
        )
    return sources


class Scored(NamedTuple):
    """What all sources say of some completions."""

    parts: dict[str, Tensor]  # (B,) by source: normalised and clipped, before its weight
    totals: Tensor  # (B,) their weighted sum


def score_texts(
    sources: Sequence[Source],
    conversations: Sequence[Conversation],
    should_stop: Callable[[], bool],
) -> Scored:
    """By sources that were loaded without a model of ours, so that each reads text. Raises Stopped."""
    parts = {}
    for source in sources:
        assert source.score_text is not None
        raw = source.score_text(conversations, should_stop).double()  # (B, M)
        parts[source.name] = source.combine(normalise_scores(raw, source.statistics))
    return Scored(parts, total_scores(list(parts.values()), [each.weight for each in sources]))


def allowed_functions() -> list[str]:
    """What the web process has passed on of the setting of that name."""
    names = os.environ.get("PREFERENDUM_REWARD_FUNCTIONS", "").split(",")
    return [name.strip() for name in names if name.strip()]


def _at_once(score_all: Callable[[Sequence[Conversation]], list[float]]) -> ScoreText:
    """Rules are quick: a request to stop is heard before them."""

    def score_text(
        conversations: Sequence[Conversation], should_stop: Callable[[], bool]
    ) -> Tensor:
        if should_stop():
            raise Stopped
        return torch.tensor(score_all(conversations)).unsqueeze(1)

    return score_text


def _load_reward_model(
    model: PeftModel | None,
    config: Rewarded,
    name: str,
    rule: Rule,
    n_shared: int,
) -> Source:
    """`n_shared` says how many adapters of reward models are on the base already."""
    folder, combination = rule["folder"], (rule["ensemble"], rule["uncertainty_coefficient"])
    if model is not None and lies_on(folder, config.model):
        members, statistics = _load_members(model, member_folders(folder), n_shared)
        return Source(name, rule["weight"], rule["clip"], statistics, *combination, folder, members)
    before = memory_in_use()
    judge = load_judge(folder)
    added = max(0, memory_in_use() - before) // 2**20
    return Source(
        name, rule["weight"], rule["clip"], judge.statistics, *combination,
        score_text=judge.raw_scores, memory_mib=added,
    )  # fmt: skip


def _load_members(
    model: PeftModel, folders: Sequence[Path], n_loaded: int
) -> tuple[list[Member], list[RewardStatistics]]:
    """Put these adapters on the model, as reward, reward_2, reward_3, … after those it has."""
    members, statistics = [], []
    for number, folder in enumerate(folders, n_loaded + 1):
        adapter = f"reward_{number}" if number > 1 else "reward"
        head, scale = load_reward_adapter(model, folder, adapter)
        members.append(Member(adapter, head))
        statistics.append(scale)
    return members, statistics


def lies_on(folder: str | Path, policy: dict[str, Any]) -> bool:
    """Whether a reward model's adapter was trained on this policy, by its own model.json.

    Without one, as it may be for an adapter that was made by hand, the answer is yes; of a model by
    itself, no.
    """
    if is_whole(folder):
        return False
    path = Path(folder) / "model.json"
    if not path.is_file():
        return True
    trained_on = read_json(path)
    return [trained_on["base"], *trained_on["adapters"]] == [policy["base"], *policy["adapters"]]


def memory_in_use() -> int:
    """Bytes: resident memory of this process, and what it holds on a GPU."""
    on_gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return psutil.Process().memory_info().rss + on_gpu


class Adapters(NamedTuple):
    """Members of a reward model that are adapters on one base, with a head each."""

    model: nn.Module  # with the one adapter merged in, or a PeftModel with several
    members: Sequence[Member]
    top: int = 0  # layers that hold the adapters of several; 0: they run as a whole

    def scores(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Tensor:
        """Of one micro-batch, (B, M). What lies below the members' layers runs once for all."""
        device = next(self.members[0].head.parameters()).device
        batch = collate(prompts, completions, device)
        backbone = backbone_of(self.model)
        if len(self.members) == 1:
            return score(backbone, self.members[0].head, batch).unsqueeze(1)
        layers, found = backbone, []
        below = layers_of(backbone)[1][-self.top] if self.top else None
        for adapter, head in self.members:
            with using_adapter(self.model, adapter), watching(below) as watch:
                found.append(score(layers, head, batch))
            if watch:
                batch = batch._replace(inputs={"inputs_embeds": watch.states})
                layers, below = top_layers(backbone, self.top), None
        return torch.stack(found, 1)


class Wholes(NamedTuple):
    """Members that are models by themselves (classifiers.py)."""

    models: Sequence[PreTrainedModel]

    def scores(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Tensor:
        """Of one micro-batch, (B, M)."""
        found = [classifier_scores(model, prompts, completions) for model in self.models]
        return torch.stack(found, 1)


class Judge(NamedTuple):
    """A reward model on weights of its own: text in, scores out."""

    reader: Reader
    members: Adapters | Wholes
    statistics: Sequence[RewardStatistics]  # of each member

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.reader.tokenizer

    @property
    def savings(self) -> Savings | None:
        """Of several adapters on one base, which score in turn; None of everything else."""
        if not isinstance(self.members, Adapters) or len(self.members.members) == 1:
            return None
        model, top = self.members.model, self.members.top
        n, held = len(layers_of(backbone_of(model))[1]), n_top_layers(model)
        notes = [trunk_note(n, held, n, RUN_ALONE)] if held < n and not top else []
        return Savings(n, top, merges_adapters(model), notes)

    @torch.no_grad()
    def raw_scores(
        self, conversations: Sequence[Conversation], should_stop: Callable[[], bool]
    ) -> Tensor:
        """In its own tokens, (B, M); what its base cannot read any more is cut. Raises Stopped before
        the next micro-batch if that was asked for."""
        pairs = [self._encode(conversation) for conversation in conversations]
        lengths = [len(p) + len(c) for p, c in pairs]
        scores = torch.zeros(len(conversations), len(self.statistics))
        for rows in similar_lengths(lengths, TOKENS_AT_ONCE):
            if should_stop():
                raise Stopped
            prompts, completions = zip(*(pairs[row] for row in rows), strict=True)
            scores[rows] = self.members.scores(prompts, completions).cpu()
        return scores

    def _encode(self, said: Conversation) -> tuple[list[int], list[int]]:
        prompt = encode(self.tokenizer, said.prompt)
        completion = encode_completion(self.tokenizer, said.completion, truncated=said.truncated)
        longest = self.reader.longest
        return cut(prompt, completion, longest) if longest else (prompt, completion)

    def scores(
        self,
        conversations: Sequence[Conversation],
        should_stop: Callable[[], bool] = lambda: False,
        ensemble: str = "mean",
        uncertainty_coefficient: float = 1.0,
    ) -> list[float]:
        """In standard deviations of its policy's own answers; those of members combined."""
        raw = self.raw_scores(conversations, should_stop).double()
        members = normalise_scores(raw, self.statistics)
        return combine_members(members, ensemble, uncertainty_coefficient).tolist()


def load_judge(folder: str | Path) -> Judge:
    """Load a reward model's folder. Its model.json names the model that its adapters lie on, if it is
    none by itself.

    On any other weights an adapter would give wrong scores without a word.
    """
    folder = Path(folder)
    first, *others = member_folders(folder)
    if is_whole(folder):
        references = [{"base": str(member), "adapters": []} for member in (first, *others)]
        scales = [load_statistics(member) for member in (first, *others)]
        wholes = Wholes([load_base(reference, torch.float32).model for reference in references])
        return Judge(load_reader(references[0]), wholes, scales)
    if not (folder / "model.json").is_file():
        raise RunError(f"{folder} is not a reward model: model.json is missing")
    head, scale = load_reward_head(first)
    lies = read_json(folder / "model.json")
    reader = load_reader(lies)
    if not others:
        merged = load_base(
            {"base": lies["base"], "adapters": [*lies["adapters"], str(first)]}
        ).model
        return Judge(reader, Adapters(merged, [Member("", head.to(merged.device))]), [scale])
    base = load_base(lies).model
    model = PeftModel.from_pretrained(base, str(first), adapter_name="reward")
    members, statistics = _load_members(model, others, 1)
    members = [Member("reward", head.to(base.device)), *members]
    return Judge(reader, Adapters(model, members, n_reusing_layers(model)), [scale, *statistics])
