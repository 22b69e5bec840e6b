import json
import threading

import pytest

from rlhf.training.artifacts import (
    RunFolder,
    read_json,
    whole_lines,
    write_json,
    writing_folder,
)


def events(folder):
    return [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]


def test_a_folder_is_asked_to_stop_by_a_file_or_by_an_interrupt(tmp_path):
    by_file, by_signal = RunFolder(tmp_path), RunFolder(tmp_path / "other")
    assert not by_file.should_stop()

    (tmp_path / "stop").touch()
    by_signal.interrupt()

    assert by_file.should_stop()
    assert by_signal.should_stop()


def test_a_line_that_was_cut_in_half_is_cut_off(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("first\u2028still first\nsecond\nhal\u00fc".encode()[:-1])

    assert whole_lines(path) == ["first\u2028still first", "second"]
    assert path.read_text().endswith("second\n")
    assert whole_lines(tmp_path / "none") == []


def test_metrics_that_are_not_finite_are_reported_as_null(folder):
    folder.metrics(3, {"loss": float("nan"), "accuracy": 0.5})

    (event,) = events(folder)
    assert event.pop("time") > 0
    assert event == {"type": "metrics", "step": 3, "values": {"loss": None, "accuracy": 0.5}}


def test_the_current_phase_is_known_after_it_was_reported(folder):
    folder.phase("training")

    assert folder.current_phase == "training"
    assert [(event["type"], event["name"]) for event in events(folder)] == [("phase", "training")]


def test_events_of_several_threads_do_not_mix_within_a_line(folder):
    threads = [
        threading.Thread(target=lambda: [folder.progress(i, 50) for i in range(50)])
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(event["step"] for event in events(folder)) == sorted([*range(50)] * 4)


def test_a_heartbeat_is_reported_while_the_block_runs(folder, monkeypatch):
    monkeypatch.setattr("rlhf.training.artifacts.HEARTBEAT_SECONDS", 0.01)
    beaten = threading.Event()

    with folder.heartbeat():
        while not beaten.wait(0.01):
            if (folder.path / "events.jsonl").exists():
                beaten.set()

    assert {event["type"] for event in events(folder)} == {"heartbeat"}


def test_checkpoints_are_listed_oldest_first_and_only_the_newest_two_are_kept(folder):
    for step in (2, 4, 10):
        with folder.writing_checkpoint(step) as target:
            (target / "weights").write_text(str(step))

    assert [step for step, _ in folder.checkpoints()] == [4, 10]
    assert [path.joinpath("weights").read_text() for _, path in folder.checkpoints()] == ["4", "10"]


def test_a_checkpoint_that_fails_half_way_leaves_the_older_ones_alone(folder):
    with folder.writing_checkpoint(1) as target:
        (target / "weights").write_text("1")

    with pytest.raises(OSError, match="full"), folder.writing_checkpoint(2) as target:
        raise OSError("full")

    assert [step for step, _ in folder.checkpoints()] == [1]
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint-1", "events.jsonl"]


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_one(folder):
    (folder.path / ".checkpoint-3.partial").mkdir()
    (folder.path / "checkpoint-x").mkdir()

    assert folder.checkpoints() == []


def test_a_folder_takes_the_place_of_the_old_one_when_it_is_complete(tmp_path):
    path = tmp_path / "artifact"
    for content in ("old", "new"):
        with writing_folder(path) as target:
            (target / content).touch()
            assert not (path / content).exists()

    assert [file.name for file in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"name": "Ä"})

    with pytest.raises(TypeError):
        write_json(path, {"name": object()})

    assert read_json(path) == {"name": "Ä"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_a_result_says_how_the_run_ended(folder):
    folder.write_result("stopped", step=3)

    assert read_json(folder.path / "result.json") == {"status": "stopped", "step": 3}
