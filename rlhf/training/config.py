"""What a run is told: one frozen dataclass per kind, saved as `config.json` in the run's folder.

No torch here: the web process builds and checks these. Unknown keys and bad values raise
ValueError with the offending value. Paths are absolute, or relative to the run's folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from rlhf.training.combine_config import CombineConfig
from rlhf.training.config_base import Config, _require
from rlhf.training.distill_config import DistillConfig
from rlhf.training.index_config import IndexConfig
from rlhf.training.preference_config import DPOConfig, KTOConfig
from rlhf.training.reward_rules import check_ensemble, complete, names_of
from rlhf.training.screen_config import ScreenConfig
from rlhf.training.search_config import SearchConfig
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.supervised_config import DomainConfig, SupervisedConfig


@dataclass(frozen=True)
class ModelRef:
    """A policy: a model folder, and the LoRA adapters merged onto it, oldest first."""

    base: str
    adapters: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EndpointRef(Config):
    """A policy that lives elsewhere and is asked over HTTP, in the protocol of OpenAI.

    Its key and what it may still cost are no settings: they come anew with each start, see
    `endpoint.Access`.
    """

    endpoint: int  # its number as a model version
    address: str  # without /chat/completions
    model: str
    requests_per_minute: int | None = None  # None: as many as it answers
    requests_at_once: int = 4
    timeout_seconds: float = 120.0  # of one request
    prompt_price: float = 0.0  # of a million tokens, in whatever currency limits are in
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        per_minute = self.requests_per_minute
        _require(
            per_minute is None or per_minute >= 1,
            f"requests_per_minute={per_minute} must be at least 1, or None",
        )
        _require(
            1 <= self.requests_at_once <= MOST_REQUESTS_AT_ONCE,
            f"requests_at_once={self.requests_at_once} must be 1 to {MOST_REQUESTS_AT_ONCE}",
        )
        _require(
            self.timeout_seconds > 0, f"timeout_seconds={self.timeout_seconds} must be above 0"
        )
        for name in ("prompt_price", "completion_price"):
            value = getattr(self, name)
            _require(value >= 0, f"{name}={value} must be at least 0")


MOST_REQUESTS_AT_ONCE = 256
# The variable that says with which key each endpoint is asked, and what this run may spend on it in
# all: {"7": {"key": …, "budget": …}} as JSON.
ENDPOINTS = "PREFERENDUM_ENDPOINTS"
ALLOW_PICKLES = "PREFERENDUM_ALLOW_PICKLED_WEIGHTS"  # "1" if the installation's owner does


def is_endpoint(reference: dict[str, Any]) -> bool:
    """Whether it is an EndpointRef, and no ModelRef."""
    return "endpoint" in reference


@dataclass(frozen=True)
class ImportModelConfig(Config):
    source: str  # "embedded" (SmolLM2-135M-Instruct), "tiny" (for tests), "hub" or "folder"
    location: str = ""  # hub id or folder; empty for the first two
    output: str = "artifact"  # folder the model is written to
    measure_speed: bool = True  # here, when all is written; see probe.py

    def __post_init__(self) -> None:
        sources = ("embedded", "tiny", "hub", "folder")
        _require(self.source in sources, f"source={self.source!r} must be one of {sources}")
        _require(
            bool(self.location) == (self.source in ("hub", "folder")),
            f"location={self.location!r} does not fit source={self.source!r}",
        )


@dataclass(frozen=True)
class ProbeConfig(Config):
    model: dict[str, Any]  # a ModelRef: whose speed and size are measured


@dataclass(frozen=True)
class GenerateConfig(Config):
    model: dict[str, Any]  # a ModelRef or an EndpointRef
    prompts: str = "prompts.jsonl"
    completions_per_prompt: int = 2
    max_new_tokens: int = 128  # tokens
    temperature: float = 0.7
    batch_size: int = 32  # completions decoded together
    seed: int = 0
    max_prompt_tokens: int = 512  # longer prompts are left out and counted

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_new_tokens, self.batch_size)
        n = self.completions_per_prompt
        _require(1 <= n <= 9, f"completions_per_prompt={n} must be between 1 and 9")


TRAINED = ("adapter", "full")
TIES = ("half", "davidson", "rao-kupper")
ANNOTATORS = ("joint", "crowd", "equal")


@dataclass(frozen=True)
class RewardModelConfig(Config):
    RETIRED = ("micro_batch_size",)

    model: dict[str, Any]  # the policy whose answers are scored
    base: dict[str, Any] | None = None  # a ModelRef that learning starts from; None: the policy
    data: str = "data"  # folder with data.jsonl and manifest.json
    prompts: str = "prompts.jsonl"  # the policy samples that fix the score's mean and deviation
    epochs: int = 2
    batch_size: int = 8  # pairs per optimiser step
    micro_batch_tokens: int = 1024  # per forward and backward: memory follows them
    train: str = "adapter"  # or "full": all layers' own weights, without embeddings
    learning_rate: float = 2e-4  # LoRA needs about 10x the rate of full fine-tuning
    lora_rank: int = 16
    adapter_layers: int | None = None  # this many top layers learn; None: all
    reuse_trunk: bool = True  # keep what enters the adapted layers, for all epochs and members
    share_prompts: bool = True  # compute a prompt once for all its completions
    max_tokens: int = 1024  # prompt + completion; longer pairs are left out and counted
    annotators: str = "joint"  # reliability learned with the scores; "crowd", before; or "equal"
    ties: str = "half"  # a tie is half a vote each way; or "davidson", "rao-kupper": an outcome
    margin_coefficient: float = 0.0  # times the strength (0 to 1) of preference, off the difference
    label_smoothing: float = 0.0  # nobody is surer than 1 - this
    center_rewards: float = 0.0  # coefficient of (score + score)²; Eisenstein et al. 2023: 0.01
    all_bad_coefficient: float = 0.0  # of the loss of "all bad" as a choice; 0: not learnt from
    members: int = 1  # of an ensemble: adapters that differ by seed and by drawn prompts
    learning_curve: bool = False  # also train on 10, 25 and 50 % of the votes
    compare_arms: bool = False  # also train on the first votes of each arm alone; see arms.py
    min_pairs: int = 20  # to learn from, decided and short enough; with fewer it does not start
    policy_samples: int = 32  # completions sampled to measure the score's mean and deviation
    max_new_tokens: int = 128  # of those samples
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_new_tokens, self.policy_samples)
        _check_learning(self.learning_rate, self.lora_rank, self.epochs)
        _check_layers(self.adapter_layers)
        for name in ("batch_size", "micro_batch_tokens", "members"):
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        _require(self.members <= 16, f"members={self.members} must be at most 16")
        _require(self.train in TRAINED, f"train={self.train!r} must be one of {TRAINED}")
        _require(self.ties in TIES, f"ties={self.ties!r} must be one of {TIES}")
        _require(self.min_pairs >= 1, f"min_pairs={self.min_pairs} must be at least 1")
        _require(
            self.annotators in ANNOTATORS,
            f"annotators={self.annotators!r} must be one of {ANNOTATORS}",
        )
        _require(
            0 <= self.label_smoothing < 0.5,
            f"label_smoothing={self.label_smoothing} must be in [0, 0.5)",
        )
        _require(
            self.ties == "half" or not self.label_smoothing,
            f"label_smoothing={self.label_smoothing} is for ties='half': {self.ties} has doubt of "
            "its own",
        )
        for name in ("margin_coefficient", "center_rewards", "all_bad_coefficient"):
            value = getattr(self, name)
            _require(value >= 0, f"{name}={value} must be at least 0")


CRITICS = ("head", "adapter", "full", "none")
DTYPES = ("auto", "float32", "bfloat16")
KEPT = ("best", "last")
KL_ESTIMATORS = ("k1", "k2", "k3")
MISSING_EOS = ("penalty", "replace", "ramp")


@dataclass(frozen=True)
class PPOConfig(Config):
    """Defaults are for one small box; docs/ppo.md gives the source of each."""

    estimator: ClassVar[str] = "gae"  # of advantages; "rloo" and "grpo" have no critic

    model: dict[str, Any]  # the starting policy, which is also the reference
    reward_model: str = ""  # folder of the reward adapter, head and score statistics; or rewards
    prompts: str = "prompts.jsonl"
    reward_weight: float = 1.0  # of the reward model in the sum of all sources
    ensemble: str = "mean"  # of its members' scores; or the "worst", or less their "uncertainty"
    uncertainty_coefficient: float = 1.0  # of the members' standard deviation, for "uncertainty"
    rewards: list[dict[str, Any]] = field(default_factory=list)  # more sources, see reward_rules.py
    steps: int = 20  # rollout batches
    batch_size: int = 32  # completions per rollout
    completions_per_prompt: int = 1  # of them; they share the prompt's prefill
    epochs: int = 2  # passes over a rollout
    minibatches: int = 2  # optimiser steps per pass
    micro_batch_tokens: int = 1024  # of prompts and completions, per forward and backward
    max_new_tokens: int = 64
    max_prompt_tokens: int = 256  # longer prompts are left out and counted
    temperature: float = 0.7
    learning_rate: float = 1e-4
    value_learning_rate: float = 2e-4
    warmup_steps: float = 0.05  # share of the optimiser steps; then linear to 0
    critic_warmup_steps: int = 0  # steps at the beginning in which only the critic learns
    adam_eps: float = 1e-5
    max_grad_norm: float = 1.0
    train: str = "adapter"  # or "full": the policy's own weights, without embeddings and head
    lora_rank: int = 16
    adapter_layers: int | None = None  # the policy learns in this many top layers; None: in all
    critic: str = "adapter"  # or "head", on the policy's own states, or "full", a second model
    reuse_trunk: bool = True  # keep what enters the adapted layers, run only those again
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    clip_range_high: float | None = None  # upwards; None: the same as clip_range
    dual_clip: float | None = None  # most a bad token's loss may grow, times; None: no limit
    target_kl_update: float | None = None  # nats per token; beyond it a step's updates end early
    value_clip_range: float | None = 0.2  # None: no clipping
    value_coefficient: float = 0.1
    kl_coefficient: float = 0.05
    kl_estimator: str = "k1"  # of the penalty in the reward
    target_kl: float | None = None  # nats per completion; adapts kl_coefficient
    kl_horizon: int = 10_000  # completions
    score_clip: float = 5.0  # standard deviations
    missing_eos: str = "penalty"  # or "replace" the score by it, or "ramp" up to it
    missing_eos_penalty: float = 1.0  # standard deviations, for completions cut off by length
    missing_eos_ramp: float = 0.2  # share of max_new_tokens, for "ramp"; DAPO's 4096 of 20480
    log_ratio_clamp: float = 20.0
    max_nonfinite_steps: int = 3  # in a row; then the run fails
    dtype: str = "auto"  # of the frozen weights: "float32", "bfloat16"; auto: bf16 on a GPU
    gradient_checkpointing: bool = False
    checkpoint_every: int = 1  # steps
    held_out: str = "eval_prompts.jsonl"
    eval_prompts: int = 32  # held-out prompts at most, drawn when the run is launched
    evaluate_every: int | None = None  # steps; None: a quarter of them, rounded up; 0: never
    keep: str = "best"  # on held-out prompts, or the "last" policy
    samples: int = 4  # answers shown on the run's page per step
    accelerate_config: str = ""  # a file for `accelerate launch`; empty: one process
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_new_tokens, self.batch_size)
        _check_learning(self.learning_rate, self.lora_rank, self.epochs)
        _check_layers(self.adapter_layers)
        _check_missing_eos(self.missing_eos, self.missing_eos_ramp)
        self._check_rewards()
        self._check_choices()
        self._check_sizes()
        self._check_ranges()

    def _check_rewards(self) -> None:
        _require(
            bool(self.reward_model or self.rewards),
            "there is nothing to reward: choose a reward model, or add a rule",
        )
        for rule in self.rewards:
            complete(rule)
        names_of(bool(self.reward_model), self.rewards)
        check_ensemble(self.ensemble, self.uncertainty_coefficient)

    def _check_choices(self) -> None:
        choices = {
            "train": TRAINED, "dtype": DTYPES, "keep": KEPT, "critic": CRITICS,
            "kl_estimator": KL_ESTIMATORS,
        }  # fmt: skip
        for name, known in choices.items():
            value = getattr(self, name)
            _require(value in known, f"{name}={value!r} must be one of {known}")
        _require(
            (self.critic == "none") == (self.estimator != "gae"),
            f"critic={self.critic!r} does not go with advantages by {self.estimator}",
        )

    def _check_sizes(self) -> None:
        for name in (
            "steps", "minibatches", "completions_per_prompt", "micro_batch_tokens", "eval_prompts",
            "checkpoint_every", "max_nonfinite_steps", "kl_horizon",
        ):  # fmt: skip
            value = getattr(self, name)
            _require(value >= 1, f"{name}={value} must be at least 1")
        for name in ("minibatches", "completions_per_prompt"):
            value = getattr(self, name)
            _require(
                self.batch_size % value == 0,
                f"{name}={value} must divide batch_size={self.batch_size}",
            )
        every = self.evaluate_every
        _require(every is None or every >= 0, f"evaluate_every={every} must be at least 0")
        _require(
            0 <= self.critic_warmup_steps < self.steps,
            f"critic_warmup_steps={self.critic_warmup_steps} must be below steps={self.steps}",
        )

    def _check_ranges(self) -> None:
        _require(0 < self.gamma <= 1, f"gamma={self.gamma} must be in (0, 1]")
        _require(0 <= self.lam <= 1, f"lam={self.lam} must be in [0, 1]")
        _require(0 < self.clip_range < 1, f"clip_range={self.clip_range} must be in (0, 1)")
        _require(self.kl_coefficient >= 0, f"kl_coefficient={self.kl_coefficient} must be >= 0")
        high, dual = self.clip_range_high, self.dual_clip
        _require(
            high is None or high >= self.clip_range,
            f"clip_range_high={high} must be at least clip_range={self.clip_range}",
        )
        _require(dual is None or dual > 1, f"dual_clip={dual} must be above 1")
        for name in ("target_kl", "target_kl_update"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name}={value} must be above 0, or None")
        _require(
            0 <= self.warmup_steps <= 1,
            f"warmup_steps={self.warmup_steps} is a share of the optimiser steps: 0 to 1",
        )

    @property
    def evaluation_steps(self) -> list[int]:
        """After which steps the policy answers held-out prompts: regularly, and at the end.

        Example: [2, 4, 6, 7] of 7 steps. Empty: never. It also does before the first step.
        """
        if self.evaluate_every == 0:
            return []
        every = self.evaluate_every or math.ceil(self.steps / 4)
        return [*range(every, self.steps, every), self.steps]


OF_THE_CRITIC = (
    "critic", "value_learning_rate", "critic_warmup_steps", "gamma", "lam", "value_clip_range",
    "value_coefficient",
)  # fmt: skip
SCALES = ("group", "batch", "none")
TRAINERS = ("own", "trl")
OF_THE_OWN_LOOP = (
    "train", "kl_estimator", "target_kl", "target_kl_update", "dual_clip", "accelerate_config",
)  # fmt: skip


@dataclass(frozen=True)
class GroupConfig(PPOConfig):
    """Several completions a prompt, each judged against the others."""

    completions_per_prompt: int = 4
    epochs: int = 1  # a batch is learnt from once, as both papers do
    critic: str = "none"
    trainer: str = "own"  # the loop of PPO, or "trl": TRL's trainer on the same rollouts

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.trainer in TRAINERS, f"trainer={self.trainer!r} must be one of {TRAINERS}")
        for name in OF_THE_OWN_LOOP if self.trainer == "trl" else ():
            value, default = getattr(self, name), getattr(type(self), name)
            _require(
                value == default,
                f"{name}={value!r} does not go with trainer='trl', which can only do {default!r}: choose "
                f"that, or trainer='own'",
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        if of_critic := [name for name in OF_THE_CRITIC if name in values]:
            raise ValueError(f"unknown setting {of_critic[0]!r}: there is no critic")
        config = super().from_dict(values)
        n = config.completions_per_prompt
        _require(n >= 2, f"completions_per_prompt={n} must be at least 2: they are compared")
        return config

    def to_dict(self) -> dict[str, Any]:
        return {name: v for name, v in super().to_dict().items() if name not in OF_THE_CRITIC}


@dataclass(frozen=True)
class RLOOConfig(GroupConfig):
    """REINFORCE with the mean reward of the prompt's other completions as its baseline."""

    estimator: ClassVar[str] = "rloo"


