from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from annotator.models import Completion
from rlhf import estimates
from rlhf.estimates import Probe, comparisons, estimate, estimate_run
from rlhf.models import GeneratedCompletion, Metrics, RunKind, Status
from rlhf.training.config import GRPOConfig, PPOConfig
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    GenerateRunFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
)

PROBE = Probe(
    load_seconds=20.0, decode_step=0.5, decode_token=0.01, layer_forward=1e-3, layer_train=3e-3,
    layer_merge=0.1, head_forward=2e-3, head_train=5e-3, resident_mib=1000.0, parameters=2**20,
    layers=10, hidden_size=256, vocabulary=2**16, element_bytes=4, layer_parameters=2**16,
    adapter_parameters=2**12, cache_bytes=2**10, activation_bytes=2**14, template_tokens=20.0,
    characters_per_token=4.0,
)  # fmt: skip
# 10 answers of 20 tokens to prompts of 30: X = 500 tokens a step, M = 200 of them in answers.
CONFIG = PPOConfig(
    {}, "reward", steps=1, batch_size=10, epochs=2, minibatches=2, max_new_tokens=40, critic="head",
    lora_rank=16, micro_batch_tokens=1024,
)  # fmt: skip


def seconds(probe=PROBE, reward_layers=(10,), **changes):
    """Without starting, loading, and the rollout and score that measure the result."""
    config = replace(CONFIG, **changes)

    def of(steps):
        longer = replace(config, steps=steps)
        sizes = {"prompt_tokens": 30, "answer_tokens": 20, "reward_layers": reward_layers}
        return estimate(longer, probe, **sizes).seconds

    return of(2) - of(1)


# --- time ---------------------------------------------------------------------------------------
def test_head_critic_on_all_layers():
    rollout = 300 * 10 * 1e-3 + 40 * 0.5 + 200 * 0.01 + 10 * 0.1
    score = 2 * 500 * 10 * 1e-3 + 200 * 2e-3 + 10 * 0.1
    update = 2 * (500 * 10 * 3e-3 + 200 * 5e-3)

    assert seconds() == pytest.approx(rollout + score + update)


def test_adapter_critic_adds_one_pass_of_scoring_and_its_own_update():
    score = 500 * 10 * 1e-3 + 10 * 0.1
    update = 2 * 500 * 10 * 3e-3

    assert seconds(critic="adapter") == pytest.approx(seconds() + score + update)


def test_full_critic_costs_half_more_than_an_adapters_backward_pass():
    assert seconds(critic="full") == pytest.approx(
        seconds() + 500 * 10 * 1e-3 + 2 * 500 * 10 * 1.5 * 3e-3
    )


def test_trunk_is_reused_if_both_adapters_lie_on_the_top_layers():
    rollout = 300 * 10 * 1e-3 + 40 * 0.5 + 200 * 0.01 + 3 * 0.1
    score = 2 * 500 * 4 * 1e-3 + 200 * 2e-3 + 4 * 0.1
    # Of the top four layers the policy has an adapter on three.
    update = 2 * (500 * (1 * 1e-3 + 3 * 3e-3) + 200 * 5e-3)

    assert seconds(adapter_layers=3, reward_layers=[4]) == pytest.approx(rollout + score + update)


def test_without_reuse_all_layers_run_forward_but_only_the_adapted_ones_back():
    reused = seconds(adapter_layers=3, reward_layers=[10])
    plain = seconds(adapter_layers=3, reward_layers=[3], reuse_trunk=False)

    assert plain == pytest.approx(reused - 7 * 0.1)  # its reward adapter is merged into fewer
    assert plain > seconds(adapter_layers=3, reward_layers=[3])


def test_gradient_checkpointing_adds_a_forward_pass():
    assert seconds(gradient_checkpointing=True) == pytest.approx(seconds() + 2 * 500 * 10 * 1e-3)


