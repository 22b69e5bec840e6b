import json
import math
import multiprocessing
import os
import resource
import signal
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from bench.ppo_without import replacements
from rlhf.alarms import find_alarms
from rlhf.training import ppo
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.forward import backbone_of, layers_of
from rlhf.training.generate import encode_prompts, sample
from rlhf.training.models import adapter_state, load_policy, stop_ids, use_adapter
from rlhf.training.ppo_checkpoint import copied, restore, save_checkpoint, snapshot
from rlhf.training.ppo_models import load_models, savings_of
from rlhf.training.ppo_selection import best, read_held_out, remove_beaten
from rlhf.training.savings import TWO_TYPES, Savings
from tests.training.conftest import write_prompts


@pytest.fixture(scope="module")
def make_config(tiny_reference, reward_folder):
    def make(**settings):
        small = {"steps": 2, "batch_size": 8, "max_new_tokens": 8, "lora_rank": 4, "samples": 2,
                 "micro_batch_tokens": 120, "learning_rate": 1e-3}  # fmt: skip
        return PPOConfig(tiny_reference, str(reward_folder), **small | settings)

    return make


@pytest.fixture
def start(prompts_file, folder):
    """Models, prompts and the first rollout with its targets, as a step would have them."""

    def start(config):
        models = load_models(config)
        prompts, _ = encode_prompts(models.tokenizer, read_prompts(prompts_file), 256)
        chosen = ppo.prompts_of_step(prompts, 0, config)
        completions = ppo.collect_rollout(models, chosen, config, 0, folder)
        rollout = ppo.score_rollout(models, chosen, completions, config, folder)
        targets = ppo.make_targets(rollout, models.rewards, config.kl_coefficient, config)
        return models, prompts, rollout, targets

    return start


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def final_policy(folder):
    return (folder.path / "artifact" / "adapter_model.safetensors").read_bytes()


# --- what must hold before anything is learnt ---------------------------------------------------
def test_the_first_policy_is_the_reference(make_config, start):
    _, _, rollout, _ = start(make_config())

    assert_close(rollout.logprobs, rollout.ref_logprobs, atol=1e-5, rtol=0)


