"""GRPO here, by TRL's trainer on rollouts from here, and by TRL alone: seconds and memory of an update, with
the same work.

    python bench/compare_grpo.py --model DIR [--updates 4] [--batch 32] [--tokens 64] [--layers 10]

All sample `--batch` completions of the same prompts, four to each, of exactly as many tokens at most, reward
them by their length, and take two optimiser steps on an adapter in the top `--layers` layers, with a KL to the
reference. One process each. Prints a JSON line per side: the median of the updates after the first, the peak of
the process, and tokens a completion, because a policy that ends early has less to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from bench.ppo import ROOT, numbered
from rlhf.training.__main__ import limit_threads, prepare_libraries

GROUP, TARGET, RATE, BETA = 4, 40, 1e-4, 0.04
SIDES = ("ours", "ours-by-trl", "trl")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--side", choices=SIDES, help="Of a process that measures itself.")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.side is None:
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            subprocess.run(command, cwd=ROOT, check=True)
        return
    prepare_libraries()
    limit_threads()
    with tempfile.TemporaryDirectory() as place:
        run = by_trl if arguments.side == "trl" else ours
        seconds, length = run(arguments, Path(place))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = {"seconds": round(statistics.median(seconds[1:]), 2), "length": round(length, 1)}
    print(json.dumps({"side": arguments.side, **found, "peak_mib": peak}), flush=True)


def ours(arguments: argparse.Namespace, place: Path) -> tuple[list[float], float]:
    from rlhf.training.artifacts import RunFolder
    from rlhf.training.config import GRPOConfig
    from rlhf.training.data import read_prompts
    from rlhf.training.generate import encode_prompts
    from rlhf.training.ppo_models import load_models

    config = GRPOConfig(
        {"base": arguments.model, "adapters": []},
        rewards=[{"kind": "length", "target": TARGET}], missing_eos_penalty=0.0,
        steps=arguments.updates, batch_size=arguments.batch, completions_per_prompt=GROUP,
        max_new_tokens=arguments.tokens, adapter_layers=arguments.layers, temperature=1.0,
        learning_rate=RATE, kl_coefficient=BETA, evaluate_every=0, keep="last",
        checkpoint_every=arguments.updates,
    )  # fmt: skip
    if arguments.side == "ours":
        from rlhf.training.ppo import train
    else:
        from rlhf.training.group_trl import train

        config = replace(config, trainer="trl", reuse_trunk=False)
    models = load_models(config)
    lines = read_prompts(numbered(ROOT / "rlhf" / "demo" / "prompts.jsonl", place))
    prompts, _ = encode_prompts(models.tokenizer, lines, config.max_prompt_tokens)
    folder = RunFolder(place)
    train(models, prompts, config, folder)
    events = map(json.loads, (place / "events.jsonl").read_text().splitlines())
    steps = [event["values"] for event in events if event["type"] == "metrics"]
    seconds = [sum(v for name, v in step.items() if "seconds/" in name) for step in steps]
    return seconds, statistics.fmean(step["length/mean"] for step in steps)


def by_trl(arguments: argparse.Namespace, place: Path) -> tuple[list[float], float]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rlhf.training.models import load_policy, lora_config

    class Clock(TrainerCallback):
        """At the end of every second optimiser step, which ends an update."""

        times = [time.monotonic()]

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % 2 == 0:
                self.times.append(time.monotonic())

    lengths: list[int] = []

    def by_length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [max(0.0, 1 - abs(len(ids) - TARGET) / TARGET) for ids in completion_ids]

    model, tokenizer = load_policy({"base": arguments.model, "adapters": []})
    lines = (ROOT / "rlhf" / "demo" / "prompts.jsonl").read_text().splitlines()
    rows = [{"prompt": json.loads(line)["prompt"]} for line in lines]
    settings = GRPOConfig(
        output_dir=str(place), per_device_train_batch_size=arguments.batch // 2,
        steps_per_generation=2, num_generations=GROUP, max_completion_length=arguments.tokens,
        temperature=1.0, learning_rate=RATE, beta=BETA, max_steps=2 * arguments.updates,
        logging_steps=1000, save_strategy="no", report_to="none", use_cpu=model.device.type == "cpu",
        bf16=False, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    trainer = GRPOTrainer(
        model=model, reward_funcs=by_length, args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[clock],
        peft_config=lora_config(model, 16, arguments.layers),
    )  # fmt: skip
    clock.times[:] = [time.monotonic()]
    trainer.train()
    seconds = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return seconds, statistics.fmean(lengths)


if __name__ == "__main__":
    main()
