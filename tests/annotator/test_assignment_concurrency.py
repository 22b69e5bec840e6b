"""The overlap holds whoever does what at the same time, on both databases."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

SCRIPT = Path(__file__).with_name("queue_under_load.py")
EVERYBODY = 16  # people at once in each scenario of the script
QUOTA = 20  # of one person in one of them


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/db.sqlite3"


@pytest.fixture(scope="module")
def postgresql():
    """A cluster of our own, reached by a socket in its folder only."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = shutil.which("initdb", path=os.pathsep.join([*map(str, binaries), os.environ["PATH"]]))
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        if as_user:
            shutil.chown(folder, "postgres")
        data = ["-D", f"{folder}/data"]
        options = f"-c listen_addresses= -k {folder} -c fsync=off"
        start = [*data, "-w", "-l", f"{folder}/log", "-o", options, "start"]
        pg_ctl = str(Path(initdb).with_name("pg_ctl"))
        for command in ([initdb, *data, "-U", "me", "-A", "trust", "-E", "UTF8"], [pg_ctl, *start]):
            subprocess.run([*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")
        yield f"postgresql://me@{quote(folder, safe='')}/postgres"
        stop = [pg_ctl, *data, "-m", "immediate", "stop"]
        subprocess.run([*as_user, *stop], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def outcome(request, tmp_path_factory):
    environment = os.environ | {
        "DATABASE_URL": request.getfixturevalue(request.param),
        "PREFERENDUM_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }
    finished = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_everybody_gets_a_comparison_of_their_own(outcome):
    assert outcome["claims"] == {
        "distinct": EVERYBODY,
        "none": 0,
        "broken": 0,
        "live": EVERYBODY,
        "judgments": 0,
    }


def test_everybody_gets_one_of_the_most_informative(outcome):
    found = outcome["claims_in_order"]

    assert found.pop("worst_asked") < found.pop("best_left")
    assert found == {"distinct": EVERYBODY, "broken": 0, "live": EVERYBODY, "judgments": 0}


def test_one_person_in_many_tabs_holds_one_comparison(outcome):
    assert outcome["one_persons_claims"] == {
        "distinct": 1,
        "none": 0,
        "broken": 0,
        "live": 1,
        "judgments": 0,
    }


def test_a_verdict_sent_many_times_is_one_judgment(outcome):
    assert outcome["one_persons_verdicts"] == {
        "distinct": 1,
        "broken": 0,
        "live": 0,
        "judgments": 1,
    }


def test_expired_leases_are_given_back_once_each(outcome):
    assert outcome["expired_leases"] == {
        "distinct": EVERYBODY,
        "none": 0,
        "broken": 0,
        "live": EVERYBODY,
        "judgments": 0,
    }


def test_no_quota_is_exceeded_whatever_one_does_in_many_tabs(outcome):
    assert outcome["one_persons_quota"] == {
        "recorded_late": True,
        "broken": 0,
        "live": 0,
        "judgments": QUOTA,
    }


def test_what_is_moved_is_with_one_person_only(outcome):
    assert outcome["moves"] == {
        "distinct": EVERYBODY // 2,
        "none": 0,
        "broken": 0,
        "live": EVERYBODY // 2,
        "judgments": 0,
    }


def test_overlap_holds_through_judging_skipping_undoing_and_leaving(outcome):
    work = outcome["work"]

    assert (work["seen_broken"], work["broken"]) == (0, 0)
    assert min(work["known"], work["repeated"]) > 0
    assert work["judgments"] > 20
    assert min(work[act] for act in ("judge", "skip", "late", "undo")) > 0