def test_the_first_update_starts_at_ratio_one(make_config, start, folder):
    config = make_config(epochs=1, minibatches=1)
    models, _, rollout, targets = start(config)

    metrics = ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)

    assert metrics["policy/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/approx_kl"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["policy/clip_fraction"] == metrics["policy/clip_fraction_first"] == 0.0


@pytest.mark.parametrize(
    ("dtype", "error", "alarms"),
    [
        ("float32", 0.0, []),
        ("float32", 2e-3, ["first ratio", "first KL"]),
        ("float32", 0.5, ["first ratio", "first KL", "first clip fraction"]),
        ("bfloat16", 2e-3, []),
    ],
)
def test_the_alarm_of_the_first_update_knows_how_exact_it_can_be(
    make_config, start, folder, dtype, error, alarms
):
    config = make_config(dtype=dtype, epochs=1, minibatches=1)
    models, _, rollout, targets = start(config)
    wrong = rollout._replace(logprobs=rollout.logprobs - error)

    metrics = ppo.update(models, ppo.make_state(models, config), wrong, targets, config, folder)

    assert [alarm.name for alarm in find_alarms([(1, metrics)])] == alarms


def test_the_critic_starts_at_zero_with_the_reward_models_features(make_config, start):
    models, _, rollout, _ = start(make_config())

    reward, value = (adapter_state(models.model, name) for name in ("reward", "value"))

    assert all(torch.equal(reward[name], value[name]) for name in reward)
    assert rollout.values.abs().max() == 0.0


def test_the_score_is_read_at_the_end_token_although_it_is_also_the_padding(make_config, start):
    models, _, rollout, _ = start(make_config(batch_size=16, max_new_tokens=20))
    row = [completion.truncated for completion in rollout.completions].index(False)
    prompt, completion = rollout.prompts[row].ids, rollout.completions[row].ids

    with torch.no_grad(), use_adapter(models.model, "reward"):
        hidden = models.layers(torch.tensor([prompt + completion])).last_hidden_state
        score = models.rewards[0].members[0].head(hidden[0, -1])

    assert completion[-1] == models.tokenizer.eos_token_id == models.tokenizer.pad_token_id
    assert_close(rollout.raw_scores["reward_model"][row, 0], score, atol=1e-4, rtol=1e-4)
    assert rollout.mask.sum(1).tolist() == [len(c.ids) for c in rollout.completions]


def test_any_of_several_stop_tokens_spares_the_penalty(make_config, start, folder):
    config = make_config(batch_size=16, max_new_tokens=20, missing_eos_penalty=3.0)
    models, prompts, *_ = start(config)
    full_stop = models.tokenizer.convert_tokens_to_ids(".")
    models = models._replace(stop={full_stop, *models.stop})
    prompts = ppo.prompts_of_step(prompts, 0, config)

    rollout, _ = ppo.make_rollout(models, prompts, config, 0, folder)
    charged = ppo.make_targets(rollout, models.rewards, 0.0, config).scores
    free = replace(config, missing_eos_penalty=0.0)
    scores = ppo.make_targets(rollout, models.rewards, 0.0, free).scores

    ends = torch.tensor([completion.ids[-1] for completion in rollout.completions])
    assert full_stop in ends
    assert_close(scores - charged, 3.0 * ~torch.isin(ends, torch.tensor(sorted(models.stop))))


# --- critics and the trunk ----------------------------------------------------------------------
def test_only_the_named_parts_learn(make_config, start):
    trained = {}
    for critic in ("head", "adapter", "full"):
        models, *_ = start(make_config(critic=critic))
        trained[critic] = sum(p.numel() for p in models.value_parameters())

    n_adapter = sum(p.numel() for p in adapter_state(models.model, "policy").values())
    n_backbone = sum(p.numel() for p in backbone_of(models.model).parameters())
    n_head = models.value_head.linear.in_features + 1
    assert trained["head"] == n_head
    assert trained["adapter"] == n_head + n_adapter
    assert trained["full"] > 0.5 * n_backbone


def test_a_full_critic_starts_with_the_features_of_the_adapter_critic(make_config, start, folder):
    states = []
    for critic in ("adapter", "full"):
        models, _, rollout, _ = start(make_config(critic=critic))
        torch.nn.init.ones_(models.value_head.linear.weight)
        with models.using("value") as layers:
            _, batch = next(
                ppo.batches(models, rollout, torch.arange(4), "value", make_config(), folder)
            )
            states.append(ppo.state_values(layers, models.value_head, batch).detach())

    assert_close(states[0], states[1], atol=1e-4, rtol=1e-4)


@pytest.fixture
def make_top_config(make_config, top_reward_folder):
    """Adapters on the top one of the tiny model's two layers."""

    def make(**settings):
        return replace(
            make_config(**settings), adapter_layers=1, reward_model=str(top_reward_folder)
        )

    return make


@pytest.mark.parametrize("critic", ["head", "adapter", "full"])
def test_reusing_the_trunk_changes_no_number(make_top_config, start, critic, folder):
    found = []
    for reuse in (False, True):
        config = make_top_config(critic=critic, reuse_trunk=reuse)
        models, _, rollout, targets = start(config)
        assert models.top == (1 if reuse else 0)
        move(models)
        found.append((rollout, targets, gradient(models, rollout, targets, config, folder)))

    (plain, plain_targets, plain_gradient), (reused, reused_targets, reused_gradient) = found
    assert [c.ids for c in plain.completions] == [c.ids for c in reused.completions]
    assert_close(reused.ref_logprobs, plain.ref_logprobs, atol=1e-5, rtol=0)
    assert_close(reused_targets.scores, plain_targets.scores, atol=1e-5, rtol=0)
    assert_close(reused_targets.advantages, plain_targets.advantages, atol=1e-4, rtol=1e-4)
    assert_close(reused_gradient, plain_gradient, atol=1e-6, rtol=1e-3)


def test_a_reward_adapter_on_all_layers_leaves_no_trunk_to_reuse(make_config, start):
    models, *_ = start(make_config(adapter_layers=1))

    assert models.top == 0


def test_a_reward_adapter_on_all_layers_is_said_to_leave_no_trunk(
    make_config, prompts_file, folder, capsys
):
    result = ppo.run(make_config(steps=1, adapter_layers=1), folder)

    note = (
        "All 2 layers run each time, not the top 1 alone: the adapters of reward_model reach further "
        "down."
    )
    assert result["savings"] == {"layers": 2, "trunk_layers": 0, "merged": True, "notes": [note]}
    assert note in capsys.readouterr().out.splitlines()


def test_a_run_that_has_what_it_asks_for_says_so_and_no_more(make_config, make_top_config):
    top, all_layers, plain = (
        make_top_config(), make_config(), make_config(adapter_layers=1, reuse_trunk=False)
    )  # fmt: skip

    found = [savings_of(load_models(config), config) for config in (top, all_layers, plain)]

    assert found == [Savings(2, top, True, []) for top in (1, 0, 0)]


def test_states_of_another_type_are_not_shared_with_layers_that_learn(make_full_config):
    config = make_full_config(critic="head", adapter_layers=1, dtype="bfloat16")

    (note,) = savings_of(load_models(config), config).notes

    assert note.endswith(f"not the top 1 alone: {TWO_TYPES}.")


@pytest.mark.parametrize("critic", ["head", "full"])
def test_a_run_with_another_critic_and_a_trunk_resumes_with_the_same_weights(
    make_top_config, prompts_file, folder, critic
):
    ppo.run(make_top_config(critic=critic), folder)
    expected = final_policy(folder)
    (folder.path / "checkpoint-2").rename(folder.path / "lost")

    ppo.run(make_top_config(critic=critic), folder)

    assert final_policy(folder) == expected


# --- full fine-tuning ---------------------------------------------------------------------------
@pytest.fixture
def make_full_config(make_config, top_reward_folder):
    """The policy's own weights learn, in the top layer or in both."""

    def make(**settings):
        config = make_config(train="full", **settings)
        top = replace(config, reward_model=str(top_reward_folder))
        return top if config.adapter_layers else config

    return make


@pytest.mark.parametrize("critic", ["head", "adapter", "full"])
def test_a_full_policy_starts_as_the_reference(make_full_config, start, folder, critic):
    config = make_full_config(critic=critic, epochs=1, minibatches=1)
    models, _, rollout, targets = start(config)

    metrics = ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)

    assert_close(rollout.logprobs, rollout.ref_logprobs, atol=1e-5, rtol=0)
    assert metrics["policy/ratio_first"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("top", "learning"), [(None, {"0", "1", "norm"}), (1, {"1", "norm"})])
def test_full_fine_tuning_moves_the_layers_and_nothing_else(
    make_full_config, start, folder, tiny_reference, top, learning
):
    config = make_full_config(adapter_layers=top)
    models, prompts, *_ = start(config)
    reward = adapter_state(models.model, "reward")

    ppo.train_step(models, ppo.make_state(models, config), prompts, config, folder)

    before = load_policy(tiny_reference)[0].state_dict()
    after = models.own_policy.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.removeprefix("model.layers.").split(".")[0] for name in moved} == {
        "model" if part == "norm" else part for part in learning
    }
    assert "model.norm.weight" in moved
    base = models.model.get_base_model()
    assert torch.equal(base.model.norm.weight, before["model.norm.weight"])
    assert_close(adapter_state(models.model, "reward"), reward, atol=0, rtol=0)


