import pytest

from annotator.models import Role
from rlhf.forms import FORMS, GenerateForm
from rlhf.models import Metrics, Run, RunKind, Sample, Status
from rlhf.price_models import Price
from rlhf.prompting import Draft, create_prompt_version
from rlhf.training.config import GenerateConfig
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory, api_client
from tests.rlhf.factories import GenerateRunFactory, PolicyFactory, RunFactory
from tests.rlhf.test_outlooks import MEASURED

pytestmark = pytest.mark.django_db

RUNS = "/api/v1/projects/tea/runs/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def launch(program, **settings):
    return program.post(RUNS, settings, content_type="application/json")


def test_what_is_not_named_is_as_on_the_page(project, admin):
    policy = PolicyFactory(project=project)
    PromptFactory(project=project)

    answer = launch(admin, kind="generate", temperature=0.5)

    run = Run.objects.get()
    assert answer.status_code == 201
    assert (run.kind, run.status, run.policy) == (RunKind.GENERATE, Status.QUEUED, policy)
    assert run.config["temperature"] == 0.5
    assert run.config["max_new_tokens"] == GenerateConfig.max_new_tokens
    assert answer.json()["config"] == run.config


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"kind": "generate", "temperature": "hot"}, "#/temperature"),
        ({"kind": "generate", "temperature": 9.0}, "#/temperature"),
        ({"kind": "generate", "temperatur": 0.5}, "#/temperatur"),
        ({"kind": "generate", "policy": 999}, "#/policy"),
        ({"kind": "import_model", "source": "folder", "location": "model"}, "#/location"),
        ({"kind": "nonsense"}, "#/kind"),
        ({}, "#/kind"),
    ],
)
def test_what_is_not_right_is_said_by_field(project, admin, sent, pointer):
    PolicyFactory(project=project)

    answer = launch(admin, **sent)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not Run.objects.exists()


def test_a_run_that_cannot_work_is_refused_with_the_sentence_of_the_page(project, admin):
    PolicyFactory(project=project)

    answer = launch(admin, kind="generate")

    assert answer.status_code == 422
    assert answer.json()["detail"] == "This project has no prompts yet: import some first."


def test_a_prompt_version_that_cannot_be_trained_names_its_policy(project, admin):
    policy = PolicyFactory(project=project, name="base")
    version = create_prompt_version(project, Draft(policy, "Be brief."))

    answer = launch(admin, kind="probe", policy=version.pk)

    (error,) = [each for each in answer.json()["errors"] if each["pointer"] == "#/policy"]
    assert answer.status_code == 422
    assert error["detail"].startswith("base-prompt-1 is a prompt version and has no weights")
    assert error["detail"].endswith("Choose base instead.")


def test_a_model_of_another_project_cannot_be_used(project, admin):
    PolicyFactory(project=project)

    answer = launch(admin, kind="generate", policy=PolicyFactory().pk)

    assert answer.json()["errors"][0]["pointer"] == "#/policy"


def test_the_same_key_starts_one_run(project, admin):
    PolicyFactory(project=project)
    PromptFactory(project=project)
    sent = {"kind": "generate"}

    first, second = (
        admin.post(
            RUNS, sent, content_type="application/json", headers={"Idempotency-Key": "run-1"}
        )
        for _ in range(2)
    )

    assert first.json() == second.json()
    assert Run.objects.count() == 1


def test_a_program_is_told_what_a_run_would_take_and_nothing_starts(project, admin):
    PolicyFactory(project=project, probe=MEASURED)
    PromptFactory.create_batch(3, project=project)
    Price.objects.create(project=project, per_hour=2, currency="EUR")

    found = admin.post(f"{RUNS}estimate/", {"kind": "generate"}, "application/json").json()

    assert found["tokens_generated"] == 3 * 2 * GenerateConfig.max_new_tokens
    assert found["money"] == pytest.approx(found["minutes"] / 60 * 2)
    assert (found["currency"], found["device"], found["reason"]) == ("EUR", "CPU", "")
    assert not Run.objects.exists()


def test_a_program_is_told_why_nobody_can_say_what_a_run_would_take(project, admin):
    policy = PolicyFactory(project=project)

    answer = admin.post(f"{RUNS}estimate/", {"kind": "generate"}, "application/json")

    assert answer.status_code == 200
    assert answer.json()["minutes"] is None
    assert answer.json()["reason"].startswith(f"How fast {policy} is has not been measured yet")


