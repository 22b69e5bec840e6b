import pytest

from annotator.audit import Action, record
from annotator.models import Role
from tests.factories import MembershipFactory, ProjectFactory, api_client

pytestmark = pytest.mark.django_db

AUDIT = "/api/v1/projects/tea/audit/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    member = MembershipFactory(project=project, role=Role.ADMIN, user__username="ada")
    record(member.user, Action.PAUSED, project, project=project, note="Tea time.")
    record(None, Action.RESUMED, project, project=project)
    return api_client(member.user)


def test_the_log_comes_in_pages_the_newest_first(admin, project):
    first = admin.get(f"{AUDIT}?page_size=1").json()
    second = admin.get(first["next"]).json()

    (newest,), (paused,) = first["results"], second["results"]
    assert (newest["actor"], newest["actor_id"], newest["action"]) == ("", None, "resumed")
    assert (paused["actor"], paused["details"]) == ("ada", {"note": "Tea time."})
    assert (paused["kind"], paused["object_id"]) == ("project", str(project.pk))


@pytest.mark.parametrize(
    ("query", "n"),
    [("who=ada", 1), ("who=the+system", 1), ("action=paused", 1), ("until=2020-01-31", 0)],
)
def test_it_is_filtered_as_on_the_page(admin, query, n):
    assert len(admin.get(f"{AUDIT}?{query}").json()["results"]) == n


def test_a_filter_that_makes_no_sense_is_refused(admin):
    answer = admin.get(f"{AUDIT}?since=yesterday")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/since"


def test_it_is_for_admins(admin, project):
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    assert reviewer.get(AUDIT).status_code == 404
