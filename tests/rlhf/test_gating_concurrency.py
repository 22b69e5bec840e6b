"""A decision is recorded once, whoever looks at the same time, on both databases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgresql import find_initdb, private_cluster

SCRIPT = Path(__file__).with_name("gates_under_load.py")


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/db.sqlite3"


@pytest.fixture
def postgresql():
    if (initdb := find_initdb()) is None:
        pytest.skip("PostgreSQL is not installed")
    with private_cluster(initdb, "-c fsync=off") as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_eight_do_at_once_happens_once(database, request, tmp_path):
    environment = os.environ | {
        "DATABASE_URL": request.getfixturevalue(database),
        "PREFERENDUM_DATA_DIR": str(tmp_path / "data"),
    }

    finished = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True
    )

    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert json.loads(finished.stdout) == {
        "settled": {"recorded": 1, "promotions": 2, "ruled": 1},
        "rolled_back": {"promotions": 3},
        "overruled": {"done": 1, "ruled": 1},
        "by_two_ways": {"done": 1, "promotions": 3},
    }
