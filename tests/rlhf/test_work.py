"""By hand: L = 10 layers, f = 1 ms and g = 3 ms a token and layer, h = 2 ms and u = 5 ms a token of the head."""

import pytest

from rlhf.training.config import EvaluateConfig, GenerateConfig, RewardModelConfig
from rlhf.training.distill_config import DistillConfig
from rlhf.training.preference_config import DPOConfig, KTOConfig
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.work import (
    Elsewhere,
    Pairs,
    Rows,
    Scorer,
    Texts,
    Work,
    adding_up,
    distilling,
    estimate_of,
    evaluating,
    generating,
    in_turn,
    learn,
    measuring,
    moving,
    preferring,
    read,
    rewarding,
    tuning,
    write,
)
from tests.rlhf.test_estimates import PROBE

TEXTS = Texts(prompt=30.0, answer=20.0)
LOADED = 20.0
# 120 pairs to learn from, of which 20 are ties, and 10 held out; a pair is 2·(30 + 20) tokens, or 70 where
# the prompt is shared.
PAIRS = Pairs(120, 20, 10, TEXTS, shared=70.0, votes=3.0)
GENERATE = GenerateConfig({}, completions_per_prompt=2, max_new_tokens=40, batch_size=10)


# --- parts ------------------------------------------------------------------------------------
def test_parts_in_turn_add_up_and_use_the_same_memory():
    found = in_turn(Work(1, 500, 10, 20, 30), Work(2, 900, 1, 2, 3))

    assert found == Work(3, 900, 11, 22, 33)
    assert in_turn(found, Work(None)).seconds is None
    assert Work(2, 900, 1, 2, 3).times(3) == Work(6, 900, 3, 6, 9)


def test_answers_are_written_in_batches():
    """25 prompts, two answers each, ten at once: five batches, each as long as the longest answer may be."""
    found = write(PROBE, TEXTS, 25, n=2, longest=40, batch_size=10)

    prefill, decode = 25 * 30 * 10 * 1e-3, 5 * 40 * 0.5 + 25 * 2 * 20 * 0.01
    assert found.seconds == pytest.approx(prefill + decode)
    assert (found.read, found.written) == (750, 1000)
    assert found.memory_mib == pytest.approx(1000 + 10 * (70 * 2**10 + 2**16 * 24) / 2**20)


def test_more_answers_than_fit_into_a_batch_read_their_prompt_again():
    """Two prompts with 16 answers each, eight at once: four batches, in each of which a prompt is read."""
    found = write(PROBE, TEXTS, 2, n=16, longest=40, batch_size=8)

    assert found.read == 4 * 30
    assert found.seconds == pytest.approx(120 * 10 * 1e-3 + 4 * 40 * 0.5 + 32 * 20 * 0.01)


def test_elsewhere_a_request_asks_for_all_answers_to_a_prompt():
    found = write(Elsewhere(1.5), TEXTS, 4, n=3, longest=40, batch_size=1)

    assert found == Work(seconds=6.0, memory_mib=0.0, read=120, written=240)
    assert write(Elsewhere(None), TEXTS, 4, longest=40, batch_size=1).seconds is None


def test_reading_goes_through_layers_and_some_of_it_through_the_head():
    assert read(PROBE, 500, 200).seconds == pytest.approx(500 * 10 * 1e-3 + 200 * 2e-3)
    assert read(PROBE, 500, layers=4).seconds == pytest.approx(500 * 4 * 1e-3)


def test_learning_goes_back_through_the_layers_that_move():
    top = moving(PROBE, "lora", 3, 16)

    found = learn(PROBE, 500, 200, top, at_once=1024)

    assert found.seconds == pytest.approx(500 * (7 * 1e-3 + 3 * 3e-3) + 200 * 5e-3)
    kept = learn(PROBE, 500, 200, top, at_once=1024, is_trunk_kept=True)
    assert kept.seconds == pytest.approx(500 * 3 * 3e-3 + 200 * 5e-3)
    adapter = 3 * 16 * 2**12 / 2**20
    assert found.memory_mib == pytest.approx(
        1000 + 16 * adapter + 1.25 * 1024 * 3 * 2**14 / 2**20 + 48
    )


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ("lora", 10 * 16 * 2**12), ("full", 10 * 2**16), ("ia3", 3 * 10 * 256),
        ("prompt", 8 * 256), ("prefix", 2 * 8 * 10 * 256),
    ],
)  # fmt: skip
def test_how_many_numbers_learn(method, numbers):
    found = moving(PROBE, method, None, 16, virtual_tokens=8)

    assert (found.layers, found.numbers) == (10, numbers)
    assert found.factor == (1.5 if method == "full" else 1.0)


