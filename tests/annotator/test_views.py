import json
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator.models import Judgment, Membership, Project, Role, User, Verdict
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", name="Essays", overlap=1)


@pytest.fixture
def member(client, project):
    """Sign in as a new member of the project with the given role."""

    def member(role):
        user = MembershipFactory(project=project, role=role).user
        client.force_login(user)
        return user

    return member


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def verdict(assignment, choice, **more):
    return {
        "assignment": assignment.pk,
        "payload_hash": assignment.payload_hash,
        "choice": choice,
        **more,
    }


# --- the comparing page -------------------------------------------------------------------------
def test_the_page_shows_question_and_answers_but_not_who_wrote_them(client, project, member):
    member(Role.ANNOTATOR)
    comparison = ComparisonFactory(project=project, texts=["Yes, **do**.", "No."])
    comparison.completions.update(source="SecretModel-7B")

    html = client.get(url("compare")).content.decode()

    assert "Yes, <strong>do</strong>." in html
    assert str(comparison.prompt) in html
    assert "SecretModel" not in html


@pytest.mark.parametrize(
    ("choice", "places"), [("first", [[0], [1]]), ("second", [[1], [0]]), ("tie", [[0, 1]])]
)
def test_a_verdict_is_recorded_in_the_order_shown(client, project, member, choice, places):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)

    client.post(url("judge"), verdict(assignment, choice))

    expected = [[assignment.order[place] for place in group] for group in places]
    assert Judgment.objects.get().ranking == expected


