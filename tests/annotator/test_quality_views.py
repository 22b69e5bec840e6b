"""The quality pages: what they say, to whom, and when nothing can be said."""

import re

import pytest
from django.urls import reverse

from annotator.models import Completion, QualityReport, Role, User, Verdict
from annotator.quality import keeping
from annotator.reviewing import rule
from annotator.tasks import compute_quality
from annotator.views.quality import meaning_of
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db

PAGES = ["quality", "quality_annotators", "quality_models", "quality_disagreements"]


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=3)


@pytest.fixture(autouse=True)
def reviewer(client, project):
    user = MembershipFactory(project=project, role=Role.REVIEWER).user
    client.force_login(user)
    return user


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def text_of(response):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def computed(project):
    keeping.ask(project)
    compute_quality(project.pk)


def vote(project, *rows):
    """One comparison per row, one annotator per letter: which of the two answers is better."""
    users = [UserFactory(username=f"person-{place}") for place in range(len(rows[0]))]
    for row in rows:
        comparison = ComparisonFactory(project=project)
        for user, letter in zip(users, row, strict=True):
            make_judgment(comparison, user, *([0], [1]) if letter == "A" else ([1], [0]))
    return list(project.comparisons.order_by("pk"))


# --- figures ----------------------------------------------------------------------------------
def test_agreement_is_a_number_and_a_sentence(client, project):
    vote(project, "AA", "AA", "BB")
    computed(project)

    response = client.get(url("quality"))

    assert '<p class="big-number">1.00</p>' in response.content.decode()
    assert response.context["meaning"] == meaning_of(1.0)
    assert "too few for an interval" in text_of(response)


def test_what_no_number_can_say_is_said_in_words(client, project):
    vote(project, "A", "B")
    computed(project)

    response = client.get(url("quality"))

    assert response.context["meaning"] == "No comparison has been ranked by two people yet."
    assert "No comparison has been judged twice by the same person yet." in text_of(response)


def test_parts_are_shown_by_the_measure_that_is_chosen(client, project):
    for comparison, version in zip(vote(project, "AA", "AB"), (1, 2), strict=True):
        comparison.judgments.update(guideline_version=version)
    computed(project)

    by_alpha = client.get(url("quality")).context["parts"]
    by_kappa = client.get(url("quality"), {"measure": "cohens_kappa"}).context["parts"]
    by_oneself = client.get(url("quality"), {"measure": "self_agreement"}).context["parts"]

    assert [part["title"] for part in by_alpha] == ["By version of the guidelines"]
    assert [(name, n, of["value"]) for name, n, of in by_alpha[0]["rows"]] == [
        ("1", 2, 1.0), ("2", 2, -0.5),
    ]  # fmt: skip
    assert [of["value"] for _, _, of in by_kappa[0]["rows"]] == [1.0, -1.0]
    assert [of["value"] for _, _, of in by_oneself[0]["rows"]] == [None, None]


def test_parts_that_are_left_out_are_counted(client, project, monkeypatch):
    monkeypatch.setattr("annotator.quality.report.MOST_GROUPS", 2)
    for version, comparison in enumerate(vote(project, "AA", "AB", "AA"), start=1):
        comparison.judgments.update(guideline_version=version)
    computed(project)

    response = client.get(url("quality"))

    assert "with the same version before one's eyes. 1 earlier left out." in text_of(
        response
    ).replace("&#x27;", "'")


def test_everybody_stands_beside_each_annotator(client, project):
    vote(project, "AB", "AA")
    computed(project)

    html = client.get(url("quality_annotators")).content.decode()

    headings = re.findall(r'<h3 id="person-\w+">([^<]*)</h3>', html)
    assert headings == ["Everybody together", "person-0", "person-1"]


def test_annotators_come_a_page_at_a_time(client, project, monkeypatch):
    monkeypatch.setattr("annotator.views.quality.PAGE_SIZE", 2)
    vote(project, "AAA")
    computed(project)

    html = client.get(url("quality_annotators"), {"page": "2"}).content.decode()

    headings = re.findall(r'<h3 id="person-\w+">([^<]*)</h3>', html)
    assert headings == ["Everybody together", "person-2"]


def test_sources_are_ordered_by_what_people_prefer(client, project):
    for comparison in vote(project, "AA", "BA", "AA"):
        first, second = completion_ids(comparison)
        Completion.objects.filter(pk=first).update(source="new")
        Completion.objects.filter(pk=second).update(source="old")
    computed(project)

    response = client.get(url("quality_models"))

    assert [row["source"] for row in response.context["board"]["rows"]] == ["new", "old"]
    assert "83 % of 6" in text_of(response).replace("\u00a0", " ")


def test_a_source_without_a_name_is_told_as_such(client, project):
    (comparison,) = vote(project, "AA")
    Completion.objects.filter(pk=completion_ids(comparison)[0]).update(source="")
    computed(project)

    for name in ("quality", "quality_models"):
        assert "no source named" in text_of(client.get(url(name)))


def test_disagreement_leads_to_the_comparison(client, project):
    same, split = vote(project, "AA", "AB")
    computed(project)

    html = client.get(url("quality_disagreements")).content.decode()

    assert url("comparison", split.pk) in html
    assert url("comparison", same.pk) not in html