def test_full_fine_tuning_of_the_top_shares_the_trunk_with_the_base(make_full_config, start):
    models, *_ = start(make_full_config(adapter_layers=1))

    own, base = backbone_of(models.own_policy), backbone_of(models.model)

    assert models.top == 1
    assert own.layers[0] is base.layers[0]
    assert own.layers[1] is not base.layers[1]
    assert own.embed_tokens is base.embed_tokens


def test_reusing_the_trunk_changes_no_number_of_a_full_policy(make_full_config, start, folder):
    found = []
    for reuse in (False, True):
        config = make_full_config(adapter_layers=1, reuse_trunk=reuse)
        models, _, rollout, targets = start(config)
        move(models)
        found.append((rollout, gradient(models, rollout, targets, config, folder)))

    (plain, plain_gradient), (reused, reused_gradient) = found
    assert [c.ids for c in plain.completions] == [c.ids for c in reused.completions]
    assert_close(reused.values, plain.values, atol=1e-5, rtol=0)
    assert_close(reused_gradient, plain_gradient, atol=1e-6, rtol=1e-3)


def test_full_fine_tuning_on_rules_alone(make_full_config, start, folder):
    rules = [{"kind": "length", "target": 4}]
    config = make_full_config(critic="head")
    config = replace(config, reward_model="", rewards=rules)
    models, prompts, *_ = start(config)
    before = copied([*models.policy_parameters()])

    ppo.train_step(models, ppo.make_state(models, config), prompts, config, folder)

    assert not any(map(torch.equal, models.policy_parameters(), before))


@pytest.mark.parametrize("top", [None, 1])
def test_a_full_policy_resumes_with_the_same_weights(make_full_config, prompts_file, folder, top):
    config = make_full_config(adapter_layers=top)
    ppo.run(config, folder)
    expected = (folder.path / "artifact" / "model.safetensors").read_bytes()
    (folder.path / "checkpoint-2").rename(folder.path / "lost")

    ppo.run(config, folder)

    assert (folder.path / "artifact" / "model.safetensors").read_bytes() == expected


def test_the_artifact_of_full_fine_tuning_is_the_policy_as_a_whole_model(
    make_full_config, start, folder, tmp_path
):
    config = make_full_config()
    models, prompts, *_ = start(config)
    ppo.train_step(models, ppo.make_state(models, config), prompts, config, folder)
    ids = torch.tensor([prompts[0].ids])

    ppo.save_policy(models, tmp_path / "policy")
    model, tokenizer = load_policy({"base": str(tmp_path / "policy"), "adapters": []})

    with torch.no_grad():
        assert torch.equal(model(ids).logits, models.own_policy(ids).logits)
    assert stop_ids(model, tokenizer) == models.stop
    assert tokenizer.chat_template == models.tokenizer.chat_template


@pytest.mark.parametrize("saving", ["dropping", "packing"])
def test_benchmarks_without_a_saving_compute_the_same(
    make_top_config, start, folder, monkeypatch, saving
):
    found = []
    for substitute in (None, replacements(3)[saving]):
        if substitute:
            monkeypatch.setattr(*substitute)
        config = make_top_config(critic="head")
        models, _, rollout, targets = start(config)
        move(models)
        found.append((rollout, gradient(models, rollout, targets, config, folder)))

    (lean, lean_gradient), (plain, plain_gradient) = found
    assert len({len(completion.ids) for completion in lean.completions}) > 1
    assert [c.ids for c in plain.completions] == [c.ids for c in lean.completions]
    assert_close(plain.ref_logprobs, lean.ref_logprobs, atol=1e-5, rtol=0)
    assert_close(plain_gradient, lean_gradient, atol=1e-6, rtol=1e-3)


# --- the update ---------------------------------------------------------------------------------
def move(models):
    """Take the policy away from where it sampled. There half of LoRA's gradient is zero, every ratio
    is 1 and nothing is clipped."""
    torch.manual_seed(0)
    for parameter in models.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


def gradient(models, rollout, targets, config, folder):
    for parameter in models.parameters():
        parameter.grad = None
    rows, sums = torch.arange(len(rollout.completions)), defaultdict(float)
    ppo.accumulate(models, rollout, targets, rows, config, folder, sums)
    return torch.cat([parameter.grad.flatten() for parameter in models.parameters()])


@contextmanager
def counting_forwards(*modules):
    calls = []
    handles = [
        module.register_forward_pre_hook(lambda *call: calls.append(1)) for module in modules
    ]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("tokens", [1, 60])
def test_the_gradient_does_not_depend_on_the_micro_batch(make_config, start, tokens, folder):
    config = make_config(clip_range=0.02)
    models, _, rollout, targets = start(config)
    move(models)

    whole, parts = (
        gradient(models, rollout, targets, replace(config, micro_batch_tokens=size), folder)
        for size in (10_000, tokens)
    )

    assert whole.abs().max() > 1e-4
    assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_optimiser_steps_are_epochs_times_minibatches_whatever_the_micro_batch(
    make_config, start, folder
):
    config = make_config(batch_size=4, max_new_tokens=2, critic="head")
    models, _, rollout, targets = start(config)

    for epochs, minibatches, tokens in product((1, 2), (1, 2, 4), (1, 9999)):
        choice = replace(config, epochs=epochs, minibatches=minibatches, micro_batch_tokens=tokens)
        state = ppo.make_state(models, choice)
        ppo.update(models, state, rollout, targets, choice, folder)

        steps = {int(entry["step"]) for entry in state.optimizer.state.values()}
        assert steps == {epochs * minibatches}
        assert state.scheduler.last_epoch == epochs * minibatches


