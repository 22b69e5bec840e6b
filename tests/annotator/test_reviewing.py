"""Rulings, comments, worked examples and proposals: beside the votes, never instead of them."""

import json
import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator.exporting import create_export
from annotator.forms import RulingForm
from annotator.models import (
    Comment,
    Comparison,
    GuidelineProposal,
    Judgment,
    ProposalState,
    Role,
    Ruling,
    Verdict,
)
from annotator.reviewing import EXAMPLE_HOLD, rule, ruling_on, take_back_ruling, with_proposal
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=5, guidelines="Be kind.")


@pytest.fixture
def comparison(project):
    return ComparisonFactory(project=project, texts=["Yes.", "No."])


@pytest.fixture
def rita(client, project):
    """A reviewer, signed in."""
    membership = MembershipFactory(project=project, role=Role.REVIEWER, user__username="rita")
    client.force_login(membership.user)
    return membership.user


@pytest.fixture
def admin(project):
    return MembershipFactory(project=project, role=Role.ADMIN).user


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


# --- rulings --------------------------------------------------------------------------------------
def test_a_ruling_stands_beside_the_votes(client, comparison, rita):
    make_judgment(comparison, UserFactory(), [1], [0])

    client.post(url("rule", comparison.pk), {"choice": "first", "explanation": "It is true."})

    first, second = completion_ids(comparison)
    ruling = ruling_on(comparison)
    assert (ruling.reviewer, ruling.ranking) == (rita, [[first], [second]])
    assert Judgment.objects.counted().get().ranking == [[second], [first]]
    assert "A &gt; B" in client.get(url("comparison", comparison.pk)).content.decode()


def test_a_new_ruling_takes_the_place_of_the_old_one_which_stays(comparison, rita, admin):
    old = rule(comparison, rita, Verdict.ALL_BAD)

    new = rule(comparison, admin, Verdict.RANKING, [completion_ids(comparison)])

    assert ruling_on(comparison) == new
    assert Ruling.objects.get(pk=old.pk).voided is not None


def test_a_ruling_is_taken_back(client, comparison, rita):
    rule(comparison, rita, Verdict.ALL_BAD)

    client.post(url("end_ruling", comparison.pk))

    assert ruling_on(comparison) is None
    assert Ruling.objects.count() == 1


@pytest.mark.parametrize(
    ("choice", "ranking"),
    [
        ("first", [[5], [7]]),
        ("second", [[7], [5]]),
        ("tie", [[5, 7]]),
        ("all_bad", []),
        ("unrankable", []),
    ],
)
def test_the_form_of_a_pair_gives_and_shows_a_ranking(choice, ranking):
    form = RulingForm([5, 7], data={"choice": choice})

    assert form.is_valid()
    assert form.cleaned_data["ranking"] == ranking
    again = Ruling(verdict=form.cleaned_data["verdict"], ranking=ranking)
    assert RulingForm([5, 7], again).initial["choice"] == choice


def test_the_form_of_several_answers_takes_ranks():
    ranks = {"choice": "rank", "rank-0": "2", "rank-1": "1", "rank-2": "2"}

    form = RulingForm([5, 7, 9], data=ranks)

    assert form.is_valid()
    assert form.cleaned_data["ranking"] == [[7], [5, 9]]
    shown = RulingForm([5, 7, 9], Ruling(verdict="ranking", ranking=[[7], [5, 9]])).initial
    assert [shown[f"rank-{place}"] for place in range(3)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("completions", "sent", "field"),
    [
        ([5, 7], {}, "choice"),
        ([5, 7], {"choice": "rank"}, "choice"),
        ([5, 7, 9], {"choice": "rank", "rank-0": "1", "rank-1": "4", "rank-2": "1"}, "rank-1"),
        ([5, 7, 9], {"choice": "rank", "rank-0": "1", "rank-1": "2"}, "rank-2"),
        ([5, 7], {"choice": "tie", "is_example": "on"}, "explanation"),
    ],
)
def test_a_ruling_that_says_too_little_is_refused(completions, sent, field):
    assert field in RulingForm(completions, data=sent).errors


def test_what_was_written_is_not_lost_when_a_ruling_is_refused(client, comparison, rita):
    response = client.post(url("rule", comparison.pk), {"explanation": "Because it is true."})

    assert response.status_code == 422
    assert "Because it is true." in response.content.decode()
    assert not Ruling.objects.exists()


# --- rulings in exports -------------------------------------------------------------------------------
def exported(project, **options):
    export = create_export(project, **options)
    row = json.loads((export.folder / "data.jsonl").read_text())
    return row["p_chosen"], [vote["annotator"] for vote in row["votes"]], export.manifest