def test_a_verdict_answers_with_the_next_comparison_in_the_same_response(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    ComparisonFactory(project=project)
    first = queue.claim(project, user)

    response = client.post(url("judge"), verdict(first, "first"), headers=HTMX)

    following = queue.held_by(project, user)
    html = response.content.decode()
    assert html.lstrip().startswith('<section id="comparison"')
    assert f'data-assignment="{following.pk}"' in html
    assert following.comparison != first.comparison


def test_without_javascript_a_verdict_leads_back_to_the_page(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)

    response = client.post(url("judge"), verdict(queue.claim(project, user), "all_bad"))

    assert (response.status_code, response["Location"]) == (302, url("compare"))
    assert Judgment.objects.get().verdict == Verdict.ALL_BAD


def test_a_double_click_records_one_judgment(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)

    for _ in range(2):
        assert (
            client.post(url("judge"), verdict(assignment, "first"), headers=HTMX).status_code == 200
        )

    assert Judgment.objects.count() == 1


def test_a_verdict_about_another_text_is_refused_with_a_sentence(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    sent = verdict(queue.claim(project, user), "first", payload_hash="0" * 64)

    response = client.post(url("judge"), sent, headers=HTMX)

    assert response.status_code == 422
    assert "another text than the one you were shown" in response.content.decode()
    assert not Judgment.objects.exists()


def test_three_answers_are_ranked_with_ties(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project, texts=["a", "b", "c"])
    assignment = queue.claim(project, user)
    a, b, c = assignment.order

    client.post(
        url("judge"), verdict(assignment, "rank", **{"rank-0": 2, "rank-1": 1, "rank-2": 2})
    )

    assert Judgment.objects.get().ranking == [[b], [a, c]]


def test_every_answer_needs_a_rank(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project, texts=["a", "b", "c"])
    assignment = queue.claim(project, user)

    response = client.post(url("judge"), verdict(assignment, "rank", **{"rank-0": 1}))

    assert response.status_code == 422
    assert "Give every answer a rank" in response.content.decode()


def test_undo_brings_the_comparison_back(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    client.post(url("judge"), verdict(assignment, "first"))

    client.post(url("undo"), headers=HTMX)

    assert Judgment.objects.get().voided is not None
    assert queue.held_by(project, user).order == assignment.order


def test_another_persons_assignment_does_not_exist_for_me(client, project, member):
    ComparisonFactory(project=project)
    other = MembershipFactory(project=project).user
    theirs = queue.claim(project, other)
    member(Role.ADMIN)

    response = client.post(url("judge"), verdict(theirs, "first"))

    assert response.status_code == 404
    assert not Judgment.objects.exists()


def test_an_open_page_keeps_its_lease(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    type(assignment).objects.update(lease_until=timezone.now() + timedelta(seconds=1))

    response = client.post(url("renew", assignment.pk))

    assignment.refresh_from_db()
    assert response.status_code == 204
    assert assignment.lease_until > timezone.now() + timedelta(minutes=10)


def empty_state(client):
    html = client.get(url("compare")).content.decode()
    return html.split('data-reason="')[1].split('"')[0]


def test_the_four_empty_states_differ(client, project, member):
    user = member(Role.ANNOTATOR)
    assert empty_state(client) == "nothing_imported"

    ComparisonFactory(project=project)
    other = MembershipFactory(project=project).user
    held = queue.claim(project, other)
    assert empty_state(client) == "held_by_others"

    queue.record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)
    assert empty_state(client) == "all_done"

    Membership.objects.filter(user=user).update(is_qualified=False)
    assert empty_state(client) == "not_qualified"


def test_hostile_text_stays_text(client, project, member):
    member(Role.ANNOTATOR)
    ComparisonFactory(
        project=project, texts=["<script>alert(1)</script>", "[x](javascript:alert(1))"]
    )

    html = client.get(url("compare")).content.decode()

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "javascript:alert" not in html.replace("(javascript:alert(1))", "")
    assert 'href="javascript' not in html


# --- who may do what ----------------------------------------------------------------------------
REVIEWER_PAGES = ["prompts", "comparisons", "agreement", "exports"]
ADMIN_PAGES = ["import_file", "members", "edit_project"]


@pytest.mark.parametrize("name", ["compare", "guidelines", *REVIEWER_PAGES, *ADMIN_PAGES])
def test_a_project_does_not_exist_for_outsiders(client, project, name):
    ComparisonFactory(project=project)
    client.force_login(UserFactory())

    assert client.get(url(name)).status_code == 404


@pytest.mark.parametrize("name", [*REVIEWER_PAGES, *ADMIN_PAGES])
def test_annotators_see_only_their_own_work(client, member, name):
    member(Role.ANNOTATOR)

    assert client.get(url(name)).status_code == 404


@pytest.mark.parametrize("name", ADMIN_PAGES)
def test_reviewers_change_nothing(client, member, name):
    member(Role.REVIEWER)

    assert client.get(url(name)).status_code == 404


@pytest.mark.parametrize("name", ["judge", "undo", "create_export", "add_member"])
def test_outsiders_may_not_post(client, project, name):
    client.force_login(MembershipFactory(role=Role.ADMIN).user)

    assert client.post(url(name), {"username": "eve", "role": "admin"}).status_code == 404
    assert not User.objects.filter(username="eve").exists()


@pytest.mark.parametrize("name", ["compare", "exports", "members"])
def test_one_must_be_signed_in(client, project, name):
    response = client.get(url(name))

    assert response["Location"] == f"{reverse('login')}?next={url(name)}"


def test_another_projects_comparison_is_not_found_through_mine(client, member):
    theirs = ComparisonFactory()
    member(Role.ADMIN)

    assert client.get(url("comparison", theirs.pk)).status_code == 404


# --- import and export ----------------------------------------------------------------------------
def test_an_import_says_what_is_new(client, project, member):
    member(Role.ADMIN)
    line = json.dumps({"prompt": "Why?", "completions": ["Because.", "Ask me tomorrow."]})
    file = SimpleUploadedFile("a.jsonl", line.encode())

    html = client.post(url("import_file"), {"file": file}).content.decode()

    assert "1 new prompt," in html
    assert project.comparisons.count() == 1


def test_a_bad_line_is_named_and_nothing_is_imported(client, project, member):
    member(Role.ADMIN)
    text = '{"prompt": "Why?"}\n{"prompt": \n'

    response = client.post(url("import_file"), {"text": text})

    assert response.status_code == 422
    assert '<td class="number">2</td>' in response.content.decode()
    assert not project.prompts.exists()


def test_an_export_is_made_listed_and_downloaded(client, project, member):
    user = member(Role.ADMIN)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    client.post(url("judge"), verdict(assignment, "first"))

    client.post(url("create_export"))

    export = project.exports.get()
    response = client.get(url("download_export", export.pk, "data.jsonl"))
    assert b"".join(response.streaming_content) == (export.folder / "data.jsonl").read_bytes()
    assert response["Content-Disposition"] == (
        f'attachment; filename="essays-export-{export.pk}-data.jsonl"'
    )


def test_an_export_without_votes_is_a_sentence(client, project, member):
    member(Role.ADMIN)

    html = client.post(url("create_export"), follow=True).content.decode()

    assert "has no comparisons yet" in html
    assert not project.exports.exists()


def test_only_the_two_files_of_an_export_can_be_had(client, project, member):
    user = member(Role.ADMIN)
    ComparisonFactory(project=project)
    client.post(url("judge"), verdict(queue.claim(project, user), "first"))
    client.post(url("create_export"))

    assert (
        client.get(url("download_export", project.exports.get().pk, "db.sqlite3")).status_code
        == 404
    )


# --- projects and members -----------------------------------------------------------------------
def test_an_admin_makes_a_project_and_is_its_admin(client, member):
    user = member(Role.ADMIN)

    client.post(
        reverse("annotator:new_project"),
        {"name": "My essays", "overlap": 2, "lease_minutes": 20, "held_out_percent": 25},
    )

    made = Project.objects.get(slug="my-essays")
    assert made.memberships.get().user == user
    assert made.overlap == 2


def test_annotators_make_no_projects(client, member):
    member(Role.ANNOTATOR)

    assert client.get(reverse("annotator:new_project")).status_code == 404


def test_new_guidelines_are_a_new_version(client, project, member):
    member(Role.ADMIN)
    settings = {"name": "Essays", "overlap": 1, "lease_minutes": 20, "held_out_percent": 25}

    client.post(url("edit_project"), settings | {"guidelines": "Be kind."})
    client.post(url("edit_project"), settings | {"guidelines": "Be kind.", "overlap": 2})

    project.refresh_from_db()
    assert (project.guidelines, project.guideline_version, project.overlap) == ("Be kind.", 2, 2)


def test_a_new_member_gets_a_password_that_works(client, project, member):
    member(Role.ADMIN)

    response = client.post(url("add_member"), {"username": "eve", "role": "annotator"})

    password = response.content.decode().split('class="secret">')[1].split("<")[0]
    assert client.login(username="eve", password=password)
    assert project.memberships.get(user__username="eve").role == Role.ANNOTATOR


def test_the_last_admin_stays(client, project, member):
    user = member(Role.ADMIN)
    pk = project.memberships.get(user=user).pk

    client.post(url("change_member", pk), {"role": "annotator"})
    client.post(url("remove_member", pk))

    assert project.memberships.get(pk=pk).role == Role.ADMIN


# --- lists cost the same however long ------------------------------------------------------------
@pytest.mark.parametrize(("name", "queries"), [("prompts", 4), ("comparisons", 4)])
@pytest.mark.parametrize("rows", [1, 3])
def test_lists_cost_the_same_for_one_row_and_three(
    client, project, member, django_assert_num_queries, name, queries, rows
):
    member(Role.REVIEWER)
    for _ in range(rows):
        ComparisonFactory(project=project)

    with django_assert_num_queries(queries + 1):
        client.get(url(name))


@pytest.mark.parametrize("rows", [1, 3])
def test_home_shows_my_projects_and_no_others(client, rows):
    user = UserFactory()
    mine = [MembershipFactory(user=user).project for _ in range(rows)]
    other = PromptFactory().project
    client.force_login(user)

    html = client.get("/").content.decode()

    assert [project.name in html for project in mine] == [True] * rows
    assert other.name not in html