def test_updates_end_early_when_the_policy_has_moved_too_far(make_config, start, folder):
    config = make_config(epochs=3, minibatches=2, warmup_steps=0.5, target_kl_update=1e-9)
    models, _, rollout, targets = start(config)
    state = ppo.make_state(models, config)

    metrics = ppo.update(models, state, rollout, targets, config, folder)

    # The first minibatch cannot have moved; the schedule counts the five that were not done.
    assert metrics["policy/updates_left_out"] == 5
    assert {int(entry["step"]) for entry in state.optimizer.state.values()} == {1}
    assert state.scheduler.last_epoch == 6


def test_only_the_critic_learns_while_it_warms_up(make_config, start, folder):
    config = make_config(steps=3, critic_warmup_steps=1)
    models, prompts, *_ = start(config)
    state = ppo.make_state(models, config)
    policy, value = copied([*models.policy_parameters()]), copied([*models.value_parameters()])

    ppo.train_step(models, state, prompts, config, folder)

    assert all(map(torch.equal, models.policy_parameters(), policy))
    assert not all(map(torch.equal, models.value_parameters(), value))
    assert state.optimizer.param_groups[0]["lr"] > 0


def recorded(state, record):
    """What `record(optimizer)` gives just before each step of the live optimiser."""
    found = []
    state.optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(record(optimizer)))
    return found


def norms(optimizer):
    """Of the gradients that a step is about to use: the policy's and the critic's."""
    return [
        float(torch.cat([p.grad.flatten() for p in group["params"]]).norm())
        for group in optimizer.param_groups
    ]


def test_every_gradient_that_steps_is_clipped(make_config, start, folder):
    config = make_config(max_grad_norm=1e-3)
    models, _, rollout, targets = start(config)
    state = ppo.make_state(models, config)
    clipped = recorded(state, norms)

    metrics = ppo.update(models, state, rollout, targets, config, folder)

    assert min(metrics["grad_norm/policy"], metrics["grad_norm/value"]) > 1e-3
    assert clipped == [[pytest.approx(1e-3, rel=1e-2)] * 2] * 4


def test_the_learning_rates_that_step_warm_up_and_fall_to_zero(make_config, start, folder):
    config = make_config(steps=3, critic_warmup_steps=1, warmup_steps=0.25, batch_size=4,
                         learning_rate=1.0e-3, value_learning_rate=2.0e-3)  # fmt: skip
    models, prompts, *_ = start(config)
    state = ppo.make_state(models, config)
    rates = recorded(state, lambda optimizer: [group["lr"] for group in optimizer.param_groups])

    for state.step in range(3):
        ppo.train_step(models, state, prompts, config, folder)

    # Of 12 optimiser steps 3 warm up; in the first 4 the policy waits for the critic.
    share = [1 / 3, 2 / 3, *(1 - done / 12 for done in range(2, 12))]
    assert [value for _, value in rates] == pytest.approx([2e-3 * s for s in share])
    assert [policy for policy, _ in rates] == pytest.approx([0] * 4 + [1e-3 * s for s in share[4:]])
    assert state.scheduler.get_last_lr() == [0.0, 0.0]


def test_log_ratios_that_are_clamped_are_counted(make_config, start, folder):
    config = make_config(epochs=1, minibatches=1, log_ratio_clamp=5.0)
    models, _, rollout, targets = start(config)
    far = rollout._replace(logprobs=rollout.logprobs - 6.0)

    metrics = ppo.update(models, ppo.make_state(models, config), far, targets, config, folder)

    assert metrics["log_ratio_clamped"] == int(rollout.mask.sum())


def test_the_kl_coefficient_follows_the_target(make_config, start, folder):
    config = make_config(target_kl=5.0, kl_horizon=80, kl_coefficient=0.1)
    models, prompts, *_ = start(config)
    state = ppo.make_state(models, config)

    metrics = ppo.train_step(models, state, prompts, config, folder)

    # The KL of the first step is 0: an error of -1, clipped to -0.2, for 8 of 80 completions
    assert metrics["kl/coefficient"] == 0.1
    assert state.kl_coefficient == pytest.approx(0.1 * (1 - 0.2 * 8 / 80))


def top_mlps(models):
    """Of every whole model that there is: the base, the policy's own, the critic's own."""
    whole = [models.model, models.own_policy, models.critic]
    return [layers_of(backbone_of(model))[1][-1].mlp for model in whole if model]


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize(
    ("train", "critic", "passes"),
    [
        ("adapter", "head", 1),
        ("adapter", "adapter", 2),
        ("adapter", "full", 2),
        ("full", "adapter", 2),
        ("full", "full", 2),
    ],
)
def test_gradient_checkpointing_is_on_in_the_update_and_changes_no_gradient(
    make_config, start, folder, top_reward_folder, train, critic, passes, top
):
    config = make_config(train=train, critic=critic, adapter_layers=top, epochs=1, minibatches=1,
                         micro_batch_tokens=9999)  # fmt: skip
    if top:
        config = replace(config, reward_model=str(top_reward_folder))
    forwards, gradients = [], []
    for on in (False, True):
        models, _, rollout, targets = start(replace(config, gradient_checkpointing=on))
        move(models)
        with counting_forwards(*top_mlps(models)) as calls:
            ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)
        forwards.append(len(calls))
        gradients.append([p.grad for p in models.parameters()])

    assert models.top == (top or 0)
    assert forwards == [passes, 2 * passes]  # once more on the way back
    assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