def test_in_bf16_nothing_is_merged_and_the_policy_is_scored_again():
    merges = 10 * 0.1 + 10 * 0.1
    again = 500 * 10 * 1e-3 + 200 * 2e-3

    assert seconds(PROBE._replace(element_bytes=2)) == pytest.approx(seconds() - merges + again)


def test_full_fine_tuning_goes_back_through_everything():
    assert seconds(train="full") == pytest.approx(seconds() + 2 * 0.5 * 500 * 10 * 3e-3)


def test_without_a_reward_model_on_the_base_no_reward_is_computed_on_it():
    """Of rules only, or of a reward model with another base; the critic's adapter lies on k layers."""
    one = 500 * 3 * 1e-3

    rules = seconds(reward_layers=(), adapter_layers=3, critic="adapter")
    assert seconds(reward_layers=[3], adapter_layers=3, critic="adapter") == pytest.approx(
        rules + one + 3 * 0.1
    )
    assert memory(reward_layers=[3], adapter_layers=3, critic="adapter") == pytest.approx(
        memory(reward_layers=(), adapter_layers=3, critic="adapter") + 4 * 3 * 16 * 2**12 / 2**20
    )


def test_answers_to_one_prompt_share_reading_it():
    assert seconds(completions_per_prompt=5) == pytest.approx(seconds() - 0.8 * 300 * 10 * 1e-3)


def test_by_trl_answers_are_padded_and_asked_about_twice_more():
    config = GRPOConfig(
        {}, "reward", steps=1, batch_size=10, completions_per_prompt=5, max_new_tokens=40,
        adapter_layers=3,
    )  # fmt: skip
    sizes = {"prompt_tokens": 30, "answer_tokens": 20, "reward_layers": [3]}

    def of(trainer, **changes):
        return estimate(replace(config, trainer=trainer, **changes), PROBE, **sizes)

    def update(trainer, **changes):
        return of(trainer, epochs=2, **changes).seconds - of(trainer, **changes).seconds

    whole = 700 * (7 * 1e-3 + 3 * 3e-3) + 400 * 5e-3
    before = 2 * (700 * 10 * 1e-3 + 400 * 2e-3)
    assert update("trl") == pytest.approx(whole)
    of_own = update("own", reuse_trunk=False)
    assert of("trl").seconds - of("own", reuse_trunk=False).seconds == pytest.approx(
        before + whole - of_own
    )
    assert of("trl").memory_mib > of("own").memory_mib


def test_evaluations_are_rollouts_with_their_scores():
    """Before the first step, after every second one and at the end: of 15 prompts each, in a batch
    of ten and one of five, which has as many decoding steps and merges."""
    sizes = {"prompt_tokens": 30, "answer_tokens": 20, "reward_layers": [10]}
    config = replace(CONFIG, steps=5, evaluate_every=2)

    more = estimate(config, PROBE, **sizes, held_out=15).seconds
    less = estimate(config, PROBE, **sizes).seconds

    rollout_and_score, whatever_the_size = 26.0 + 11.4, 40 * 0.5 + 10 * 0.1 + 10 * 0.1
    of_half = (rollout_and_score + whatever_the_size) / 2
    assert more - less == pytest.approx(4 * (rollout_and_score + of_half) - rollout_and_score)


def test_run_is_its_steps_loading_and_one_more_rollout_with_its_scores():
    found = estimate(CONFIG, PROBE, prompt_tokens=30, answer_tokens=20, reward_layers=[10])

    rollout_and_score = 26.0 + 11.4
    assert found.seconds == pytest.approx(10 + 20 + seconds() + rollout_and_score)
    assert (found.tokens_generated, found.tokens_trained) == (200, 400)


# --- memory -------------------------------------------------------------------------------------
def memory(probe=PROBE, reward_layers=(10,), **changes):
    config = replace(CONFIG, **changes)
    found = estimate(config, probe, prompt_tokens=30, answer_tokens=20, reward_layers=reward_layers)
    return found.memory_mib - 1000


