import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from rlhf.training.__main__ import _translate, main
from rlhf.training.artifacts import RunFolder, read_json
from rlhf.training.config import DPOConfig, GenerateConfig, RewardModelConfig
from rlhf.training.hashes import HASHES, files_in


@pytest.fixture(autouse=True)
def _signal_handlers():
    """main() sets its own, for the process that it usually has for itself."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def start(folder, tiny_reference, prompts_file):
    """Write a run's configuration, and carry it out in this process."""

    def start(kind="generate", **settings):
        content = {"kind": kind, "config": {"model": tiny_reference, **settings}}
        (folder.path / "config.json").write_text(json.dumps(content))
        return main([str(folder.path)])

    return start


def error_event(folder):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [e["message"] for e in map(json.loads, lines) if e["type"] == "error"]


def test_a_run_that_succeeds_leaves_its_result_and_exits_with_0(start, folder):
    status = start(max_new_tokens=5, completions_per_prompt=2)

    result = read_json(folder.path / "result.json")
    assert status == 0
    assert (result["status"], result["n_prompts"], result["n_completions"]) == ("succeeded", 5, 10)


def test_a_run_that_makes_a_model_says_what_its_files_are(folder, tiny_folder):
    settings = {"source": "folder", "location": str(tiny_folder), "output": str(folder.path / "model"),
                "measure_speed": False}  # fmt: skip
    (folder.path / "config.json").write_text(
        json.dumps({"kind": "import_model", "config": settings})
    )

    status = main([str(folder.path)])

    files = read_json(folder.path / "result.json")["files"]
    assert (status, files) == (0, files_in(folder.path / "model"))
    assert {"model.safetensors", "config.json"} <= set(files)


def test_a_merge_says_what_its_files_are(start, folder):
    merged = folder.path / "merged"

    status = start("merge", output=str(merged))

    files = read_json(folder.path / "result.json")["files"]
    assert (status, files) == (0, files_in(merged))
    assert {"model.safetensors", "config.json"} <= set(files)


def test_a_run_whose_files_have_changed_does_not_begin(start, folder):
    expected = {"data": {"data.jsonl": {"sha256": "0" * 64}}}
    (folder.path / HASHES).write_text(json.dumps(expected))

    assert start() == 3
    assert error_event(folder) == [
        "the run was not begun, because its files are not what they were: "
        f"{folder.path}/data/data.jsonl is missing: its SHA-256 was {'0' * 64}"
    ]


def test_a_run_that_is_asked_to_stop_says_so_and_exits_with_0(start, folder):
    (folder.path / "stop").touch()

    assert start() == 0
    assert read_json(folder.path / "result.json") == {"status": "stopped"}


def test_a_disk_that_is_full_when_the_run_stops_is_a_sentence(start, folder):
    (folder.path / "stop").touch()
    (folder.path / f".result.json.{os.getpid()}").symlink_to("/dev/full")  # written beside, first

    assert start() == 6
    assert error_event(folder)[0].startswith(f"the disk is full ({folder.path}), in phase ")
    assert not (folder.path / "result.json").exists()


def test_the_result_from_before_a_resume_does_not_outlive_a_failure(start, folder):
    folder.write_result("stopped")

    assert start(colour="red") == 3
    assert not (folder.path / "result.json").exists()


def test_an_expected_failure_is_an_event_and_the_last_line_of_the_log(start, folder, capsys):
    status = start(max_prompt_tokens=2)

    (sentence,) = error_event(folder)
    assert status == 3
    assert sentence.startswith("All 5 prompts are longer than 2 tokens")
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {sentence}"


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("dream", {}, "unknown kind of run 'dream'; known are import_model, generate, "),
        ("generate", {"colour": 1}, "the settings of this generate run are wrong: unknown setting"),
        ("generate", {"temperature": 0}, "wrong: temperature=0 must be above 0"),
        ("ppo", {}, "wrong: there is nothing to reward"),
    ],
)
def test_a_bad_configuration_is_one_sentence(start, folder, kind, values, sentence):
    assert start(kind, **values) == 3

    (found,) = error_event(folder)
    assert re.search(sentence, found)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no config.json"),
        ("{", "is not a run's configuration"),
        ("[]", "is not a run's configuration"),
        ("{}", "is not a run's configuration"),
    ],
)
def test_a_folder_without_configuration_is_one_sentence(folder, content, sentence):
    if content is not None:
        (folder.path / "config.json").write_text(content)

    assert main([str(folder.path)]) == 3
    assert sentence in error_event(folder)[0]


def test_a_crash_leaves_its_traceback_in_the_log(start, folder, capsys):
    (folder.path / "generated.jsonl").mkdir()  # nobody expects that

    assert start() == 1
    assert error_event(folder)[0].startswith("IsADirectoryError: ")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_without_a_folder_the_usage_is_printed(capsys):
    assert main(["/nowhere"]) == 2
    assert capsys.readouterr().err == "usage: python -m rlhf.training RUN_DIR\n"


def test_memory_that_torch_does_not_get_is_a_sentence_with_phase_and_sizes(folder, tiny_reference):
    folder.phase("rollout")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)

    config = GenerateConfig(tiny_reference, batch_size=32)
    assert _translate(caught.value, folder, config) == (
        "out of memory in phase 'rollout' with batch_size=32: try batch_size=16",
        5,
    )
    assert _translate(MemoryError(), folder, None) == ("out of memory in phase 'rollout'", 5)


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        (
            RewardModelConfig({}, micro_batch_tokens=400),
            "with micro_batch_tokens=400: try micro_batch_tokens=200",
        ),
        (DPOConfig(model={}), "with micro_batch_size=4: try micro_batch_size=2"),
        (
            RewardModelConfig({}, micro_batch_tokens=1),
            "with micro_batch_tokens=1, max_tokens=1024, max_new_tokens=128: "
            "try max_tokens=512 or max_new_tokens=64",
        ),
        (
            GenerateConfig({}, batch_size=1),
            "with batch_size=1, max_new_tokens=128: try max_new_tokens=64",
        ),
    ],
)
def test_out_of_memory_is_answered_with_something_that_can_still_be_made_smaller(
    folder, config, advice
):
    sentence, _ = _translate(MemoryError(), folder, config)

    assert sentence == f"out of memory in phase 'start' {advice}"


def test_a_full_disk_is_a_sentence(folder):
    folder.phase("training")
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "w") as file:
        file.write("x" * 10**6)

    sentence, status = _translate(caught.value, folder, None)

    assert sentence.startswith(f"the disk is full ({folder.path}), in phase 'training': free some")
    assert status == 6


def test_a_disk_that_is_full_for_torch_is_a_sentence_too(folder, tmp_path):
    """torch.save says nothing of a disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.save(torch.zeros(10_000), tmp_path / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert _translate(caught.value, folder, None)[1] == 6


def test_a_terminated_process_stops_as_if_asked(start, folder, tiny_reference):
    settings = {"model": tiny_reference, "completions_per_prompt": 9, "batch_size": 9,
                "max_new_tokens": 400, "temperature": 50.0}  # fmt: skip
    (folder.path / "config.json").write_text(json.dumps({"kind": "generate", "config": settings}))
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf.training", str(folder.path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while "generating" not in _read_events(folder) and time.monotonic() < deadline:
        time.sleep(0.05)

    process.terminate()

    assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")
    assert read_json(folder.path / "result.json") == {"status": "stopped"}


def _read_events(folder: RunFolder) -> str:
    path = folder.path / "events.jsonl"
    return path.read_text() if path.exists() else ""
