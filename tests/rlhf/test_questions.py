"""The order of questions: what a run is given, what becomes of its scores, and what pages say."""

import json
import uuid

import pytest
from django.urls import reverse

from annotator.assignment import forget_order
from annotator.models import Arm, Comparison, Project, QueueOrder, Role, Split
from rlhf import runs
from rlhf.models import Run, RunKind, Status
from rlhf.questions import arms_of, places_of, standing_of, store_order, write_comparisons
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import RewardModelFactory, RunFactory, write_artifact

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", queue_order=QueueOrder.INFORMATIVE, random_percent=20)


@pytest.fixture
def reward_model(project):
    return RewardModelFactory(project=project, name="reward-r1-v3")


@pytest.fixture
def order(project, reward_model):
    """Have a run succeed that found each comparison to be worth so much."""

    def order(information, reward_model=reward_model):
        run = RunFactory(
            project=project, kind=RunKind.ORDER_QUEUE, status=Status.SUCCEEDED,
            reward_model=reward_model, round_number=project.runs.count() + 1,
            token=uuid.UUID(int=project.runs.count()),  # what is drawn at random follows from it
        )  # fmt: skip
        lines = [{"id": row.pk, "information": value} for row, value in information.items()]
        write_artifact(run, "scores.jsonl", lines)
        run.result = store_order(run)
        run.save()
        return run

    return order


def sign_in(client, project, role):
    client.force_login(MembershipFactory(project=project, role=role).user)


def order_of(project):
    """Comparisons of the active arm, as they are asked."""
    return list(project.comparisons.filter(place__isnull=False).order_by("place"))


# --- out --------------------------------------------------------------------------------------
def test_a_run_is_given_the_open_comparisons_for_training(project, tmp_path):
    comparison = ComparisonFactory(project=project, texts=["Yes.", "No."])
    ComparisonFactory(project=project, overlap=1, taken=1)
    ComparisonFactory(project=project, purpose="evaluation")
    ComparisonFactory()

    n = write_comparisons(tmp_path / "comparisons.jsonl", project)

    (line,) = (tmp_path / "comparisons.jsonl").read_text().splitlines()
    first, second = comparison.entries.values_list("completion_id", flat=True)
    assert n == 1
    assert json.loads(line) == {
        "id": comparison.pk,
        "messages": comparison.prompt.messages,
        "completions": [
            {"id": first, "text": "Yes.", "truncated": False},
            {"id": second, "text": "No.", "truncated": False},
        ],
    }


def test_launch_writes_comparisons_and_names_the_reward_model(project, reward_model):
    ComparisonFactory.create_batch(2, project=project)

    run = runs.launch(project, "order_queue", {}, round_number=1, reward_model=reward_model)

    assert run.config["reward_model"] == reward_model.path
    assert len((run.folder / "comparisons.jsonl").read_text().splitlines()) == 2


def test_launch_is_refused_where_questions_are_drawn(project, reward_model):
    ComparisonFactory(project=project)
    project.queue_order = QueueOrder.DRAWN

    with pytest.raises(runs.RunRefused, match="choose “Most informative first” in its settings"):
        runs.launch(project, "order_queue", {}, round_number=1, reward_model=reward_model)


def test_launch_is_refused_where_nothing_is_open(project, reward_model):
    ComparisonFactory(project=project, overlap=1, taken=1)

    with pytest.raises(runs.RunRefused, match="there is nothing left to ask"):
        runs.launch(project, "order_queue", {}, round_number=1, reward_model=reward_model)


# --- by itself --------------------------------------------------------------------------------
@pytest.fixture
def trained(project, reward_model):
    """The run that made the reward model, whose report found a temperature."""
    reward_model.run = RunFactory(
        project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, round_number=2
    )
    reward_model.details = {"report": {"calibration": {"temperature": 1.618}}}
    reward_model.save()
    return reward_model.run


