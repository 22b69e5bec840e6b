"""Training a reward model here and with TRL's RewardTrainer, side by side: the table in
docs/reward-model.md.

    python bench/compare_reward.py --model DIR --data FILE [--runs 3] [--top 10] [--members 4]
        [--pairs 240] [--max-tokens 256]

Runs the peer, with TRL's gradient checkpointing and without, and each variant in turn, `--runs` times
over, every one in a process of its own, and prints a line for each with medians and the ratios to
both peers. `times_one_member` is what an ensemble takes against one member of it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEASURED = (
    "pairs_per_s", "tokens_per_s", "seconds", "peak_rss_mib",
    "heldout_accuracy", "accuracy_low", "accuracy_high",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--top", default="10", help="layers with an adapter in the lean variants")
    parser.add_argument("--members", default="4", help="of the ensemble")
    arguments, common = parser.parse_known_args()
    peer = [sys.executable, str(HERE / "peers" / "trl_reward.py"), *common]
    ours = [sys.executable, str(HERE / "reward.py"), *common]
    variants = {
        "peer": peer,
        "peer without checkpointing": [*peer, "--checkpointing", "off"],
        "all layers": [*ours, "--adapter-layers", "all"],
        "top layers": [*ours, "--adapter-layers", arguments.top],
        "top layers, ensemble": [
            *ours, "--adapter-layers", arguments.top, "--members", arguments.members,
        ],
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(arguments.runs):
        for name, command in variants.items():
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
            print(json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in MEASURED}
        for name, runs in found.items()
    }
    for name, line in medians.items():
        print(json.dumps({"variant": name, **line, **ratios(name, medians)}), flush=True)


def ratios(name: str, medians: dict[str, dict[str, float]]) -> dict[str, float]:
    def ratio(key: str, other: str) -> float:
        return round(medians[name][key] / medians[other][key], 2)

    found = {
        "times_the_peer": ratio("pairs_per_s", "peer"),
        "memory_ratio": ratio("peak_rss_mib", "peer"),
        "times_without_checkpointing": ratio("pairs_per_s", "peer without checkpointing"),
        "memory_ratio_without_checkpointing": ratio("peak_rss_mib", "peer without checkpointing"),
    }
    if name == "top layers, ensemble":
        found["times_one_member"] = ratio("seconds", "top layers")
    return found


if __name__ == "__main__":
    main()
