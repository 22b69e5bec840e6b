"""How long it takes to check that a model's file is what it was: the first time, and again.

    .venv/bin/python bench/hashes.py --mib 512

prints one JSON line. `first` reads and hashes all bytes; `again` is what every later use of the file in
the same process costs. The file is made in the folder for temporary files, and has just been written, so that
it is read from memory where there is room: from a slow disk the first time takes as long as the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not bench/, which has a queue.py

from rlhf.training.hashes import files_in, find_problems

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    mib = parser.parse_args().mib
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "model.safetensors").open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        began = time.perf_counter()
        files = files_in(Path(folder))
        first = time.perf_counter() - began
        began = time.perf_counter()
        assert not list(find_problems(Path(folder), files))
        again = time.perf_counter() - began
    print(
        json.dumps(
            {
                "mib": mib,
                "first_seconds": round(first, 3),
                "mib_per_s": round(mib / first),
                "again_microseconds": round(again * 1e6),
            }
        )
    )


if __name__ == "__main__":
    main()
