import json
import math
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf.training import ppo
from rlhf.training.artifacts import DIVERGED, RunError, RunFolder, Stopped
from rlhf.training.config import PPOConfig
from rlhf.training.data import read_prompts
from rlhf.training.forward import backbone_of
from rlhf.training.generate import encode_prompts, sample
from rlhf.training.models import adapter_state, load_policy, stop_ids, use_adapter
from rlhf.training.ppo_models import load_models


@pytest.fixture
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
    assert metrics["policy/clip_fraction"] == 0.0


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
        score = models.rewards[0].head(hidden[0, -1])

    assert completion[-1] == models.tokenizer.eos_token_id == models.tokenizer.pad_token_id
    assert_close(rollout.raw_scores["reward_model"][row], score, atol=1e-4, rtol=1e-4)
    assert rollout.mask.sum(1).tolist() == [len(c.ids) for c in rollout.completions]


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
        with models.using("value"):
            _, batch = next(
                ppo.batches(models, rollout, torch.arange(4), "value", make_config(), folder)
            )
            states.append(ppo.state_values(models, batch).detach())

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


@pytest.mark.parametrize("critic", ["head", "full"])
def test_a_run_with_another_critic_and_a_trunk_resumes_with_the_same_weights(
    make_top_config, prompts_file, folder, critic
):
    ppo.run(make_top_config(critic=critic), folder)
    expected = final_policy(folder)
    (folder.path / "checkpoint-2").rename(folder.path / "lost")

    ppo.run(make_top_config(critic=critic), folder)

    assert final_policy(folder) == expected


# --- the update ---------------------------------------------------------------------------------
def gradient(models, rollout, targets, config, folder):
    for parameter in [*models.policy_parameters(), *models.value_parameters()]:
        parameter.grad = None
    rows = torch.arange(len(rollout.completions))
    ppo.accumulate(models, rollout, targets, rows, config, folder, ppo.Sums(), [])
    grads = [p.grad for p in [*models.policy_parameters(), *models.value_parameters()]]
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("tokens", [1, 60])
def test_the_gradient_does_not_depend_on_the_micro_batch(make_config, start, tokens, folder):
    models, _, rollout, targets = start(make_config())

    whole = gradient(models, rollout, targets, make_config(micro_batch_tokens=10_000), folder)
    parts = gradient(models, rollout, targets, make_config(micro_batch_tokens=tokens), folder)

    assert whole.abs().max() > 1e-4
    assert_close(parts, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("epochs", "minibatches", "tokens"), [(1, 1, 999), (2, 2, 1), (3, 4, 60)])
def test_optimiser_steps_are_epochs_times_minibatches(
    make_config, start, folder, epochs, minibatches, tokens
):
    config = make_config(epochs=epochs, minibatches=minibatches, micro_batch_tokens=tokens)
    models, _, rollout, targets = start(config)
    state = ppo.make_state(models, config)

    ppo.update(models, state, rollout, targets, config, folder)

    steps = {int(entry["step"]) for entry in state.optimizer.state.values()}
    assert steps == {epochs * minibatches}


def test_the_gradient_that_steps_is_clipped(make_config, start, folder):
    config = make_config(max_grad_norm=1e-3)
    models, _, rollout, targets = start(config)
    gradient(models, rollout, targets, config, folder)

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
    plain = gradient(models, rollout, targets, make_config(), folder)

    models, _, rollout, targets = start(make_config(gradient_checkpointing=True))
    models.model.train()
    layer = models.model.get_base_model().model.layers[0]

    assert layer.gradient_checkpointing
    assert_close(
        gradient(models, rollout, targets, make_config(), folder), plain, atol=1e-6, rtol=1e-4
    )


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