def test_an_export_leaves_rulings_out_unless_it_is_asked(project, comparison, rita):
    anna = UserFactory()
    make_judgment(comparison, anna, [0], [1])
    rule(comparison, rita, Verdict.RANKING, [[pk] for pk in completion_ids(comparison)[::-1]])

    without, with_rulings = exported(project), exported(project, use_rulings=True)

    assert without[:2] == (1.0, [str(anna.pk)])
    assert with_rulings[:2] == (0.5, [str(anna.pk), f"ruling-{rita.pk}"])
    said = [
        (found[2]["uses_rulings"], found[2]["counts"]["rulings"])
        for found in (without, with_rulings)
    ]
    assert said == [(False, 0), (True, 1)]


def test_a_ruling_that_ranks_nothing_or_was_taken_back_is_not_exported(project, comparison, rita):
    make_judgment(comparison, UserFactory(), [0], [1])
    rule(comparison, rita, Verdict.RANKING, [completion_ids(comparison)])
    rule(comparison, rita, Verdict.ALL_BAD)

    assert exported(project, use_rulings=True)[0] == 1.0


# --- worked examples ----------------------------------------------------------------------------------
def test_an_example_is_shown_to_annotators_without_its_sources(client, project, comparison, rita):
    comparison.completions.update(source="SecretModel-7B")
    first, second = completion_ids(comparison)
    rule(
        comparison,
        rita,
        Verdict.RANKING,
        [[second], [first]],
        explanation="<b>True.</b>",
        is_example=True,
    )
    client.force_login(MembershipFactory(project=project).user)

    html = client.get(url("guidelines")).content.decode()

    assert "<strong>B &gt; A</strong>" in html
    assert "&lt;b&gt;True.&lt;/b&gt;" in html
    assert "SecretModel" not in html
    assert "rita" not in html


def test_who_has_read_the_example_is_not_asked_about_it(project, comparison, rita, admin):
    rule(comparison, rita, Verdict.ALL_BAD, explanation="Both lie.", is_example=True)
    assert queue.claim(project, admin) is None

    take_back_ruling(comparison)

    assert queue.claim(project, admin).comparison == comparison


def test_an_example_is_asked_by_nobody_though_another_hold_ends(comparison, rita):
    over = timezone.now() - timedelta(minutes=1)
    Comparison.objects.update(hold="Until tomorrow.", held_until=over)
    rule(comparison, rita, Verdict.ALL_BAD, explanation="Empty.", is_example=True)

    queue.end_holds(comparison.project)

    assert Comparison.objects.get().hold == EXAMPLE_HOLD


@pytest.mark.parametrize("rows", [1, 3])
def test_guidelines_cost_the_same_for_one_example_and_three(
    client, project, rita, django_assert_num_queries, rows
):
    for _ in range(rows):
        comparison = ComparisonFactory(project=project)
        rule(comparison, rita, Verdict.ALL_BAD, explanation="Both lie.", is_example=True)

    with django_assert_num_queries(11):
        response = client.get(url("guidelines"))

    assert len(response.context["examples"]) == rows


# --- comments -------------------------------------------------------------------------------------------
def test_comments_are_plain_text_in_the_order_written(client, comparison, rita):
    for text in ("First <i>this</i>.", "Then\nthat."):
        client.post(url("comment", comparison.pk), {"text": text})

    html = client.get(url("comparison", comparison.pk)).content.decode()

    assert re.findall(r"(First|Then)[^\n]*</p>", html) == ["First", "Then"]
    assert "First &lt;i&gt;this&lt;/i&gt;." in html
    assert "Then<br>that." in html


@pytest.mark.parametrize("text", ["", "   ", "x" * 5001])
@pytest.mark.parametrize("name", ["comment", "propose"])
def test_an_empty_or_endless_text_is_refused(client, comparison, rita, name, text):
    assert client.post(url(name, comparison.pk), {"text": text}).status_code == 422
    assert not Comment.objects.exists()
    assert not GuidelineProposal.objects.exists()


# --- proposals -----------------------------------------------------------------------------------------
@pytest.fixture
def proposal(project, comparison, rita):
    return GuidelineProposal.objects.create(
        project=project, comparison=comparison, author=rita, text="Prefer short answers."
    )


def test_a_proposal_waits_with_its_author_and_comparison(client, comparison, rita):
    client.post(url("propose", comparison.pk), {"text": "Prefer short answers."})

    (shown,) = client.get(url("proposals")).context["page"].rows
    assert (shown.author, shown.comparison, shown.state) == (rita, comparison, "open")


