"""What the API says of exports besides freezing them: conditions, jobs of the worker, files, differences."""

import pytest

from annotator.exports import jobs
from annotator.exports.derived import derive, path_of
from annotator.models import Export, ExportJob, Role
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    api_client,
    make_judgment,
)

pytestmark = pytest.mark.django_db

EXPORTS = "/api/v1/projects/tea/exports/"


@pytest.fixture
def project():
    project = ProjectFactory(slug="tea", overlap=2)
    anna, bert = UserFactory(), UserFactory()
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, anna, [0], [1])
    make_judgment(comparison, bert, [1], [0])
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    return project


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def post(program, address, body):
    return program.post(EXPORTS + address, body, content_type="application/json")


def annotator(project):
    return project.judgments.earliest("pk").annotator_id


def test_an_export_keeps_to_its_conditions_and_its_licence(admin, project):
    conditions = {"annotators": [annotator(project)], "min_rankings": 1, "since": "2020-01-31"}

    made = post(admin, "", {**conditions, "licence": "CC0"}).json()

    assert made["manifest"]["filters"] == conditions
    assert (made["n_judgments"], made["manifest"]["licence"]) == (2, "CC0")
    again = post(admin, "", made["manifest"]["filters"]).json()
    assert again["sha256"] == made["sha256"]


def test_what_conditions_cost_is_counted_and_nothing_is_made(admin, project):
    found = post(admin, "count/", {"annotators": [annotator(project)]}).json()

    assert (found["n_votes"], found["kept_votes"], found["kept_comparisons"]) == (3, 2, 2)
    assert found["costs"] == [
        {"title": "Annotators", "n_votes": 1, "n_comparisons": 0, "is_estimate": False}
    ]
    assert not Export.objects.exists()


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"annotators": [987654]}, "#/annotators"),
        ({"since": "yesterday"}, "#/since"),
        ({"first_round": 3, "last_round": 2}, ""),
        ({"round_number": 1, "last_round": 2}, "#/round_number"),
        ({"min_agreement": 0.2}, "#/min_agreement"),
        ({"rounds": [1]}, "#/rounds"),
    ],
)
def test_conditions_that_cannot_be_are_refused_by_name(admin, sent, pointer):
    answer = post(admin, "", sent)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_what_is_large_is_frozen_by_the_worker_and_followed(admin, project, monkeypatch):
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    asked = post(admin, "", {"last_round": 1})
    job = asked.json()
    assert (asked.status_code, job["is_active"], job["export"]) == (202, True, None)

    jobs.work_off(job["id"])

    done = admin.get(job["link"]).json()
    assert (done["is_active"], done["error"]) == (False, "")
    assert done["export"] == Export.objects.get().pk
    (listed,) = admin.get(f"{EXPORTS}jobs/").json()["results"]
    assert listed == done


def test_another_export_is_not_taken_for_the_one_under_way(admin, monkeypatch):
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    first, same = (post(admin, "", {"last_round": 1}).json() for _ in "ab")

    other = post(admin, "", {"last_round": 2})

    assert same["id"] == first["id"]
    assert other.status_code == 422
    assert "by other conditions" in other.json()["detail"]


def test_a_file_is_made_by_the_worker_and_downloaded(admin):
    export = Export.objects.get(pk=post(admin, "", {}).json()["id"])
    job = post(admin, f"{export.pk}/files/", {"name": "kto.csv"})
    assert job.status_code == 202

    jobs.work_off(job.json()["id"])

    files = admin.get(f"{EXPORTS}{export.pk}/files/").json()["files"]
    (made,) = [file for file in files if file["name"] == "kto.csv"]
    part = admin.get(f"{EXPORTS}{export.pk}/data/?name=kto.csv", headers={"Range": "bytes=3-"})
    assert (made["shape"], made["format"], len(made["sha256"])) == ("kto", "csv", 64)
    assert part.getvalue() == path_of(export, "kto.csv").read_bytes()[3:]
    assert admin.get(f"{EXPORTS}{export.pk}/data/?name=dpo.csv").status_code == 404


def test_a_file_that_is_not_what_was_made_is_not_given_and_made_anew(admin):
    export = Export.objects.get(pk=post(admin, "", {}).json()["id"])
    path = derive(export, "dpo", "jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"e", b"a"))

    refused = admin.get(f"{EXPORTS}{export.pk}/data/?name=dpo.jsonl")
    jobs.work_off(post(admin, f"{export.pk}/files/", {"name": "dpo.jsonl"}).json()["id"])

    assert refused.status_code == 422
    assert "is not what was made of this export" in refused.json()["detail"]
    assert admin.get(f"{EXPORTS}{export.pk}/data/?name=dpo.jsonl").getvalue() == whole


def test_two_exports_are_compared_by_the_worker_if_they_are_large(admin, project, monkeypatch):
    before = post(admin, "", {}).json()["id"]
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    after = post(admin, "", {}).json()["id"]
    address = f"{EXPORTS}{after}/compare/?before={before}"
    monkeypatch.setattr(jobs, "AT_ONCE", 0)

    jobs.work_off(admin.get(address).json()["id"])

    found = admin.get(address).json()
    assert [found[kind]["n"] for kind in ("added", "removed", "changed")] == [1, 0, 0]
    assert (found["same"], ExportJob.objects.count()) == (2, 1)


def test_files_that_were_changed_are_not_compared(admin, project):
    before, after = (Export.objects.get(pk=post(admin, "", {}).json()["id"]) for _ in range(2))
    (before.folder / "data.jsonl").write_text("")

    refused = admin.get(f"{EXPORTS}{after.pk}/compare/?before={before.pk}")

    said = f"data.jsonl of export {before.pk} has changed since it was frozen"
    assert (refused.status_code, refused.json()["detail"][: len(said)]) == (422, said)


def test_reviewers_follow_and_annotators_see_nothing(project, admin):
    pk = post(admin, "", {}).json()["id"]
    annotator, reviewer = (
        api_client(MembershipFactory(project=project, role=role).user)
        for role in (Role.ANNOTATOR, Role.REVIEWER)
    )

    def statuses(program):
        addresses = ("jobs/", f"{pk}/files/", f"{pk}/compare/?before={pk}")
        return [program.get(EXPORTS + address).status_code for address in addresses]

    assert (statuses(annotator), statuses(reviewer)) == ([404] * 3, [200] * 3)
    assert post(annotator, "count/", {}).status_code == 404