def test_memory_is_adapters_merged_weights_and_activations():
    adapter = 10 * 16 * 2**12 / 2**20  # 0.625 Mi numbers
    fixed = 4 * adapter + 16 * adapter  # the reward model's; the policy's with its optimiser
    update = 1.25 * 1024 * 10 * 2**14 / 2**20 + 48

    assert memory() == pytest.approx(fixed + update)
    assert memory(checkpoint_every=2) == pytest.approx(fixed + update + 12 * adapter)


def test_full_fine_tuning_learns_whole_layers():
    adapter = 10 * 16 * 2**12 / 2**20
    layers = 10 / 16

    assert memory(train="full") == pytest.approx(memory() + 16 * (layers - adapter))


def test_fewer_micro_batch_tokens_need_less_until_the_rollout_is_the_largest():
    adapter = 10 * 16 * 2**12 / 2**20
    small = memory(PROBE._replace(vocabulary=2**20), micro_batch_tokens=64)

    rollout = (500 * 2**10 + 10 * 2**20 * 24) / 2**20
    assert small == pytest.approx(20 * adapter + 2.5 + rollout)


def test_full_critic_is_largest_while_its_checkpoint_is_written():
    adapter = 10 * 16 * 2**12 / 2**20
    big = PROBE._replace(parameters=100 * 2**20)

    assert memory(big, critic="full") == pytest.approx(4 * adapter + 40 * (adapter + 100))


def test_gradient_checkpointing_keeps_what_enters_each_layer():
    saved = 1.25 * 1024 * (9 * 2**14 - 10 * 256 * 4) / 2**20

    assert memory() - memory(gradient_checkpointing=True) == pytest.approx(saved)


# --- of a run ---------------------------------------------------------------------------------
@pytest.fixture
def policy(db):
    project = ProjectFactory()
    return PolicyFactory(project=project, probe={**PROBE._asdict(), "trainer": "here"})


def test_lengths_are_those_of_the_projects_prompts_and_the_policys_answers(policy):
    prompt = PromptFactory(project=policy.project, messages=[{"role": "user", "content": "a" * 40}])
    run = GenerateRunFactory(project=policy.project, policy=policy)
    text = Completion.objects.create(prompt=prompt, text="b" * 36)
    GeneratedCompletion.objects.create(completion=text, model_version=policy, run=run, sampling={})

    found = estimate_run(policy, None, CONFIG)

    assert (found.prompt_tokens, found.answer_tokens) == (20 + 10, 9 + 1)


def test_answers_are_taken_to_be_as_long_as_they_may_be_if_there_are_none(policy):
    assert estimate_run(policy, None, CONFIG).answer_tokens == CONFIG.max_new_tokens


def test_reward_models_run_says_on_which_layers_its_adapter_lies(policy):
    run = RunFactory(project=policy.project, config={"adapter_layers": 3})
    reward_model = RewardModelFactory(project=policy.project, parent=policy, run=run)
    top = replace(CONFIG, adapter_layers=3)

    on_all = RewardModelFactory(project=policy.project, parent=policy, run=RunFactory(config={}))
    few, many = (estimate_run(policy, each, top).minutes for each in (reward_model, on_all))
    assert few < many


def test_reward_model_of_another_base_says_nothing_about_layers(policy):
    run = RunFactory(project=policy.project, config={"adapter_layers": None})
    other = RewardModelFactory(project=policy.project, run=run)
    top = replace(CONFIG, adapter_layers=3)

    assert estimates.needs_second_model(policy, other)
    assert estimate_run(policy, other, top) == estimate_run(policy, None, top)


