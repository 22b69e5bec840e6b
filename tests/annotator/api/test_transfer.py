import pytest

from annotator.api.transfer import FILES
from annotator.exports.derived import derive
from annotator.models import Export, Role
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    api_client,
    make_judgment,
)

pytestmark = pytest.mark.django_db

TEA = "/api/v1/projects/tea/"


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


@pytest.fixture
def export(project, admin):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    return admin.post(f"{TEA}exports/", {}, content_type="application/json").json()


def test_an_export_is_made_and_listed(admin, export):
    (listed,) = admin.get(f"{TEA}exports/").json()["results"]

    assert (export["n_rows"], export["manifest"]["sha256"]) == (1, export["sha256"])
    assert listed.items() <= export.items()
    assert admin.get(f"{TEA}exports/{export['id']}/").json() == export


def test_without_votes_there_is_nothing_to_export(admin):
    answer = admin.post(f"{TEA}exports/", {}, content_type="application/json")

    assert answer.status_code == 422
    assert "no comparisons yet" in answer.json()["detail"]


def test_a_download_goes_on_where_it_stopped(admin, export):
    path = f"{TEA}exports/{export['id']}/data/"
    whole = admin.get(path).getvalue()

    def part(span):
        answer = admin.get(path, headers={"Range": f"bytes={span}"})
        return answer.status_code, answer["Content-Range"], answer.getvalue()

    size = len(whole)
    assert part("5-") == (206, f"bytes 5-{size - 1}/{size}", whole[5:])
    assert part("0-0") == (206, f"bytes 0-0/{size}", whole[:1])
    assert part("-3") == (206, f"bytes {size - 3}-{size - 1}/{size}", whole[-3:])
    assert part("7-1000000")[2] == whole[7:]
    assert admin.get(path, headers={"Range": "lines=1-2"}).getvalue() == whole


def test_a_range_behind_the_end_is_told_how_long_the_file_is(admin, export):
    path = f"{TEA}exports/{export['id']}/data/"
    size = len(admin.get(path).getvalue())

    answer = admin.get(path, headers={"Range": f"bytes={size}-"})

    assert (answer.status_code, answer["Content-Range"]) == (416, f"bytes */{size}")
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["title"] == "Requested Range Not Satisfiable"


def test_a_download_goes_on_with_the_same_file_only(admin, export):
    path = f"{TEA}exports/{export['id']}/data/"
    tag = admin.get(path)["ETag"]

    def status(if_range):
        headers = {"Range": "bytes=5-", "If-Range": if_range}
        return admin.get(path, headers=headers).status_code

    assert tag == f'"{export["sha256"]}"'
    assert (status(tag), status('"of another file"')) == (206, 200)


def test_each_file_of_an_export_can_be_had(admin, export):
    path = f"{TEA}exports/{export['id']}/data/"

    manifest = admin.get(f"{path}?name=manifest.json")

    assert b'"format_version"' in manifest.getvalue()
    assert admin.get(f"{path}?name=demonstrations.jsonl").status_code == 404
    assert admin.get(f"{path}?name=../secret_key").status_code == 422


def test_raw_votes_and_the_frozen_votes_have_names_of_their_own(admin, export):
    frozen = Export.objects.get(pk=export["id"])
    raw = derive(frozen, "votes", "jsonl")
    path = f"{TEA}exports/{frozen.pk}/data/"

    files = [admin.get(f"{path}?name={name}votes.jsonl").getvalue() for name in ("", "raw-")]

    assert files == [(frozen.folder / "votes.jsonl").read_bytes(), raw.read_bytes()]
    assert len(FILES) == len(set(FILES))


def test_a_reviewer_downloads_and_only_an_admin_exports(project, export):
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    answer = reviewer.post(f"{TEA}exports/", {}, content_type="application/json")

    assert reviewer.get(f"{TEA}exports/{export['id']}/data/").status_code == 200
    assert answer.status_code == 404
