"""Checking rows here, and in processes beside this one."""

import subprocess
import sys

import psutil
import pytest

from annotator import checking
from annotator.checking import Rules, check_all
from annotator.formats.reading import Row

FEEDER = """
import time
from annotator.checking import Rules, _Process
process = _Process()
process.begin(Rules())
print(process.child.pid, flush=True)
time.sleep(60)
"""


def test_processes_find_what_this_one_finds_in_the_same_order(monkeypatch):
    monkeypatch.setattr(checking, "FEW", 10)
    monkeypatch.setattr(checking, "BATCH", 7)
    answers = ["As a model made by OpenAI, I cannot.", "Yes."]
    records = [{"prompt": f"{n}?", "completions": answers[: n % 3], "n": n} for n in range(100)]
    records[50] = ValueError("broken JSON")
    rows = [Row(f"row {n}", n, record) for n, record in enumerate(records)]
    rules = Rules(screening=["self_naming"])

    found = list(check_all(iter(rows), rules, 2))

    assert found == [rules.check(row) for row in rows]
    assert sum(isinstance(each, checking.Good) for each in found) == 32


def test_what_is_nested_too_deeply_to_be_sent_is_a_bad_row(monkeypatch):
    monkeypatch.setattr(checking, "FEW", 0)
    deep = []
    for _ in range(900):
        deep = [deep]
    rows = [Row("line 1", 1, {"prompt": deep}), Row("line 2", 2, {"prompt": "Hi!"})]

    bad, good = check_all(iter(rows), Rules(), 1)

    assert str(bad) == "line 1: the row is nested too deeply"
    assert isinstance(good, checking.Good)


def test_a_process_that_is_killed_is_said_so():
    process = checking._Process()
    process.child.kill()
    process.child.wait()

    with pytest.raises(ChildProcessError, match="too little memory"):
        process.check([])

    process.end()


def test_processes_end_with_whoever_feeds_them():
    with subprocess.Popen([sys.executable, "-c", FEEDER], stdout=subprocess.PIPE) as feeder:
        process = psutil.Process(int(feeder.stdout.readline()))
        feeder.kill()

    psutil.wait_procs([process], timeout=20)

    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
