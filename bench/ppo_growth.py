"""How the cost of PPO grows: with the batch, with the answers' length, with the number of updates.

    python bench/ppo_growth.py [--only batch|response-tokens|updates] [--model DIR] [--prompts FILE]
        [further options of ppo.py]

Runs bench/ppo.py at several sizes, each in a process of its own, and prints a JSON line for each:
seconds per token that grow little, or fall, mean a cost that is no more than linear, and a peak that stays
means that updates leave nothing behind. `gflops` is the speed of one large product after each run: where
it is low, the machine had other work.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

OURS = [sys.executable, str(Path(__file__).resolve().parent / "ppo.py"), "--fixed-length"]
SIZES = {"batch": (16, 32, 64), "response-tokens": (12, 24, 48), "updates": (1, 3, 9)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=SIZES)
    arguments, further = parser.parse_known_args()
    common = ["--critic", "head", "--adapter-layers", "10", *further]
    for name in [arguments.only] if arguments.only else SIZES:
        for value in SIZES[name]:
            sizes = {"batch": 32, "response-tokens": 24, "updates": 1} | {name: value}
            options = [word for size in sizes.items() for word in (f"--{size[0]}", str(size[1]))]
            output = subprocess.run(
                [*OURS, *common, *options], stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            found = json.loads(output.splitlines()[-1])
            line = {
                **sizes,
                "seconds_per_update": found["seconds_per_update"],
                "tokens_per_s": found["tokens_per_s"],
                "peak_rss_mib": found["peak_rss_mib"],
                "gflops": found["gflops"],
            }
            print(json.dumps({"varied": name, **line}), flush=True)


if __name__ == "__main__":
    main()
