"""RLOO and GRPO by TRL's trainers, where `trainer` is "trl": they learn in place of the loop in ppo.py.

    ppo.make_rollout: answers with their scores -> TRL: advantages, KL, loss, optimiser -> the adapter `policy`

Prompts, sampling, sources of rewards, held-out evaluations and what is reported are ppo.py's, so that two
runs differ by how they learn alone. A checkpoint is TRL's, with what the run knows beside it, and written
after every step; what is stopped within a step begins it again. `global_step` counts TRL's optimiser steps,
`run.step` rollouts, as everywhere here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import TrainerCallback
from trl import GRPOConfig as TrainerGRPOConfig
from trl import GRPOTrainer, RLOOTrainer
from trl import RLOOConfig as TrainerRLOOConfig

from rlhf.training import parallel, ppo
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped, read_json, write_json
from rlhf.training.config import GroupConfig, GRPOConfig
from rlhf.training.generate import EncodedPrompt
from rlhf.training.ppo_checkpoint import State
from rlhf.training.ppo_models import Models
from rlhf.training.ppo_rollout import Rollout, Targets, report_rollout, rollout_metrics
from rlhf.training.ppo_selection import Evaluation, is_due, remove_beaten
from rlhf.training.trainer_settings import WarmingUp, on_one_gpu, shared_settings

KNOWN = "run.json"  # in a checkpoint: what the run knows beside TRL's state


class Learner(WarmingUp):
    """Before a trainer of TRL: it learns from the rollouts of ppo.py."""

    rollout: Rollout
    targets: Targets

    def __init__(
        self,
        models: Models,
        prompts: Sequence[EncodedPrompt],
        config: GroupConfig,
        folder: RunFolder,
        held_out: Sequence[EncodedPrompt],
    ) -> None:
        self.models, self.prompts, self.config = models, prompts, config
        self.folder, self.held_out = folder, held_out
        nothing: Any = None  # TRL's, which come when it trains
        self.run = State(nothing, nothing, config.kl_coefficient)
        self.metrics: dict[str, float] = {}  # of the step, so far
        chosen = [p for n in range(config.steps) for p in ppo.prompts_of_step(prompts, n, config)]
        places = {id(prompt): place for place, prompt in enumerate(prompts)}
        # TRL copies an adapter of this name as its reference. Ours is the base without one, which is
        # what TRL takes where there is no copy.
        adapters = models.model.peft_config
        adapters["default"] = adapters["policy"]
        super().__init__(  # type: ignore[call-arg]
            model=models.model,
            reward_funcs=scores_of(self),
            args=settings_of(config, prompts, folder, on_cpu=models.device.type == "cpu"),
            train_dataset=Dataset.from_dict({"prompt": [places[id(prompt)] for prompt in chosen]}),
            processing_class=models.tokenizer,
            callbacks=[EachStep(self)],
        )
        del adapters["default"]
        if "ref" in adapters:
            models.model.delete_adapter("ref")
        self.ready_to_learn()

    def ready_to_learn(self) -> None:
        """As TRL leaves the model: the policy's adapter on and alone trainable, in training mode."""
        self.models.model.set_adapter("policy")
        self.models.train()

    def _tokenize_prompts(
        self, prompts: Sequence[int]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Sample and score the whole rollout here, where TRL asks for the first part of it."""
        chosen = [self.prompts[place] for place in prompts[:: self.config.completions_per_prompt]]
        step = self.run.step
        self.rollout, seconds = ppo.make_rollout(
            self.models, chosen, self.config, step, self.folder
        )
        coefficient = self.config.kl_coefficient
        self.targets = ppo.make_targets(self.rollout, self.models.rewards, coefficient, self.config)
        self.run.scheduler = self.lr_scheduler
        found = rollout_metrics(self.rollout, self.targets, self.run)
        self.metrics = {name: v for name, v in found.items() if "value" not in name} | seconds
        if self.run.first_score is None:
            self.run.first_score = found["score/mean"]
        report_rollout(self.models, self.rollout, self.targets, step + 1, self.config, self.folder)
        self.folder.phase("update")
        self.scored = time.monotonic()
        self.ready_to_learn()
        return [prompt.ids for prompt in self.rollout.prompts], None, {}

    def _generate_single_turn(self, *_: Any) -> Any:
        return [completion.ids for completion in self.rollout.completions]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if self.folder.should_stop():
            raise Stopped
        return super().compute_loss(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let TRL write beside the run's checkpoints, then move the whole into its place."""
        written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
        try:
            with self.folder.writing_checkpoint(self.run.step) as target:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                for file in written.iterdir():
                    file.rename(target / file.name)
                known = {
                    name: getattr(self.run, name) for name in ("step", "first_score", "evaluations")
                }
                write_json(target / KNOWN, known)
        finally:
            shutil.rmtree(written, ignore_errors=True)
        remove_beaten(self.run.evaluations, self.folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README.md in checkpoints."""


class RLOOLearner(Learner, RLOOTrainer):
    pass


class GRPOLearner(Learner, GRPOTrainer):
    def _generate_single_turn(self, *_: Any) -> Any:
        """The second is what another sampler, as vLLM, says of them."""
        return super()._generate_single_turn(), None


def scores_of(learner: Learner) -> Any:
    """TRL's function of rewards: all sources, weighed, with the penalty for missing ends."""

    def score(**_: Any) -> list[float]:
        return learner.targets.scores.tolist()

    return score


class EachStep(TrainerCallback):
    """What ends a step of the run: after all updates from one rollout."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.seconds: list[float] = []
        self.began = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in self.learner.models.policy_parameters() if p.grad is not None]
        if not all(gradient.isfinite().all() for gradient in gradients):
            raise RunError(
                f"The gradient was not finite at step {self.learner.run.step + 1}. The weights of the "
                f"last checkpoint are intact. Lower the learning rate ({args.learning_rate:g}).",
                DIVERGED,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        learner = self.learner
        run, config, folder = learner.run, learner.config, learner.folder
        if state.global_step % updates_of_step(config):
            return
        learner.metrics["seconds/update"] = time.monotonic() - learner.scored
        run.step += 1
        if learner.held_out and is_due(run.step, config):
            learner.metrics |= ppo.evaluate(learner.models, learner.held_out, run, config, folder)
            learner.ready_to_learn()
        control.should_save = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """TRL's names of what is reported, in ours; after `on_step_end`."""
        names = {"policy/loss": "loss", "grad_norm/policy": "grad_norm",
                 "policy/clip_fraction": "clip_ratio/region_mean"}  # fmt: skip
        if not logs or "loss" not in logs:  # TRL's summary
            return
        of_update = {name: float(logs[theirs]) for name, theirs in names.items()}
        step, steps = self.learner.run.step, self.learner.config.steps
        self.learner.folder.metrics(step, self.learner.metrics | of_update)
        self.seconds.append(time.monotonic() - self.began)
        self.began = time.monotonic()
        left = (steps - step) * sum(self.seconds[-5:]) / len(self.seconds[-5:])
        self.learner.folder.progress(step, steps, eta_seconds=left)


# --- settings ---------------------------------------------------------------------------------
def updates_of_step(config: GroupConfig) -> int:
    return config.epochs * config.minibatches


def answers_at_once(config: GroupConfig, prompt_tokens: int) -> int:
    """Of a forward and backward pass: as many as have `micro_batch_tokens` with the longest prompt,
    each as long as it may be, and divide a minibatch.

    Example: minibatches of 16, prompts of 100 tokens, answers of 64, 1024 tokens at once: 4.
    """
    minibatch = config.batch_size // config.minibatches
    fitting = config.micro_batch_tokens // (prompt_tokens + config.max_new_tokens)
    return max(n for n in range(1, minibatch + 1) if minibatch % n == 0 and n <= max(1, fitting))


def settings_of(
    config: GroupConfig, prompts: Sequence[EncodedPrompt], folder: RunFolder, *, on_cpu: bool
) -> Any:
    per_step = updates_of_step(config)
    at_once = answers_at_once(config, max(len(prompt.ids) for prompt in prompts))
    told = {
        **shared_settings(folder, config.steps * per_step, config.seed, on_cpu=on_cpu),
        "logging_steps": per_step,
        "max_steps": config.steps * per_step,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": config.batch_size // config.minibatches // at_once,
        "steps_per_generation": config.batch_size // at_once,
        "num_generations": config.completions_per_prompt,
        "num_iterations": config.epochs,
        "shuffle_dataset": False,  # they come in the order of the run's own shuffle
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,  # a share
        "adam_epsilon": config.adam_eps,
        "max_grad_norm": config.max_grad_norm,
        "beta": config.kl_coefficient,
        "epsilon": config.clip_range,
        "epsilon_high": config.clip_range_high,
    }
    if isinstance(config, GRPOConfig):
        scale = config.scale_advantages
        return on_one_gpu(TrainerGRPOConfig(**told, loss_type="dapo", scale_rewards=scale))
    return on_one_gpu(TrainerRLOOConfig(**told))


# --- training ---------------------------------------------------------------------------------
def train(
    models: Models,
    prompts: list[EncodedPrompt],
    config: GroupConfig,
    folder: RunFolder,
    held_out: Sequence[EncodedPrompt] = (),
) -> State:
    """In place of ppo.train, from the newest checkpoint if there is one."""
    if parallel.count() > 1:
        raise RunError("trainer='trl' runs in one process: start one, or choose trainer='own'.")
    kind = GRPOLearner if isinstance(config, GRPOConfig) else RLOOLearner
    learner = kind(models, prompts, config, folder, held_out)
    checkpoint = folder.checkpoints()[-1][1] if folder.checkpoints() else None
    if checkpoint:
        known = read_json(checkpoint / KNOWN)
        learner.run.step, learner.run.first_score = known["step"], known["first_score"]
        learner.run.evaluations = [Evaluation(*found) for found in known["evaluations"]]
    elif held_out:
        folder.metrics(0, ppo.evaluate(models, held_out, learner.run, config, folder))
        learner.ready_to_learn()
    learner.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    learner.run.scheduler = learner.lr_scheduler
    return learner.run