@dataclass(frozen=True)
class GRPOConfig(GroupConfig):
    """Scores in standard deviations of their group; the KL is in the loss, not in the reward."""

    estimator: ClassVar[str] = "grpo"

    kl_coefficient: float = 0.04  # Shao et al. 2024
    scale_advantages: str = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = self.scale_advantages
        _require(scale in SCALES, f"scale_advantages={scale!r} must be one of {SCALES}")


MOST_COMPLETIONS = 64  # of which the best is taken


@dataclass(frozen=True)
class EvaluateConfig(Config):
    model: dict[str, Any]  # the new policy: a ModelRef or an EndpointRef
    rival: dict[str, Any]  # the old one
    reward_model: str = ""  # folder; without it and rules there is no opinion beside the people's
    prompts: str = "prompts.jsonl"
    completions_per_prompt: int = 1  # pairs per prompt
    best_of: int = 1  # the new side is the best of so many completions by the score
    # Of the score, as in PPOConfig:
    reward_weight: float = 1.0
    ensemble: str = "mean"
    uncertainty_coefficient: float = 1.0
    score_clip: float = 5.0
    rewards: list[dict[str, Any]] = field(default_factory=list)
    missing_eos: str = "penalty"
    missing_eos_penalty: float = 0.0  # there 1
    missing_eos_ramp: float = 0.2
    max_new_tokens: int = 128
    max_prompt_tokens: int = 512
    temperature: float = 0.7
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_new_tokens, self.batch_size)
        _require(
            1 <= self.best_of <= MOST_COMPLETIONS,
            f"best_of={self.best_of} must be between 1 and {MOST_COMPLETIONS}",
        )
        _require(
            self.best_of == 1 or self.is_scored,
            f"best_of={self.best_of} needs a reward model or a rule to choose by",
        )
        check_ensemble(self.ensemble, self.uncertainty_coefficient)
        for rule in self.rewards:
            complete(rule)
        names_of(bool(self.reward_model), self.rewards)
        _check_missing_eos(self.missing_eos, self.missing_eos_ramp)

    @property
    def is_scored(self) -> bool:
        return bool(self.reward_model or self.rewards)


