"""PPO here and in TRL 1.12, side by side: the table in docs/ppo.md.

    bench/peers/setup
    python bench/compare_ppo.py --model DIR --prompts FILE [--runs 3] [--fixed-length]
        [--top 10] [--batch 32] [--prompt-tokens 64] [--response-tokens 24] [--epochs 4]

Runs the peer and each variant in turn, `--runs` times over, every one in a process of its own with
one update, and prints a line for each with medians and the ratios to the peer.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEER = HERE / "peers" / ".venv" / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--top", default="10", help="layers with an adapter in the reuse variants")
    arguments, common = parser.parse_known_args()
    if not PEER.exists():
        sys.exit("The peer is not installed. Run bench/peers/setup first.")
    ours = [sys.executable, str(HERE / "ppo.py"), *common]
    variants = {
        "peer": [str(PEER), str(HERE / "peers" / "trl_ppo.py"), *common],
        "all layers, adapter critic": [*ours, "--critic", "adapter"],
        "all layers, head critic": [*ours, "--critic", "head"],
        "top layers, adapter critic": [*ours, "--critic", "adapter", "--adapter-layers", arguments.top],
        "top layers, head critic": [*ours, "--critic", "head", "--adapter-layers", arguments.top],
        "the same without reuse": [
            *ours, "--critic", "head", "--adapter-layers", arguments.top, "--plain",
        ],
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(arguments.runs):
        for name, command in variants.items():
            output = subprocess.run(
                [*command, "--updates", "1"], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
            print(json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    peer = found["peer"]
    for name, runs in found.items():
        seconds, speed, memory = (
            statistics.median(run[key] for run in runs)
            for key in ("seconds_per_update", "completions_per_s", "peak_rss_mib")
        )
        line = {
            "variant": name,
            "seconds_per_update": seconds,
            "completions_per_s": speed,
            "times_the_peer": round(
                speed / statistics.median(r["completions_per_s"] for r in peer), 2
            ),
            "peak_rss_mib": memory,
            "memory_ratio": round(memory / statistics.median(r["peak_rss_mib"] for r in peer), 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
