"""RLOO and GRPO, on the tiny model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from rlhf.training import ppo
from rlhf.training.config import GRPOConfig, RLOOConfig
from tests.training.conftest import reports

KINDS = [RLOOConfig, GRPOConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_without_a_critic_and_resumes_with_the_same_weights(
    make_group_config, prompts_file, folder, kind
):
    shutil.copy(prompts_file, folder.path / "eval_prompts.jsonl")
    result = ppo.run(make_group_config(kind), folder)
    whole = (folder.path / "artifact" / "adapter_model.safetensors").read_bytes()
    assert result["completions"] == 16
    assert result["n_held_out"] == 5
    assert not [name for name in reports(folder)[0] if "value" in name]

    shutil.rmtree(folder.path / "checkpoint-2")
    shutil.rmtree(folder.path / "artifact")
    ppo.run(make_group_config(kind), folder)

    assert (folder.path / "artifact" / "adapter_model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_all_score_alike_move_nothing(make_group_config, prompts_file, folder, kind):
    never = [{"kind": "regex", "pattern": "never written"}]
    config = make_group_config(
        kind, reward_model="", rewards=never, missing_eos_penalty=0.0, kl_coefficient=0.0
    )

    ppo.run(config, folder)

    adapter = load_file(folder.path / "artifact" / "adapter_model.safetensors")
    assert all(not t.any() for name, t in adapter.items() if "lora_B" in name)
    assert all(torch.isfinite(t).all() for t in adapter.values())


def test_advantages_are_one_number_a_completion_and_sum_to_0_in_each_prompt(
    make_group_config, prompts_file, folder
):
    config = make_group_config(RLOOConfig)
    models = ppo.load_models(config)
    prompts, _ = ppo.encode_prompts(models.tokenizer, ppo.read_prompts(prompts_file), 256)
    chosen = ppo.prompts_of_step(prompts, 0, config)

    rollout, _ = ppo.make_rollout(models, chosen, config, 0, folder)
    targets = ppo.make_targets(rollout, models.rewards, 0.05, config)

    first = targets.advantages[:, 0]
    assert torch.equal(targets.advantages, first.unsqueeze(1) * rollout.mask)
    assert first.view(-1, 4).sum(1).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    assert first.any()
