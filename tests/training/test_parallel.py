"""One run in two processes, which `accelerate launch` starts and gloo connects."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch.testing import assert_close

from rlhf.training import parallel, ppo
from rlhf.training.artifacts import RunError
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import encode_prompts
from rlhf.training.ppo_models import load_models

TWO_PROCESSES = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 1
num_processes: 2
main_process_port: 0
mixed_precision: 'no'
"""


@pytest.fixture
def make_config(tiny_reference, reward_folder):
    def make(**settings):
        small = {"reward_model": str(reward_folder), "steps": 2, "batch_size": 8, "max_new_tokens": 8, "lora_rank": 4, "samples": 2,
                 "learning_rate": 1e-3}  # fmt: skip
        return PPOConfig(tiny_reference, **small | settings)

    return make


@pytest.fixture
def launch(tmp_path):
    """Start a module in two processes. What a test has not seen to its end is ended after it."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO_PROCESSES)
    started = []

    def launch(module, *arguments):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
        process = subprocess.Popen(
            [*command, "-m", module, *map(str, arguments)], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def make_run(tmp_path, prompts_file, make_config):
    def make(name, **settings):
        path = tmp_path / name
        path.mkdir()
        for name in ("prompts.jsonl", "eval_prompts.jsonl"):
            (path / name).write_bytes(prompts_file.read_bytes())
        config = {"kind": "ppo", "config": make_config(**settings).to_dict()}
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


def finish(process):
    """Wait for the end; the output is shown if it was not a good one."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def result_of(path):
    return json.loads((path / "result.json").read_text())


def policy_of(path):
    return (path / "artifact" / "adapter_model.safetensors").read_bytes()


def test_two_processes_learn_what_one_learns(make_config, prompts_file, folder, launch):
    config = make_config()
    models = load_models(config)
    prompts, _ = encode_prompts(models.tokenizer, read_prompts(prompts_file), 256)
    chosen = ppo.prompts_of_step(prompts, 0, config)
    rollout, _ = ppo.make_rollout(models, chosen, config, 0, folder)
    targets = ppo.make_targets(rollout, models.rewards, config.kl_coefficient, config)
    torch.save((config, rollout, targets), folder.path / "rollout.pt")

    finish(launch("tests.training.update_in_processes", folder.path))
    metrics = ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)

    alone = [parameter.detach() for parameter in models.parameters()]
    first, second = (torch.load(folder.path / f"weights-{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert_close(first[0], alone, atol=1e-6, rtol=1e-4)
    assert first[1]["policy/loss"] == pytest.approx(metrics["policy/loss"], abs=1e-6)


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_and_resumed_bit_for_bit(
    make_run, launch, top_reward_folder
):
    """With the trunk's states and the evaluations shared as well."""
    top = {"reward_model": str(top_reward_folder), "adapter_layers": 1, "evaluate_every": 1}
    several = {"completions_per_prompt": 2, "target_kl_update": 10.0}
    whole, halted = (make_run(name, steps=3, **top, **several) for name in ("whole", "halted"))
    finish(launch("rlhf.training", whole))

    process = launch("rlhf.training", halted)
    wait_for((halted / "checkpoint-1").exists, process)
    (halted / "stop").touch()
    finish(process)
    assert result_of(halted)["status"] == "stopped"
    (halted / "stop").unlink()
    finish(launch("rlhf.training", halted))

    assert result_of(halted)["status"] == "succeeded"
    assert policy_of(halted) == policy_of(whole)
    events = (whole / "events.jsonl").read_text().splitlines()
    assert sum('"metrics"' in event for event in events) == 4  # one process reports, from step 0
    assert result_of(whole)["n_held_out"] == 4  # of five, as many for each process


@pytest.mark.slow
def test_no_process_outlives_a_killed_launcher(make_run, launch):
    run = make_run("run", steps=1000)
    process = launch("rlhf.training", run)
    wait_for((run / "checkpoint-1").exists, process)
    workers = psutil.Process(process.pid).children(recursive=True)

    os.killpg(process.pid, signal.SIGKILL)

    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_too_few_completions_for_the_processes_are_refused(make_config, folder, monkeypatch):
    monkeypatch.setattr(parallel, "count", lambda: 2)

    with pytest.raises(RunError, match="2 processes cannot share minibatches of 1 completions"):
        ppo.run(make_config(batch_size=4, minibatches=4), folder)


def test_one_process_shares_with_nobody():
    assert parallel.share([1, 2, 3]) == [1, 2, 3]
    assert parallel.gather("part") == ["part"]
    assert parallel.add_up({"tokens": 2.0}) == {"tokens": 2.0}