def test_disagreement_leads_to_an_example_and_to_other_guidelines(client, project):
    """By the forms that one finds: from the list to a ruling, a proposal, and what annotators read."""
    project.guidelines = "Be kind."
    project.save()
    (split,) = vote(project, "AB")
    computed(project)
    found = client.get(url("quality_disagreements")).content.decode()
    page = url("comparison", split.pk)
    assert page in found
    forms = re.findall(r'action="([^"]+)"', client.get(page).content.decode())
    assert {url("rule", split.pk), url("propose", split.pk)} <= set(forms)

    said = {"choice": "tie", "explanation": "Both are right.", "is_example": "on"}
    client.post(url("rule", split.pk), said)
    client.post(url("propose", split.pk), {"text": "Call it a tie if both are right."})
    (proposal,) = client.get(url("proposals")).context["page"].rows
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    settings = f"{url('edit_project')}?proposal={proposal.pk}"
    form = client.get(settings).context["form"]
    client.post(settings, {name: form[name].value() for name in form.fields})

    client.force_login(User.objects.get(username="person-0"))
    read = text_of(client.get(url("guidelines")))
    assert "Call it a tie if both are right." in read
    assert "Both are right." in read


def test_what_has_been_ruled_is_marked(client, project, reviewer):
    open_one, settled = vote(project, "AB", "AB")
    rule(settled, reviewer, Verdict.RANKING, settled.judgments.first().ranking)
    computed(project)

    response = client.get(url("quality_disagreements"))

    assert [comparison for comparison, _ in response.context["rows"]] == [settled, open_one]
    assert response.context["ruled"] == {settled.pk}
    assert text_of(response).count(" ruled ") == 1


def test_most_split_comparisons_come_a_page_at_a_time(client, project, monkeypatch):
    monkeypatch.setattr("annotator.views.quality.PAGE_SIZE", 2)
    comparisons = vote(project, "AB", "AB", "BA")
    computed(project)

    second = client.get(url("quality_disagreements"), {"page": "2"})

    assert [comparison for comparison, _ in second.context["rows"]] == comparisons[:1]


def test_consensus_stands_beside_the_votes(client, project):
    (comparison,) = vote(project, "AAB")
    before = client.get(url("comparison", comparison.pk))
    computed(project)

    after = client.get(url("comparison", comparison.pk))

    assert before.context["consensus"] is None
    assert after.context["consensus"]["rows"][0] == ("Majority", "A > B", pytest.approx(2 / 3))
    assert len(after.context["judgments"]) == 3


# --- empty ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_computed_yet(client, name):
    assert "Nothing has been computed yet." in text_of(client.get(url(name)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("quality", "Nobody has judged anything yet."),
        ("quality_annotators", "Nobody has judged anything yet."),
        ("quality_models", "No answers of two different sources have been ranked"),
        ("quality_disagreements", "Nobody has judged anything yet."),
    ],
)
def test_without_votes_there_is_a_sentence(client, project, name, sentence):
    computed(project)

    assert sentence in text_of(client.get(url(name)))


# --- how new they are -------------------------------------------------------------------------
def test_a_page_without_newer_votes_asks_for_nothing(client, project):
    vote(project, "AB")
    computed(project)

    html = client.get(url("quality")).content.decode()

    assert "from 2 votes by 2 people" in html
    assert "hx-trigger" not in html


@pytest.mark.parametrize("name", PAGES)
def test_figures_of_an_older_release_are_asked_for_anew(client, project, name):
    vote(project, "AB")
    computed(project)
    QualityReport.objects.update(figures={"n_votes": 2, "n_annotators": 2, "agreement": {}})

    html = client.get(url(name)).content.decode()

    assert 'hx-trigger="load"' in html


def test_a_page_with_newer_votes_asks_for_new_figures(client, project):
    computed(project)
    vote(project, "A")

    html = client.get(url("quality")).content.decode()

    assert 'hx-trigger="load"' in html


def test_asking_answers_with_a_status_that_looks_again(client, project):
    response = client.post(url("refresh_quality"), headers={"hx-request": "true"})

    assert 'hx-trigger="every 2s"' in response.content.decode()
    assert keeping.report_of(project).asked is not None


def test_asking_without_javascript_leads_back_to_the_page(client):
    response = client.post(url("refresh_quality"))

    assert response["Location"] == url("quality")


def test_an_open_page_says_that_newer_figures_are_ready(client, project):
    computed(project)
    shown = client.get(url("quality")).context["shown"]
    computed(project)

    response = client.get(url("quality_status"), {"shown": shown})

    assert "Newer figures are ready." in text_of(response)
    assert "HX-Refresh" not in response


def test_an_empty_page_shows_new_figures_by_itself(client, project):
    computed(project)

    assert client.get(url("quality_status"), {"shown": ""})["HX-Refresh"] == "true"


def test_a_failure_is_told_and_not_tried_again_by_itself(client, project):
    keeping.ask(project)
    QualityReport.objects.update(asked=None, error="The figures could not be computed.")

    html = client.get(url("quality")).content.decode()

    assert "The figures could not be computed." in html
    assert "hx-trigger" not in html


# --- who --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*PAGES, "quality_status"])
def test_annotators_do_not_see_who_wrote_what(client, project, name):
    client.force_login(MembershipFactory(project=project).user)

    assert client.get(url(name)).status_code == 404


def test_annotators_and_outsiders_ask_for_nothing(client, project):
    for user in (MembershipFactory(project=project).user, UserFactory()):
        client.force_login(user)

        assert client.post(url("refresh_quality")).status_code == 404
    assert keeping.report_of(project) is None


def test_the_old_address_leads_to_the_new_one(client):
    response = client.get(url("agreement"))

    assert (response.status_code, response["Location"]) == (301, url("quality"))


@pytest.mark.parametrize("n", [1, 3])
def test_pages_take_equally_many_queries(client, project, n, django_assert_num_queries):
    vote(project, *["AB"] * n)
    computed(project)

    for name in PAGES:
        with django_assert_num_queries(9 if name == "quality_disagreements" else 7):
            client.get(url(name))
