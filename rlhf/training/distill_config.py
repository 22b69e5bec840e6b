"""What a distillation is told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlhf.training.config_base import Config, _require
from rlhf.training.reward_rules import check_ensemble, complete, names_of

MOST_CANDIDATES = 64


@dataclass(frozen=True)
class DistillConfig(Config):
    model: dict[str, Any]  # the teacher: a ModelRef or an EndpointRef
    student: dict[str, Any] | None = None  # a ModelRef: who writes the rehearsal
    reward_model: str = ""  # folder; it picks the best answer, with or instead of the rules
    prompts: str = "prompts.jsonl"
    held_out: str = "eval_prompts.jsonl"
    eval_prompts: int = 0  # held-out prompts that are answered to be scored, and give no rows
    completions_per_prompt: int = 4  # of the teacher, of which the best becomes a demonstration
    reward_weight: float = 1.0
    ensemble: str = "mean"
    uncertainty_coefficient: float = 1.0
    score_clip: float = 5.0  # standard deviations
    rewards: list[dict[str, Any]] = field(default_factory=list)  # more sources, as in PPOConfig
    lowest_score: float | None = None  # a prompt whose best answer has less is left out
    drop_refusals: bool = True
    rehearsal_share: float = 0.0  # of the rows: the student's own answers, against forgetting
    max_new_tokens: int = 128
    max_prompt_tokens: int = 512  # longer prompts are left out and counted
    temperature: float = 0.7
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        n, share = self.completions_per_prompt, self.rehearsal_share
        _require(
            1 <= n <= MOST_CANDIDATES,
            f"completions_per_prompt={n} must be between 1 and {MOST_CANDIDATES}",
        )
        _require(
            n == 1 or self.is_scored,
            f"completions_per_prompt={n} needs a reward model or a rule to pick the best by",
        )
        _require(
            self.lowest_score is None or self.is_scored,
            f"lowest_score={self.lowest_score} needs a reward model or a rule that gives scores",
        )
        _require(0 <= share <= 0.9, f"rehearsal_share={share} must be between 0 and 0.9")
        _require(
            share == 0 or self.student is not None,
            f"rehearsal_share={share} needs a student, whose own answers are rehearsed",
        )
        for name in ("max_new_tokens", "max_prompt_tokens", "batch_size"):
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        _require(self.temperature > 0, f"temperature={self.temperature} must be above 0")
        _require(self.eval_prompts >= 0, f"eval_prompts={self.eval_prompts} must be at least 0")
        _require(
            self.eval_prompts == 0 or "endpoint" not in self.model,
            f"eval_prompts={self.eval_prompts} needs a teacher whose weights are here",
        )
        check_ensemble(self.ensemble, self.uncertainty_coefficient)
        for rule in self.rewards:
            complete(rule)
        names_of(bool(self.reward_model), self.rewards)

    @property
    def is_scored(self) -> bool:
        return bool(self.reward_model or self.rewards)