def test_an_admin_works_a_proposal_into_a_new_version(client, project, admin, proposal):
    client.force_login(admin)
    page = f"{url('edit_project')}?proposal={proposal.pk}"
    form = client.get(page).context["form"]
    assert form["guidelines"].value() == "Be kind.\n\nPrefer short answers.\n"

    client.post(page, {name: form[name].value() for name in form.fields})

    project.refresh_from_db()
    proposal.refresh_from_db()
    assert project.guidelines.split() == ["Be", "kind.", "Prefer", "short", "answers."]
    assert (proposal.state, proposal.guideline_version) == (ProposalState.ACCEPTED, 2)
    assert proposal.decided_by == admin


def test_settings_saved_with_the_old_guidelines_accept_nothing(client, project, admin, proposal):
    client.force_login(admin)
    page = f"{url('edit_project')}?proposal={proposal.pk}"
    form = client.get(page).context["form"]
    sent = {name: form[name].value() for name in form.fields} | {"guidelines": "Be kind."}

    client.post(page, sent)

    proposal.refresh_from_db()
    project.refresh_from_db()
    assert (proposal.state, project.guideline_version) == (ProposalState.OPEN, 1)


def test_settings_typed_while_somebody_declined_are_saved(client, project, admin, proposal):
    client.force_login(admin)
    page = f"{url('edit_project')}?proposal={proposal.pk}"
    form = client.get(page).context["form"]
    GuidelineProposal.objects.update(state=ProposalState.DECLINED)

    client.post(page, {name: form[name].value() for name in form.fields})

    project.refresh_from_db()
    assert "Prefer short answers." in project.guidelines
    assert GuidelineProposal.objects.get().state == ProposalState.DECLINED


def test_a_proposal_is_declined_once_with_a_reason(client, admin, proposal):
    client.force_login(admin)
    page = url("decline_proposal", proposal.pk)
    assert client.post(page, {"reason": " "}).status_code == 422

    for reason in ("Length is no virtue.", "I was second."):
        client.post(page, {"reason": reason})

    proposal.refresh_from_db()
    assert (proposal.state, proposal.reason) == (ProposalState.DECLINED, "Length is no virtue.")
    assert client.get(f"{url('edit_project')}?proposal={proposal.pk}").status_code == 404


def test_the_first_guidelines_may_be_a_proposal(proposal):
    assert with_proposal("", proposal) == "Prefer short answers.\n"


@pytest.mark.parametrize("rows", [1, 3])
def test_proposals_cost_the_same_for_one_and_three(
    client, project, rita, proposal, django_assert_num_queries, rows
):
    for _ in range(rows - 1):
        GuidelineProposal.objects.create(project=project, author=UserFactory(), text="More.")

    with django_assert_num_queries(5):
        response = client.get(url("proposals"))

    assert len(response.context["page"].rows) == rows


# --- who may do what -----------------------------------------------------------------------------------
@pytest.mark.parametrize("role", [None, Role.ANNOTATOR])
def test_only_reviewers_rule_comment_and_propose(client, project, comparison, rita, role):
    rule(comparison, rita, Verdict.ALL_BAD)
    user = MembershipFactory(project=project, role=role).user if role else UserFactory()
    client.force_login(user)

    answers = [
        client.post(url("rule", comparison.pk), {"choice": "tie"}),
        client.post(url("end_ruling", comparison.pk)),
        client.post(url("comment", comparison.pk), {"text": "Mine."}),
        client.post(url("propose", comparison.pk), {"text": "Mine."}),
        client.get(url("proposals")),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert ruling_on(comparison).reviewer == rita
    assert not Comment.objects.exists()
    assert not GuidelineProposal.objects.exists()


def test_reviewers_do_not_decide_on_proposals(client, rita, proposal):
    assert client.post(url("decline_proposal", proposal.pk), {"reason": "No."}).status_code == 404
    assert client.get(f"{url('edit_project')}?proposal={proposal.pk}").status_code == 404
    proposal.refresh_from_db()
    assert proposal.state == ProposalState.OPEN


def test_nothing_of_another_project_is_reached_through_mine(client, rita, admin):
    theirs = ComparisonFactory()
    proposal = GuidelineProposal.objects.create(
        project=theirs.project, author=UserFactory(), text="Theirs."
    )
    client.force_login(admin)

    answers = [
        client.post(url("rule", theirs.pk), {"choice": "tie"}),
        client.post(url("comment", theirs.pk), {"text": "Mine."}),
        client.post(url("propose", theirs.pk), {"text": "Mine."}),
        client.post(url("decline_proposal", proposal.pk), {"reason": "No."}),
        client.get(f"{url('edit_project')}?proposal={proposal.pk}"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert not Ruling.objects.exists()
    assert not Comment.objects.exists()