def test_an_order_follows_a_reward_model_with_the_temperature_that_fits_it(
    project, trained, reward_model, order
):
    ComparisonFactory(project=project)
    before = order({})
    before.config |= {"closeness": 0.2}
    before.save()

    run = runs.order_anew(trained.pk)

    assert (run.kind, run.status, run.round_number) == ("order_queue", "queued", 2)
    assert run.reward_model == reward_model
    assert (run.config["temperature"], run.config["closeness"]) == (1.62, 0.2)


def test_an_order_follows_a_run_once(project, trained):
    ComparisonFactory(project=project)
    first = runs.order_anew(trained.pk)
    runs.request_stop(first)

    again = runs.order_anew(trained.pk)

    assert (again, again.status) == (first, Status.STOPPED)
    assert project.runs.count() == 2


def test_an_order_follows_new_answers_too(project, reward_model):
    ComparisonFactory(project=project)
    wrote = RunFactory(project=project, kind=RunKind.GENERATE, status=Status.SUCCEEDED)

    assert runs.order_anew(wrote.pk).config["temperature"] == 1.0  # no report has found any


def test_no_order_follows_while_one_is_made(project, trained):
    ComparisonFactory(project=project)
    RunFactory(project=project, kind=RunKind.ORDER_QUEUE, round_number=1)

    assert runs.order_anew(trained.pk) is None


@pytest.mark.parametrize(
    "changes", [{"kind": RunKind.PPO}, {"status": Status.FAILED}, {"status": Status.RUNNING}]
)
def test_no_order_follows_other_runs(project, trained, changes):
    ComparisonFactory(project=project)
    Run.objects.filter(pk=trained.pk).update(**changes)

    assert runs.order_anew(trained.pk) is None


def test_no_order_follows_where_questions_are_drawn(project, trained):
    ComparisonFactory(project=project)
    Project.objects.update(queue_order=QueueOrder.DRAWN)

    assert runs.order_anew(trained.pk) is None


@pytest.mark.parametrize(("n_open", "made"), [(1, ["queued"]), (0, [])])
def test_a_reward_model_is_kept_whether_an_order_can_follow_or_not(
    project, reward_model, toy, n_open, made
):
    ComparisonFactory.create_batch(n_open, project=project)
    run = RunFactory(project=project, kind=RunKind.REWARD_MODEL, policy=reward_model.parent)

    runs.see_through(run.pk)

    run.refresh_from_db()
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    orders = project.runs.filter(kind=RunKind.ORDER_QUEUE)
    assert list(orders.values_list("status", flat=True)) == made
    assert all(order.reward_model == run.outputs.get() for order in orders)


# --- in ---------------------------------------------------------------------------------------
def test_the_most_informative_come_first_and_a_share_stays_at_random(project, order):
    comparisons = ComparisonFactory.create_batch(60, project=project)

    run = order({row: n / 100 for n, row in enumerate(comparisons)})

    asked, drawn = order_of(project), project.comparisons.filter(arm=Arm.RANDOM)
    assert asked == [row for row in reversed(comparisons) if row in asked]
    assert set(drawn.values_list("place", flat=True)) == {None}
    assert (run.result["n_ordered"], run.result["n_random"]) == (len(asked), len(drawn))
    assert len(asked) + len(drawn) == 60
    assert 3 <= len(drawn) <= 24  # of 12 expected: ± 4 standard deviations


def test_arms_never_change(project, order):
    comparisons = ComparisonFactory.create_batch(20, project=project)
    order(dict.fromkeys(comparisons, 0.5))
    before = dict(project.comparisons.values_list("pk", "arm"))
    project.random_percent = 99
    project.save()

    order({row: n / 100 for n, row in enumerate(comparisons)})

    assert dict(project.comparisons.values_list("pk", "arm")) == before
    assert order_of(project) == [row for row in reversed(comparisons) if before[row.pk] == "active"]


