import json
import time
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from rlhf import events
from rlhf.models import Metrics, Sample
from tests.rlhf.factories import RunFactory


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def write(path, *rows):
    with path.open("a") as file:
        file.writelines(json.dumps({"time": 1_800_000_000.5, **row}) + "\n" for row in rows)


def metrics(step, **values):
    return {"type": "metrics", "step": step, "values": values}


def test_reports_say_where_the_run_is(path):
    write(
        path,
        {"type": "phase", "name": "rollout", "time": 1.5e9},
        {"type": "progress", "step": 2, "total": 9, "eta_seconds": 1.5, "time": 1.5e9},
    )

    reports = events.read_reports(path, 0)

    assert reports.fields == {
        "phase": "rollout", "step": 2, "total_steps": 9, "eta_seconds": 1.5,
        "seen": datetime.fromtimestamp(1.5e9, tz=UTC),
    }  # fmt: skip
    assert reports.offset == path.stat().st_size


def test_clock_that_runs_ahead_is_not_believed(path):
    write(path, {"type": "heartbeat", "time": time.time() + 3600})

    seen = events.read_reports(path, 0).fields["seen"]

    assert seen <= timezone.now()


def test_line_being_written_waits_for_the_next_call(path):
    write(path, metrics(1, loss=0.5))
    with path.open("a") as file:
        file.write('{"type": "metr')

    first = events.read_reports(path, 0)
    second = events.read_reports(path, first.offset)

    assert first.metrics == {1: {"loss": 0.5}}
    assert (second.metrics, second.offset) == ({}, first.offset)


def test_no_file_yet_is_no_report(path):
    assert events.read_reports(path, 0).fields == {}


def test_lines_that_are_no_events_are_passed_over(path):
    path.write_text('oops\n[1]\n{"type": "metrics"}\n{"no": "type"}\n')
    write(path, metrics(1, loss=0.5))

    reports = events.read_reports(path, 0)

    assert reports.metrics == {1: {"loss": 0.5}}
    assert reports.offset == path.stat().st_size


def test_much_is_read_in_several_portions(path, monkeypatch):
    monkeypatch.setattr(events, "READ_BYTES", 100)
    write(path, *[metrics(step, loss=0.0) for step in range(10)])

    offset, found = 0, []
    while (reports := events.read_reports(path, offset)).offset > offset:
        offset = reports.offset
        found += reports.metrics

    assert found == list(range(10))


def test_what_postgres_refuses_is_replaced(path):
    path.write_text('{"time": 1, "type": "metrics", "step": 1, "values": {"a": NaN}}\n')
    write(path, {"type": "error", "message": "a\x00b"})

    reports = events.read_reports(path, 0)

    assert reports.metrics == {1: {"a": None}}
    assert reports.fields["error"] == "a\ufffdb"


@pytest.mark.django_db
def test_later_report_of_a_step_replaces_and_completes_the_earlier(path):
    run = RunFactory()
    write(path, metrics(1, loss=0.5), metrics(1, kl=0.1), metrics(2, loss=0.4))
    first = events.read_reports(path, 0)
    write(path, metrics(2, loss=0.3, kl=0.2))
    second = events.read_reports(path, first.offset)

    events.store_reports(run, first)
    events.store_reports(run, second)

    assert list(Metrics.objects.values_list("step", "values")) == [
        (1, {"loss": 0.5, "kl": 0.1}),
        (2, {"loss": 0.3, "kl": 0.2}),
    ]


@pytest.mark.django_db
def test_repeated_sample_replaces_the_earlier(path):
    run = RunFactory()
    sample = {"type": "sample", "step": 1, "index": 0, "prompt": [], "score": None}
    for text in ("first", "second"):
        write(path, {**sample, "completion": text})
        reports = events.read_reports(path, 0)
        events.store_reports(run, reports)

    assert Sample.objects.get().completion == "second"


@pytest.mark.parametrize(("before", "after"), [("", ""), ("a\n", "a\n"), ("a\nhal", "a\nhal\n")])
def test_half_written_line_is_ended(path, before, after):
    path.write_text(before)

    events.end_last_line(path)

    assert path.read_text() == after
