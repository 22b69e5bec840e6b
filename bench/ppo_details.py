"""What each detail of PPO does: the tiny model trained with one of them changed at a time.

    python bench/ppo_details.py [--seeds 3] [--steps 30] [--epochs 2] [--learning-rate 3e-3] [--only NAME]

The reward is two rules: answers of about six words, and a friendly one among them. Every run ends
with the same measure, whatever it was trained with: fresh answers to held-out prompts, their score by
the rules less 0.05 per nat of KL. Prints one JSON line per variant: medians over the seeds, the
lowest objective, and how far the policy moved in its wildest step (nats per token). With more epochs
and a higher learning rate the updates are so large that what holds them back shows.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from rlhf.training import generate, ppo
from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import Sampled, encode_prompts
from rlhf.training.ppo_math import shape_rewards
from rlhf.training.ppo_models import Models, load_models
from rlhf.training.ppo_selection import best, folder_of
from rlhf.training.tiny import ADJECTIVES, NOUNS, QUESTIONS, VERBS, build_tiny_model

REWARDS = [
    {"kind": "length", "target": 6, "unit": "words"},
    {"kind": "regex", "pattern": "(?i)thank|please|friend|hope"},
]


# --- what is put in a function's place ----------------------------------------------------------
def unwhitened(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0)


def whitened_rewards(*arguments: Any) -> Tensor:
    """Divided by their deviation in the batch, as lm-human-preferences does."""
    rewards, mask = shape_rewards(*arguments), arguments[3]
    return rewards / rewards[mask].std().clamp(min=1e-4)


def constant_rate(models: Any, config: PPOConfig) -> Any:
    state = MAKE_STATE(models, config)
    state.scheduler = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda done: 1.0)
    return state


def without_ends(*arguments: Any) -> list[Sampled]:
    """Completions as a mask made from token ids sees them where padding and end are one token."""
    return [
        one
        if one.truncated or len(one.ids) == 1
        else one._replace(
            ids=one.ids[:-1], logprobs=one.logprobs[:-1], entropies=one.entropies[:-1]
        )
        for one in COLLECT_ROLLOUT(*arguments)
    ]


def at_temperature_1(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments[:-1], 1.0)


def top_20(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    kept = probabilities.topk(20).indices
    return DRAW(
        torch.zeros_like(probabilities).scatter(-1, kept, probabilities.gather(-1, kept)), generator
    )


def completions_count_alike(*arguments: Any) -> Any:
    """Every completion has the same weight in the loss, which is linear in the advantages."""
    rollout, targets = arguments[0], MAKE_TARGETS(*arguments)
    lengths = rollout.mask.sum(1, keepdim=True)
    return targets._replace(advantages=targets.advantages * lengths.float().mean() / lengths)


def with_dropout(models: Models) -> Models:
    for module in models.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    return models


MAKE_STATE, COLLECT_ROLLOUT, MAKE_TARGETS = ppo.make_state, ppo.collect_rollout, ppo.make_targets
DRAW = generate.draw


class Variant(NamedTuple):
    settings: dict[str, Any] = {}  # that differ from the default
    replaced: tuple[tuple[Any, str, Any], ...] = ()  # module, name, what takes its place
    prepare: Callable[[Models], Models] = lambda models: models


def scaled(std: float) -> dict[str, Any]:
    """The same rewards in another unit, as a reward model's raw scores would be."""
    return {"rewards": [{**rule, "std": std, "clip": 5 / std} for rule in REWARDS]}


def with_outliers(clip: float) -> dict[str, Any]:
    """One answer in a dozen has a score of 50 deviations that says nothing about it."""
    rule = {"kind": "regex", "pattern": "phone", "std": 0.02, "clip": clip, "weight": 0.2}
    return {"rewards": [*REWARDS, {**rule, "name": "outliers"}]}


COOLER, SHORTER = {"temperature": 0.7}, {"max_new_tokens": 12}  # 11 are usual
VARIANTS = {
    "as it is": Variant(),
    "masks from token ids": Variant({}, ((ppo, "collect_rollout", without_ends),)),
    "sampled from the 20 likeliest tokens": Variant({}, ((generate, "draw", top_20),)),
    "temperature 0.7": Variant(COOLER),
    "temperature 0.7, left out of the log-probabilities that learn": Variant(
        COOLER, ((ppo, "token_logprobs", at_temperature_1(ppo.token_logprobs)),)
    ),
    "frozen weights in bf16": Variant({"dtype": "bfloat16"}),
    "dropout 0.1 in attention": Variant(prepare=with_dropout),
    "old log-probabilities computed anew": Variant(
        {}, ((Models, "is_exact", property(lambda models: False)),)
    ),
    "scores not normalised: 10 times as large": Variant(scaled(0.1)),
    "scores not normalised: a tenth": Variant(scaled(10)),
    "scores with outliers, clipped at 5": Variant(with_outliers(5)),
    "scores with outliers, not clipped": Variant(with_outliers(1000)),
    "answers of at most 12 tokens": Variant(SHORTER),
    "at most 12, no penalty for missing ends": Variant({**SHORTER, "missing_eos_penalty": 0.0}),
    "at most 12, a missing end replaces the score": Variant({**SHORTER, "missing_eos": "replace"}),
    "at most 12, a ramp before the limit": Variant({**SHORTER, "missing_eos": "ramp"}),
    "no penalty for KL": Variant({"kl_coefficient": 0.0}),
    "k3 as the penalty": Variant({"kl_estimator": "k3"}),
    "adaptive KL, target 5 nats": Variant({"target_kl": 5.0, "kl_horizon": 500}),
    "critic: head": Variant({"critic": "head"}),
    "critic: full": Variant({"critic": "full"}),
    "critic learns alone for 4 steps": Variant({"critic_warmup_steps": 4}),
    "lambda 1": Variant({"lam": 1.0}),
    "lambda 0": Variant({"lam": 0.0}),
    "gamma 0.95": Variant({"gamma": 0.95}),
    "advantages not whitened": Variant({}, ((ppo, "whiten", unwhitened),)),
    "rewards whitened, too": Variant({}, ((ppo, "shape_rewards", whitened_rewards),)),
    "ratio not clipped": Variant({"clip_range": 0.999, "clip_range_high": 1e9}),
    "dual clip 3": Variant({"dual_clip": 3.0}),
    "clip range 0.2 down, 0.28 up": Variant({"clip_range_high": 0.28}),
    "a step's updates end at 0.02 nats": Variant({"target_kl_update": 0.02}),
    "values not clipped": Variant({"value_clip_range": None}),
    "every completion counts alike, not every token": Variant(
        {}, ((ppo, "make_targets", completions_count_alike),)
    ),
    "log-ratio not clamped": Variant({"log_ratio_clamp": 1e9}),
    "gradient not clipped": Variant({"max_grad_norm": 1e9}),
    "Adam eps 1e-8": Variant({"adam_eps": 1e-8}),
    "no warm-up": Variant({"warmup_steps": 0.0}),
    "constant learning rate": Variant({}, ((ppo, "make_state", constant_rate),)),
    "the best of the steps": Variant({"keep": "best", "evaluate_every": 3}),
    "1 epoch": Variant({"epochs": 1}),
    "4 epochs": Variant({"epochs": 4}),
    "4 completions per prompt": Variant({"completions_per_prompt": 4}),
    "all weights learn": Variant({"train": "full", "learning_rate": 3e-4}),
}


