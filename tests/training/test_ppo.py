import errno
import json
import math

import pytest
import torch
from torch.testing import assert_close

from rlhf.training import ppo
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.generate import encode_prompts, sample
from rlhf.training.models import adapter_state, load_policy, stop_ids


@pytest.fixture
def make_config(tiny_reference, reward_folder):
    def make(**settings):
        small = {"steps": 2, "batch_size": 8, "max_new_tokens": 8, "lora_rank": 4, "samples": 2,
                 "micro_batch_size": 4, "learning_rate": 1e-3}  # fmt: skip
        return PPOConfig(tiny_reference, str(reward_folder), **small | settings)

    return make


@pytest.fixture
def start(prompts_file, folder):
    """Models, prompts and the first rollout with its targets, as a step would have them."""

    def start(config):
        models = ppo.load_models(config)
        prompts, _ = encode_prompts(models.tokenizer, read_prompts(prompts_file), 256)
        chosen = ppo.prompts_of_step(prompts, 0, config)
        completions = ppo.collect_rollout(models, chosen, config, 0, folder)
        rollout = ppo.score_rollout(models, chosen, completions, config, folder)
        targets = ppo.make_targets(rollout, models.statistics, config.kl_coefficient, config)
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
    assert metrics["policy/clip_fraction"] == 0.0


def test_the_critic_starts_at_zero_with_the_reward_models_features(make_config, start):
    models, _, rollout, _ = start(make_config())

    reward, value = (adapter_state(models.model, name) for name in ("reward", "value"))

    assert all(torch.equal(reward[name], value[name]) for name in reward)
    assert rollout.values.abs().max() == 0.0


def test_the_reward_model_sees_the_end_token_although_it_is_also_the_padding(make_config, start):
    models, _, rollout, _ = start(make_config(batch_size=16, max_new_tokens=20))

    ended = [completion for completion in rollout.completions if not completion.truncated]

    assert models.tokenizer.pad_token_id == models.tokenizer.eos_token_id
    assert {completion.ids[-1] for completion in ended} == {models.tokenizer.eos_token_id}
    assert rollout.mask.sum(1).tolist() == [len(c.ids) for c in rollout.completions]


# --- the update ---------------------------------------------------------------------------------
def gradient(models, rollout, targets, config):
    for parameter in [*models.policy_parameters(), *models.value_parameters()]:
        parameter.grad = None
    sums, rows = ppo.Sums(), torch.arange(len(rollout.completions))
    tokens = int(rollout.mask.sum())
    for micro in ppo.micro_batches(
        rows, rollout.prompts, rollout.completions, config.micro_batch_size
    ):
        ppo.accumulate(models, rollout, targets, micro, tokens, config, sums)
    grads = [p.grad for p in [*models.policy_parameters(), *models.value_parameters()]]
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_gradient_does_not_depend_on_the_micro_batch(make_config, start, micro_batch_size):
    models, _, rollout, targets = start(make_config())

    whole = gradient(models, rollout, targets, make_config(micro_batch_size=8))
    parts = gradient(models, rollout, targets, make_config(micro_batch_size=micro_batch_size))

    assert whole.abs().max() > 1e-4
    assert_close(parts, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("epochs", "minibatches", "micro"), [(1, 1, 8), (2, 2, 1), (3, 4, 8)])
def test_optimiser_steps_are_epochs_times_minibatches(
    make_config, start, folder, epochs, minibatches, micro
):
    config = make_config(epochs=epochs, minibatches=minibatches, micro_batch_size=micro)
    models, _, rollout, targets = start(config)
    state = ppo.make_state(models, config)

    ppo.update(models, state, rollout, targets, config, folder)

    steps = {int(entry["step"]) for entry in state.optimizer.state.values()}
    assert steps == {epochs * minibatches}


