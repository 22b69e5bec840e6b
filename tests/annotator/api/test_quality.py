import pytest
from django.utils import timezone

from annotator.models import QualityReport, Role
from tests.factories import MembershipFactory, ProjectFactory, api_client

pytestmark = pytest.mark.django_db

TEA = "/api/v1/projects/tea/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def reviewer(project):
    return api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)


def test_before_anything_is_computed_there_are_no_figures(reviewer):
    assert reviewer.get(f"{TEA}quality/").json() == {
        "as_of": None, "is_stale": True, "is_computing": False, "error": "", "figures": {},
    }  # fmt: skip
    assert reviewer.get(f"{TEA}leaderboard/").json()["reason"] == "Nothing has been computed yet."


def test_figures_can_be_asked_for(project, reviewer):
    answer = reviewer.post(f"{TEA}quality/")

    assert (answer.status_code, answer.json()["is_computing"]) == (202, True)
    assert project.quality_report.asked is not None


def test_what_the_worker_computed_is_there(project, reviewer):
    row = {"source": "ada", "n_votes": 2, "wins": {}, "strength": {}, "controlled": {}}
    board = {"rows": [row], "reason": "", "matrix": [[None]], "style": {}, "groups": [["ada"]]}
    figures = {"leaderboard": board}
    QualityReport.objects.create(project=project, as_of=timezone.now(), figures=figures)

    assert reviewer.get(f"{TEA}quality/").json()["figures"] == figures
    assert reviewer.get(f"{TEA}leaderboard/").json()["rows"] == [row]


@pytest.mark.parametrize("path", ["quality/", "leaderboard/"])
def test_annotators_see_no_figures(project, path):
    annotator = api_client(MembershipFactory(project=project).user)

    assert annotator.get(TEA + path).status_code == 404
