"""The pages of exports: what may be left out, what one gives, and two beside each other."""

import pytest
from django.urls import reverse

from annotator.exporting import create_export
from annotator.exports import jobs
from annotator.exports.derived import derive
from annotator.models import ExportJob, Role
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def project():
    project = ProjectFactory(slug="essays", overlap=2)
    anna = UserFactory(username="anna")
    for comparison in ComparisonFactory.create_batch(2, project=project):
        make_judgment(comparison, anna, [0], [1])
    make_judgment(comparison, UserFactory(username="bert"), [1], [0])
    return project


@pytest.fixture
def admin(client, project):
    user = MembershipFactory(project=project, role=Role.ADMIN).user
    client.force_login(user)
    return user


def url(name, *args):
    return reverse(f"annotator:{name}", args=["essays", *args])


def text_of(response):
    return " ".join(response.content.decode().split())


# --- what is left out ------------------------------------------------------------------------------
def test_a_preview_says_what_each_condition_costs_and_freezes_nothing(client, project, admin):
    anna = project.judgments.first().annotator

    html = text_of(client.get(url("exports"), {"preview": "1", "annotators": anna.pk}))

    row = '<th scope="row">Annotators</th><td class="number">1</td><td class="number">0</td>'
    assert row in html
    assert "2 of 3 votes on 2 of 2 comparisons would be in the export." in html
    assert not project.exports.exists()


def test_an_export_has_only_the_votes_that_were_asked_for(client, project, admin):
    anna = project.judgments.first().annotator

    client.post(url("create_export"), {"without": anna.pk, "licence": "CC0"})

    export = project.exports.get()
    assert export.manifest["filters"] == {"without": [anna.pk]}
    assert (export.n_judgments, export.manifest["licence"]) == (1, "CC0")
    assert "No votes of anna" in text_of(client.get(url("export", export.pk)))


def test_conditions_that_cannot_be_come_back_as_they_were(client, project, admin):
    response = client.post(url("create_export"), {"first_round": "3", "last_round": "2"})

    assert response.status_code == 422
    assert "Round 3 does not come before 2." in text_of(response)
    assert response.context["form"]["first_round"].value() == "3"
    assert not project.exports.exists()


def test_nobody_of_another_project_can_be_named(client, admin):
    theirs = make_judgment(ComparisonFactory(), UserFactory(), [0], [1])

    response = client.get(url("exports"), {"preview": "1", "annotators": theirs.annotator_id})

    assert theirs.annotator.username not in text_of(response)
    assert list(response.context["form"].errors) == ["annotators"]


def test_the_worker_freezes_what_is_large(client, project, admin, monkeypatch):
    monkeypatch.setattr(jobs, "AT_ONCE", 2)

    html = text_of(client.post(url("create_export"), {"last_round": "1"}, follow=True))

    job = ExportJob.objects.get()
    assert job.options == {"filters": {"last_round": 1}, "use_rulings": False, "licence": ""}
    assert "The votes are frozen as soon as the worker is free." in html
    assert not project.exports.exists()


# --- one export -----------------------------------------------------------------------------------
def test_a_file_is_asked_for_made_and_downloaded_in_parts(client, project, admin):
    export = create_export(project)
    asked = client.post(url("make_file", export.pk), {"name": "kto.jsonl"}, headers=HTMX)
    assert "waits for the worker" in text_of(asked)
    path = derive(export, "kto", "jsonl")

    page = text_of(client.get(url("export_files", export.pk)))
    address = url("download_derived", export.pk, "kto.jsonl")
    part = client.get(address, headers={"Range": "bytes=1-9"})

    assert f'href="{address}"' in page
    assert (part.status_code, b"".join(part)) == (206, path.read_bytes()[1:10])


def test_without_javascript_asking_leads_back_to_the_page(client, project, admin):
    export = create_export(project)

    response = client.post(url("make_file", export.pk), {"name": "dpo.parquet"})

    assert response["Location"] == url("export", export.pk)
    assert ExportJob.objects.get().name == f"{export.pk}/dpo.parquet"


@pytest.mark.parametrize("name", ["manifest.json", "../1/data.jsonl", "kto.exe", ""])
def test_only_files_that_there_can_be_are_made(client, project, admin, name):
    export = create_export(project)

    assert client.post(url("make_file", export.pk), {"name": name}).status_code == 404
    assert not ExportJob.objects.exists()


def test_a_file_that_was_not_made_is_not_there(client, project, admin):
    export = create_export(project)

    assert client.get(url("download_derived", export.pk, "kto.jsonl")).status_code == 404


def test_an_old_export_says_what_it_cannot_give(client, project, admin):
    export = create_export(project)
    export.manifest = {"counts": export.manifest["counts"]}
    export.save()

    html = text_of(client.get(url("export", export.pk)))

    assert html.count("gives only the shapes reward and dpo") == 3
    assert "votes.jsonl" not in html


@pytest.mark.parametrize("n", [1, 3])
def test_the_page_costs_the_same_for_one_other_export_and_three(
    client, project, admin, django_assert_num_queries, n
):
    export = create_export(project)
    for _ in range(n):
        create_export(project)

    with django_assert_num_queries(7):
        client.get(url("export", export.pk))


@pytest.mark.parametrize(
    "name", ["export", "export_files", "compare_exports", "make_file", "download_derived"]
)
@pytest.mark.parametrize("role", [None, Role.ANNOTATOR])
def test_who_may_not_see_an_export_sees_none_of_it(client, project, name, role):
    export = create_export(project)
    derive(export, "kto", "jsonl")
    user = UserFactory()
    if role:
        MembershipFactory(project=project, user=user, role=role)
    client.force_login(user)
    address = url(name, export.pk, *(["kto.jsonl"] if name == "download_derived" else []))

    post, get = client.post(address, {"name": "kto.csv"}), client.get(address)

    assert {post.status_code, get.status_code} <= {404, 405}
    assert not ExportJob.objects.exists()


# --- two exports ----------------------------------------------------------------------------------
def test_two_exports_are_compared(client, project, admin):
    before = create_export(project)
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    after = create_export(project)

    response = client.get(url("compare_exports", after.pk), {"before": before.pk})

    assert "1 pair added, 0 removed, 0 with other votes, 2 the same." in text_of(response)


def test_the_worker_compares_what_is_large(client, project, admin, monkeypatch):
    before, after = create_export(project), create_export(project)
    monkeypatch.setattr(jobs, "AT_ONCE", 1)

    # Without a number it is the one before.
    htmls = [text_of(client.get(url("compare_exports", after.pk))) for _ in range(2)]

    assert all("The worker compares them" in html for html in htmls)
    assert ExportJob.objects.get().name == f"{before.pk}-{after.pk}"


@pytest.mark.parametrize("before", ["0", "x", ""])
def test_an_export_that_is_not_there_is_not_compared(client, project, admin, before):
    after = create_export(project)

    response = client.get(url("compare_exports", after.pk), {"before": before})

    assert response.status_code == 404


@pytest.mark.parametrize("most", [5000, 0])
def test_files_that_were_changed_are_not_compared(client, project, admin, monkeypatch, most):
    """Neither at once nor by the worker."""
    _, after = create_export(project), create_export(project)
    (after.folder / "data.jsonl").write_text("")
    monkeypatch.setattr(jobs, "AT_ONCE", most)
    address = url("compare_exports", after.pk)
    client.get(address)
    for job in ExportJob.objects.all():
        jobs.work_off(job.pk)

    html = text_of(client.get(address))

    assert f"data.jsonl of export {after.pk} has changed since it was frozen" in html
