"""What supervised fine-tuning takes, and what it brings, on demonstrations of a known style.

    python bench/supervised.py [--model DIR|tiny] [--rows 100] [--epochs 1] [--learning-curve]
        [--set NAME=VALUE …]

The demonstrations are the shipped prompts with the first sentence of the shorter of their two answers, and
a word of thanks: short and polite. A run in a folder of its own, as the trainer would start it; prints one
JSON line: held-out loss and perplexity before and after, what moved, seconds of a step, and the most
memory that the process had.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from bench.ppo import ROOT, convert_embedded
from rlhf.training.artifacts import read_json, write_json
from rlhf.training.tiny import build_tiny_model

FIRST_SENTENCE = re.compile(r"^.*?[.!?](?=\s|$)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="A model folder, or tiny; else SmolLM2.")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-curve", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = model_folder(arguments.model, Path(place))
        run = Path(place) / "run"
        write_dataset(run / "demonstrations", arguments.rows)
        settings = {"epochs": arguments.epochs, "learning_curve": arguments.learning_curve}
        settings |= {name: json.loads(value) for name, _, value in map(partition, arguments.set)}
        print(json.dumps(carry_out(model, run, settings)), flush=True)


def partition(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def model_folder(asked: str, place: Path) -> Path:
    if asked == "tiny":
        folder = place / "tiny"
        folder.mkdir()
        build_tiny_model(folder)
        return folder
    return Path(asked) if asked else convert_embedded(place)


def write_dataset(folder: Path, n_rows: int) -> None:
    """The first rows, as a dataset has them; every tenth is held out."""
    folder.mkdir(parents=True)
    lines = (ROOT / "rlhf" / "demo" / "comparisons.jsonl").read_text(encoding="utf-8").splitlines()
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for number, line in enumerate(lines[:n_rows]):
            shown = json.loads(line)
            answer = {"role": "assistant", "content": demonstration(shown["completions"])}
            split = "test" if number % 10 == 9 else "train"
            row = {"messages": [*shown["prompt"], answer], "split": split}
            file.write(json.dumps(row) + "\n")


def demonstration(completions: list[str]) -> str:
    """Example: ["Yes. It is long.", "No, it is not at all. Not."] -> "Yes. Thank you for asking!\""""
    shorter = min(completions, key=len)
    found = FIRST_SENTENCE.match(shorter)
    return f"{found[0] if found else shorter} Thank you for asking!"


def carry_out(model: Path, run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Raises subprocess.CalledProcessError if the run fails; its log has been printed."""
    reference = {"base": str(model), "adapters": []}
    datasets = [{"name": "demonstrations", "folder": "demonstrations"}]
    config = {
        "model": reference,
        "datasets": datasets,
        "batch_size": 8,
        "max_tokens": 256,
        **settings,
    }
    write_json(run / "config.json", {"kind": "supervised", "config": config})
    began = time.monotonic()
    command = [sys.executable, "-m", "rlhf.training", str(run)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr, env=os.environ)
    result = read_json(run / "result.json")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = [event["time"] for event in events if event["type"] == "progress"]
    per_step = (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else None
    return {
        "settings": settings,
        **result["held_out"],
        **{name: result[name] for name in ("n_train", "steps", "method", "trainable", "share")},
        "learning_curve": result["learning_curve"],
        "forecast": (result["forecast"] or {}).get("ahead") or result["forecast"],
        "seconds_per_step": per_step,
        "seconds": time.monotonic() - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
