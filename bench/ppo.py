"""Seconds and memory of one PPO update, split into rollout, score and update.

    python bench/ppo.py [--model DIR] [--prompts FILE] [--updates 3] [--batch 32] [--prompt-tokens 64]
        [--response-tokens 24] [--epochs 4] [--micro-batch 8] [--critic head|adapter|full]
        [--adapter-layers all|K] [--fixed-length] [--plain] [--without dropping|packing]

DIR is a model folder with safetensors, by default the embedded model, converted first; FILE holds one
{"prompt": [messages]} per line, by default the demo's. Prompts of more than --prompt-tokens are left
out. The reward model is a random adapter: its cost is that of a real one. --micro-batch is how many
conversations of mean length are in a forward and backward pass, by their tokens with padding.
--fixed-length lets no token end a completion, so that two implementations do equal work;
--plain runs all layers everywhere, also where only the top ones have an adapter; if they are run
without being asked for, it ends with a sentence and exit status 1. --without dropping keeps finished
rows in the batch, --without packing pads all rows to the longest (bench/ppo_without.py), --micro-batch at a
time. Prints one JSON line; `savings`
say what was in force (docs/ppo.md), seconds are medians over the updates, and `least_seconds` what
the products alone would take at the speed of one large product on this machine (`gflops`).

Under `accelerate launch --config_file FILE` the processes share each update; one prints, and the
memory is the sum of theirs.
"""

import argparse
import contextlib
import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from bench.ppo_without import replacements
from rlhf.training import parallel, ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.forward import backbone_of, layers_of, vocabulary_head
from rlhf.training.generate import encode_prompts
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    load_policy,
    lora_config,
    save_adapter,
    save_reward_head,
)
from rlhf.training.ppo_models import Models, load_models, savings_of

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("rollout", "score", "update")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path, default=ROOT / "rlhf" / "demo" / "prompts.jsonl")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--response-tokens", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--critic", choices=("head", "adapter", "full"), default="adapter")
    parser.add_argument("--adapter-layers", default="all")
    parser.add_argument("--fixed-length", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--without", choices=["dropping", "packing"], action="append", default=[])
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    result["peak_rss_mib"] = sum(parallel.gather(result["peak_rss_mib"]))
    if parallel.rank() == 0:
        print(json.dumps(result))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    top = None if arguments.adapter_layers == "all" else int(arguments.adapter_layers)
    reference = {"base": str(arguments.model or convert_embedded(folder)), "adapters": []}
    make_reward_model(reference, folder / "reward", top)
    prompts, _ = encode_prompts(
        AutoTokenizer.from_pretrained(reference["base"]),
        read_prompts(numbered(arguments.prompts, folder)),
        arguments.prompt_tokens,
    )
    tokens = statistics.fmean(len(prompt.ids) for prompt in prompts) + arguments.response_tokens
    config = PPOConfig(
        model=reference,
        reward_model=str(folder / "reward"),
        steps=arguments.updates,
        batch_size=arguments.batch,
        epochs=arguments.epochs,
        minibatches=1,
        micro_batch_tokens=round(arguments.micro_batch * tokens),
        max_prompt_tokens=arguments.prompt_tokens,
        max_new_tokens=arguments.response_tokens,
        critic=arguments.critic,
        adapter_layers=top,
        reuse_trunk=not arguments.plain,
        checkpoint_every=arguments.updates,
    )
    models = load_models(config)
    savings = savings_of(models, config)
    if savings.notes:
        sys.exit(" ".join(savings.notes))
    if arguments.fixed_length:
        models = models._replace(stop=set())
    with contextlib.ExitStack() as stack:
        for name in arguments.without:
            stack.enter_context(mock.patch.object(*replacements(arguments.micro_batch)[name]))
        ppo.train(models, prompts, config, RunFolder(folder))
    steps = [
        event["values"]
        for event in map(json.loads, (folder / "events.jsonl").read_text().splitlines())
        if event["type"] == "metrics"
    ]
    mean_prompt = round(tokens - arguments.response_tokens)
    found = report(steps, arguments) | least_seconds(models, mean_prompt, arguments)
    return found | {"savings": savings.to_json()}


def least_seconds(
    models: Models, prompt_tokens: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The time of an update's matrix products, attention and adapters left out.

    A forward pass takes two operations per weight and token; the backward pass of LoRA as many
    again, because the weights get no gradient. The vocabulary head sees completions only. With a kept trunk
    only the top layers run after the rollout.
    """
    layers = layers_of(backbone_of(models.model))[1]
    size = sum(p.numel() for name, p in layers.named_parameters() if ".lora_" not in name)
    top = size * (models.top or len(layers)) / len(layers)
    head = vocabulary_head(models.model).weight.numel()
    written = arguments.batch * arguments.response_tokens
    tokens = arguments.batch * prompt_tokens + written
    critic = arguments.critic != "head"
    operations = {
        "rollout": 2 * size * tokens + 2 * head * written,
        "score": 2 * top * tokens * (2 + critic) + 2 * head * written,
        "update": arguments.epochs * (4 * top * tokens * (1 + critic) + 4 * head * written),
    }
    speed = product_speed()
    return {
        "least_seconds": {name: round(n / speed, 1) for name, n in operations.items()},
        "gflops": round(speed / 1e9),
    }


def product_speed() -> float:
    """Operations a second of a product as large as those of an update; the best of several."""
    a, b = torch.randn(704, 576), torch.randn(576, 1536)
    times = []
    for _ in range(50):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * 704 * 576 * 1536 / min(times)


def convert_embedded(folder: Path) -> Path:
    """In a process of its own, so that its memory is not counted."""
    run_folder = folder / "import"
    run_folder.mkdir()
    config = {"kind": "import_model", "config": {"source": "embedded"}}
    (run_folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "rlhf.training", str(run_folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return run_folder / "artifact"


def make_reward_model(reference: dict[str, Any], folder: Path, top: int | None) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    base, _ = load_policy(reference)
    model = get_peft_model(base, lora_config(base, 16, top), adapter_name="reward")
    for path, parameter in model.named_parameters():
        if ".lora_B." in path:
            torch.nn.init.normal_(parameter, std=0.01)
    save_adapter(model, "reward", folder)
    head = ScalarHead(base.config.get_text_config().hidden_size)
    save_reward_head(head, RewardStatistics(0.0, 1.0), folder)


def numbered(source: Path, folder: Path) -> Path:
    """The prompts with an id each, as a run's folder has them."""
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    path = folder / "prompts.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": number, "messages": line["prompt"]}) + "\n"
            for number, line in enumerate(lines)
        )
    )
    return path


def report(steps: list[dict[str, float]], arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = {
        phase: statistics.median(step[f"seconds/{phase}"] for step in steps) for phase in PHASES
    }
    whole = statistics.median(sum(step[f"seconds/{phase}"] for phase in PHASES) for step in steps)
    length = statistics.fmean(step["length/mean"] for step in steps)
    return {
        "implementation": "preferendum",
        "critic": arguments.critic,
        "adapter_layers": arguments.adapter_layers,
        "fixed_length": arguments.fixed_length,
        "plain": arguments.plain,
        "without": arguments.without,
        "processes": parallel.count(),
        "seconds_per_update": round(whole, 2),
        **{phase: round(value, 2) for phase, value in seconds.items()},
        "completions_per_s": round(arguments.batch / whole, 3),
        "tokens_per_s": round(arguments.batch * length / whole, 1),
        "length": round(length, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")
        },
    }


if __name__ == "__main__":
    main()
