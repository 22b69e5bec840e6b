import pytest
from django.urls import reverse
from django.utils import timezone

from annotator.exporting import create_export
from annotator.importing import import_jsonl, judge_named
from annotator.models import Judgment, Role
from rlhf import loop
from rlhf.gate_models import Decision
from rlhf.gating import overrule
from rlhf.models import RunKind, Status
from rlhf.templatetags import quantities
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import (
    EvaluateRunFactory,
    ExportFactory,
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

KEYS = [
    "prompts", "comparisons", "judgments", "export",
    "reward_model", "ppo", "new_policy", "evaluation",
]  # fmt: skip


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", overlap=1)


def steps(project, role=Role.ADMIN):
    return {step.key: step for step in loop.strip_of(project, role).steps}


def the_action(project, role=Role.ADMIN):
    """The one highlighted action, as (step, label)."""
    strip = loop.strip_of(project, role)
    (found,) = [step for step in strip.steps if step.action and step.action.is_primary]
    return found.key, found.action.label


def succeeded(kind, project, **fields):
    return RunFactory(kind=kind, project=project, status=Status.SUCCEEDED, **fields)


class Loop:
    """Takes a project through its round, one step at a time."""

    def __init__(self, project):
        self.project = project

    def import_model(self):
        self.policy = PolicyFactory(project=self.project, name="base")
        RoundFactory(project=self.project, policy=self.policy)

    def compare(self, n=2, **fields):
        prompts = PromptFactory.create_batch(n, project=self.project)
        return [make_comparison(prompt, "good", "bad", **fields) for prompt in prompts]

    def judge(self, comparisons):
        for comparison in comparisons:
            good, bad = comparison.completions.order_by("entries__position")
            make_judgment(comparison, [good], [bad])

    def export(self):
        return ExportFactory(project=self.project, n_rows=2)

    def train_reward_model(self, export, **fields):
        fields = {"result": {"accuracy": 0.75}, **fields}
        run = succeeded(RunKind.REWARD_MODEL, self.project, export=export, **fields)
        RewardModelFactory(project=self.project, parent=self.policy, run=run)
        return run

    def run_ppo(self):
        run = succeeded(RunKind.PPO, self.project, result={"kl": 3.14159})
        PolicyFactory(project=self.project, parent=self.policy, run=run, name="polite")
        return run


@pytest.fixture
def turn(project):
    return Loop(project)


@pytest.fixture
def trained(turn):
    """A round whose PPO has ended."""
    turn.import_model()
    turn.judge(turn.compare())
    turn.train_reward_model(turn.export())
    turn.run_ppo()
    return turn


# --- one action after the other ----------------------------------------------------------------
def test_steps_are_always_the_same_eight(project):
    strip = loop.strip_of(project, Role.ADMIN)

    assert [step.key for step in strip.steps] == KEYS
    assert (strip.number, strip.is_active) == (1, False)


def test_new_project_needs_prompts(project):
    assert the_action(project) == ("prompts", "Import prompts")
    assert steps(project)["prompts"].action.url == reverse("annotator:import_file", args=["tea"])


def test_known_choices_lead_to_a_reward_model(project, turn):
    choice = b'{"prompt": "Hi!", "chosen": "Hello!", "rejected": "What?"}'
    import_jsonl(project, [choice], judge=judge_named("hh-rlhf"))
    assert the_action(project) == ("export", "Export")

    create_export(project)
    assert the_action(project) == ("reward_model", "Import model")

    turn.import_model()
    assert the_action(project) == ("reward_model", "Train reward model")


def test_prompts_without_a_model_need_one(project):
    PromptFactory(project=project)

    assert the_action(project) == ("comparisons", "Import model")
    assert steps(project)["prompts"][2:4] == ("done", "1")


def test_prompts_with_a_model_are_answered(project, turn):
    PromptFactory(project=project)
    turn.import_model()

    assert the_action(project) == ("comparisons", "Generate")


def test_imported_comparisons_need_no_model_to_be_judged(project, turn):
    turn.compare(3)

    assert the_action(project) == ("judgments", "Compare")
    assert steps(project)["judgments"].summary == "0 of 3 votes"


def test_what_is_held_back_is_counted_apart_and_waited_for_by_nobody(project, turn):
    turn.judge(turn.compare(2))
    project.comparisons.update(taken=1)
    turn.compare(1)
    project.comparisons.all().hold_back("Answer B is empty.")  # the judged ones too late

    assert steps(project)["comparisons"].summary == "2 to rank, 1 held back"
    assert steps(project)["judgments"].summary == "2 of 2 votes"
    assert the_action(project) == ("export", "Export")


def test_known_answers_are_no_step_of_the_loop(project, turn):
    line = b'{"prompt": "2 + 2?", "completions": ["4", "5"], "expected": [[0], [1]]}'
    import_jsonl(project, [line])

    assert the_action(project) == ("prompts", "Import prompts")
    assert steps(project)["comparisons"].summary == "none yet"


def test_some_votes_may_be_exported_while_more_are_asked_for(project, turn):
    turn.judge(turn.compare(3)[:1])

    assert the_action(project) == ("judgments", "Compare")
    assert steps(project)["judgments"].summary == "1 of 3 votes"
    assert steps(project)["export"].action.label == "Export"


def test_all_votes_are_exported(project, turn):
    turn.judge(turn.compare())

    assert the_action(project) == ("export", "Export")
    assert steps(project)["judgments"].action is None


def test_export_without_a_model_needs_one_before_training(project, turn):
    turn.judge(turn.compare())
    turn.export()

    assert the_action(project) == ("reward_model", "Import model")


def test_export_is_learned_from(project, turn):
    turn.import_model()
    turn.judge(turn.compare())
    turn.export()

    assert the_action(project) == ("reward_model", "Train reward model")
    assert steps(project)["export"].summary == "2 pairs"


def test_votes_since_the_export_ask_for_another(project, turn):
    turn.import_model()
    first, second = turn.compare()
    turn.judge([first])
    turn.export()
    turn.judge([second])

    assert the_action(project) == ("export", "Export again")
    assert steps(project)["export"].summary == "2 pairs, 1 newer vote"


def test_a_repetition_since_the_export_is_no_newer_vote(project, turn):
    turn.import_model()
    turn.judge(turn.compare())
    turn.export()
    newest = Judgment.objects.latest("pk")
    Judgment.objects.filter(pk=newest.pk).update(is_repeat=True, created=timezone.now())

    assert steps(project)["export"].summary == "2 pairs"


def test_votes_since_the_export_do_not_undo_a_trained_reward_model(project, turn):
    turn.import_model()
    first, second = turn.compare()
    turn.judge([first])
    turn.train_reward_model(turn.export())
    turn.judge([second])

    assert the_action(project) == ("ppo", "Run PPO")
    assert steps(project)["export"].action.label == "Export again"
    assert steps(project)["reward_model"].summary == "75\u00a0% right, held out"


def test_reward_model_without_held_out_votes_says_so(project, turn):
    turn.import_model()
    turn.judge(turn.compare())
    turn.train_reward_model(turn.export(), result={"accuracy": None})

    assert steps(project)["reward_model"].summary == "trained, no vote held out"


def test_new_export_asks_for_a_new_reward_model(project, turn):
    turn.import_model()
    turn.judge(turn.compare())
    turn.train_reward_model(turn.export())
    turn.export()

    assert the_action(project) == ("reward_model", "Train reward model")
    assert steps(project)["reward_model"].summary == "of an older export"


def test_new_policy_is_evaluated_or_starts_the_next_round(project, trained):
    found = steps(project)

    assert the_action(project) == ("evaluation", "Evaluate")
    assert found["ppo"].summary == "KL 3.1 nats"
    assert found["new_policy"].summary == "polite"
    assert found["new_policy"].action == (
        "Start round 2",
        "/projects/tea/rounds/next/",
        True,
        False,
    )


def test_new_reward_model_makes_the_old_policy_out_of_date(project, trained):
    trained.train_reward_model(trained.export())

    assert the_action(project) == ("ppo", "Run PPO")
    assert steps(project)["new_policy"].summary == "none yet"


def test_a_policy_that_learnt_from_the_votes_themselves_goes_round_the_loop_too(project, trained):
    export = project.exports.get()
    run = RunFactory(
        project=project,
        kind=RunKind.DPO,
        status=Status.SUCCEEDED,
        export=export,
        result={"kl": 1.5},
    )
    PolicyFactory(project=project, name="direct", run=run)

    found = steps(project)

    assert (found["ppo"].label, found["ppo"].summary) == ("DPO", "KL 1.5 nats")
    assert found["new_policy"].summary == "direct"
    assert found["evaluation"].action.label == "Evaluate"


def test_evaluation_waits_for_votes_and_then_closes_the_loop(project, trained):
    EvaluateRunFactory(project=project, status=Status.SUCCEEDED)
    asked = trained.compare(2, purpose="evaluation")
    trained.judge(asked[:1])

    assert the_action(project) == ("evaluation", "Compare")
    assert steps(project)["evaluation"].summary == "1 of 2 votes"

    trained.judge(asked[1:])

    assert the_action(project) == ("evaluation", "Start round 2")
    assert steps(project)["new_policy"].action is None


def test_best_of_n_leaves_a_finished_round_finished(project, trained):
    EvaluateRunFactory(project=project, status=Status.SUCCEEDED)
    trained.judge(trained.compare(2, purpose="evaluation"))
    other = EvaluateRunFactory(project=project, status=Status.SUCCEEDED, config={"best_of": 16})
    trained.compare(3, purpose="evaluation", origin=other.origin)

    assert the_action(project) == ("evaluation", "Start round 2")
    assert steps(project)["evaluation"].summary == "2 of 2 votes"


# --- runs --------------------------------------------------------------------------------------
def test_active_run_is_watched(project, turn):
    turn.import_model()
    PromptFactory(project=project)
    run = GenerateRunFactory(
        project=project, status=Status.RUNNING, step=12, total_steps=40, eta_seconds=180
    )

    assert the_action(project) == ("comparisons", "Watch")
    assert steps(project)["comparisons"].summary == "Running, 12 of 40, about 3 minutes left"
    assert steps(project)["comparisons"].url == run.get_absolute_url()
    assert loop.strip_of(project, Role.ADMIN).is_active


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED, Status.LOST])
def test_run_that_did_not_get_to_its_end_is_looked_at(project, turn, status):
    turn.import_model()
    PromptFactory(project=project)
    run = GenerateRunFactory(project=project, status=status)

    assert the_action(project) == ("comparisons", "Open the run")
    assert steps(project)["comparisons"].summary == status.label
    assert steps(project)["comparisons"].action.url == run.get_absolute_url()