def test_each_member_of_a_reward_model_scores_apart(policy):
    """A pass through all layers and a merge of them, each step and once for the result."""
    one, four = (
        RewardModelFactory(
            project=policy.project, parent=policy, run=RunFactory(config={}), details=details
        )
        for details in ({}, {"members": 4})
    )

    found = [estimate_run(policy, each, CONFIG) for each in (one, four)]

    tokens = 10 * (found[0].prompt_tokens + found[0].answer_tokens)
    score = tokens * 10 * 1e-3 + 10 * 0.1
    assert found[1].seconds == pytest.approx(found[0].seconds + 2 * 3 * score)
    adapter = 10 * 16 * 2**12 / 2**20
    assert found[1].memory_mib == pytest.approx(found[0].memory_mib + 3 * 4 * adapter)


def test_reward_model_that_a_rule_names_counts_as_the_first_does(policy):
    named = RewardModelFactory(project=policy.project, parent=policy, run=RunFactory(config={}))
    rules = replace(CONFIG, rewards=[{"kind": "reward_model", "version": named.name}])

    assert estimates.reward_models(policy, None, rules) == [named]
    assert estimate_run(policy, None, rules) == estimate_run(policy, named, CONFIG)


def test_policy_is_as_fast_as_the_one_it_was_trained_from(policy):
    child = PolicyFactory(project=policy.project, parent=policy)

    assert estimate_run(child, None, CONFIG) == estimate_run(policy, None, CONFIG)


def test_speed_counts_only_where_the_last_run_ran(policy):
    unmeasured = PolicyFactory(project=policy.project)
    RunFactory(project=policy.project, host="here")

    assert estimate_run(policy, None, CONFIG)
    assert estimate_run(unmeasured, None, CONFIG) is None
    RunFactory(project=policy.project, host="elsewhere", round_number=2)
    assert estimate_run(policy, None, CONFIG) is None


def test_speed_counts_though_the_process_ran_in_a_container_of_another_name(policy):
    policy.probe |= {"host": "1f0c3a"}
    RunFactory(project=policy.project, host="here")

    assert estimate_run(policy, None, CONFIG)


def test_probe_that_lacks_a_field_counts_as_none(policy):
    policy.probe.pop("layer_merge")

    assert estimates.probe_of(policy) == {}
    assert estimate_run(policy, None, CONFIG) is None
    assert estimates.probe_in({"probe": policy.probe}) is None


def test_free_memory_is_known_of_this_machine_alone(settings, monkeypatch):
    monkeypatch.setattr(estimates.socket, "gethostname", lambda: "here")
    settings.RUN_MEMORY_LIMIT_MIB = 1

    assert estimates.free_memory_mib({"host": "here", "device": "CPU"}) == 1
    assert estimates.free_memory_mib({"host": "there", "device": "CPU"}) is None
    assert estimates.free_memory_mib({}) is None


# --- afterwards ---------------------------------------------------------------------------------
def test_actual_minutes_memory_and_tokens_stand_beside_the_estimate(db):
    now = timezone.now()
    run = RunFactory(
        kind=RunKind.PPO, status=Status.SUCCEEDED, config={"batch_size": 10, "epochs": 2},
        started=now - timedelta(minutes=3), finished=now, result={"peak_mib": 900},
        estimate=estimate(CONFIG, PROBE, prompt_tokens=30, answer_tokens=20)._asdict(),
    )  # fmt: skip
    for step in (1, 2):
        Metrics.objects.create(run=run, step=step, values={"length/mean": 7.0 + step})

    found = comparisons(run)

    assert [(row.label, row.actual) for row in found] == [
        ("Time", 180.0), ("Memory", 900), ("Written", 170.0), ("Learned from", 340.0),
    ]  # fmt: skip
    assert found[2].estimated == 200
    run.attempts = 1  # it has taken longer than its last attempt
    assert comparisons(run)[0][3:] == (None, "not known, because the run was resumed")
    run.estimate["device"] = "NVIDIA H200"
    assert comparisons(run)[1][3:] == (None, "of the GPU; what was used of it is not measured")
    run.estimate = {}
    assert comparisons(run) == []
