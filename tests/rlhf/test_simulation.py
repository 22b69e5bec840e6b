import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from annotator.models import Assignment, Comparison, Project, QueueOrder, Role, Split
from rlhf.models import ModelKind, Round, RunKind, Status
from rlhf.simulation import (
    PRESETS,
    Simulation,
    make_people,
    make_project,
    report,
    serious_alarms,
)
from tests.factories import ProjectFactory, PromptFactory
from tests.rlhf.factories import EvaluateRunFactory, RewardModelFactory, RunFactory


@pytest.mark.django_db
def test_simulated_votes_get_a_project_of_their_own():
    project = ProjectFactory(slug="demo")
    prompts = [PromptFactory(project=project) for _ in range(3)]
    project.prompts.filter(key=min(prompt.key for prompt in prompts)).update(split=Split.TEST)

    copy = make_project(project, max_prompts=2)
    again = make_project(project, max_prompts=2)

    assert (copy.slug, again.slug) == ("demo-simulation-1", "demo-simulation-2")
    assert copy.prompts.count() == 2
    assert {p.key for p in copy.prompts.all()} < {p.key for p in prompts}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("splits", "complaint"),
    [([], "to learn from"), ([Split.TEST], "to learn from"), ([Split.TRAIN], "held out")],
)
def test_prompts_of_both_splits_are_needed_before_anything_begins(splits, complaint):
    project = ProjectFactory(slug="demo")
    for split in splits:
        PromptFactory(project=project, split=split)

    with pytest.raises(CommandError, match=f"would take is {complaint}: import more"):
        call_command("simulate", "demo")

    assert list(Project.objects.all()) == [project]


@pytest.mark.django_db
def test_what_could_not_be_measured_is_none():
    project = ProjectFactory()
    simulation = Simulation(project, make_people(project, 3, seed=0), None, 0, print)
    reward_run = RunFactory(result={"accuracy": None, "accuracy_low": None})
    ppo_run = RunFactory(result={"kl": 1.234})

    figures = report(simulation, reward_run, ppo_run, EvaluateRunFactory(project=project))

    assert (figures.reward_accuracy, figures.reward_accuracy_low) == (None, None)
    assert (figures.taste_before, figures.taste_after) == (None, None)
    assert (figures.alpha, figures.saboteur_rank, figures.win_rate) == (None, None, None)
    assert (figures.kl, figures.judgments, figures.alarms) == (1.23, 0, [])


@pytest.mark.django_db
def test_red_alarms_about_kl_and_reward_hacking_are_reported():
    alarms = [("reward hacking", "red"), ("KL", "red"), ("KL", "yellow"), ("first KL", "red")]

    run = RunFactory(alarms=[{"name": name, "level": level} for name, level in alarms])

    assert serious_alarms(run) == ["reward hacking", "KL"]


@pytest.fixture
def both_splits():
    project = ProjectFactory(slug="demo")
    for split in Split:
        PromptFactory(project=project, split=split)


@pytest.mark.django_db
def test_a_run_that_cannot_start_is_a_sentence(both_splits, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", PRESETS["tiny"]._replace(source="nowhere"))

    with pytest.raises(CommandError, match="These settings do not work: source='nowhere'"):
        call_command("simulate", "demo", "--model", "tiny", "--json")


@pytest.mark.django_db(transaction=True)
def test_an_export_that_cannot_be_written_is_a_sentence(both_splits, toy, settings, tmp_path):
    settings.EXPORTS_DIR = tmp_path / "file"
    settings.EXPORTS_DIR.touch()

    with pytest.raises(CommandError, match=r"The export could not be written to .*/file"):
        call_command("simulate", "demo", "--model", "tiny", "--json")


@pytest.mark.django_db
def test_the_first_round_has_nothing_to_order_questions_by(both_splits):
    with pytest.raises(CommandError, match="--order informative needs --rounds 2 or more"):
        call_command("simulate", "demo", "--model", "tiny", "--order", "informative")

    assert Project.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_order_that_follows_new_answers_is_carried_out_before_anybody_votes(both_splits, toy):
    project = make_project(Project.objects.get(), max_prompts=2, order=QueueOrder.INFORMATIVE)
    policy = RewardModelFactory(project=project).parent
    simulation = Simulation(project, [], PRESETS["tiny"], 0, print)
    simulation.run(RunKind.GENERATE, 2, PRESETS["tiny"].generate, policy=policy)

    simulation.order_questions()

    order = project.runs.get(kind=RunKind.ORDER_QUEUE)
    assert (order.status, order.result["n_scored"]) == (Status.SUCCEEDED, 8)
    assert set(project.comparisons.values_list("arm", flat=True)) <= {"active", "random"}
    assert list(simulation.seconds) == ["generate", "order_queue"]


@pytest.mark.django_db
def test_the_last_of_the_simulated_people_is_the_saboteur():
    project = ProjectFactory()

    people = make_people(project, 4, seed=0)

    assert [person.manner.is_saboteur for person in people] == [False, False, False, True]
    assert set(project.memberships.values_list("role", flat=True)) == {Role.ANNOTATOR}
    assert not people[0].user.has_usable_password()


@pytest.mark.django_db
def test_an_unknown_project_is_a_sentence():
    with pytest.raises(CommandError, match="There is no project 'nowhere'"):
        call_command("simulate", "nowhere")


QUESTIONS = [
    f"{question} {noun}?"
    for question in ("How do I open the", "What is a", "Tell me about my", "Where can I find a")
    for noun in (
        "door", "lamp", "book", "cup", "garden", "box", "window", "chair", "tea", "bread", "car",
        "river", "house", "table", "letter", "bike", "phone", "soup", "coat", "key",
    )
]  # fmt: skip


@pytest.mark.slow  # five real runs: the default suite goes once around the loop, in the browser
@pytest.mark.django_db(transaction=True)
def test_the_loop_proves_itself_on_the_tiny_model():
    """Import, generate, vote, export, reward model, PPO, evaluate, vote: with real processes."""
    project = ProjectFactory(slug="demo", name="Demo")
    for question in QUESTIONS:
        PromptFactory(project=project, messages=[{"role": "user", "content": question}])
    for prompt in project.prompts.all():
        prompt.split = project.split_of(prompt.key)
        prompt.save()
    out = StringIO()

    call_command("simulate", "demo", "--model", "tiny", "--seed", "0", "--json", stdout=out)

    report = json.loads(out.getvalue().splitlines()[-1])
    simulated = Project.objects.get(slug=report["project"])
    kinds = [RunKind.IMPORT_MODEL, RunKind.GENERATE, RunKind.REWARD_MODEL, RunKind.PPO,
             RunKind.EVALUATE]  # fmt: skip
    assert list(simulated.runs.order_by("pk").values_list("kind", "status")) == [
        (kind, Status.SUCCEEDED) for kind in kinds
    ]
    assert report["saboteur_rank"] == 1
    assert report["reward_accuracy_low"] > 0.5
    assert report["taste_after"] > report["taste_before"]
    assert report["win_rate_low"] > 0.5
    assert simulated.model_versions.filter(kind=ModelKind.POLICY).count() == 2
    assert Round.objects.get(project=simulated).number == 1
    assert not project.judgments.exists()
    assert_overlap_is_exact(simulated)


def assert_overlap_is_exact(project):
    for comparison in Comparison.objects.filter(project=project):
        counted = comparison.judgments.counted().count()
        live = Assignment.objects.filter(comparison=comparison, state="live").count()
        assert comparison.taken == counted + live <= comparison.overlap
