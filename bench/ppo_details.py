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
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch

from rlhf.training import ppo
from rlhf.training.artifacts import RunError, RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import encode_prompts
from rlhf.training.ppo_models import load_models
from rlhf.training.tiny import ADJECTIVES, NOUNS, QUESTIONS, VERBS, build_tiny_model

REWARDS = [
    {"kind": "length", "target": 6, "unit": "words"},
    {"kind": "regex", "pattern": "(?i)thank|please|friend|hope"},
]


def unwhitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(~mask, 0.0)


def constant_rate(models: Any, config: PPOConfig) -> Any:
    state = MAKE_STATE(models, config)
    state.scheduler = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda done: 1.0)
    return state


MAKE_STATE = ppo.make_state
# Name: settings that differ from the default, and what to put in a function's place.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Callable[..., Any]]]] = {
    "as it is": ({}, {}),
    "advantages not whitened": ({}, {"whiten": unwhitened}),
    "no penalty for KL": ({"kl_coefficient": 0.0}, {}),
    "k3 as the penalty": ({"kl_estimator": "k3"}, {}),
    "ratio not clipped": ({"clip_range": 0.999, "clip_range_high": 1e9}, {}),
    "dual clip 3": ({"dual_clip": 3.0}, {}),
    "clip range 0.2 down, 0.28 up": ({"clip_range_high": 0.28}, {}),
    "values not clipped": ({"value_clip_range": None}, {}),
    "gradient not clipped": ({"max_grad_norm": 1e9}, {}),
    "Adam eps 1e-8": ({"adam_eps": 1e-8}, {}),
    "constant learning rate": ({}, {"make_state": constant_rate}),
    "lambda 1": ({"lam": 1.0}, {}),
    "lambda 0": ({"lam": 0.0}, {}),
    "no penalty for missing ends": ({"missing_eos_penalty": 0.0}, {}),
    "critic: head": ({"critic": "head"}, {}),
    "critic: full": ({"critic": "full"}, {}),
    "critic learns alone for 4 steps": ({"critic_warmup_steps": 4}, {}),
    "1 epoch": ({"epochs": 1}, {}),
    "4 epochs": ({"epochs": 4}, {}),
    "a step's updates end at 0.02 nats": ({"target_kl_update": 0.02}, {}),
    "4 completions per prompt": ({"completions_per_prompt": 4}, {}),
    "all weights learn": ({"train": "full", "learning_rate": 3e-4}, {}),
}


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
    changes, replacements = VARIANTS[name]
    common = PPOConfig(
        {"base": str(place / "tiny"), "adapters": []}, rewards=REWARDS, steps=arguments.steps,
        batch_size=32, epochs=arguments.epochs, max_new_tokens=32, temperature=1.0,
        learning_rate=arguments.learning_rate, value_learning_rate=arguments.learning_rate,
        kl_coefficient=0.05, evaluate_every=0, keep="last", checkpoint_every=arguments.steps,
        seed=seed,
    )  # fmt: skip
    config = replace(common, **changes)
    path = place / f"{name}-{seed}".replace(":", "").replace(" ", "-")
    path.mkdir()
    folder = RunFolder(path)
    models = load_models(config)
    questions, held_out = (
        encode_prompts(models.tokenizer, read_prompts(file), config.max_prompt_tokens)[0]
        for file in prompt_files(path)
    )
    with patched(replacements):
        try:
            state = ppo.train(models, questions, config, folder)
        except RunError:
            return None
    measured = replace(common, critic=config.critic, seed=1000)
    state.evaluations.clear()
    end = ppo.evaluate(models, held_out, state, measured, folder)
    steps_of = [
        event["values"]
        for event in map(json.loads, (path / "events.jsonl").read_text().splitlines())
        if event["type"] == "metrics"
    ]
    return {**end, "wildest": max(values["policy/approx_kl"] for values in steps_of)}


def patched(replacements: dict[str, Callable[..., Any]]) -> AbstractContextManager[Any]:
    stack = contextlib.ExitStack()
    for name, function in replacements.items():
        stack.enter_context(mock.patch.object(ppo, name, function))
    return stack


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
