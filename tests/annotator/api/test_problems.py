"""Errors are problem details, wherever in the server they arise."""

import pytest

from annotator.models import Role
from tests.factories import MembershipFactory, ProjectFactory, api_client

pytestmark = pytest.mark.django_db

API = "/api/v1/"


@pytest.fixture
def admin():
    project = ProjectFactory(slug="tea")
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "nothing/", 404),
        ("get", "projects", 404),  # without its slash
        ("get", "projects/coffee/", 404),
        ("delete", "projects/tea/", 405),
        ("put", "projects/tea/exports/", 405),
        ("post", "schema/", 405),
    ],
)
def test_each_error_is_a_problem_with_a_sentence(admin, method, path, status):
    answer = getattr(admin, method)(API + path)

    problem = answer.json()
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    assert (problem["type"], problem["status"], problem["errors"]) == ("about:blank", status, [])
    assert problem["detail"].endswith(".")


def test_a_host_that_is_not_ours_is_one_too(admin, settings):
    settings.ALLOWED_HOSTS = ["votes.example.org"]

    answer = admin.get(f"{API}projects/", headers={"Host": "elsewhere.example.org"})

    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert "host name" in answer.json()["detail"]
