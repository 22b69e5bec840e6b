"""What dropping finished rows and packing are worth where answers end by themselves.

    python bench/ppo_stopping.py [--runs 3] [--response-tokens 256] [further options of ppo.py]

PPO updates of the top 10 layers with the critic `head`, on real stopping: bench/ppo.py as it is, without
each of the two, and without both, in turn, every one in a process of its own. Prints a JSON line for
each with medians and how many times as long it takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

OURS = [sys.executable, str(Path(__file__).resolve().parent / "ppo.py")]
VARIANTS = {
    "as it is": [],
    "keeps finished rows": ["--without", "dropping"],
    "pads to the longest": ["--without", "packing"],
    "both": ["--without", "dropping", "--without", "packing"],
}
SHOWN = ("seconds_per_update", "rollout", "score", "update", "length", "peak_rss_mib", "gflops")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--response-tokens", default="256")
    arguments, further = parser.parse_known_args()
    common = ["--critic", "head", "--adapter-layers", "10", "--updates", "1", *further]
    common += ["--response-tokens", arguments.response_tokens]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.runs):
        for name, options in VARIANTS.items():
            command = [*OURS, *common, *options]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name].append(json.loads(output.splitlines()[-1]))
            print(json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in SHOWN}
        for name, runs in found.items()
    }
    least = medians["as it is"]["seconds_per_update"]
    for name, values in medians.items():
        times = round(values["seconds_per_update"] / least, 2)
        print(json.dumps({"variant": name, **values, "times_as_long": times}), flush=True)


if __name__ == "__main__":
    main()
