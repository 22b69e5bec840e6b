"""Requests of one token are counted together, whoever answers them."""

from multiprocessing import get_context

import pytest

from annotator.api.rates import seconds_to_wait


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rates" / "token-7"


def test_a_request_waits_until_the_oldest_of_as_many_as_allowed_is_a_period_ago(path):
    waits = [seconds_to_wait(path, 2, 60, now) for now in (100, 110, 130, 161, 165, 171)]

    assert waits == [0, 0, 30, 0, 5, 0]


def test_who_is_refused_is_not_counted(path):
    refused = [seconds_to_wait(path, 1, 60, now) for now in (100, 110, 120, 130)][1:]

    assert refused == [50, 40, 30]
    assert seconds_to_wait(path, 1, 60, 160) == 0


def test_each_has_a_file_of_its_own_of_eight_bytes_a_request(path):
    for now in range(100, 110):
        assert seconds_to_wait(path, 3, 1, now * 2) == 0

    assert seconds_to_wait(path.with_name("token-8"), 3, 1, 110) == 0
    assert path.stat().st_size == 8 + 3 * 8


def test_a_clock_that_was_set_back_locks_nobody_out(path):
    seconds_to_wait(path, 1, 60, 100_000)

    assert seconds_to_wait(path, 1, 60, 100) == 0


def ask(path, times):
    return sum(seconds_to_wait(path, 50, 3600, 1000.0) == 0 for _ in range(times))


def test_several_processes_allow_together_what_one_would(path):
    with get_context("fork").Pool(4) as pool:
        allowed = pool.starmap(ask, [(path, 40)] * 4)

    assert sum(allowed) == 50