def test_all_comparisons_of_a_prompt_are_in_one_arm(project, order):
    prompts = PromptFactory.create_batch(10, project=project)
    project.random_percent = 50
    project.save()
    first = [ComparisonFactory(project=project, prompt=prompt) for prompt in prompts]
    order(dict.fromkeys(first, 0.5))
    later = [ComparisonFactory(project=project, prompt=p) for p in prompts for _ in range(2)]

    order(dict.fromkeys(later, 0.5))

    arms = {prompt: set(prompt.comparisons.values_list("arm", flat=True)) for prompt in prompts}
    assert all(len(of_prompt) == 1 for of_prompt in arms.values())
    assert {arm for of_prompt in arms.values() for arm in of_prompt} == {"active", "random"}


def test_what_somebody_had_before_the_first_order_joins_no_arm(project, order):
    begun = ComparisonFactory(project=project, overlap=2, taken=1)

    run = order({begun: 0.5})

    begun.refresh_from_db()
    assert (begun.arm, begun.place) == ("", None)
    assert "Somebody had been handed each of these" in run.result["note"]


def test_an_order_that_was_turned_off_meanwhile_is_not_stored(project, order):
    comparison = ComparisonFactory(project=project)
    project.queue_order = QueueOrder.DRAWN
    project.save()

    run = order({comparison: 0.5})

    comparison.refresh_from_db()
    assert (comparison.arm, comparison.place) == ("", None)
    assert run.result["n_ordered"] == 0
    assert "turned off meanwhile" in run.result["note"]


def test_held_out_questions_are_not_chosen_by_what_a_model_finds_hard(project, order):
    train = ComparisonFactory.create_batch(40, project=project)
    held_out = [
        ComparisonFactory(project=project, prompt=PromptFactory(project=project, split=Split.TEST))
        for _ in range(40)
    ]

    order(dict.fromkeys(train, 0.1) | dict.fromkeys(held_out, 0.9))

    first = order_of(project)[:20]
    assert 0 < sum(row in held_out for row in first) < 20  # by information it would be all of them


def test_what_an_order_leaves_out_loses_the_place_of_the_one_before(project, order):
    comparisons = ComparisonFactory.create_batch(10, project=project)
    order(dict.fromkeys(comparisons, 0.5))
    asked = order_of(project)

    order({asked[0]: 0.5})

    assert order_of(project) == asked[:1]


def test_second_comparisons_of_a_prompt_wait_for_the_first_ones_of_all():
    a1, a2, b, c = (
        Comparison(pk=pk, prompt_id=prompt) for pk, prompt in ((1, 7), (2, 7), (3, 8), (4, 9))
    )
    begun = Comparison(pk=5, prompt_id=9, taken=1)
    information = {1: 0.5, 2: 0.75, 3: 0.25, 4: 0.625, 5: 0.125}

    places = places_of([a1, a2, b, c, begun], information, in_use={9: 1})

    assert places == {2: 0.25, 3: 0.75, 5: 0.875, 4: 1.375, 1: 1.5}


@pytest.mark.parametrize("n", [1, 3])
def test_storing_asks_equally_many_questions(project, order, n, django_assert_num_queries):
    rows = ComparisonFactory.create_batch(n, project=project)
    run = order(dict.fromkeys(rows, 0.5))

    with django_assert_num_queries(7):
        store_order(run)


# --- how it stands ----------------------------------------------------------------------------
def test_order_is_stale_when_there_is_a_newer_reward_model(project, order):
    run = order({ComparisonFactory(project=project): 0.5})
    project.refresh_from_db()
    fresh = standing_of(project)

    RewardModelFactory(project=project)

    assert (fresh.run, fresh.is_stale) == (run, False)
    assert standing_of(project).is_stale


def test_comparisons_that_came_since_are_counted(project, order):
    order({ComparisonFactory(project=project): 0.5})

    ComparisonFactory.create_batch(2, project=project)

    project.refresh_from_db()
    assert standing_of(project).unscored == "2 newer comparisons"


