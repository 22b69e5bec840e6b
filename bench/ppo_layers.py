"""Reward at equal KL: adapters on the top layers alone against adapters on all of them.

    python bench/ppo_layers.py [--model DIR] [--prompts FILE] [--seeds 3] [--top 10] [--updates 10]
        [--processes 1] [--figure docs/figures/ppo_layers.svg]

PPO as the simulation does it, but rewarded with the simulated annotators' true taste instead of a
model of it, so that nothing but the policy's layers differs. Prints a JSON line per run: KL and score
of each step's fresh answers. Then one per variant: the taste at a few distances, read off each seed's
curve (null where a seed did not get that far), and the slope over the square root of the KL, which is
about how a score grows (Gao et al. 2022, arXiv 2210.10760). --figure draws the curves.

Nothing here is timed, so with --processes each training takes its share of the cores: two that use one
core each get through more than one that uses two.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from bench.ppo import ROOT, convert_embedded, numbered
from rlhf.taste import taste
from rlhf.training import ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import encode_prompts
from rlhf.training.ppo_models import load_models

FUNCTION = "bench.ppo_layers.true_taste"
KLS = (2.0, 4.0, 8.0)  # nats per completion


def true_taste(prompts: list[Any], completions: list[str]) -> list[float]:
    return [taste(text) for text in completions]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path, default=ROOT / "rlhf" / "demo" / "prompts.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    os.environ["PREFERENDUM_REWARD_FUNCTIONS"] = FUNCTION
    variants = {f"top {arguments.top} layers": arguments.top, "all layers": None}
    curves: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as place:
        model = arguments.model or convert_embedded(Path(place))
        settings = list(itertools.product(range(arguments.seeds), variants))
        with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
            trained = pool.map(
                train,
                itertools.repeat(str(model)),
                [variants[name] for _, name in settings],
                [seed for seed, _ in settings],
                itertools.repeat(arguments),
                [Path(place) / f"{name}-{seed}" for seed, name in settings],
            )
            for (seed, name), curve in zip(settings, trained, strict=True):
                curves[name].append(curve)
                print(json.dumps({"variant": name, "seed": seed, "curve": curve}), flush=True)
    for name, of_seeds in curves.items():
        print(json.dumps(summary(name, of_seeds)), flush=True)
    if arguments.figure:
        draw(curves, arguments.figure)


def train(
    model: str, layers: int | None, seed: int, arguments: argparse.Namespace, path: Path
) -> list[tuple[float, float]]:
    """KL (k1, nats per completion) and true taste (points) of the answers of each step."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // arguments.processes))
    path.mkdir()
    config = PPOConfig(
        {"base": model, "adapters": []},
        rewards=[{"kind": "callable", "function": FUNCTION, "mean": -7.0, "std": 3.0}],
        steps=arguments.updates, batch_size=32, max_new_tokens=64, epochs=1, minibatches=4,
        learning_rate=8e-4, value_learning_rate=8e-4, kl_coefficient=0.02, adapter_layers=layers,
        critic="head", evaluate_every=0, keep="last", checkpoint_every=arguments.updates, seed=seed,
    )  # fmt: skip
    models = load_models(config)
    lines = read_prompts(numbered(arguments.prompts, path))
    prompts, _ = encode_prompts(models.tokenizer, lines, config.max_prompt_tokens)
    ppo.train(models, prompts, config, RunFolder(path))
    events = map(json.loads, (path / "events.jsonl").read_text().splitlines())
    steps = [event["values"] for event in events if event["type"] == "metrics"]
    return [(round(step["kl/k1"], 3), round(step["score/raw_mean"], 3)) for step in steps]


def summary(name: str, curves: list[list[tuple[float, float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"variant": name}
    for kl in KLS:
        reached = [score_at(kl, curve) for curve in curves]
        known = [score for score in reached if score is not None]
        found[f"taste_at_{kl:g}"] = reached
        found[f"median_at_{kl:g}"] = statistics.median(known) if known else None
    points = [point for curve in curves for point in curve]
    roots = [max(kl, 0.0) ** 0.5 for kl, _ in points]
    if len(set(roots)) > 1:
        slope = statistics.linear_regression(roots, [score for _, score in points]).slope
        found["per_root_nat"] = round(slope, 3)
    return found


def score_at(kl: float, curve: list[tuple[float, float]]) -> float | None:
    """By a straight line through the curve's last step below that KL and the first above it."""
    for (kl_before, before), (kl_after, after) in itertools.pairwise(curve):
        if kl_before <= kl < kl_after:
            share = (kl - kl_before) / (kl_after - kl_before)
            return round(before + share * (after - before), 3)
    return None


def draw(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for color, (name, of_seeds) in zip(("#1f6feb", "#d9730d"), curves.items(), strict=True):
        for number, curve in enumerate(of_seeds):
            label = None if number else name
            axes.plot(*zip(*sorted(curve), strict=True), ".-", color=color, alpha=0.8, label=label)
    axes.set_xlabel("KL from the reference, nats per answer (k1)")
    axes.set_ylabel("true taste of the answers, points")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