def test_wrong_settings_have_no_estimate_but_the_sentence_of_a_launch(project, admin):
    PolicyFactory(project=project)
    sent = {"kind": "generate", "temperature": 9.0}

    answer = admin.post(f"{RUNS}estimate/", sent, "application/json")

    assert answer.status_code == 422
    assert answer.json()["errors"] == launch(admin, **sent).json()["errors"]


def test_only_admins_ask_what_a_run_would_take(project):
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    answer = reviewer.post(f"{RUNS}estimate/", {"kind": "generate"}, "application/json")

    assert answer.status_code == 404


def test_every_kind_of_run_can_be_launched_and_shows_the_fields_of_its_form(client):
    described = client.get("/api/v1/schema/").json()["components"]["schemas"]

    kinds = described["NewRunRequest"]["discriminator"]["mapping"]
    generate = described["NewGenerateRunRequest"]["properties"]

    assert kinds.keys() == {str(kind) for kind in FORMS}
    assert generate.keys() == {"kind", *GenerateForm.base_fields} - {"token"}
    assert generate["completions_per_prompt"]["maximum"] == 9


def test_a_run_is_stopped_and_resumed(project, admin):
    run = RunFactory(project=project)

    stopped = admin.post(f"{RUNS}{run.pk}/stop/").json()
    resumed = admin.post(f"{RUNS}{run.pk}/resume/").json()
    again = admin.post(f"{RUNS}{run.pk}/resume/")

    assert (stopped["status"], resumed["status"]) == (Status.STOPPED, Status.QUEUED)
    assert again.status_code == 422
    assert "nothing to resume" in again.json()["detail"]


def test_what_a_run_reports_can_be_followed(project, admin):
    run = GenerateRunFactory(project=project)
    for step in (1, 2, 3):
        Metrics.objects.create(run=run, step=step, values={"length/mean": step})
        Sample.objects.create(run=run, step=step, index=0, prompt=[], completion=f"At {step}.")
    (run.folder / "log.txt").write_text("all is well\n")
    path = f"{RUNS}{run.pk}/"

    first = admin.get(f"{path}metrics/?after=1&page_size=1").json()

    assert first["results"] == [{"step": 2, "values": {"length/mean": 2.0}}]
    assert admin.get(first["next"]).json()["results"][0]["step"] == 3
    assert [row["completion"] for row in admin.get(f"{path}samples/?step=2").json()["results"]] == [
        "At 2."
    ]
    assert admin.get(f"{path}log/").json() == {"text": "all is well"}


def test_runs_are_found_by_kind_and_status(project, admin):
    run = RunFactory(project=project, status=Status.FAILED, error="The disk is full.")
    GenerateRunFactory(project=project)

    (found,) = admin.get(f"{RUNS}?kind=import_model&status=failed").json()["results"]

    assert (found["id"], found["error"]) == (run.pk, "The disk is full.")


def test_a_longer_list_takes_no_more_queries(
    django_assert_num_queries, django_assert_max_num_queries, project, admin
):
    RunFactory(project=project, status=Status.FAILED)
    admin.get(RUNS)
    with django_assert_max_num_queries(10) as with_one:
        admin.get(RUNS)
    RunFactory.create_batch(2, project=project, status=Status.FAILED)

    with django_assert_num_queries(len(with_one)):
        admin.get(RUNS)


@pytest.mark.parametrize("path", ["", "metrics/", "samples/", "log/"])
def test_runs_of_other_projects_do_not_exist(project, admin, path):
    run = RunFactory()

    assert admin.get(f"{RUNS}{run.pk}/{path}").status_code == 404
    assert admin.get(f"/api/v1/projects/{run.project.slug}/runs/{run.pk}/{path}").status_code == 404


def test_reviewers_watch_and_only_admins_act(project):
    run = RunFactory(project=project)
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)
    annotator = api_client(MembershipFactory(project=project).user)

    assert reviewer.get(f"{RUNS}{run.pk}/").status_code == 200
    assert reviewer.post(f"{RUNS}{run.pk}/stop/").status_code == 404
    assert launch(reviewer, kind="import_model").status_code == 404
    assert annotator.get(RUNS).status_code == 404
    assert annotator.get(f"{RUNS}{run.pk}/").status_code == 404