# --- the runs -----------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=PPOConfig.epochs)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--only", choices=VARIANTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the model is too small for more
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build_tiny_model(folder / "tiny")
        for name in [arguments.only] if arguments.only else VARIANTS:
            ends = [end_of(name, seed, arguments, folder) for seed in range(arguments.seeds)]
            print(json.dumps(summary(name, ends)), flush=True)


def end_of(
    name: str, seed: int, arguments: argparse.Namespace, place: Path
) -> dict[str, float] | None:
    """Where one run ends; None if it diverged."""
    variant = VARIANTS[name]
    common = PPOConfig(
        {"base": str(place / "tiny"), "adapters": []}, rewards=REWARDS, steps=arguments.steps,
        batch_size=32, epochs=arguments.epochs, max_new_tokens=32, temperature=1.0,
        learning_rate=arguments.learning_rate, value_learning_rate=arguments.learning_rate,
        kl_coefficient=0.05, evaluate_every=0, keep="last", checkpoint_every=arguments.steps,
        seed=seed,
    )  # fmt: skip
    config = replace(common, **variant.settings)
    path = place / f"{list(VARIANTS).index(name)}-{seed}"
    path.mkdir()
    folder = RunFolder(path)
    models = variant.prepare(load_models(config))
    questions, held_out = (
        encode_prompts(models.tokenizer, read_prompts(file), config.max_prompt_tokens)[0]
        for file in prompt_files(path)
    )
    with patched(variant):
        try:
            chosen_by = held_out if config.evaluate_every else ()
            state = ppo.train(models, questions, config, folder, chosen_by)
        except RunError:
            return None
    if config.keep == "best":
        take_best(models, state, folder)
    measured = replace(common, critic=config.critic, seed=1000)
    state.evaluations.clear()
    models = models._replace(rewards=load_models(common).rewards)
    end = ppo.evaluate(models, held_out, state, measured, folder)
    steps_of = [
        event["values"]
        for event in map(json.loads, (path / "events.jsonl").read_text().splitlines())
        if event["type"] == "metrics" and event["step"]
    ]
    return {**end, "wildest": max(values["policy/approx_kl"] for values in steps_of)}


def patched(variant: Variant) -> AbstractContextManager[Any]:
    stack = contextlib.ExitStack()
    for module, name, substitute in variant.replaced:
        stack.enter_context(mock.patch.object(module, name, substitute))
    return stack


def take_best(models: Models, state: Any, folder: RunFolder) -> None:
    found = best(state.evaluations)
    assert found
    kept = load_file(folder_of(found, folder) / "adapter_model.safetensors")
    set_peft_model_state_dict(models.model, kept, adapter_name="policy")


def prompt_files(folder: Path) -> list[Path]:
    """96 questions to learn from and 96 others to measure with."""
    words = itertools.product(VERBS[:4], ADJECTIVES[:4], NOUNS[:12])
    texts = [
        QUESTIONS[number % len(QUESTIONS)].format(verb=verb, adjective=adjective, noun=noun)
        for number, (verb, adjective, noun) in enumerate(words)
    ]
    files = []
    for half in range(2):
        lines = [
            json.dumps({"id": number, "messages": [{"role": "user", "content": text}]}) + "\n"
            for number, text in enumerate(texts[half::2])
        ]
        files.append(folder / f"prompts-{half}.jsonl")
        files[-1].write_text("".join(lines))
    return files


def summary(name: str, ends: list[dict[str, float] | None]) -> dict[str, Any]:
    done = [end for end in ends if end]
    found: dict[str, Any] = {"variant": name, "seeds": len(ends), "diverged": len(ends) - len(done)}
    if done:
        for label in ("objective", "score", "kl", "length"):
            found[label] = round(statistics.median(end[f"eval/{label}"] for end in done), 3)
        found["lowest"] = round(min(end["eval/objective"] for end in done), 3)
        found["wildest"] = round(max(end["wildest"] for end in done), 4)
    return found


if __name__ == "__main__":
    main()