def test_training_again_is_watched_again(project, trained):
    RunFactory(project=project, kind=RunKind.REWARD_MODEL)

    assert the_action(project) == ("reward_model", "Watch")


def test_runs_and_votes_of_other_rounds_and_projects_do_not_count(project, trained):
    polite = project.model_versions.get(name="polite")
    RoundFactory(project=project, number=2, policy=polite)
    other = Loop(ProjectFactory())
    other.judge(other.compare(3, round_number=2))

    assert the_action(project) == ("comparisons", "Generate")
    assert steps(project)["judgments"].summary == "none yet"
    assert steps(project)["ppo"].summary == "not started"


# --- who sees what -----------------------------------------------------------------------------
def test_what_a_gate_has_promoted_is_a_new_policy_too(project, turn):
    turn.import_model()
    gate = GateFactory(project=project, incumbent=turn.policy, candidate__name="taught")
    before = steps(project)
    assert (before["new_policy"].summary, before["evaluation"].action) == ("none yet", None)

    overrule(gate, Decision.PROMOTE, None, "It is better.")

    found = steps(project)
    assert found["new_policy"].summary == "taught"
    assert found["evaluation"].action.label == "Start round 2"
    assert steps(project, Role.ANNOTATOR)["new_policy"].summary == "made"


def test_promoted_trials_of_searches_are_reward_model_and_new_policy(project, turn):
    turn.import_model()
    turn.judge(turn.compare())
    promote_trial(turn.policy, RunKind.REWARD_MODEL, {"accuracy": 0.75}, export=turn.export())
    version = promote_trial(turn.policy, RunKind.RLOO, {"kl": 2.0})

    found = steps(project)

    assert found["reward_model"].summary == "75\xa0% right, held out"
    assert (found["ppo"].label, found["ppo"].summary) == ("RLOO", "KL 2.0 nats")
    assert found["new_policy"].summary == version.name


