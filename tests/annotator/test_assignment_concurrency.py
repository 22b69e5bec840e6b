"""The overlap holds whoever does what at the same time, on both databases."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgresql import find_initdb, private_cluster

EVERYBODY = 16  # people at once in each scenario of the script
QUOTA = 20  # of one person in one of them


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory, migrated):
    return f"sqlite:///{shutil.copy(migrated, tmp_path_factory.mktemp('sqlite'))}"


@pytest.fixture(scope="module")
def postgresql():
    if (initdb := find_initdb()) is None:
        pytest.skip("PostgreSQL is not installed")
    with private_cluster(initdb, "-c fsync=off") as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def run_script(request, tmp_path_factory):
    """What a script that uses the queue on this database prints."""
    environment = os.environ | {
        "DATABASE_URL": request.getfixturevalue(request.param),
        "PREFERENDUM_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }

    def run_script(name, *arguments):
        command = [sys.executable, Path(__file__).with_name(name), *map(str, arguments)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run_script


@pytest.fixture(scope="module")
def outcome(run_script):
    return run_script("queue_under_load.py")


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


def test_a_late_verdict_beside_a_claim_of_the_same_person_is_recorded_or_refused(outcome):
    late = outcome["late_verdicts"]

    assert late["recorded"] == late["judgments"]
    assert late["recorded"] + late["refused"] == 3 * EVERYBODY // 2
    assert (late["broken"], late["live"]) == (0, 0)


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


def test_what_ends_in_two_ways_at_once_ends_once_and_nobody_waits_for_the_other(outcome):
    ends = outcome["ends"]

    assert (ends["broken"], ends["live"]) == (0, EVERYBODY // 2)


def test_what_is_moved_given_back_and_answered_at_once_ends_once(outcome):
    assert outcome["crossings"]["broken"] == 0


def test_what_all_call_unrankable_at_once_is_held(outcome):
    assert outcome["unrankables"] == {"held": 1, "taken": 0}


def test_overlap_holds_through_judging_skipping_undoing_moving_and_leaving(outcome):
    work = outcome["work"]

    assert (work["seen_broken"], work["broken"]) == (0, 0)
    assert min(work["known"], work["repeated"]) > 0
    assert work["judgments"] > 20
    assert min(work[act] for act in ("judge", "skip", "late", "undo", "move", "hold", "page")) > 0


def check_books(found):
    """Nothing lost, doubled, handed out too often or left behind, whatever else happened."""
    assert found["kills"] > 0
    assert found["killed_in_transaction"] > 0
    assert min(found[act] for act in ("moves", "holds", "undone", "handed_out_with_verdict")) > 0
    wrong = ["lost", "doubled", "unsaid", "recorded_though_refused", "in_force_though_undone"]
    wrong += ["unanswered", "over_assigned", "seen_broken", "broken", "live"]
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)


def test_all_is_answered_exactly_though_processes_are_killed(run_script, tmp_path):
    check_books(run_script("queue_under_fire.py", "few", 8, 40, "1,3", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [1, 3])
def test_two_thousand_comparisons_are_answered_exactly_under_fire(run_script, tmp_path, overlap):
    arguments = [f"many-{overlap}", 32, 2000, overlap, tmp_path]

    found = run_script("queue_under_fire.py", *arguments)

    check_books(found)
    assert found["expired"] > 0
    assert found["verdicts"] > 2000 * overlap  # with skips
