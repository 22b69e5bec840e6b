import pytest

from rlhf import rounds
from rlhf.models import Run, RunKind, Status
from rlhf.runs import RunRefused
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    SAMPLING,
    EvaluateRunFactory,
    GateFactory,
    GenerateRunFactory,
    PolicyFactory,
    RewardModelFactory,
    RoundFactory,
    RunFactory,
    make_comparison,
    make_judgment,
    promote_trial,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


def make_round(project, number=1):
    """A round whose PPO and evaluation have ended, with one vote; its PPO run."""
    policy = PolicyFactory(project=project)
    RoundFactory(project=project, number=number, policy=policy)
    done = {"project": project, "status": Status.SUCCEEDED, "round_number": number}
    RunFactory(kind=RunKind.REWARD_MODEL, **done)
    ppo = RunFactory(kind=RunKind.PPO, **done)
    PolicyFactory(project=project, parent=policy, run=ppo)
    EvaluateRunFactory(**done)
    comparison = make_comparison(PromptFactory(project=project), "good", "bad", round_number=number)
    make_judgment(comparison, *[[each] for each in comparison.completions.all()])
    return ppo


# --- the table ---------------------------------------------------------------------------------
def test_rounds_stand_side_by_side_newest_first(project):
    first, second = make_round(project, 1), make_round(project, 2)

    table = rounds.rounds_of(project)

    assert [row.number for row in table] == [2, 1]
    assert [row.votes for row in table] == [1, 1]
    assert [row.ppo for row in table] == [second, first]
    assert [row.new_policy for row in table] == [second.outputs.get(), first.outputs.get()]
    assert [row.win_rate.n_comparisons for row in table] == [0, 0]


def test_best_of_several_answers_is_not_the_rounds_win_rate(project):
    make_round(project)
    plain = project.runs.get(kind=RunKind.EVALUATE)
    done = {"project": project, "status": Status.SUCCEEDED, "round_number": 1}

    EvaluateRunFactory(**done, config={**SAMPLING, "best_of": 16})
    assert rounds.rounds_of(project)[0].evaluate == plain

    later = EvaluateRunFactory(**done, config={**SAMPLING, "best_of": 1})
    assert rounds.rounds_of(project)[0].evaluate == later


def test_a_gate_is_not_the_rounds_win_rate(project):
    make_round(project)
    plain = project.runs.get(kind=RunKind.EVALUATE)

    GateFactory(project=project)

    assert rounds.rounds_of(project)[0].evaluate == plain


def test_round_that_has_just_begun_is_empty(project):
    policy = RoundFactory(project=project).policy

    assert rounds.rounds_of(project) == [(1, policy, 0, False, None, None, None, None, None, None)]


def test_votes_of_evaluations_and_skips_do_not_count(project):
    RoundFactory(project=project)
    prompt = PromptFactory(project=project)
    make_judgment(make_comparison(prompt, "a", "b", purpose="evaluation"), verdict="all_bad")
    make_judgment(make_comparison(prompt, "c", "d"), verdict="skipped")
    make_judgment(make_comparison(prompt, "e", "f"), verdict="all_bad")

    (row,) = rounds.rounds_of(project)

    assert (row.votes, row.is_vote_count_cut) == (1, False)


def test_agreement_is_that_of_the_round(project):
    RoundFactory(project=project, number=1)
    RoundFactory(project=project, number=2)
    for number in (1, 2):
        comparison = make_comparison(
            PromptFactory(project=project), "a", "b", overlap=2, round_number=number
        )
        first, second = comparison.completions.all()
        make_judgment(comparison, [first], [second])
        if number == 1:
            make_judgment(comparison, [first], [second])

    newest, oldest = rounds.rounds_of(project)

    assert (newest.agreement, oldest.agreement.value) == (None, 1.0)


def test_only_the_newest_votes_are_counted(project, monkeypatch):
    monkeypatch.setattr(rounds, "VOTES_COUNTED", 2)
    for number in (1, 2, 3):
        make_round(project, number)

    table = rounds.rounds_of(project)

    assert [(row.votes, row.is_vote_count_cut) for row in table] == [
        (1, False), (1, True), (None, False),
    ]  # fmt: skip


def test_table_takes_the_same_queries_for_one_round_and_three(project, django_assert_num_queries):
    make_round(project, 1)
    with django_assert_num_queries(8):
        rounds.rounds_of(project)

    make_round(project, 2)
    make_round(project, 3)

    with django_assert_num_queries(8):
        rounds.rounds_of(project)


