"""What an evaluation suite is told. No torch here: the web process builds and checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlhf.training.config_base import Config, _require
from rlhf.training.reward_rules import check_ensemble, complete, names_of

LM_EVAL_LIMIT = 100


@dataclass(frozen=True)
class SuiteConfig(Config):
    model: dict[str, Any]  # a ModelRef or an EndpointRef: what is evaluated
    rival: dict[str, Any] | None = None  # what it is compared with: the base, as a rule
    judge: dict[str, Any] | None = None  # a ModelRef or an EndpointRef: says which answer is better
    reward_model: str = ""  # folder; empty: no score
    ensemble: str = "mean"  # how its members score together, as in PPOConfig
    uncertainty_coefficient: float = 1.0
    rewards: list[dict[str, Any]] = field(default_factory=list)  # rules, see reward_rules.py
    demonstrations: str = ""  # name of a dataset whose answers to held-out prompts are references
    text: str = ""  # name of a dataset of general text; empty: the text that comes with us
    forgetting_bound: float = 0.1  # nats per token that the loss on it may grow before an alarm
    judged_pairs: int = 50  # that people have judged, and the judge is asked too
    tasks: list[str] = field(default_factory=list)  # of lm-evaluation-harness
    task_limit: int = LM_EVAL_LIMIT  # questions per task
    max_new_tokens: int = 128
    max_prompt_tokens: int = 512  # longer prompts are left out and counted
    max_tokens: int = 1024  # of a prompt and its reference; longer ones are left out and counted
    temperature: float = 0.7
    batch_size: int = 32
    seed: int = 0
    prompts: str = "prompts.jsonl"
    references: str = "references.jsonl"  # [prompt, text] for prompts that have any
    texts: str = "texts.jsonl"
    general: str = "general.json"  # how many those are, and how many were left out
    pairs: str = "pairs.jsonl"  # that people have judged

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"temperature={self.temperature} must be above 0")
        for name in ("max_new_tokens", "max_prompt_tokens", "batch_size", "task_limit"):
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        _require(
            self.judge is None or self.rival is not None,
            "a judge compares two answers: choose what the version is compared with",
        )
        _require(
            self.forgetting_bound > 0, f"forgetting_bound={self.forgetting_bound} must be above 0"
        )
        _require(self.judged_pairs >= 0, f"judged_pairs={self.judged_pairs} must be at least 0")
        _require(self.max_tokens >= 2, f"max_tokens={self.max_tokens} must be at least 2")
        _require(
            not (self.tasks and "endpoint" in self.model),
            "tasks of lm-evaluation-harness need the weights of a model, which an endpoint keeps",
        )
        for rule in self.rewards:
            _require(
                complete(rule)["kind"] not in ("reward_model", "callable"),
                f"{rule['kind']} is no rule that reads the text alone: choose the reward model in "
                "its own field",
            )
        names_of(bool(self.reward_model), self.rewards)
        check_ensemble(self.ensemble, self.uncertainty_coefficient)
