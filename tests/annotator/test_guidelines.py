"""Versions of the guidelines, and who has read which."""

import pytest
from django.urls import reverse

from annotator.differences import Piece
from annotator.guidelines import News, keep_current, mark_read, news_for, publish, versions
from annotator.models import Membership, Role
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
    settings_as_sent,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", guidelines="Be kind.")


@pytest.fixture
def anna(client, project):
    user = MembershipFactory(project=project, role=Role.ANNOTATOR).user
    client.force_login(user)
    return user


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def numbered(project):
    return [(version.number, version.text, version.author) for version in versions(project)]


# --- versions ------------------------------------------------------------------------------------
def test_every_version_is_kept_with_its_author(project):
    ada = UserFactory()

    publish(project, "Be very kind.", ada)
    publish(project, "Be honest.", None)

    assert (project.guidelines, project.guideline_version) == ("Be honest.", 3)
    assert numbered(project) == [
        (3, "Be honest.", None),
        (2, "Be very kind.", ada),
        (1, "Be kind.", None),
    ]


def test_the_same_text_is_no_new_version(project):
    publish(project, "Be kind.", None)

    assert numbered(project) == [(1, "Be kind.", None)]


def test_a_project_that_a_command_has_made_has_its_version_too(project):
    assert numbered(project) == [(1, "Be kind.", None)]
    assert not project.guideline_versions.exists()


def test_other_line_ends_are_no_new_version(client, project):
    admin = MembershipFactory(project=project, role=Role.ADMIN).user
    client.force_login(admin)
    publish(project, "Be kind.\nBe honest.", None)
    form = client.get(url("edit_project")).context["form"]
    sent = {name: form[name].value() for name in form.fields if form[name].value() is not None}

    client.post(url("edit_project"), sent | {"guidelines": "Be kind.\r\nBe honest."})
    client.post(url("edit_project"), sent | {"guidelines": "Be kind."})

    project.refresh_from_db()
    assert numbered(project)[0] == (3, "Be kind.", admin)


# --- who has read them ---------------------------------------------------------------------------
def test_who_has_read_nothing_is_told_so_without_a_difference(project, anna):
    assert news_for(project, anna) == News(None, [])


def test_who_has_read_an_earlier_version_is_shown_what_has_changed(project, anna):
    keep_current(project)
    mark_read(project, anna, 1)
    assert news_for(project, anna) is None

    publish(project, "Be very kind.", None)
    publish(project, "Be very kind!", None)

    assert news_for(project, anna) == News(
        1,
        [
            Piece("same", "Be "),
            Piece("added", "very "),
            Piece("same", "kind"),
            Piece("removed", "."),
            Piece("added", "!"),
        ],
    )


def test_who_has_judged_without_a_word_about_reading_is_shown_what_has_changed_since(project, anna):
    make_judgment(ComparisonFactory(project=project), anna)
    assert news_for(project, anna) == News(None, [])

    publish(project, "Be very kind.", None)

    assert news_for(project, anna) == News(
        1, [Piece("same", "Be "), Piece("added", "very "), Piece("same", "kind.")]
    )


def test_what_was_read_stays_read(project, anna):
    publish(project, "Be very kind.", None)
    mark_read(project, anna, 2)
    mark_read(project, anna, 1)  # from a page left open
    assert Membership.objects.get(user=anna).guidelines_read == 2

    mark_read(project, anna, 99)
    publish(project, "Be honest.", None)
    assert news_for(project, anna).read == 2


def test_there_is_no_news_without_guidelines_or_membership(project, anna):
    assert news_for(project, UserFactory(is_superuser=True)) is None

    publish(project, "", None)
    assert news_for(project, anna) is None


# --- pages ---------------------------------------------------------------------------------------
def test_the_comparing_page_says_what_has_changed_until_one_has_read_it(client, project, anna):
    ComparisonFactory(project=project)
    keep_current(project)
    mark_read(project, anna, 1)
    publish(project, "Be <b>bold</b>.", None)
    html = client.get(url("compare")).content.decode()
    assert "The guidelines have changed since you last read them" in html
    assert "<ins>&lt;b&gt;bold" in html

    client.post(url("read_guidelines"), {"version": 2})

    assert "The guidelines have changed" not in client.get(url("compare")).content.decode()


def test_reading_says_which_version_was_read(client, project, anna):
    publish(project, "Be very kind.", None)  # between the page and the press of its button

    response = client.post(url("read_guidelines"), {"version": 1}, headers={"HX-Request": "true"})

    assert Membership.objects.get(user=anna).guidelines_read == 1
    assert "from version 1 to 2" in response.content.decode()


def test_a_version_has_a_page_with_what_it_changed(client, project, anna):
    publish(project, "Be very kind.", None)

    context = client.get(url("guideline_version", 2)).context

    assert context["changes"][1] == Piece("added", "very ")
    assert client.get(url("guideline_version", 1)).context["changes"] == []
    assert client.get(url("guideline_version", 3)).status_code == 404


# --- two people at once --------------------------------------------------------------------------
def test_settings_that_were_open_meanwhile_do_not_take_newer_guidelines_back(project, client):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    publish(project, "Be honest.", None)
    opened = settings_as_sent(guidelines="Be kind.", based_on=1)

    client.post(url("edit_project"), opened | {"overlap": 7})

    project.refresh_from_db()
    assert (project.guidelines, project.guideline_version, project.overlap) == ("Be honest.", 2, 7)


def test_two_new_texts_are_not_one_over_the_other_unnoticed(project, client):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    publish(project, "Be honest.", None)
    mine = settings_as_sent(guidelines="Be brief.", based_on=1)

    refused = client.post(url("edit_project"), mine)

    assert refused.status_code == 422
    assert "Version 2 has been saved since you opened this page" in refused.content.decode()
    client.post(url("edit_project"), mine | {"based_on": refused.context["form"].data["based_on"]})
    project.refresh_from_db()
    assert (project.guidelines, project.guideline_version) == ("Be brief.", 3)