@dataclass(frozen=True)
class OrderQueueConfig(Config):
    reward_model: str  # folder; with its members, if it is an ensemble
    comparisons: str = "comparisons.jsonl"  # those that still need somebody
    temperature: float = 1.0  # p(a is better than b) = sigmoid(score difference / temperature)
    closeness: float = 0.05  # weight of H(p) beside the disagreement of the members
    max_tokens: int = 1024  # prompt + completion; comparisons with longer ones stay unscored

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"temperature={self.temperature} must be above 0")
        _require(0 <= self.closeness <= 0.4, f"closeness={self.closeness} must be 0 to 0.4")
        _require(self.max_tokens >= 1, f"max_tokens={self.max_tokens} must be at least 1")


@dataclass(frozen=True)
class ConverseConfig(Config):
    model: dict[str, Any]  # a ModelRef: it writes both answers, if there is no rival
    rival: dict[str, Any] | None = None  # it writes one of the two
    max_new_tokens: int = 128
    temperature: float = 0.7
    max_prompt_tokens: int = 1024  # of a whole conversation; a longer one has to end
    batch_size: int = 8  # questions answered together
    idle_minutes: float = 30.0  # without a question, after which it ends by itself
    seed: int = 0

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.max_new_tokens, self.batch_size)
        _require(self.idle_minutes > 0, f"idle_minutes={self.idle_minutes} must be above 0")