def test_the_gradient_that_steps_is_clipped(make_config, start):
    config = make_config(max_grad_norm=1e-3)
    models, _, rollout, targets = start(config)
    gradient(models, rollout, targets, config)

    norms = ppo.optimiser_step(models, ppo.make_state(models, config), config)

    clipped = torch.cat([p.grad.flatten() for p in models.policy_parameters()]).norm()
    assert norms["grad_norm/policy"] > 1e-3
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_warms_up_and_falls_to_zero(make_config, start):
    config = make_config(steps=5, epochs=2, minibatches=2, learning_rate=1.0e-3, warmup_steps=0.2)
    models, *_ = start(config)
    state = ppo.make_state(models, config)

    rates = []
    for _ in range(20):
        rates.append(state.scheduler.get_last_lr()[0] / 1e-3)
        state.optimizer.step()
        state.scheduler.step()

    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 0.85])
    assert rates[-1] == pytest.approx(1 / 20)
    assert state.scheduler.get_last_lr() == [0.0, 0.0]


def test_gradient_checkpointing_is_on_and_changes_no_gradient(make_config, start, folder):
    models, _, rollout, targets = start(make_config())
    plain = gradient(models, rollout, targets, make_config())

    models, _, rollout, targets = start(make_config(gradient_checkpointing=True))
    models.model.train()
    layer = models.model.get_base_model().model.layers[0]

    assert layer.gradient_checkpointing
    assert_close(gradient(models, rollout, targets, make_config()), plain, atol=1e-6, rtol=1e-4)


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
    config = make_config(batch_size=2, micro_batch_size=2)
    _, prompts, _, _ = start(config)

    ids = [p.line.id for step in range(5) for p in ppo.prompts_of_step(prompts, step, config)]

    assert sorted(ids[:5]) == sorted(ids[5:]) == [1, 2, 3, 4, 5]
    assert ids[:5] != ids[5:]


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


@pytest.mark.parametrize("looks", [3, 9, 11, 14, 25])
def test_a_run_stopped_anywhere_ends_with_the_same_weights(
    make_config, prompts_file, folder, tmp_path_factory, looks
):
    """Looks: 8 tokens of the rollout, 2 micro-batches of scoring, then those of the update."""
    config = make_config(steps=2)
    other = tmp_path_factory.mktemp("interrupted")
    (other / "prompts.jsonl").write_bytes(prompts_file.read_bytes())
    ppo.run(config, folder)

    with pytest.raises(Stopped):
        ppo.run(config, StopsAfter(other, looks))
    resumed = RunFolder(other)
    ppo.run(config, resumed)

    assert final_policy(resumed) == final_policy(folder)


def test_a_run_killed_after_a_step_ends_with_the_same_weights(make_config, prompts_file, folder):
    config = make_config(steps=3, target_kl=1.0, kl_horizon=10)
    ppo.run(config, folder)
    expected = final_policy(folder)
    (folder.path / "checkpoint-3").rename(folder.path / "lost")

    ppo.run(config, folder)  # goes on after step 2

    assert [step for step, _ in folder.checkpoints()] == [2, 3]
    assert final_policy(folder) == expected


def test_a_full_disk_during_a_checkpoint_leaves_the_one_before(
    make_config, prompts_file, folder, monkeypatch
):
    config = make_config(steps=1)
    ppo.run(config, folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ppo, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        ppo.run(make_config(steps=2), folder)

    assert [path.name for path in folder.path.glob("*checkpoint*")] == ["checkpoint-1"]


def test_a_stop_request_is_seen_at_the_next_token(make_config, start, folder):
    config = make_config()
    models, prompts, *_ = start(config)
    (folder.path / "stop").touch()

    with pytest.raises(Stopped):
        ppo.train(models, prompts, config, folder)

    assert events(folder, "metrics") == []
    assert [step for step, _ in folder.checkpoints()] == [0]


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


def test_all_prompts_too_long_is_a_sentence(make_config, prompts_file, folder):
    with pytest.raises(RunError, match="All 5 prompts are longer than 3 tokens"):
        ppo.run(make_config(max_prompt_tokens=3), folder)


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

    def score(model, head, batch):
        return 0.1 + 0.5 * (8 - batch.completion_mask.sum(1).float()) / 4

    monkeypatch.setattr(ppo, "score", score)


def test_the_policy_learns_what_is_rewarded_and_a_larger_kl_coefficient_holds_it_back(
    make_config, prompts_file, folder, tiny_reference, likes_it_short, tmp_path_factory
):
    settings = {"steps": 8, "batch_size": 32, "micro_batch_size": 32, "max_new_tokens": 16,
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
