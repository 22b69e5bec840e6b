"""What is found in the database for the arithmetic, by kind of run."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from annotator.models import Completion, Split
from rlhf import work
from rlhf.estimates import estimate_run
from rlhf.expecting import PLANS, expect
from rlhf.inputs import Order, config_of
from rlhf.models import (
    ONLINE,
    DatasetKind,
    EndpointUse,
    GeneratedCompletion,
    ModelKind,
    RunKind,
    Status,
)
from rlhf.text_lengths import Unknown, pairs_of, rows_of
from rlhf.training.config import DPOConfig, RewardModelConfig
from rlhf.training.supervised_config import SupervisedConfig
from rlhf.work import Rows, Texts
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EndpointFactory,
    ExportFactory,
    GenerateRunFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    make_comparison,
    make_dataset,
)
from tests.rlhf.test_estimates import PROBE

pytestmark = pytest.mark.django_db


@pytest.fixture
def policy():
    return PolicyFactory(project=ProjectFactory(), probe={**PROBE._asdict(), "trainer": "here"})


@pytest.fixture
def prompts(policy):
    """Eight to train on, two held out; of 40 letters, which are ten tokens, and 20 of the template."""
    splits = [Split.TRAIN] * 8 + [Split.TEST] * 2
    return [
        PromptFactory(
            project=policy.project, split=split, messages=[{"role": "user", "content": f"{n:040}"}]
        )
        for n, split in enumerate(splits)
    ]


def expected(policy, kind, settings=(), **fields):
    order = Order(policy.project, kind, 1, dict(settings), policy=policy, **fields)
    return expect(order, config_of(order))


def wrote(version, prompt, text):
    run = GenerateRunFactory(project=version.project, policy=version, status=Status.STOPPED)
    completion = Completion.objects.create(prompt=prompt, text=text)
    GeneratedCompletion.objects.create(
        completion=completion, model_version=version, run=run, sampling={}
    )


def ended(project, kind, seconds, **fields):
    finished = timezone.now()
    started = finished - timedelta(seconds=seconds)
    fields = {"status": Status.SUCCEEDED, "started": started, "finished": finished, **fields}
    return RunFactory(project=project, kind=kind, **fields)


# --- writing ----------------------------------------------------------------------------------
def test_generation_answers_the_prompts_that_have_no_answers_yet(policy, prompts):
    found = expected(policy, RunKind.GENERATE, {"max_new_tokens": 50}, max_prompts=5)

    assert found.estimate.tokens_generated == 5 * 2 * 50
    assert found.assumes == "With 5 prompts of 30 and answers of 50 tokens."
    assert expected(policy, RunKind.GENERATE).estimate.tokens_read == 10 * 30


def test_policy_that_has_written_nothing_writes_as_the_one_it_comes_from(policy, prompts):
    child = PolicyFactory(project=policy.project, parent=policy)
    wrote(policy, prompts[0], "b" * 36)

    assert expected(child, RunKind.GENERATE).estimate.answer_tokens == 9 + 1


def test_evaluation_asks_held_out_prompts_of_both(policy, prompts):
    rival = PolicyFactory(project=policy.project, parent=policy)
    reward_model = RewardModelFactory(
        project=policy.project, parent=policy, run=RunFactory(config={}), details={"members": 2}
    )

    settings = {"max_new_tokens": 50, "best_of": 4}
    found = expected(policy, RunKind.EVALUATE, settings, rival=rival, reward_model=reward_model)

    assert found.estimate.tokens_generated == 2 * (4 + 1) * 50
    assert found.estimate.tokens_read == 2 * 2 * 30 + 2 * 2 * (4 + 1) * 80
    assert found.notes == ()


def test_evaluation_reads_by_reward_models_that_its_rewards_name_too(policy, prompts):
    own = RewardModelFactory(project=policy.project, parent=policy, run=RunFactory(config={}))
    rules = [{"kind": "reward_model", "version": own.name}, {"kind": "sentiment"}]

    by_name = expected(policy, RunKind.EVALUATE, {"best_of": 4, "rewards": rules}, rival=policy)
    given = expected(policy, RunKind.EVALUATE, {"best_of": 4}, rival=policy, reward_model=own)

    assert by_name == given


def test_distillation_reads_by_reward_models_that_its_rewards_name_too(policy):
    PromptFactory(project=policy.project, split=Split.TRAIN)
    own = RewardModelFactory(project=policy.project, parent=policy, run=RunFactory(config={}))
    rules = [{"kind": "reward_model", "version": own.name}, {"kind": "sentiment"}]

    by_name = expected(policy, RunKind.DISTILL, {"rewards": rules})
    given = expected(policy, RunKind.DISTILL, reward_model=own)

    assert by_name == given
    assert by_name.estimate.tokens_read > 0


def test_reward_model_with_weights_of_its_own_is_a_note(policy, prompts):
    rival = PolicyFactory(project=policy.project, parent=policy)
    own = RewardModelFactory(project=policy.project, parent=policy, details={"is_whole": True})

    found = expected(policy, RunKind.EVALUATE, rival=rival, reward_model=own)

    assert ["weights of its own" in note for note in found.notes] == [True]


def test_who_has_not_been_measured_is_named(policy, prompts):
    other = PolicyFactory(project=policy.project)

    with pytest.raises(Unknown, match=f"How fast {other} is has not been measured") as unknown:
        expected(policy, RunKind.EVALUATE, rival=other)
    assert unknown.value.version == other


def test_prompt_version_reads_what_it_puts_around_a_question(policy, prompts, tmp_path):
    prompting = {"system": "s" * 400, "budget_tokens": 100}
    (tmp_path / "prompting.json").write_text(json.dumps(prompting))
    version = PolicyFactory(
        project=policy.project, parent=policy, kind=ModelKind.PROMPT, path=str(tmp_path)
    )

    assert expected(version, RunKind.GENERATE).estimate.prompt_tokens == 100


# --- elsewhere --------------------------------------------------------------------------------
@pytest.fixture
def elsewhere(policy):
    version = PolicyFactory(project=policy.project, kind=ModelKind.ENDPOINT)
    return EndpointFactory(version=version, prompt_price=2.0, completion_price=10.0).version


def test_endpoint_is_as_fast_as_it_was_and_has_its_price(elsewhere, prompts):
    run = ended(elsewhere.project, RunKind.GENERATE, 30, policy=elsewhere, round_number=9)
    EndpointUse.objects.create(endpoint=elsewhere.endpoint, run=run, requests=10)

    found = expected(elsewhere, RunKind.GENERATE, {"max_new_tokens": 50})

    assert found.estimate.seconds == pytest.approx(10 + 10 * 3)
    # Prompts of 14 tokens, a quarter of their letters and four around them.
    assert found.spent == pytest.approx((10 * 14 * 2 + 10 * 2 * 50 * 10) / 1e6)


def test_time_of_an_endpoint_that_nobody_has_asked_is_not_known(elsewhere, prompts):
    found = expected(elsewhere, RunKind.GENERATE, {"max_new_tokens": 50})

    assert (found.estimate.minutes, found.estimate.memory_mib) == (None, 0.0)
    assert found.spent > 0


# --- learning ---------------------------------------------------------------------------------
@pytest.fixture
def export(policy):
    """Three pairs of one ranking: prompts of 40 letters, answers of 76, which are 20 tokens with their end."""
    export = ExportFactory(project=policy.project, n_rows=3)
    counts = {"rows": 60, "rows_train": 50, "rows_test": 10, "rows_tied": 6}
    export.manifest = {"counts": counts}
    export.n_rows = 60
    said = {"prompt": [{"role": "user", "content": "p" * 40}], "n_judgments": 2}
    sides = [("a", "b"), ("a", "c"), ("b", "c")]
    rows = [{**said, "chosen": a * 76, "rejected": b * 76} for a, b in sides]
    (export.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return export


def test_pairs_are_counted_by_the_manifest_and_measured_by_the_first_lines(export):
    found = pairs_of(export, PROBE, 1024)

    assert (found.train, found.tied, found.test, found.votes) == (50, 5, 10, 2)
    assert found.texts == Texts(30, 20)
    assert found.shared == pytest.approx((30 + 3 * 20) / 3)
    assert pairs_of(export, PROBE, 25).texts == Texts(15, 10)


def test_reward_model_and_dpo_learn_from_the_exports_pairs(policy, export):
    pairs = pairs_of(export, PROBE, 1024)
    reward, dpo = (
        expect(Order(policy.project, kind, 1, {}, policy=policy, export=export), config)
        for kind, config in (
            (RunKind.REWARD_MODEL, RewardModelConfig({})), (RunKind.DPO, DPOConfig(model={})),
        )
    )  # fmt: skip

    assert reward.estimate.tokens_trained == pytest.approx(2 * 50 * pairs.shared)
    assert dpo.estimate.tokens_trained == pytest.approx(45 * 2 * (30 + 20))
    assert dpo.assumes == "With 45 pairs to learn from, prompts of 30 and answers of 20 tokens."


def test_memory_of_what_learns_by_trl_has_its_libraries_in_it(policy, export):
    config = DPOConfig(model={})
    parts = work.preferring(config, PROBE, pairs_of(export, PROBE, config.max_tokens))

    found = expect(Order(policy.project, RunKind.DPO, 1, {}, policy=policy, export=export), config)

    assert found.estimate.memory_mib == parts["policy"].memory_mib + 115


def test_export_that_cannot_be_read_has_no_estimate(policy, export):
    (export.folder / "data.jsonl").write_text("{")

    with pytest.raises(Unknown, match="cannot be read"):
        pairs_of(export, PROBE, 1024)


def test_rows_are_measured_by_the_first_and_shown_as_often_as_their_weight_says(policy):
    rows = [{"text": "a" * 36, "split": "train"}] * 3 + [{"text": "a" * 44, "split": "test"}]
    dataset = make_dataset(policy.project, rows=rows)
    config = SupervisedConfig(model={}, weights={"tales": 2.0})

    assert rows_of(dataset, PROBE, config) == Rows(train=6, test=1, tokens=38 / 4)


def test_conversations_have_a_template_and_are_no_longer_than_may_be(policy):
    said = [{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "b" * 40}]
    dataset = make_dataset(
        policy.project, "chats", DatasetKind.DEMONSTRATIONS, [{"messages": said, "split": "train"}]
    )

    assert rows_of(dataset, PROBE, SupervisedConfig(model={})).tokens == 40
    assert rows_of(dataset, PROBE, SupervisedConfig(model={}, max_tokens=32)).tokens == 32


def test_search_is_all_its_trials_and_no_longer_than_the_longest_time_and_one_more(policy):
    rows = [{"text": "a" * 4000, "split": split} for split in ["test", *["train"] * 49]]
    dataset = make_dataset(policy.project, rows=rows)
    tuned = expected(policy, RunKind.DOMAIN, datasets=(dataset,)).estimate
    space = {"tries": "domain", "space": "learning_rate = 1e-5 .. 1e-3 log", "trials": 8}

    found, short = (
        expected(policy, RunKind.SEARCH, {**space, **more}, datasets=(dataset,)).estimate
        for more in ({}, {"max_hours": 2.5 * tuned.minutes / 60})
    )

    assert found.minutes == pytest.approx(8 * tuned.minutes)
    assert short.tokens_trained == pytest.approx(3 * tuned.tokens_trained)
    assert found.memory_mib == tuned.memory_mib


# --- the others -------------------------------------------------------------------------------
def test_order_of_questions_scores_the_answers_of_open_comparisons(policy, prompts):
    policy.project.queue_order = "informative"
    make_comparison(prompts[0], "a" * 76, "b" * 76)
    reward_model = RewardModelFactory(
        project=policy.project, parent=policy, run=RunFactory(config={})
    )
    wrote(policy, prompts[0], "c" * 76)
    order = Order(policy.project, RunKind.ORDER_QUEUE, 1, {}, reward_model=reward_model)

    assert expect(order, config_of(order)).estimate.tokens_read == 2 * (30 + 20)


def test_conversations_last_as_long_as_people_talk(policy):
    with pytest.raises(Unknown, match="ends 30 minutes after the last question"):
        expected(policy, RunKind.CONVERSE)


def test_merging_loads_and_writes(policy):
    child = PolicyFactory(project=policy.project, parent=policy)

    assert expected(child, RunKind.MERGE).estimate.seconds == 10 + 2 * 20


def test_screening_is_as_fast_as_the_latest_were(policy, prompts):
    screened = {"config": {"screened": "project", "classifier": ""}, "round_number": 2}
    for seconds, n in ((9, 9), (40, 10), (5, 10)):
        ended(policy.project, RunKind.SCREEN, seconds, result={"n_rows": n}, **screened)
    order = Order(policy.project, RunKind.SCREEN, 1, {})

    found = expect(order, config_of(order))

    assert found.estimate.seconds == pytest.approx(10 * 1.0)
    assert found.assumes == "As the last 3 like it went, for 10 texts."


def test_what_nobody_has_done_yet_has_no_estimate(policy):
    order = Order(policy.project, RunKind.IMPORT_MODEL, 1, {"source": "tiny"})

    with pytest.raises(Unknown, match="No run like this has come to its end yet"):
        expect(order, config_of(order))
    ended(ProjectFactory(), RunKind.IMPORT_MODEL, 45)
    assert expect(order, config_of(order)).estimate.seconds == 45


def test_ppo_is_estimated_as_before(policy):
    settings = {"rewards": [{"kind": "length", "target": 10}]}
    order = Order(policy.project, RunKind.PPO, 1, settings, policy=policy)
    config = config_of(order)

    assert expect(order, config).estimate == estimate_run(policy, None, config)


def test_every_kind_that_a_form_launches_has_an_estimate_or_says_why_not():
    assert {*PLANS, *ONLINE, RunKind.SEARCH} == set(RunKind)