# --- kinds ------------------------------------------------------------------------------------
def test_a_run_is_its_parts_and_the_start_of_python():
    parts = generating(GENERATE, PROBE, TEXTS, 25)

    found = estimate_of(parts, TEXTS)
    assert found.seconds == pytest.approx(10 + LOADED + 7.5 + 110)
    assert (found.tokens_read, found.tokens_generated, found.tokens_trained) == (750, 1000, 0)
    assert estimate_of({"policy": Work(None)}, TEXTS).minutes is None


def test_evaluation_writes_for_both_and_scores_what_it_chooses_from():
    config = EvaluateConfig({}, {}, "reward", best_of=4, max_new_tokens=40, batch_size=20)
    scorers = [Scorer(PROBE, members=2), Scorer(PROBE)]

    found = evaluating(config, PROBE, Elsewhere(2.0), TEXTS, TEXTS, 10, scorers)

    assert found["policy"].written == 4 * found["rival"].written == 800
    assert found["rival"].seconds == 20.0
    scored = 3 * 10 * (4 * 50 + 50) * 10 * 1e-3
    assert found["reward_model"].seconds == pytest.approx(2 * LOADED + scored)
    assert found["reward_model"].memory_mib == 2 * PROBE.resident_mib
    assert evaluating(config, PROBE, PROBE, TEXTS, TEXTS, 10)["reward_model"] == Work()


def test_distillation_shares_the_prompts_between_teacher_and_student():
    config = DistillConfig({}, {}, "reward", completions_per_prompt=4, rehearsal_share=0.2)

    found = distilling(config, Elsewhere(1.0), PROBE, TEXTS, 50, [Scorer(PROBE)])

    assert (found["policy"].seconds, found["policy"].written) == (40.0, 40 * 4 * 20)
    assert found["rival"].written == 10 * 4 * 20
    assert found["reward_model"].read == 40 * 4 * 50
    assert distilling(config, PROBE, None, TEXTS, 50)["rival"] == Work()


def test_suite_reads_references_and_general_text_and_writes():
    config = SuiteConfig({}, max_new_tokens=40, batch_size=10)

    found = measuring(config, PROBE, None, None, TEXTS, 10, 1000.0, 50)["policy"]

    losses = (10 * 50 + 1000) * 10 * 1e-3 + (10 * 20 + 1000) * 2e-3
    answers = 300 * 10 * 1e-3 + 40 * 0.5 + 200 * 0.01
    assert found.seconds == pytest.approx(LOADED + losses + answers)


def test_suites_rival_writes_only_for_a_judge_who_reads_each_pair_twice():
    config = SuiteConfig({}, {}, {}, max_new_tokens=40, batch_size=10)

    alone = measuring(config, PROBE, PROBE, None, TEXTS, 10, 1000.0, 50)
    judged = measuring(config, PROBE, PROBE, PROBE, TEXTS, 10, 1000.0, 50)

    assert (alone["rival"].written, judged["rival"].written) == (0, 200)
    assert alone["judge"] == Work()
    assert judged["judge"].read == 2 * (10 + 50) * (30 + 2 * 20 + 120)


def test_policy_elsewhere_shows_no_losses():
    found = measuring(SuiteConfig({}), Elsewhere(1.0), None, None, TEXTS, 10, 1000.0, 50)

    assert found["policy"] == Work(10.0, 0.0, read=300, written=200)


