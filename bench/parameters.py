"""Which parameters move: how many, what memory and time they take, and what is learned in so many steps.

    python bench/parameters.py [--model DIR] [--steps 8] [--batch 2] [--tokens 128] [--held-out 8]
        [--methods lora dora … full] [--count]

Each method learns the demo's answers (rlhf/demo/comparisons.jsonl) from the same rows in the same order,
in a process of its own, and prints one JSON line: the parameters that move and their share, the peak
of resident memory, seconds per optimiser step without the first, and the loss per token on answers to
other prompts before and after. Learning rates are what each method usually wants, not tuned here. The
first line is a process that only loads the model and measures that loss. --model is the embedded one
if none is named. --count only says how many parameters each method moves.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.ppo import ROOT, convert_embedded
from rlhf.training.parameter_settings import ParameterSettings
from rlhf.training.parameters import Anchored, count, load, make_trainable

DATA = ROOT / "rlhf" / "demo" / "comparisons.jsonl"


@dataclass(frozen=True)
class Method:
    learning_rate: float
    settings: ParameterSettings


METHODS = {
    "full": Method(2e-5, ParameterSettings(method="full")),
    "full, top 10": Method(2e-5, ParameterSettings(method="full", adapter_layers=10)),
    "full, L2-SP": Method(
        2e-5, ParameterSettings(method="full", anchor="l2_sp", anchor_coefficient=0.1)
    ),
    "full, KL": Method(2e-5, ParameterSettings(method="full", anchor="kl", anchor_coefficient=0.1)),
    "lora": Method(2e-4, ParameterSettings()),
    "lora, top 10": Method(2e-4, ParameterSettings(adapter_layers=10)),
    "lora, KL": Method(2e-4, ParameterSettings(anchor="kl", anchor_coefficient=0.1)),
    "dora": Method(2e-4, ParameterSettings(dora=True)),
    "rslora": Method(1e-4, ParameterSettings(rslora=True)),
    "ia3": Method(3e-3, ParameterSettings(method="ia3")),
    "prompt": Method(3e-2, ParameterSettings(method="prompt")),
    "prefix": Method(1e-2, ParameterSettings(method="prefix")),
}


class Trainer(Anchored, SFTTrainer):
    pass


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.monotonic() - self._began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--count", action="store_true")
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("fork")  # after the imports, which take seconds
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = arguments.model or convert_embedded(folder)
        if arguments.count:
            count_all(model, arguments.methods)
            return
        for name in [None, *arguments.methods]:
            process = processes.Process(target=measure, args=(name, model, arguments, folder))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{name} ended with exit code {process.exitcode}")


def count_all(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        settings = METHODS[name].settings
        model, _ = load({"base": str(folder), "adapters": []}, settings)
        tell({"method": name, **count(make_trainable(model, settings))})


def measure(name: str | None, folder: Path, arguments: argparse.Namespace, place: Path) -> None:
    method = METHODS[name] if name else Method(1e-9, ParameterSettings(method="ia3"))
    torch.manual_seed(0)
    model, tokenizer = load({"base": str(folder), "adapters": []}, method.settings)
    model = make_trainable(model, method.settings)
    rows = read_rows(arguments.steps * arguments.batch + arguments.held_out)
    clock = Clock()
    trainer = Trainer(
        model=model,
        settings=method.settings,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows[arguments.held_out :]),
        eval_dataset=Dataset.from_list(rows[: arguments.held_out]),
        callbacks=[clock],
        args=SFTConfig(
            output_dir=str(place / "out"),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch,
            per_device_eval_batch_size=arguments.batch,
            max_length=arguments.tokens,
            learning_rate=method.learning_rate,
            warmup_steps=0,  # the first step counts too
            seed=0,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        ),
    )
    trainer.remove_callback(PrinterCallback)  # one line each is enough
    before = trainer.evaluate()["eval_loss"]
    if name is None:
        tell({"method": "the model alone", "loss": round(before, 3)})
        return
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    tell(
        {
            "method": name,
            **count(trainer.model),
            "learning_rate": method.learning_rate,
            "seconds_per_step": round(statistics.mean(clock.seconds[1:]), 2),
            "loss_before": round(before, 3),
            "loss_after": round(after, 3),
        }
    )


def tell(found: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**found, "peak_rss_mib": peak}), flush=True)


def read_rows(n: int) -> list[dict[str, Any]]:
    """The first answer to each of the demo's first prompts."""
    lines = DATA.read_text(encoding="utf-8").splitlines()[:n]
    if len(lines) < n:
        sys.exit(f"{DATA} has {len(lines)} prompts, and {n} are asked for: fewer steps or rows.")
    rows = [json.loads(line) for line in lines]
    return [
        {
            "prompt": row["prompt"],
            "completion": [{"role": "assistant", "content": row["completions"][0]}],
        }
        for row in rows
    ]


if __name__ == "__main__":
    main()
