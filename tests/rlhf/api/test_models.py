import pytest

from annotator.models import Role
from rlhf.models import ModelKind, Round, RunKind, Status
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory, api_client
from tests.rlhf.factories import PolicyFactory, RewardModelFactory, RoundFactory, RunFactory

pytestmark = pytest.mark.django_db

TEA = "/api/v1/projects/tea/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def test_model_versions_are_listed_by_kind(project, admin):
    reward_model = RewardModelFactory(project=project)

    (found,) = admin.get(f"{TEA}models/?kind=reward").json()["results"]

    assert (found["id"], found["parent"]) == (reward_model.pk, reward_model.parent_id)
    assert len(admin.get(f"{TEA}models/").json()["results"]) == 2


def test_a_model_version_is_found_by_its_number_alone(project, admin):
    policy = PolicyFactory(project=project)

    answer = admin.get(f"/api/v1/models/{policy.pk}/").json()

    assert (answer["name"], answer["project"]) == (policy.name, "tea")


def test_model_versions_of_other_projects_do_not_exist(project, admin):
    annotator = api_client(MembershipFactory(project=project).user)
    mine, other = PolicyFactory(project=project), PolicyFactory()

    assert admin.get(f"/api/v1/models/{other.pk}/").status_code == 404
    assert annotator.get(f"/api/v1/models/{mine.pk}/").status_code == 404
    assert annotator.get(f"{TEA}models/").status_code == 404


def test_a_lineage_is_what_the_page_has_and_of_this_project_only(project, admin):
    policy = PolicyFactory(project=project)
    tuned = PolicyFactory(project=project, parent=policy)
    other = PolicyFactory()

    found = admin.get(f"{TEA}lineage/version/{tuned.pk}/").json()

    assert (found["of"], f"version-{policy.pk}" in found["back"]) == (f"version-{tuned.pk}", True)
    assert admin.get(f"{TEA}lineage/version/{other.pk}/").status_code == 404
    assert admin.get(f"{TEA}lineage/person/{tuned.pk}/").status_code == 404


def test_rounds_come_in_pages_the_newest_first(project, admin):
    for number in (1, 2, 3):
        RoundFactory(project=project, number=number)

    first = admin.get(f"{TEA}rounds/?page_size=2").json()
    second = admin.get(first["next"]).json()

    numbers = [row["number"] for row in first["results"] + second["results"]]
    assert numbers == [3, 2, 1]
    assert (first["results"][0]["votes"], first["results"][0]["ppo"]) == (0, None)


def test_the_next_round_starts_from_the_new_policy_and_is_started_once(project, admin):
    RoundFactory(project=project)
    PromptFactory(project=project)
    ppo = RunFactory(project=project, kind=RunKind.PPO, status=Status.SUCCEEDED)
    made = PolicyFactory(project=project, run=ppo, kind=ModelKind.POLICY)

    answers = [
        admin.post(f"{TEA}rounds/", {"after": 1}, content_type="application/json") for _ in "ab"
    ]

    assert [answer.json()["number"] for answer in answers] == [2, 2]
    assert Round.objects.get(number=2).policy == made


def test_a_round_that_made_no_policy_is_not_over(project, admin):
    RoundFactory(project=project)

    answer = admin.post(f"{TEA}rounds/", {"after": 1}, content_type="application/json")

    assert answer.status_code == 422
    assert "run PPO first" in answer.json()["detail"]