# --- the next one ------------------------------------------------------------------------------
def test_next_round_starts_from_the_new_policy_and_samples_from_it(project):
    ppo = make_round(project)
    GenerateRunFactory(
        project=project,
        status=Status.SUCCEEDED,
        config={"temperature": 0.5, "max_new_tokens": 8, "seed": 0, "completions_per_prompt": 2},
    )

    rounds.start_next_round(project, None, after=1)

    begun, run = rounds.current_round(project), Run.objects.first()
    assert (begun.number, begun.policy) == (2, ppo.outputs.get())
    assert (run.kind, run.round_number, run.policy) == ("generate", 2, ppo.outputs.get())
    assert run.config["temperature"] == 0.5


def test_a_promoted_trial_is_the_new_policy_of_its_round(project):
    PromptFactory(project=project)
    policy = RoundFactory(project=project).policy
    version = promote_trial(policy, RunKind.PPO, {"kl": 2.0})
    (row,) = rounds.rounds_of(project)

    rounds.start_next_round(project, None, after=1)

    assert (row.ppo, row.ppo.outcome["kl"], row.new_policy) == (version.run, 2.0, version)
    assert rounds.current_round(project).policy == version


def test_next_round_starts_once(project):
    make_round(project)
    rounds.start_next_round(project, None, after=1)
    rounds.start_next_round(project, None, after=1)

    assert [each.number for each in project.rounds.all()] == [1, 2]
    assert project.runs.filter(kind=RunKind.GENERATE).count() == 1


def test_next_round_needs_a_new_policy(project):
    RoundFactory(project=project)

    with pytest.raises(RunRefused, match="Round 1 has made no new policy yet"):
        rounds.start_next_round(project, None, after=1)


# --- what to suggest ---------------------------------------------------------------------------
def test_ppo_goes_with_the_newest_reward_model_and_the_policy_it_was_trained_on(project):
    PolicyFactory(project=project)
    reward_model = RewardModelFactory(project=project)
    PolicyFactory(project=project)

    assert rounds.suggestions(project, RunKind.PPO) == {
        "policy": reward_model.parent,
        "reward_model": reward_model,
    }


def test_evaluation_compares_the_newest_policy_with_its_parent(project):
    ppo = make_round(project)
    new = ppo.outputs.get()

    assert rounds.suggestions(project, RunKind.EVALUATE) == {"policy": new, "rival": new.parent}


def test_generation_is_of_the_round_s_policy(project):
    policy = RoundFactory(project=project).policy
    PolicyFactory(project=project)

    assert rounds.suggestions(project, RunKind.GENERATE) == {"policy": policy}


def test_nothing_is_suggested_in_an_empty_project(project):
    assert rounds.suggestions(project, RunKind.EVALUATE) == {}
    assert rounds.current_number(project) == 1


def test_ancestors_lead_from_the_parent_to_the_root(project, django_assert_num_queries):
    root = PolicyFactory(project=project)
    middle = PolicyFactory(project=project, parent=root)
    leaf = PolicyFactory(project=project, parent=middle)

    with django_assert_num_queries(1):
        assert rounds.ancestors_of(leaf) == [middle, root]


# --- best of n ---------------------------------------------------------------------------------
def test_best_of_n_compares_the_policy_of_a_reward_model_with_itself(project):
    old, new = RewardModelFactory.create_batch(2, project=project)

    assert rounds.best_of_n(project, 16) == {
        "policy": new.parent, "rival": new.parent, "reward_model": new, "best_of": 16,
    }  # fmt: skip
    assert rounds.best_of_n(project, 4, old.pk)["reward_model"] == old
    assert rounds.best_of_n(ProjectFactory(), 16) == {"best_of": 16}


def test_the_baseline_of_a_run_has_its_rewards_and_its_sampling(project):
    reward_model = RewardModelFactory(project=project)
    shared = {"reward_weight": 0.5, "missing_eos_penalty": 2.0, "temperature": 0.9}
    rules = [{"kind": "length", "target": 80, "weight": -0.2}]
    run = RunFactory(
        project=project, kind=RunKind.PPO, policy=reward_model.parent, reward_model=reward_model,
        config={**shared, "rewards": rules, "steps": 3, "seed": 7},
    )  # fmt: skip

    assert rounds.baseline_of(run, 8) == {
        **shared, "rewards": "length target=80 weight=-0.2", "policy": run.policy,
        "rival": run.policy, "reward_model": reward_model, "best_of": 8,
    }  # fmt: skip
