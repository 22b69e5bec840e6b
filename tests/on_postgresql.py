"""Run tests on a PostgreSQL of their own, which is gone afterwards.

python -m tests.on_postgresql -q tests/rlhf        # whatever pytest may be told
"""

import os
import subprocess
import sys

from tests.postgresql import find_initdb, private_cluster


def main(arguments: list[str]) -> int:
    """pytest's exit code. Exits with a sentence where PostgreSQL is not installed."""
    if (initdb := find_initdb()) is None:
        sys.exit("PostgreSQL is not installed: bin/setup dev installs it.")
    with private_cluster(initdb, "-c fsync=off") as url:
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(command, env={**os.environ, "DATABASE_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
