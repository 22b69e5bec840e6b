import pytest

from annotator.audit import AuditEntry
from annotator.models import Project, Role
from annotator.protocols import PRESETS, protocol_of, to_json
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, api_client

pytestmark = pytest.mark.django_db

JSON = "application/json"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def test_the_list_has_ones_own_projects_with_ones_role(admin):
    ProjectFactory(name="Of others")

    page = admin.get("/api/v1/projects/").json()

    assert [(row["slug"], row["role"]) for row in page["results"]] == [("tea", "admin")]
    assert page["next"] is None


def test_what_one_may_not_see_does_not_exist(project):
    outsider = api_client(UserFactory())

    answer = outsider.get("/api/v1/projects/tea/")

    assert answer.status_code == 404
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No such project.",
        "errors": [],
    }


def test_who_administers_a_project_makes_another(admin):
    answer = admin.post("/api/v1/projects/", {"name": "Green tea"}, content_type=JSON)

    assert answer.status_code == 201
    assert (answer.json()["slug"], answer.json()["role"]) == ("green-tea", "admin")
    assert answer.json()["settings"]["overlap"] == 1


def test_an_annotator_makes_none(project):
    annotator = api_client(MembershipFactory(project=project).user)

    answer = annotator.post("/api/v1/projects/", {"name": "Green tea"}, content_type=JSON)

    assert answer.status_code == 403
    assert Project.objects.count() == 1


def test_a_change_leaves_what_it_does_not_name(project, admin):
    answer = admin.patch("/api/v1/projects/tea/", {"overlap": 3}, content_type=JSON)

    project.refresh_from_db()
    assert answer.status_code == 200
    assert (project.overlap, project.name, project.lease_minutes) == (3, "Tea", 20)


def test_changed_guidelines_are_a_new_version(project, admin):
    answer = admin.patch("/api/v1/projects/tea/", {"guidelines": "Be fair."}, content_type=JSON)

    assert answer.json()["guideline_version"] == project.guideline_version + 1


def test_guidelines_made_from_an_older_version_are_refused(project, admin):
    for text in ("First.", "Second."):
        admin.patch("/api/v1/projects/tea/", {"guidelines": text}, content_type=JSON)

    late = admin.patch(
        "/api/v1/projects/tea/", {"guidelines": "Mine.", "based_on": 2}, content_type=JSON
    )

    project.refresh_from_db()
    assert late.json()["errors"][0]["pointer"] == "#/guidelines"
    assert project.guidelines == "Second."


def test_a_protocol_is_checked_and_set(project, admin):
    seven = to_json(PRESETS["helpsteer"].protocol)

    refused = admin.patch("/api/v1/projects/tea/", {"protocol": {"no": 1}}, content_type=JSON)
    taken = admin.patch("/api/v1/projects/tea/", {"protocol": seven}, content_type=JSON)

    project.refresh_from_db()
    assert refused.json()["errors"][0]["pointer"] == "#/protocol"
    assert taken.json()["settings"]["protocol"] == seven
    assert protocol_of(project) == PRESETS["helpsteer"].protocol


def test_a_changed_protocol_is_written_down_once(project, admin):
    seven = to_json(PRESETS["helpsteer"].protocol)
    for _ in range(2):
        admin.patch("/api/v1/projects/tea/", {"protocol": seven}, content_type=JSON)

    (entry,) = AuditEntry.objects.filter(project=project, action="changed")

    assert entry.actor == project.memberships.get().user
    assert entry.details == {"protocol": {"from": {}, "to": seven}}


def test_a_pause_begins_and_ends(project, admin):
    paused = admin.patch(
        "/api/v1/projects/tea/", {"paused": True, "pause_note": "Lunch."}, content_type=JSON
    )
    resumed = admin.patch("/api/v1/projects/tea/", {"paused": False}, content_type=JSON)

    assert (paused.json()["paused"] is None, paused.json()["pause_note"]) == (False, "Lunch.")
    assert resumed.json()["paused"] is None


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"overlap": "3"}, "#/overlap"),  # no guessing: it is no number
        ({"overlap": 101}, "#/overlap"),
        ({"overlapp": 3}, "#/overlapp"),
        ({"screening": ["nonsense"]}, "#/screening/0"),
        ({"qualification_items": 5}, "#/qualification_items"),  # what the page says, too
    ],
)
def test_what_is_not_right_is_said_by_field(project, admin, sent, pointer):
    answer = admin.patch("/api/v1/projects/tea/", sent, content_type=JSON)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize("role", [Role.ANNOTATOR, Role.REVIEWER])
def test_only_admins_change_and_see_settings(project, role):
    member = api_client(MembershipFactory(project=project, role=role).user)

    assert member.get("/api/v1/projects/tea/").json()["settings"] == {}
    answer = member.patch("/api/v1/projects/tea/", {"overlap": 3}, content_type=JSON)

    assert answer.status_code == 404


def test_a_longer_list_takes_no_more_queries(django_assert_num_queries, project, admin):
    user = project.memberships.get().user
    for _ in range(3):
        MembershipFactory(user=user)

    with django_assert_num_queries(5):  # token, its row, use noted, projects, roles
        assert len(admin.get("/api/v1/projects/").json()["results"]) == 4


def test_pages_follow_one_another(project, admin):
    user = project.memberships.get().user
    others = [MembershipFactory(user=user).project.slug for _ in range(2)]

    first = admin.get("/api/v1/projects/?page_size=2").json()
    second = admin.get(first["next"]).json()

    assert [row["slug"] for row in first["results"] + second["results"]] == [*others[::-1], "tea"]
    assert second["next"] is None
    assert admin.get(second["previous"]).json()["results"] == first["results"]


@pytest.mark.parametrize("query", ["cursor=nonsense", "cursor=cD14", "page_size=0", "page_size=x"])
def test_a_page_that_cannot_be_is_refused(project, admin, query):
    answer = admin.get(f"/api/v1/projects/?{query}")

    assert answer.status_code == 422
