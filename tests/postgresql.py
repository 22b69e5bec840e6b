"""A PostgreSQL cluster of one's own, for tests and measurements."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


def find_initdb() -> str | None:
    """Debian keeps it out of the PATH. None if PostgreSQL is not installed."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return shutil.which("initdb", path=os.pathsep.join([*map(str, binaries), os.environ["PATH"]]))


@contextmanager
def private_cluster(initdb: str, options: str = "") -> Iterator[str]:
    """The URL of its database `postgres`, reached by a socket in its folder only."""
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        if as_user:
            shutil.chown(folder, "postgres")
        data = ["-D", f"{folder}/data"]
        start = ["-w", "-l", f"{folder}/log", "-o", f"-c listen_addresses= -k {folder} {options}"]
        pg_ctl = [*as_user, str(Path(initdb).with_name("pg_ctl")), *data]
        make = [*as_user, initdb, *data, "-U", "me", "-A", "trust", "-E", "UTF8"]
        for command in (make, [*pg_ctl, *start, "start"]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql://me@{quote(folder, safe='')}/postgres"
        finally:
            stop = [*pg_ctl, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd="/")