@dataclass(frozen=True)
class MergeConfig(Config):
    model: dict[str, Any]  # a ModelRef with adapters
    output: str = "artifact"  # folder the model is written to
    dtype: str = "float32"  # in which the weights are written; they are added up in float32

    def __post_init__(self) -> None:
        dtypes = ("float32", "bfloat16", "float16")
        _require(self.dtype in dtypes, f"dtype={self.dtype!r} must be one of {dtypes}")


def _check_sampling(temperature: float, max_new_tokens: int, batch_size: int) -> None:
    _require(
        temperature > 0,
        f"temperature={temperature} must be above 0: log-probabilities are of the sampled text",
    )
    _require(max_new_tokens >= 1, f"max_new_tokens={max_new_tokens} must be at least 1")
    _require(batch_size >= 1, f"batch size {batch_size} must be at least 1")


def _check_missing_eos(mode: str, ramp: float) -> None:
    _require(mode in MISSING_EOS, f"missing_eos={mode!r} must be one of {MISSING_EOS}")
    _require(0 < ramp <= 1, f"missing_eos_ramp={ramp} must be in (0, 1]")


def _check_learning(learning_rate: float, lora_rank: int, epochs: int) -> None:
    _require(0 < learning_rate < 1, f"learning_rate={learning_rate} must be between 0 and 1")
    _require(lora_rank >= 1, f"lora_rank={lora_rank} must be at least 1")
    _require(epochs >= 1, f"epochs={epochs} must be at least 1")


def _check_layers(adapter_layers: int | None) -> None:
    _require(
        adapter_layers is None or adapter_layers >= 1,
        f"adapter_layers={adapter_layers} must be at least 1, or None for all layers",
    )


CONFIGS: dict[str, type[Config]] = {
    "import_model": ImportModelConfig,
    "generate": GenerateConfig,
    "reward_model": RewardModelConfig,
    "ppo": PPOConfig,
    "evaluate": EvaluateConfig,
    "probe": ProbeConfig,
    "order_queue": OrderQueueConfig,
    "converse": ConverseConfig,
    "merge": MergeConfig,
    "combine": CombineConfig,
    "supervised": SupervisedConfig,
    "domain": DomainConfig,
    "rloo": RLOOConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "kto": KTOConfig,
    "search": SearchConfig,
    "distill": DistillConfig,
    "index": IndexConfig,
    "suite": SuiteConfig,
    "screen": ScreenConfig,
}
