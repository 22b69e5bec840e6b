"""What it takes to have adapters as parts: to switch between them, to add them up, to merge them.

    python bench/adapters.py [--model DIR] [--versions 8] [--rank 16] [--switches 200]

Makes `--versions` LoRA adapters on one base (--model, or the embedded one), then prints JSON lines: seconds
and MiB until the model server's process has asked the base once, and until it has each of the versions, on average;
milliseconds from one version to another once they are there, median and largest, over `--switches`
switches in random order, beside the seconds of an answer's first token; and of a run that adds all up with equal
weights (`cat`), and one that merges the result into the base, seconds and the MiB of what they write. Each
adapter's B is random, so that no two versions answer alike, which is checked.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

import psutil
import torch
from peft import get_peft_model

from bench.ppo import convert_embedded
from rlhf.training import combine, merge
from rlhf.training.artifacts import RunFolder
from rlhf.training.combine_config import CombineConfig
from rlhf.training.config import MergeConfig
from rlhf.training.models import load_policy, lora_config, save_adapter
from rlhf.training.serve_models import Models

QUESTION = [{"role": "user", "content": "How do I descale a kettle?"}]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="A model folder; else SmolLM2.")
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--switches", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = arguments.model or str(convert_embedded(Path(place) / "import"))
        folders = [
            make_adapter(base, Path(place) / f"version-{number}", arguments.rank, number)
            for number in range(arguments.versions)
        ]
        with multiprocessing.get_context("spawn").Pool(1) as process:  # nothing is loaded in it yet
            served = process.apply(serve, (base, folders, arguments.switches))
        print(json.dumps(served), flush=True)
        print(json.dumps(add_up_and_merge(base, folders, Path(place))), flush=True)


def make_adapter(base: str, folder: Path, rank: int, seed: int) -> str:
    model, _ = load_policy({"base": base, "adapters": []})
    adapted = get_peft_model(model, lora_config(model, rank))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    folder.mkdir()
    save_adapter(adapted, "default", folder)
    return str(folder)


@torch.no_grad()
def serve(base: str, folders: list[str], n_switches: int) -> dict[str, Any]:
    models = Models()
    before, started = resident_mib(), time.monotonic()
    held = models.base_of({"base": base, "adapters": []})
    asked = held.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    held.use([])(**asked, logits_to_keep=1)  # until then its weights are on disk alone
    loaded, with_base = time.monotonic(), resident_mib()
    for folder in folders:
        models.base_of({"base": base, "adapters": [folder]}).use([folder])
    ready, with_all = time.monotonic(), resident_mib()
    switches, tokens, answers = [], [], {}
    order = random.Random(0)
    for _ in range(n_switches):
        folder, begun = order.choice(folders), time.monotonic()
        model = models.base_of({"base": base, "adapters": [folder]}).use([folder])
        switched = time.monotonic()
        logits = model(**asked, logits_to_keep=1).logits
        switches.append(switched - begun)
        tokens.append(time.monotonic() - switched)
        assert torch.equal(answers.setdefault(folder, logits), logits)
    assert len({tuple(logits[0, 0, :8].tolist()) for logits in answers.values()}) == len(answers)
    return {
        "base_seconds": round(loaded - started, 2),
        "base_mib": with_base - before,
        "version_seconds": round((ready - loaded) / len(folders), 2),
        "version_mib": round((with_all - with_base) / len(folders), 1),
        "switch_ms": round(1000 * statistics.median(switches), 1),
        "switch_ms_most": round(1000 * max(switches), 1),
        "first_token_ms": round(1000 * statistics.median(tokens), 1),
    }


def add_up_and_merge(base: str, folders: list[str], place: Path) -> dict[str, Any]:
    reference = {"base": base, "adapters": []}
    parts = [
        {"version": Path(folder).name, "adapters": [folder], "weight": 1 / len(folders)}
        for folder in folders
    ]
    folder, written = RunFolder(place), place / "artifact"
    started = time.monotonic()
    found = combine.run(CombineConfig(reference, parts), folder)
    combined = time.monotonic()
    config = MergeConfig({"base": base, "adapters": [str(written)]}, output="merged")
    whole = merge.run(config, folder)
    return {
        "combine_seconds": round(combined - started, 2),
        "combined_rank": found["rank"],
        "combined_mib": round((written / "adapter_model.safetensors").stat().st_size / 2**20, 1),
        "merge_seconds": round(time.monotonic() - combined, 2),
        "merged_mib": round(whole["bytes"] / 2**20, 1),
    }


def resident_mib() -> int:
    return int(psutil.Process().memory_info().rss // 2**20)


if __name__ == "__main__":
    main()
