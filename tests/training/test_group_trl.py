"""RLOO and GRPO by TRL's trainers, on the tiny model."""

import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from trl import RLOOTrainer

from rlhf.training import grpo
from rlhf.training.artifacts import RunError, RunFolder, Stopped
from rlhf.training.config import CONFIGS, GRPOConfig, RLOOConfig
from rlhf.training.group_trl import answers_at_once
from tests.training.conftest import reports, write_prompts

KINDS = [RLOOConfig, GRPOConfig]


@pytest.fixture
def make_config(make_group_config):
    return partial(make_group_config, trainer="trl")


def weights(folder):
    return (folder.path / "artifact" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reports_as_the_own_loop_does_and_resumes_with_the_same_weights(
    make_config, prompts_file, folder, kind
):
    shutil.copy(prompts_file, folder.path / "eval_prompts.jsonl")
    result = grpo.run(make_config(kind), folder)
    whole = weights(folder)
    assert (result["completions"], result["n_held_out"]) == (16, 5)
    assert {"score/mean", "kl/k1", "length/mean", "entropy", "policy/clip_fraction",
            "eval/score"} <= set(reports(folder)[0])  # fmt: skip

    shutil.rmtree(folder.path / "checkpoint-2")
    shutil.rmtree(folder.path / "artifact")
    grpo.run(make_config(kind), folder)

    assert weights(folder) == whole


def test_a_run_that_is_stopped_in_a_step_begins_it_again(
    make_config, prompts_file, folder, tmp_path_factory
):
    grpo.run(make_config(GRPOConfig), folder)
    other = RunFolder(tmp_path_factory.mktemp("stopped"))
    write_prompts(other.path / "prompts.jsonl")
    tell = other.phase
    other.phase = lambda name: (tell(name), name == "update" and other.interrupt())
    with pytest.raises(Stopped):
        grpo.run(make_config(GRPOConfig), other)
    assert not other.checkpoints()

    grpo.run(make_config(GRPOConfig), RunFolder(other.path))

    assert weights(other) == weights(folder)


def test_one_update_of_grpo_is_that_of_the_own_loop(
    make_config, prompts_file, folder, tmp_path_factory
):
    once = {"steps": 1, "minibatches": 1, "max_grad_norm": 1e9}
    grpo.run(make_config(GRPOConfig, **once), folder)
    other = RunFolder(tmp_path_factory.mktemp("own"))
    write_prompts(other.path / "prompts.jsonl")
    grpo.run(make_config(GRPOConfig, trainer="own", **once), other)

    by_trl, own = (
        load_file(each.path / "artifact" / "adapter_model.safetensors") for each in (folder, other)
    )

    assert any(by_trl[name].any() for name in by_trl if "lora_B" in name)
    torch.testing.assert_close(by_trl, own, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_learns_the_length_that_is_rewarded(make_config, prompts_file, folder, kind):
    shutil.copy(prompts_file, folder.path / "eval_prompts.jsonl")
    config = make_config(
        kind, reward_model="", rewards=[{"kind": "length", "target": 4}], adapter_layers=None, steps=10,
        batch_size=32, learning_rate=5e-3, missing_eos_penalty=0.0, micro_batch_tokens=2048,
        max_new_tokens=16, evaluate_every=10,
    )  # fmt: skip

    result = grpo.run(config, folder)

    assert result["score_last"] > result["score_first"] + 0.2
    assert result["kl"] > 0.1


def test_a_gradient_that_is_not_finite_ends_the_run(make_config, prompts_file, folder, monkeypatch):
    loss_of = RLOOTrainer.compute_loss
    monkeypatch.setattr(
        RLOOTrainer, "compute_loss", lambda *args, **named: loss_of(*args, **named) * torch.nan
    )

    with pytest.raises(RunError, match="The gradient was not finite at step 1"):
        grpo.run(make_config(RLOOConfig), folder)


def test_as_many_answers_at_once_as_have_the_tokens_and_divide_a_minibatch(make_config):
    config = make_config(GRPOConfig, batch_size=32, max_new_tokens=64, micro_batch_tokens=1024)

    assert [answers_at_once(config, tokens) for tokens in (10, 100, 5000)] == [8, 4, 1]


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
@pytest.mark.parametrize(
    "setting",
    [
        {"train": "full"},
        {"accelerate_config": "two.yaml"},
        {"target_kl": 6.0},
        {"target_kl_update": 0.1},
        {"dual_clip": 3.0},
        {"kl_estimator": "k3"},
    ],
)
def test_what_trl_cannot_do_is_refused(kind, setting):
    config = {"model": {}, "reward_model": "r", **setting}
    CONFIGS[kind].from_dict(config)

    with pytest.raises(
        ValueError, match=f"{next(iter(setting))}=.* does not go with trainer='trl'"
    ):
        CONFIGS[kind].from_dict({**config, "trainer": "trl"})


def test_another_trainer_is_not_known():
    with pytest.raises(ValueError, match="trainer='vllm' must be one of"):
        CONFIGS["grpo"].from_dict({"model": {}, "reward_model": "r", "trainer": "vllm"})
