"""Writers of SQLite wait in a line: those of other threads and of other processes."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from annotator.sqlite.base import Turn

HOLD = """
import sys
from pathlib import Path
from annotator.sqlite.base import Turn
turn = Turn(Path(sys.argv[1]), 5)
turn.take()
print("mine", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path):
    return tmp_path / "db.sqlite3"


def test_threads_take_turns(database):
    inside, most = 0, 0

    def write():
        nonlocal inside, most
        turn = Turn(database, 5)
        turn.take()
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)
        inside -= 1
        turn.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1


def test_another_process_is_waited_for_and_one_that_dies_is_not(database):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, database],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert other.stdout.readline() == b"mine\n"
    impatient, patient = Turn(database, 0.05), Turn(database, 30)

    impatient.take()
    assert not impatient.has_it
    impatient.give_back()
    other.kill()
    patient.take()

    assert patient.has_it
    patient.close()
    other.communicate()


def test_giving_back_what_one_does_not_have_is_no_mistake(database):
    turn = Turn(database, 5)

    turn.give_back()
    turn.take()
    turn.give_back()
    turn.give_back()

    assert not turn.has_it