def test_an_order_that_was_forgotten_does_not_stand(project, order):
    order({ComparisonFactory(project=project): 0.5})

    forget_order(project)

    assert standing_of(project).run is None


@pytest.mark.parametrize(
    ("role", "is_told", "is_asked"),
    [(Role.ADMIN, True, True), (Role.REVIEWER, True, False), (Role.ANNOTATOR, False, False)],
)
def test_project_page_says_who_made_the_order_and_asks_admins_for_a_new_one(
    client, project, order, role, is_told, is_asked
):
    order({ComparisonFactory(project=project): 0.5})
    RewardModelFactory(project=project, name="reward-r2-v9")
    sign_in(client, project, role)

    page = client.get(reverse("rlhf:project", args=["tea"])).content.decode()

    assert ("reward-r1-v3" in page, "reward-r2-v9 is newer" in page) == (is_told, is_told)
    assert (reverse("rlhf:new_run", args=["tea", "order_queue"]) in page) == is_asked


def test_project_page_does_not_ask_for_an_order_that_is_being_made(client, project, reward_model):
    run = RunFactory(project=project, kind=RunKind.ORDER_QUEUE, reward_model=reward_model)
    sign_in(client, project, Role.ADMIN)

    page = client.get(reverse("rlhf:project", args=["tea"])).content.decode()

    questions = page.split('id="questions"')[1]
    assert f'<a href="{run.get_absolute_url()}">An order</a> is being made.' in questions
    assert reverse("rlhf:new_run", args=["tea", "order_queue"]) not in questions


def test_project_page_says_that_questions_are_drawn(client, reward_model, project):
    project.queue_order = QueueOrder.DRAWN
    project.save()
    sign_in(client, project, Role.ADMIN)

    page = client.get(reverse("rlhf:project", args=["tea"])).content.decode()

    assert "Comparisons are drawn at random." in page
    assert reverse("annotator:edit_project", args=["tea"]) in page.split('id="questions"')[1]


def test_only_admins_order_questions(client, project, reward_model):
    sign_in(client, project, Role.REVIEWER)

    response = client.post(reverse("rlhf:new_run", args=["tea", "order_queue"]), {})

    assert response.status_code == 404
    assert not project.runs.exists()


# --- the arms side by side --------------------------------------------------------------------
def measured(arm, n_votes, accuracy):
    interval = {"accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1}
    return {"arm": arm, "n_votes": n_votes, "accuracy": accuracy, **interval}


ARMS = [
    measured("active", 100, 0.6), measured("random", 100, 0.6),
    measured("active", 200, 0.71), measured("random", 200, 0.65),
    measured("active", 300, 0.7), measured("random", 300, 0.7),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (ARMS, "The active arm reached the random arm's final accuracy (70\u00a0%, 300 votes) after "
         "200 votes."),
        ([*ARMS[:2], measured("active", 200, 0.5), ARMS[3]],
         "The active arm did not reach the random arm's final accuracy (65\u00a0%, 200 votes)."),
    ],
)  # fmt: skip
def test_result_says_in_a_sentence_whether_the_order_paid(arms, sentence):
    assert arms_of({"arms": arms}).sentence == sentence


def test_arms_that_nobody_asked_for_are_not_shown():
    assert arms_of({"arms": None}) is None


@pytest.mark.parametrize("arms", [[], [{**ARMS[1], "accuracy": None}]])
def test_arms_that_could_not_be_compared_are_said_to_be_so(arms):
    found = arms_of({"arms": arms})

    assert found.rows == []
    assert "each needs 100 votes" in found.sentence


def test_reward_models_page_shows_both_arms(client, project):
    run = RunFactory(
        project=project, kind=RunKind.REWARD_MODEL, status=Status.SUCCEEDED, result={"arms": ARMS}
    )
    sign_in(client, project, Role.REVIEWER)

    page = client.get(run.get_absolute_url()).content.decode()

    assert "The active arm reached the random arm&#x27;s final accuracy" in page
    assert page.count('class="interval-bar"') == 6