# --- reduced precision --------------------------------------------------------------------------
@pytest.mark.parametrize(("critic", "top"), [("head", None), ("adapter", None), ("adapter", 1)])
def test_in_bf16_the_first_update_starts_at_ratio_one_too(
    make_config, start, folder, top_reward_folder, critic, top
):
    config = make_config(
        dtype="bfloat16", critic=critic, adapter_layers=top, epochs=1, minibatches=1
    )
    if top:
        config = replace(config, reward_model=str(top_reward_folder))
    models, _, rollout, targets = start(config)

    metrics = ppo.update(models, ppo.make_state(models, config), rollout, targets, config, folder)

    assert models.top == (top or 0)
    assert metrics["policy/ratio_first"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/approx_kl"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_in_bf16_nothing_kept_from_decoding_is_learned_from(make_config, start, folder, critic):
    config = make_config(dtype="bfloat16", critic=critic)
    models, _, rollout, _ = start(config)
    wrong = [
        c._replace(logprobs=[9.0] * len(c.ids), values=[9.0] * len(c.ids))
        for c in rollout.completions
    ]

    again = ppo.score_rollout(models, rollout.prompts, wrong, config, folder)

    assert torch.equal(again.logprobs, rollout.logprobs)
    assert torch.equal(again.values, rollout.values)


def test_in_bf16_the_layers_compute_in_bf16_and_what_learns_is_fp32(make_config, start, folder):
    models, _, rollout, targets = start(make_config(dtype="bfloat16"))
    computed = []
    handle = (
        models.model.get_base_model()
        .model.layers[0]
        .mlp.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    )

    gradient(models, rollout, targets, make_config(dtype="bfloat16"), folder)
    handle.remove()

    assert set(computed) == {torch.bfloat16}
    learning = [*models.policy_parameters(), *models.value_parameters()]
    assert {parameter.dtype for parameter in learning} == {torch.float32}
    assert {parameter.grad.dtype for parameter in learning} == {torch.float32}


@pytest.mark.parametrize(
    ("train", "critic", "bits"),
    [
        ("adapter", "head", 16),
        ("adapter", "adapter", 16),
        ("adapter", "full", 16),
        ("full", "adapter", 32),
        ("full", "full", 32),
    ],
)
def test_in_bf16_the_frozen_base_alone_is_in_bf16(make_config, start, folder, train, critic, bits):
    config = make_config(dtype="bfloat16", train=train, critic=critic)
    models, _, rollout, targets = start(config)
    state = ppo.make_state(models, config)

    metrics = ppo.update(models, state, rollout, targets, config, folder)

    base = {p.dtype for name, p in models.model.named_parameters() if ".lora_" not in name}
    moments = [m for entry in state.optimizer.state.values() for m in entry.values()]
    learning = [*models.parameters(), *(p.grad for p in models.parameters()), *moments]
    assert base == {torch.bfloat16}
    assert {tensor.dtype for tensor in learning} == {torch.float32}
    assert metrics["policy/bits"] == bits


def test_a_gradient_that_is_not_finite_touches_no_weight_and_three_end_the_run(make_config, start):
    config = make_config()
    models, _, _, _ = start(config)
    state = ppo.make_state(models, config)
    before = adapter_state(models.model, "policy")

    def step():
        for parameter in [*models.policy_parameters(), *models.value_parameters()]:
            parameter.grad = torch.full_like(parameter, math.nan)
        ppo.optimiser_step(models, state, config)

    step()
    step()
    with pytest.raises(RunError, match="not finite 3 times in a row at step 1") as caught:
        step()

    assert caught.value.exit_code == DIVERGED
    after = adapter_state(models.model, "policy")
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- prompts ------------------------------------------------------------------------------------
def test_prompts_are_shuffled_without_being_dropped_and_cycle(make_config, start):
    config = make_config(batch_size=2)
    _, prompts, _, _ = start(config)

    ids = [p.line.id for step in range(5) for p in ppo.prompts_of_step(prompts, step, config)]

    assert sorted(ids[:5]) == sorted(ids[5:]) == [1, 2, 3, 4, 5]
    assert ids[:5] != ids[5:]


def test_several_completions_of_a_prompt_are_computed_from_one_prefill(make_config, start):
    config = make_config(batch_size=8, completions_per_prompt=4)
    models, _, rollout, targets = start(config)

    ids = [prompt.line.id for prompt in rollout.prompts]
    with torch.no_grad(), use_adapter(models.model, None):
        row = rollout.prompts[5].ids + rollout.completions[5].ids
        logits = models.model(torch.tensor([row])).logits[0] / config.temperature
    logprobs = logits.log_softmax(-1)[len(rollout.prompts[5].ids) - 1 : -1]

    assert ids == [ids[0]] * 4 + [ids[4]] * 4
    assert ids[0] != ids[4]
    expected = logprobs.gather(-1, torch.tensor(rollout.completions[5].ids).unsqueeze(-1))
    assert_close(rollout.logprobs[5][rollout.mask[5]], expected.squeeze(-1), atol=1e-5, rtol=0)
    assert float(targets.advantages[rollout.mask].mean()) == pytest.approx(0.0, abs=1e-5)


def test_one_prompt_is_enough(make_config, start, folder):
    config = make_config(steps=1)
    models, prompts, *_ = start(config)

    state = ppo.train(models, prompts[:1], config, folder)

    assert state.step == 1


def test_one_completion_of_one_token_stays_finite(make_config, start, folder):
    config = make_config(steps=1, batch_size=1, minibatches=1, max_new_tokens=1)
    models, prompts, *_ = start(config)

    ppo.train(models, prompts[:1], config, folder)

    weights = torch.cat([p.flatten() for p in models.policy_parameters()])
    assert torch.isfinite(weights).all()


# --- stop, resume, failure ----------------------------------------------------------------------
class StopsAfter(RunFolder):
    """A folder in which the stop request comes at the n-th time somebody looks."""

    def __init__(self, path, looks):
        super().__init__(path)
        self.looks = looks

    def should_stop(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", [3, 9, 13, 15, 18, 21, 40])
def test_a_run_stopped_anywhere_ends_with_the_same_weights(
    make_config, prompts_file, folder, tmp_path_factory, looks
):
    """Looks: 8 tokens of the rollout, then every micro-batch: three passes of scoring, and those
    of the policy and of the critic in the update."""
    config = make_config(steps=2)
    other = tmp_path_factory.mktemp("interrupted")
    (other / "prompts.jsonl").write_bytes(prompts_file.read_bytes())
    ppo.run(config, folder)

    with pytest.raises(Stopped):
        ppo.run(config, StopsAfter(other, looks))
    resumed = RunFolder(other)
    ppo.run(config, resumed)

    assert final_policy(resumed) == final_policy(folder)


class Interrupted(RunFolder):
    """A folder that knows when somebody looks for the n-th time in the k-th phase of a name."""

    def __init__(self, path, phase, number, looks):
        super().__init__(path)
        self.place, self.looks_left, self.entered = (phase, number), looks, []

    def phase(self, name):
        super().phase(name)
        self.entered.append(name)

    def is_there(self):
        if self.place == (self.current_phase, self.entered.count(self.current_phase)):
            self.looks_left -= 1
        return self.looks_left <= 0


class Stopping(Interrupted):
    def should_stop(self):
        return self.is_there()


class Fatal(Interrupted):
    def should_stop(self):
        if self.is_there():
            os.kill(os.getpid(), signal.SIGKILL)
        return False


class FatalWrite(RunFolder):
    """A folder that kills the process when half of a checkpoint's file is written."""

    def __init__(self, path, kill_at_write):
        super().__init__(path)
        self.kill_at_write = kill_at_write

    @contextmanager
    def writing_checkpoint(self, step, keep=2):
        with super().writing_checkpoint(step, keep) as path:
            yield path
            if step == self.kill_at_write:
                os.truncate(path / "state.pt", (path / "state.pt").stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def fresh_path(tmp_path_factory):
    """Gives folders with prompts to train on, and the same ones to evaluate on."""

    def fresh_path():
        path = tmp_path_factory.mktemp("run")
        write_prompts(path / "prompts.jsonl")
        write_prompts(path / "eval_prompts.jsonl")
        return path

    return fresh_path


@pytest.fixture(scope="module")
def two_steps(make_config):
    """Evaluated before them and after each, so that step 2 has the fourth rollout. With one micro-batch
    a pass, looks in scoring are before the reference, the critic and the reward model, and in an update
    before the policy's half and the critic's of each minibatch in turn."""
    return make_config(evaluate_every=1, epochs=1, micro_batch_tokens=9999)


def finish(config, path):
    """What a whole run leaves: the policy, and all that its last checkpoint holds."""
    ppo.run(config, RunFolder(path))
    state = torch.load(path / "checkpoint-2" / "state.pt", weights_only=True)
    return final_policy(RunFolder(path)), state


@pytest.fixture(scope="module")
def uninterrupted(two_steps, fresh_path):
    return finish(two_steps, fresh_path())


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert_close(found[1], expected[1], rtol=0, atol=0)


def die(config, folder):
    killed = multiprocessing.get_context("fork").Process(target=ppo.run, args=(config, folder))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL


def steps_kept(path):
    return [step for step, _ in RunFolder(path).checkpoints()]


IN_STEP_1 = [("rollout", 2, 3), ("score", 2, 2), ("update", 1, 2), ("rollout", 3, 2)]
IN_STEP_2 = [
    ("rollout", 4, 3),
    ("score", 4, 2),
    ("update", 2, 3),  # the policy's half of the second minibatch
    ("update", 2, 4),  # the critic's
    ("rollout", 5, 2),  # the evaluation after it
]


@pytest.mark.parametrize(
    ("place", "kept"),
    [*product([("rollout", 1, 2), *IN_STEP_1], [[]]), *product(IN_STEP_2, [[1]])],
)
def test_a_run_killed_anywhere_ends_with_the_same_weights(
    two_steps, fresh_path, uninterrupted, place, kept
):
    path = fresh_path()

    die(two_steps, Fatal(path, *place))

    assert steps_kept(path) == kept
    assert_same(finish(two_steps, path), uninterrupted)


@pytest.mark.parametrize(("kill_at_write", "kept"), [(1, []), (2, [1])])
def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_weights(
    two_steps, fresh_path, uninterrupted, kill_at_write, kept
):
    path = fresh_path()

    die(two_steps, FatalWrite(path, kill_at_write))

    assert (path / f".checkpoint-{kill_at_write}.partial" / "state.pt").is_file()
    assert steps_kept(path) == kept
    assert_same(finish(two_steps, path), uninterrupted)


@pytest.mark.parametrize("place", IN_STEP_2)
def test_a_run_stopped_between_checkpoints_goes_on_from_the_step_before(
    two_steps, fresh_path, uninterrupted, place
):
    config = replace(two_steps, checkpoint_every=2)
    path = fresh_path()

    with pytest.raises(Stopped):
        ppo.run(config, Stopping(path, *place))

    assert steps_kept(path) == [1]
    assert_same(finish(config, path), uninterrupted)


def test_a_run_killed_after_a_step_ends_with_the_same_weights(make_config, prompts_file, folder):
    config = make_config(steps=3, target_kl=1.0, kl_horizon=10)
    ppo.run(config, folder)
    expected = final_policy(folder)
    (folder.path / "checkpoint-3").rename(folder.path / "lost")

    ppo.run(config, folder)  # goes on after step 2

    assert [step for step, _ in folder.checkpoints()] == [2, 3]
    assert final_policy(folder) == expected


@contextmanager
def limited_file_size(size):
    """Writing beyond it fails as on a full disk: in the middle of a file."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_full_disk_during_a_checkpoint_leaves_the_one_before(make_config, prompts_file, folder):
    config = make_config(steps=1)
    ppo.run(config, folder)

    with limited_file_size(10_000), pytest.raises(OSError, match="File too large"):
        ppo.run(make_config(steps=2), folder)

    assert [path.name for path in folder.path.glob("*checkpoint*")] == ["checkpoint-1"]


def test_a_stop_request_is_seen_at_the_next_token(make_config, start, folder):
    config = make_config()
    models, prompts, *_ = start(config)
    (folder.path / "stop").touch()

    with pytest.raises(Stopped):
        ppo.train(models, prompts, config, folder)

    assert events(folder, "metrics") == []
    assert folder.checkpoints() == []  # a run goes on from its beginning without one


# --- evaluation on held-out prompts -------------------------------------------------------------
@pytest.fixture
def held_out_file(folder):
    questions = ["Where is my cup?", "Can you help me?", "Is the window open?"]
    lines = [{"id": number, "messages": [{"role": "user", "content": question}]}
             for number, question in enumerate(questions, 101)]  # fmt: skip
    path = folder.path / "eval_prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def scores_fall(monkeypatch):
    """A reward model that likes every answer less than all that it was shown before."""
    calls = []

    def score(layers, head, batch):
        calls.append(1)
        return torch.full((len(batch.last),), -10.0 * len(calls))

    monkeypatch.setattr(ppo, "score", score)


def policy_in(path):
    return torch.load(path / "state.pt")["adapters"]["policy"]


def is_policy(folder, expected):
    saved = load_file(folder.path / "artifact" / "adapter_model.safetensors")
    return all(torch.equal(saved[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("prompts_file", "held_out_file", "scores_fall")
@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 3)])
def test_the_best_policy_on_held_out_prompts_is_kept_or_the_last(make_config, folder, keep, step):
    config = make_config(steps=3, evaluate_every=2, keep=keep, score_clip=1e6)

    result = ppo.run(config, folder)

    found = {event["step"]: event["values"] for event in events(folder, "metrics")}
    assert (result["best_step"], result["kept_step"], result["n_held_out"]) == (2, step, 3)
    assert result["score_first"] == found[0]["eval/score"]
    assert (result["score_last"], result["kl"]) == (
        found[step]["eval/score"],
        found[step]["eval/kl"],
    )
    assert result["kl_se"] > 0
    assert list(result["by_source"]) == ["reward_model"]
    assert result["note"] == "On held-out prompts it is no better than the policy before training."
    assert is_policy(folder, policy_in(folder.path / f"checkpoint-{step}"))
    assert not is_policy(folder, policy_in(folder.path / f"checkpoint-{5 - step}"))


def test_held_out_prompts_that_are_too_long_are_counted(
    make_config, prompts_file, held_out_file, folder
):
    with held_out_file.open("a") as file:
        long = [{"role": "user", "content": "Where is my cup? " * 20}]
        file.write(json.dumps({"id": 104, "messages": long}) + "\n")

    result = ppo.run(make_config(steps=1, max_prompt_tokens=40), folder)

    assert result["n_held_out"] == 3
    assert result["left_out"] == {"too_long": 0, "held_out_and_too_long": 1}


def test_an_evaluation_is_repeatable_and_says_what_the_objective_is(
    make_config, start, held_out_file, folder
):
    config = make_config(kl_coefficient=0.5, target_kl=1.0, batch_size=2)
    models, *_ = start(config)
    for parameter in models.policy_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    held_out, _ = read_held_out(models.tokenizer, config, folder)
    state = ppo.make_state(models, config)
    state.kl_coefficient = 99.0  # adapted: what is compared stays at the configured price

    first, second = (ppo.evaluate(models, held_out, state, config, folder) for _ in range(2))

    assert first == second
    assert first["eval/kl"] != 0.0
    assert first["eval/objective"] == first["eval/score"] - 0.5 * first["eval/kl"]


class StopsInEvaluation(RunFolder):
    """The stop request comes when a rollout follows an update: at the first answer to held-out
    prompts after training began."""

    was_updated = False

    def phase(self, name):
        super().phase(name)
        self.was_updated |= name == "update"

    def should_stop(self):
        return self.was_updated and self.current_phase == "rollout"


def test_a_run_stopped_in_an_evaluation_ends_with_the_same_best(
    make_config, prompts_file, held_out_file, folder, tmp_path_factory
):
    config = make_config(steps=2, evaluate_every=1)
    other = tmp_path_factory.mktemp("interrupted")
    for file in (prompts_file, held_out_file):
        (other / file.name).write_bytes(file.read_bytes())
    expected = ppo.run(config, folder)

    with pytest.raises(Stopped):
        ppo.run(config, StopsInEvaluation(other))
    resumed = ppo.run(config, RunFolder(other))

    assert resumed == expected
    assert final_policy(RunFolder(other)) == final_policy(folder)


def test_a_run_killed_after_a_new_best_still_has_the_one_its_checkpoint_speaks_of(
    make_config, prompts_file, held_out_file, folder, scores_fall
):
    config = make_config(steps=2, evaluate_every=1, checkpoint_every=2, score_clip=1e6)
    models = load_models(config)
    state = ppo.make_state(models, config)
    held_out, _ = read_held_out(models.tokenizer, config, folder)
    for step in (0, 1):
        state.step = step
        ppo.evaluate(models, held_out, state, config, folder)
    save_checkpoint(snapshot(models, state), folder)
    state.step, state.evaluations[1] = 2, state.evaluations[1]._replace(objective=-1e9)

    ppo.evaluate(models, held_out, state, config, folder)  # better, and not in a checkpoint yet

    restore(models, state, folder.path / "checkpoint-1")
    assert best(state.evaluations).step == 1
    assert sorted(path.name for path in folder.path.glob("best-*")) == ["best-1", "best-2"]
    remove_beaten(state.evaluations, folder)
    assert [path.name for path in folder.path.glob("best-*")] == ["best-1"]


def test_evaluations_are_reported_with_the_steps_they_follow(
    make_config, prompts_file, held_out_file, folder
):
    ppo.run(make_config(steps=3, evaluate_every=2), folder)

    reports = {event["step"]: event["values"] for event in events(folder, "metrics")}
    assert [step for step, values in reports.items() if "eval/score" in values] == [0, 2, 3]
    assert "score/mean" in reports[2]


def test_without_held_out_prompts_the_last_policy_is_kept(make_config, prompts_file, folder):
    result = ppo.run(make_config(steps=1), folder)

    assert (result["kept_step"], result["best_step"], result["n_held_out"]) == (1, None, 0)
    assert result["note"] == "No held-out prompts were evaluated, so the last step was kept."


# --- reports ------------------------------------------------------------------------------------
def test_the_run_reports_metrics_samples_and_progress_of_each_step(
    make_config, prompts_file, folder
):
    result = ppo.run(make_config(steps=2), folder)

    assert [event["step"] for event in events(folder, "metrics")] == [1, 2]
    assert [(e["step"], e["index"]) for e in events(folder, "sample")] == [
        (1, 0), (1, 1), (2, 0), (2, 1),
    ]  # fmt: skip
    assert [(e["step"], e["total"]) for e in events(folder, "progress")] == [(1, 2), (2, 2)]
    assert (result["steps"], result["completions"], result["n_prompts"]) == (2, 16, 5)
    first = events(folder, "metrics")[0]["values"]
    assert first["kl/k1"] == pytest.approx(0.0, abs=1e-5)
    assert result["score_first"] == first["score/mean"]
    assert first["policy/approx_kl_first"] == pytest.approx(0.0, abs=1e-9)
    lines = (folder.path / "rollouts" / "step-00001.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert set(kept[0]) == {
        "id", "completion", "score", "kl", "n_tokens", "truncated", "repetition",
    }  # fmt: skip
    for metric, name in [("score/mean", "score"), ("length/mean", "n_tokens"),
                         ("length/truncated_share", "truncated"),
                         ("repetition/mean", "repetition")]:  # fmt: skip
        assert first[metric] == pytest.approx(sum(line[name] for line in kept) / 8, abs=1e-6)


def test_all_prompts_too_long_is_a_sentence(make_config, prompts_file, folder):
    with pytest.raises(RunError, match="All 5 prompts are longer than 3 tokens"):
        ppo.run(make_config(max_prompt_tokens=3), folder)


# --- a known optimum ----------------------------------------------------------------------------
def test_a_bandit_approaches_its_closed_form(
    make_config, prompts_file, folder, tiny_reference, monkeypatch
):
    """One token per completion, and a point for one token a. The best policy at price beta is
    the reference times exp(r / beta) / Z (Ziegler et al. 2019, equation 2)."""
    beta = 0.5
    base, tokenizer = load_policy(tiny_reference)
    (prompt,), _ = encode_prompts(tokenizer, read_prompts(prompts_file)[:1], 256)
    with torch.no_grad():
        reference = (base(torch.tensor([prompt.ids])).logits[0, -1] / 0.7).softmax(-1)
    a = int(reference.topk(3).indices[2])
    monkeypatch.setattr(
        ppo, "score", lambda layers, head, batch: 0.1 + 0.5 * (batch.targets == a).float()
    )
    config = make_config(
        steps=60, batch_size=128, epochs=1, minibatches=1, max_new_tokens=1, learning_rate=5e-3,
        value_learning_rate=5e-3, kl_coefficient=beta, missing_eos_penalty=0.0, checkpoint_every=60,
        critic="head", micro_batch_tokens=10_000,
    )  # fmt: skip
    models = load_models(config)

    ppo.train(models, [prompt], config, folder)

    best = reference * torch.exp((torch.arange(len(reference)) == a) / beta)
    best /= best.sum()
    with torch.no_grad(), use_adapter(models.model, "policy"):
        policy = (models.model(torch.tensor([prompt.ids])).logits[0, -1] / 0.7).softmax(-1)
    kl, best_kl = ((p * (p / reference).log()).nansum() for p in (policy, best))
    assert float(policy[a]) == pytest.approx(float(best[a]), rel=0.05)
    assert float(kl) == pytest.approx(float(best_kl), rel=0.05)


# --- learning -----------------------------------------------------------------------------------
def mean_length(reference, prompts_file):
    model, tokenizer = load_policy(reference)
    prompts, _ = encode_prompts(tokenizer, read_prompts(prompts_file), 256)
    sampled = sample(
        model,
        [prompt.ids for prompt in prompts] * 20,
        stop=stop_ids(model, tokenizer),
        max_new_tokens=16,
        temperature=0.7,
        generator=torch.Generator().manual_seed(5),
    )
    return sum(len(completion.ids) for completion in sampled) / len(sampled)


@pytest.fixture
def likes_it_short(monkeypatch):
    """A reward model whose taste is known: a quarter of a standard deviation less per token."""

    def score(layers, head, batch):
        return 0.1 + 0.5 * (8 - batch.before.sum(1).float()) / 4

    monkeypatch.setattr(ppo, "score", score)


def test_the_policy_learns_what_is_rewarded_and_a_larger_kl_coefficient_holds_it_back(
    make_config, prompts_file, folder, tiny_reference, likes_it_short, tmp_path_factory
):
    settings = {"steps": 8, "batch_size": 32, "micro_batch_tokens": 4096, "max_new_tokens": 16,
                "learning_rate": 5e-3, "missing_eos_penalty": 0.0}  # fmt: skip
    held = RunFolder(tmp_path_factory.mktemp("held"))
    (held.path / "prompts.jsonl").write_bytes(prompts_file.read_bytes())

    free_result = ppo.run(make_config(**settings, kl_coefficient=0.0), folder)
    held_result = ppo.run(make_config(**settings, kl_coefficient=5.0), held)

    before = mean_length(tiny_reference, prompts_file)
    adapter = str(folder.path / "artifact")
    after = mean_length({**tiny_reference, "adapters": [adapter]}, prompts_file)
    assert after < 0.7 * before
    assert held_result["kl_k3"] < 0.3 * free_result["kl_k3"]