def test_annotator_is_told_that_there_is_a_new_policy_but_not_its_name(project, trained):
    summaries = [steps(project, role)["new_policy"].summary for role in Role.values]

    assert summaries == ["made", "polite", "polite"]


def test_annotator_sees_how_it_stands_and_may_only_compare(project, turn):
    turn.import_model()
    turn.compare()

    found = steps(project, Role.ANNOTATOR)

    assert the_action(project, Role.ANNOTATOR) == ("judgments", "Compare")
    assert [step.url for step in found.values()] == [""] * 8
    assert found["comparisons"].summary == "2 to rank"


def test_reviewer_may_look_at_all_of_it_and_start_nothing(project, trained):
    found = steps(project, Role.REVIEWER)

    assert [step.action for step in found.values()] == [None] * 8
    assert found["new_policy"].url == project.model_versions.get(name="polite").get_absolute_url()


def test_annotator_is_sent_to_the_queue_once(project, trained):
    trained.compare(1)
    EvaluateRunFactory(project=project, status=Status.SUCCEEDED)
    trained.compare(1, purpose="evaluation")

    actions = [step.action for step in steps(project, Role.ANNOTATOR).values() if step.action]

    assert [action.label for action in actions] == ["Compare"]


# --- cost --------------------------------------------------------------------------------------
def test_strip_takes_the_same_queries_however_much_there_is(
    project, trained, django_assert_num_queries
):
    with django_assert_num_queries(14):
        loop.strip_of(project, Role.ADMIN)

    trained.judge(trained.compare(3))
    RunFactory.create_batch(3, project=project, status=Status.FAILED)

    with django_assert_num_queries(14):
        loop.strip_of(project, Role.ADMIN)


def test_counting_ends_at_the_cap(project, turn, monkeypatch):
    for module in (loop, quantities):
        monkeypatch.setattr(module, "COUNT_CAP", 3)
    turn.judge(turn.compare(5))

    assert steps(project)["prompts"].summary == "3+"
    assert steps(project)["comparisons"].summary == "3+ to rank"