def test_reward_model_writes_its_scale_learns_and_reads_what_is_held_out():
    config = RewardModelConfig({}, epochs=2, policy_samples=10, max_new_tokens=40)

    found = rewarding(config, PROBE, PAIRS)["policy"]

    samples = 300 * 10 * 1e-3 + 40 * 0.5 + 200 * 0.01
    learned, held_out = 2 * 120 * 70 * 10 * 3e-3, 2 * 10 * 70 * 10 * 1e-3
    assert found.seconds == pytest.approx(LOADED + samples + learned + held_out)
    assert found.learned == 16_800


def test_reward_models_trunk_is_computed_once_for_all_epochs_and_members():
    config = RewardModelConfig({}, epochs=2, members=4, adapter_layers=3, policy_samples=10)

    all_layers = rewarding(config, PROBE, PAIRS, PROBE)["base"].seconds
    assert all_layers == pytest.approx(
        LOADED + 130 * 70 * 7 * 1e-3 + 8 * (120 * 70 * 3 * 3e-3 + 10 * 70 * 3 * 1e-3)
    )


def test_learning_curve_of_a_reward_model_learns_from_85_percent_more():
    plain, curve = (
        rewarding(RewardModelConfig({}, learning_curve=curve), PROBE, PAIRS)["policy"].learned
        for curve in (False, True)
    )

    assert curve == pytest.approx(1.85 * plain)


def test_tuning_measures_what_is_held_out_five_times():
    """Of two datasets, one shown half; of the other's held-out rows 200 are measured."""
    datasets = [Rows(train=50, test=10, tokens=100), Rows(train=900, test=1000, tokens=40)]

    found = tuning(SupervisedConfig(model={}, epochs=3), PROBE, datasets)["policy"]

    learned, held_out = 3 * (5000 + 36_000), 5 * (1000 + 200 * 40)
    seconds = learned * (10 * 3e-3 + 5e-3) + held_out * (10 * 1e-3 + 2e-3)
    assert found.seconds == pytest.approx(LOADED + seconds)
    assert found.learned == learned


def test_pull_towards_the_base_reads_all_once_more():
    rows = [Rows(train=50, test=0, tokens=100)]
    free = SupervisedConfig(model={}, epochs=1)
    pulled = SupervisedConfig(model={}, epochs=1, anchor="kl", anchor_coefficient=0.1)

    more = (
        tuning(pulled, PROBE, rows)["policy"].seconds - tuning(free, PROBE, rows)["policy"].seconds
    )
    assert more == pytest.approx(5000 * (10 * 1e-3 + 2e-3))


def test_dpo_asks_the_reference_once_and_learns_in_each_epoch():
    config = DPOConfig(model={}, epochs=2, samples=10, max_new_tokens=40)

    found = preferring(config, PROBE, PAIRS)["policy"]

    tokens, answers = 100 * 100, 100 * 40
    reference = tokens * 10 * 1e-3 + answers * 2e-3
    learned = 2 * (tokens * 10 * 3e-3 + answers * 5e-3)
    held_out = 5 * (10 * 100 * 10 * 1e-3 + 10 * 40 * 2e-3)
    samples = 2 * (300 * 10 * 1e-3 + 40 * 0.5 + 200 * 0.01 + 500 * 10 * 1e-3 + 200 * 2e-3)
    assert found.seconds == pytest.approx(LOADED + reference + learned + held_out + samples)
    assert found.learned == 20_000


def test_dpo_on_each_vote_learns_as_often_as_there_are_votes():
    each = DPOConfig(model={}, votes="each")

    assert preferring(each, PROBE, PAIRS)["policy"].learned == 3 * 10_000


def test_kto_reads_mismatched_answers_for_the_reference_and_in_each_epoch():
    dpo, kto, apo = (
        preferring(config, PROBE, PAIRS)["policy"]
        for config in (
            DPOConfig(model={}, epochs=2),
            KTOConfig(model={}, epochs=2),
            KTOConfig(model={}, epochs=2, loss="apo_zero_unpaired"),
        )
    )

    assert kto.read - dpo.read == 3 * 10_000
    assert apo.seconds == pytest.approx(dpo.seconds)


def test_adding_up_loads_a_model_and_writes_it():
    half = PROBE._replace(element_bytes=2)

    assert adding_up(PROBE)["policy"] == Work(40.0, 1000.0)
    assert adding_up(half)["policy"] == Work(40.0, 1002.0)
