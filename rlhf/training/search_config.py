"""What a search is told, and by which held-out metric it compares trials. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rlhf.training.config_base import Config, _require
from rlhf.training.search_space import Dimension, fixed, parse_space, types_of, varied

# In the search's folder: what every trial reads, the trials' own folders, all of them as a table.
INPUTS, TRIALS, TABLE = "inputs", "trials", "trials.json"
PRUNERS = ("median", "halving", "none")
SAMPLERS = ("tpe", "random")


class Objective(NamedTuple):
    metric: str  # as trials report it on what they do not learn from
    direction: Literal["minimize", "maximize"]


LOSS = Objective("eval_loss", "minimize")
ACCURACY = Objective("eval_accuracy", "maximize")
SCORES = {
    "objective": Objective("eval/objective", "maximize"),  # score less the price of KL
    "score": Objective("eval/score", "maximize"),
}
# By kind of run; the first is the usual one.
OBJECTIVES: dict[str, dict[str, Objective]] = {
    "reward_model": {"loss": LOSS, "accuracy": ACCURACY},
    "ppo": SCORES,
    "supervised": {"loss": LOSS},
    "domain": {"loss": LOSS},
    "dpo": {"accuracy": ACCURACY, "margin": Objective("eval_margin", "maximize")},
    "kto": {"accuracy": ACCURACY, "margin": Objective("eval_margin", "maximize")},
    "rloo": SCORES,
    "grpo": SCORES,
    "distill": {  # of what would be picked for held-out prompts; of these, how many would give a row
        "score": Objective("eval_score", "maximize"),
        "share": Objective("eval_share", "maximize"),
    },
}
WHY_NOT = "they measure nothing on held-out data that could tell which trial is better"
# What a distillation is told besides: by itself it answers no held-out prompts.
EVAL_PROMPTS = {"eval_prompts": 32}
# What would change a trial's number though it has made the same: {kind: {setting: what it changes}}.
SCORED, ASKED = "how an answer is scored", "how held-out prompts are answered"
COUNTED = "which held-out rows count"
OF_SCORES = dict.fromkeys(
    ("ensemble", "reward_weight", "score_clip", "uncertainty_coefficient"), SCORED
)
OF_POLICIES = {
    **OF_SCORES,
    **dict.fromkeys(("missing_eos", "missing_eos_penalty", "missing_eos_ramp"), SCORED),
    **dict.fromkeys(("max_new_tokens", "temperature"), ASKED),
    **dict.fromkeys(("eval_prompts", "max_prompt_tokens"), "which held-out prompts count"),
}
RULERS: dict[str, dict[str, str]] = {
    "reward_model": {"max_tokens": COUNTED},
    "ppo": OF_POLICIES,
    "supervised": {"max_tokens": COUNTED},
    "domain": {"max_tokens": "how much of a held-out text is read at once"},
    "dpo": {"max_tokens": COUNTED},
    "kto": {"max_tokens": COUNTED},
    "rloo": OF_POLICIES,
    "grpo": OF_POLICIES,
    # The answers are what it makes: these may be longer, or of another temperature.
    "distill": {**OF_SCORES, "eval_prompts": "which held-out prompts count"},
}
# The same where trials are compared by this: {objective: …}.
RULERS_OF_OBJECTIVES: dict[str, dict[str, str]] = {
    "objective": {
        "kl_coefficient": "the price of the KL in the objective (target_kl may vary, or compare by "
        "objective='score')"
    },
    "loss": {"ties": "which outcomes a vote has (compare by objective='accuracy')"},
}


@dataclass(frozen=True)
class SearchConfig(Config):
    tries: str  # the kind of run that each trial is
    settings: dict[str, Any]  # of its config, with models and files; the space changes these
    space: str  # what varies, see search_space.py
    objective: str = ""  # one of the kind's; empty: the first
    trials: int = 12  # in all, with those that were ended early and that failed
    pruner: str = (
        "median"  # ends trials that are worse than half of the others; or "halving", "none"
    )
    sampler: str = "tpe"  # tree-structured Parzen estimator, Bergstra et al. 2011; or "random"
    max_hours: float | None = None  # of all trials together; then none begins. None: no limit
    seed: int = 0

    def __post_init__(self) -> None:
        _require(1 <= self.trials <= 1000, f"trials={self.trials} must be between 1 and 1000")
        _require(self.pruner in PRUNERS, f"pruner={self.pruner!r} must be one of {PRUNERS}")
        _require(self.sampler in SAMPLERS, f"sampler={self.sampler!r} must be one of {SAMPLERS}")
        hours = self.max_hours
        _require(hours is None or hours > 0, f"max_hours={hours} must be above 0, or None")
        config_tried(self.tries)
        known = OBJECTIVES[self.tries]
        _require(
            self.objective in ("", *known),
            f"objective={self.objective!r} must be one of {tuple(known)} for {self.tries}",
        )
        self._check_rulers()
        self._check_space()
        if self.tries == "distill":
            self._check_distillation()

    def _check_rulers(self) -> None:
        """Trials are compared by one measure, or the best is the one that measures most kindly."""
        objective = self.objective or next(iter(OBJECTIVES[self.tries]))
        rulers = RULERS[self.tries] | RULERS_OF_OBJECTIVES.get(objective, {})
        names = [each.name for each in self.dimensions if each.name in rulers]
        found = ", and ".join(f"{name} changes {rulers[name]}" for name in names)
        _require(not found, f"{found}: trials could not be compared, so give one value")

    def _check_distillation(self) -> None:
        trial: Any = self.trial({})
        _require(
            trial.is_scored or self.objective == "share",
            "nothing scores the answers: choose a reward model or a rule, or compare by objective='share'",
        )

    def _check_space(self) -> None:
        """Each value by itself with all others as they are; some pairs may still not work together,
        and such a trial fails."""
        _check_measured(self.trial({}))
        for dimension in self.dimensions:
            for value in dimension.ends:
                _check_measured(self.trial({dimension.name: value}))

    @property
    def dimensions(self) -> list[Dimension]:
        """Those that vary."""
        return varied(parse_space(self.space, types_of(config_tried(self.tries))))

    @property
    def usual(self) -> dict[str, Any]:
        """What the settings say of what varies, where the space holds it."""
        named = {each.name: each for each in self.dimensions}
        settings = self.trial({}).to_dict()
        return {name: settings[name] for name, each in named.items() if each.holds(settings[name])}

    @property
    def aim(self) -> Objective:
        known = OBJECTIVES[self.tries]
        return known[self.objective] if self.objective else next(iter(known.values()))

    def trial(self, values: dict[str, Any]) -> Config:
        """The configuration of a trial. Raises ValueError if these values do not work."""
        return config_tried(self.tries).from_dict({**self.settings, **values})


def _check_measured(trial: Config) -> None:
    """Raises ValueError if it would answer no held-out prompts."""
    for name in ("evaluate_every", "eval_prompts"):
        _require(
            getattr(trial, name, None) != 0,
            f"{name}=0 measures nothing on held-out prompts, by which trials could be compared",
        )


def kinds_tried() -> list[str]:
    """The kinds of run whose settings can be searched. Example: ["reward_model", "ppo"]"""
    from rlhf.training.config import CONFIGS  # noqa: PLC0415 (which has SearchConfig too)

    return [kind for kind in OBJECTIVES if kind in CONFIGS]


def where_fixed(kind: str, name: str) -> str:
    """Where all trials of a search must have the same value of a setting, in words; empty: nowhere."""
    if name in RULERS[kind]:
        return "the same in all trials"
    objectives = [each for each in OBJECTIVES[kind] if name in RULERS_OF_OBJECTIVES.get(each, {})]
    return f"the same in all trials if compared by {objectives[0]}" if objectives else ""


def config_tried(kind: str) -> type[Config]:
    """Raises ValueError if there is nothing to search in such runs."""
    from rlhf.training.config import CONFIGS  # noqa: PLC0415 (which has SearchConfig too)

    if kind not in kinds_tried():
        raise ValueError(f"runs of kind {kind!r} cannot be tried: {WHY_NOT}; {kinds_in_words()} do")
    return CONFIGS[kind]


def kinds_in_words() -> str:
    """Example: "reward_model, ppo, supervised"."""
    return ", ".join(kinds_tried())


def settings_fixed(kind: str, space: str) -> dict[str, Any]:
    """What the space says of every trial. Raises ValueError with a sentence."""
    return fixed(parse_space(space, types_of(config_tried(kind))))
