import random
import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator.exporting import create_export
from annotator.gold import exempt_who_has_judged
from annotator.models import (
    Arm,
    Assignment,
    Comparison,
    Judgment,
    Membership,
    Project,
    Purpose,
    QueueOrder,
    Role,
    User,
    Verdict,
)
from annotator.protocols import PRESETS, QUALITIES, Protocol, protocol_of, to_json
from annotator.reviewing import rule
from annotator.version import code_version
from annotator.views.comparing import shown_now
from annotator.views.review import PAGE_SIZE
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    completion_ids,
    make_judgment,
    settings_as_sent,
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


@pytest.fixture
def with_reasons(project):
    project.protocol = to_json(PRESETS["helpsteer"].protocol)
    project.save()


def entered(html):
    """What the page shows as entered: the choice, and the reasons."""
    chosen = re.findall(r'value="([\w-]+)" data-key="[^"]*" checked', html)
    return chosen, re.findall(r"<textarea[^>]*>([^<]*)</textarea>", html)


def test_what_was_entered_is_there_when_the_page_is_opened_again(
    client, project, member, with_reasons
):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    client.get(url("compare"))
    held = Assignment.objects.get()

    draft = {"choice": "first-2", "rationale": "Be<cause"}
    client.post(url("save_draft", held.pk), draft | {"other": "x"})

    assert entered(client.get(url("compare")).content.decode()) == (["first-2"], ["Be&lt;cause"])


def test_a_refused_verdict_comes_back_as_it_was_sent(client, project, member, with_reasons):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    client.get(url("compare"))
    held = Assignment.objects.get()

    response = client.post(url("judge"), verdict(held, "second-3"), headers=HTMX)

    assert response.status_code == 422
    assert "Say in a few words why." in response.content.decode()
    assert entered(response.content.decode()) == (["second-3"], [""])


def test_what_was_written_too_late_is_shown_above_the_next_one(
    client, project, member, with_reasons
):
    member(Role.ANNOTATOR)
    comparison = ComparisonFactory(project=project)
    client.get(url("compare"))
    held = Assignment.objects.get()
    queue.release(held)
    make_judgment(comparison, UserFactory(), [0], [1], strength=1, rationale="Short.")

    sent = verdict(held, "first-1", rationale="Long thought.")
    response = client.post(url("judge"), sent, headers=HTMX)

    assert response.context["unsent"] == ["Long thought."]


def test_a_skip_that_is_undone_loses_nothing(client, project, member, with_reasons):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    client.get(url("compare"))

    sent = verdict(Assignment.objects.get(), "skip", rationale="Half a thought")
    client.post(url("judge"), sent, headers=HTMX)
    skip = Judgment.objects.get()
    response = client.post(url("undo"), {"judgment": skip.pk}, headers=HTMX)

    assert entered(response.content.decode()) == ([], ["Half a thought"])


def test_nobody_writes_another_persons_draft(client, project, member, with_reasons):
    held = AssignmentFactory(comparison__project=project)
    member(Role.ANNOTATOR)

    response = client.post(url("save_draft", held.pk), {"rationale": "Mine."})

    assert response.status_code == 404
    held.refresh_from_db()
    assert held.draft == {}


def test_an_admin_chooses_a_preset_and_changes_it_by_hand(client, project, member):
    member(Role.ADMIN)

    client.post(url("edit_protocol"), {"preset": "llama2"})
    project.refresh_from_db()
    assert protocol_of(project) == PRESETS["llama2"].protocol
    by_hand = {"strengths": "better", "many": "best", "rationale": "off", "allow_tie": "on"}
    client.post(url("edit_protocol"), by_hand | {"flags": "unsafe"})

    project.refresh_from_db()
    assert project.protocol == {"allow_all_bad": False, "many": "best", "flags": ["unsafe"]}


def test_undo_brings_the_comparison_back(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    client.post(url("judge"), verdict(assignment, "first"))

    client.post(url("undo"), {"judgment": Judgment.objects.get().pk}, headers=HTMX)

    assert Judgment.objects.get().voided is not None
    assert queue.held_by(project, user).order == assignment.order


def test_undo_says_that_it_steps_over_what_others_have_answered(client, project, member):
    user, other = member(Role.ANNOTATOR), MembershipFactory(project=project).user
    judged = make_judgment(ComparisonFactory(project=project), user, [0], [1])
    skipped = ComparisonFactory(project=project)
    client.post(url("judge"), verdict(queue.claim(project, user), "skip"))
    make_judgment(skipped, other, [0], [1])
    assert f'name="judgment" value="{judged.pk}"' in client.get(url("compare")).content.decode()

    response = client.post(url("undo"), {"judgment": judged.pk}, headers=HTMX)

    assert response.context["assignment"].comparison == judged.comparison
    assert "Others have answered what you left to them last" in response.content.decode()


def test_a_double_click_takes_one_judgment_back(client, project, member):
    user = member(Role.ANNOTATOR)
    for _ in range(2):
        ComparisonFactory(project=project)
        client.post(url("judge"), verdict(queue.claim(project, user), "first"))
    first, last = Judgment.objects.order_by("pk")
    assert f'name="judgment" value="{last.pk}"' in client.get(url("compare")).content.decode()

    responses = [client.post(url("undo"), {"judgment": last.pk}) for _ in range(2)]

    assert [response["Location"] for response in responses] == [url("compare")] * 2
    assert list(Judgment.objects.filter(voided=None)) == [first]
    assert queue.held_by(project, user).comparison == last.comparison


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


def test_nobody_keeps_another_persons_lease(client, project, member):
    theirs = AssignmentFactory(comparison=ComparisonFactory(project=project))
    member(Role.ADMIN)

    assert client.post(url("renew", theirs.pk)).status_code == 404
    assert Assignment.objects.get().lease_until == theirs.lease_until


def test_reloading_the_page_shows_the_same_comparison_in_the_same_order(client, project, member):
    member(Role.ANNOTATOR)
    for _ in range(5):
        ComparisonFactory(project=project)

    shown = [client.get(url("compare")).context["assignment"] for _ in range(3)]

    assert len({(assignment.pk, tuple(assignment.order)) for assignment in shown}) == 1
    assert Assignment.objects.count() == 1


def test_seconds_count_from_the_page_and_not_from_the_hand_out(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    Assignment.objects.update(created=timezone.now() - timedelta(hours=9))

    client.post(url("judge"), verdict(assignment, "first", shown=shown_now(assignment)))

    assert 0 <= Judgment.objects.get().seconds < 60


def seconds_of_last():
    return Judgment.objects.order_by("-pk")[0].seconds


def judge_what_is_shown(client, name="first"):
    """As the page that is open now would send it."""
    context = client.get(url("compare")).context
    sent = verdict(context["assignment"], name, shown=context["shown"])
    return client.post(url("judge"), sent, headers=HTMX)


def test_nobody_knows_how_long_somebody_has_read_who_comes_back(client, project, member):
    member(Role.ANNOTATOR)
    ComparisonFactory.create_batch(2, project=project)
    client.get(url("compare"))

    answer = judge_what_is_shown(client)

    assert seconds_of_last() is None
    assignment, shown = answer.context["assignment"], answer.context["shown"]
    client.post(url("judge"), verdict(assignment, "first", shown=shown), headers=HTMX)
    assert 0 <= seconds_of_last() < 60


def test_a_verdict_that_was_taken_back_is_not_said_to_be_quick(client, project, member):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    judge_what_is_shown(client)
    client.post(url("undo"), {"judgment": Judgment.objects.get().pk}, headers=HTMX)

    judge_what_is_shown(client)

    assert (Judgment.objects.count(), seconds_of_last()) == (2, None)


def test_the_clock_goes_on_while_a_verdict_is_not_complete(client, project, member, with_reasons):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    held = queue.claim(project, user)
    shown = shown_now(held)

    refused = client.post(url("judge"), verdict(held, "first", shown=shown), headers=HTMX)

    assert (refused.status_code, refused.context["shown"]) == (422, shown)


@pytest.mark.parametrize("shown", ["", "WzEsIDBd:1abc:forged"])
def test_nobody_says_themselves_how_long_it_took(client, project, member, shown):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    Assignment.objects.update(created=timezone.now() - timedelta(seconds=90))

    client.post(url("judge"), verdict(assignment, "first", shown=shown))

    assert 90 <= Judgment.objects.get().seconds < 150


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("1500", 1500), ("0", 0), ("", None), ("-1", None), ("soon", None), ("9999999999", None)],
)
def test_a_showing_keeps_when_something_was_first_done(client, project, member, sent, kept):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    held = queue.claim(project, user)
    Assignment.objects.update(created=timezone.now() - timedelta(seconds=5))

    client.post(url("judge"), verdict(held, "first", first_interaction_ms=sent), headers=HTMX)

    assert Judgment.objects.get().assignment.first_interaction_ms == kept


def test_a_draft_brings_it_and_nothing_later_is_the_first(client, project, member, with_reasons):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    held = queue.claim(project, user)
    Assignment.objects.update(created=timezone.now() - timedelta(seconds=5))

    draft = {"choice": "first-2", "rationale": "So", "first_interaction_ms": "700"}
    client.post(url("save_draft", held.pk), draft)
    sent = verdict(held, "skip", first_interaction_ms="20")  # on another device
    client.post(url("judge"), sent, headers=HTMX)

    assert Judgment.objects.get().assignment.first_interaction_ms == 700


def test_a_verdict_is_given_with_the_guidelines_that_were_shown(client, project, member):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    client.get(url("compare"))
    Project.objects.update(guidelines="New.", guideline_version=2)

    judge_what_is_shown(client)

    assert Judgment.objects.get().guideline_version == 2


def test_a_showing_knows_which_version_showed_it_last(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    handed_out = queue.claim(project, user).ui_version
    Assignment.objects.update(ui_version="0.0.1")  # before an update of the server

    client.get(url("compare"))

    assert [handed_out, Assignment.objects.get().ui_version] == [code_version(), code_version()]


def test_a_skip_can_be_undone_too(client, project, member):
    user = member(Role.ANNOTATOR)
    ComparisonFactory(project=project)
    assignment = queue.claim(project, user)
    client.post(url("judge"), verdict(assignment, "skip"))
    assert "Undo the last one" in client.get(url("compare")).content.decode()

    client.post(url("undo"), {"judgment": Judgment.objects.get().pk})

    assert queue.held_by(project, user).comparison == assignment.comparison


def test_with_nothing_to_undo_a_sentence_says_so(client, project, member):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)

    response = client.post(url("undo"), headers=HTMX)

    assert response.status_code == 422
    assert "There is nothing to take back." in response.content.decode()


def test_progress_counts_what_is_for_me(client, project, member):
    user = member(Role.ANNOTATOR)
    done, _, others = (ComparisonFactory(project=project) for _ in range(3))
    make_judgment(done, user, [0], [1])
    make_judgment(others, UserFactory(), [0], [1])

    html = client.get(url("compare")).content.decode()

    words = re.sub("<[^>]*>", "", html.split('id="progress"')[1].split(">", 1)[1].split("</p>")[0])
    assert " ".join(words.split()) == "1 of 2 for you"


def test_an_answer_cut_off_says_so(client, project, member):
    member(Role.ANNOTATOR)
    comparison = ComparisonFactory(project=project)
    assert "Cut off" not in client.get(url("compare")).content.decode()

    comparison.completions.update(is_truncated=True)

    assert client.get(url("compare")).content.decode().count("Cut off at the length limit.") == 2


def test_the_conversation_is_shown_in_order_with_its_last_turn_apart(client, project, member):
    member(Role.ANNOTATOR)
    turns = [("system", "S1"), ("user", "U1"), ("assistant", "A1"), ("user", "U2")]
    messages = [{"role": role, "content": content} for role, content in turns]
    ComparisonFactory(project=project, prompt=PromptFactory(project=project, messages=messages))

    conversation = client.get(url("compare")).context["conversation"]

    assert [message["content"] for message in conversation.system] == ["S1"]
    assert [message["content"] for message in conversation.earlier] == ["U1", "A1"]
    assert conversation.last["content"] == "U2"


def test_a_page_on_which_all_is_held_by_others_looks_by_itself(client, project, member):
    ComparisonFactory(project=project)
    held = queue.claim(project, MembershipFactory(project=project).user)
    user = member(Role.ANNOTATOR)
    assert f'hx-get="{url("next_comparison")}"' in client.get(url("compare")).content.decode()

    queue.release(held)

    html = client.get(url("next_comparison"), headers=HTMX).content.decode()
    assert f'data-assignment="{queue.held_by(project, user).pk}"' in html
    assert "hx-get" not in html


def empty_state(client):
    html = client.get(url("compare")).content.decode()
    return html.split('data-reason="')[1].split('"')[0]


def test_the_empty_states_differ(client, project, member):
    user = member(Role.ANNOTATOR)
    assert empty_state(client) == "nothing_imported"

    ComparisonFactory(project=project)
    other = MembershipFactory(project=project).user
    held = queue.claim(project, other)
    assert empty_state(client) == "held_by_others"
    assert "Others are working on the last ones" in client.get(url("compare")).content.decode()

    queue.record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)
    assert empty_state(client) == "all_done"

    ComparisonFactory(project=project, hold="Later.", held_until=timezone.now() + timedelta(days=1))
    assert empty_state(client) == "held_back"

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


def test_pages_run_no_script_of_their_own(client, project, member):
    member(Role.ADMIN)
    ComparisonFactory(project=project, texts=["<script>1</script>", '<a onclick="x">'])

    for name in ("compare", *REVIEWER_PAGES, *ADMIN_PAGES):
        html = client.get(url(name)).content.decode()
        assert re.findall(r"<script(?! src=)|<[a-z][^>]*\son[a-z]+=", html) == []


# --- signing in and out ---------------------------------------------------------------------------
def test_one_signs_in_and_is_led_back_to_the_page(client, project):
    user = UserFactory(password="correct horse")
    MembershipFactory(project=project, user=user)

    response = client.post(
        f"{reverse('login')}?next={url('compare')}",
        {"username": user.username, "password": "correct horse", "next": url("compare")},
    )

    assert response["Location"] == url("compare")
    assert client.get(url("compare")).status_code == 200


def test_a_wrong_password_says_nothing_of_who_exists(client):
    user = UserFactory(password="correct horse")
    pages = [
        client.post(reverse("login"), {"username": name, "password": "wrong"}).content.decode()
        for name in (user.username, "nobody")
    ]

    notices = [re.findall(r'role="alert">([^<]+)<', page)[0] for page in pages]
    assert notices == ["This name and password do not fit together. Both are case-sensitive."] * 2


def test_who_was_signed_out_meanwhile_is_led_to_the_sign_in_page_and_back(client, project):
    page = f"http://testserver{url('compare')}"

    response = client.post(url("judge"), headers=HTMX | {"HX-Current-URL": page}, follow=True)

    assert response["HX-Redirect"] == f"{reverse('login')}?next={url('compare')}"
    assert response.content == b""


def test_signing_out_takes_a_post(client, member):
    member(Role.ANNOTATOR)

    assert client.get(reverse("logout")).status_code == 405
    assert client.post(reverse("logout"))["Location"] == reverse("login")
    assert "_auth_user_id" not in client.session


# --- who may do what ----------------------------------------------------------------------------
REVIEWER_PAGES = [
    "prompts", "comparisons", "quality", "quality_annotators", "quality_models",
    "quality_disagreements", "quality_status", "exports",
]  # fmt: skip
ADMIN_PAGES = ["import_file", "members", "edit_project", "edit_protocol"]


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


@pytest.mark.parametrize("role", [Role.ANNOTATOR, Role.REVIEWER])
def test_only_admins_change_members_and_make_exports(client, project, member, role):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    membership = MembershipFactory(project=project)
    member(role)

    answers = [
        client.post(url("create_export")),
        client.post(url("add_member"), {"username": "eve", "role": "admin"}),
        client.post(url("change_member", membership.pk), {"role": "admin"}),
        client.post(url("remove_member", membership.pk)),
        client.post(url("import_file"), {"text": '{"prompt": "Why?"}'}),
        client.post(url("edit_project"), {"name": "Mine"}),
        client.post(url("edit_protocol"), {"preset": "llama2"}),
    ]

    assert [answer.status_code for answer in answers] == [404] * 7
    assert not project.exports.exists()
    assert not User.objects.filter(username="eve").exists()
    assert project.memberships.get(pk=membership.pk).role == Role.ANNOTATOR


def test_an_admin_changes_no_membership_of_another_project(client, member):
    theirs = MembershipFactory(role=Role.ADMIN)
    member(Role.ADMIN)

    assert client.post(url("change_member", theirs.pk), {"role": "annotator"}).status_code == 404
    assert client.post(url("remove_member", theirs.pk)).status_code == 404
    assert Membership.objects.get(pk=theirs.pk).role == Role.ADMIN


@pytest.mark.parametrize("role", [None, Role.ANNOTATOR])
@pytest.mark.parametrize("file", ["data.jsonl", "manifest.json"])
def test_votes_are_downloaded_by_reviewers_only(client, project, member, role, file):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    member(Role.ADMIN)
    client.post(url("create_export"))
    export = project.exports.get()
    assert client.get(url("download_export", export.pk, file)).status_code == 200

    if role:
        member(role)
    else:
        client.force_login(UserFactory())

    assert client.get(url("download_export", export.pk, file)).status_code == 404


def test_an_export_of_another_project_is_not_found_through_mine(client, member):
    theirs = ProjectFactory(slug="theirs")
    make_judgment(ComparisonFactory(project=theirs), UserFactory(), [0], [1])
    client.force_login(MembershipFactory(project=theirs, role=Role.ADMIN).user)
    client.post(reverse("annotator:create_export", args=["theirs"]))
    export = theirs.exports.get()
    member(Role.ADMIN)

    assert client.get(url("download_export", export.pk, "data.jsonl")).status_code == 404


@pytest.mark.parametrize("name", ["compare", "exports", "members"])
def test_one_must_be_signed_in(client, project, name):
    response = client.get(url(name))

    assert response["Location"] == f"{reverse('login')}?next={url(name)}"


def test_another_projects_comparison_is_not_found_through_mine(client, member):
    theirs = ComparisonFactory()
    member(Role.ADMIN)

    assert client.get(url("comparison", theirs.pk)).status_code == 404


# --- what reviewers see -----------------------------------------------------------------------------
def test_a_comparison_says_who_said_what_of_which_source(client, project, member):
    comparison = ComparisonFactory(project=project, texts=["Yes.", "No."], overlap=3)
    first, second = comparison.entries.all()
    comparison.completions.filter(pk=first.completion_id).update(source="model-a")
    anna, bert, cleo = (UserFactory(username=name) for name in ("anna", "bert", "cleo"))
    make_judgment(comparison, anna, [1], [0])
    make_judgment(comparison, bert, [0, 1], order=[second.completion_id, first.completion_id])
    make_judgment(comparison, cleo)
    queue.undo_last(project, cleo)
    member(Role.REVIEWER)

    response = client.get(url("comparison", comparison.pk))

    said = [
        (judgment.annotator.username, words, shown, judgment.voided is None)
        for judgment, words, shown, _ in response.context["judgments"]
    ]
    assert said == [
        ("anna", "B > A", "A B", True),
        ("bert", "A = B", "B A", True),
        ("cleo", "All bad", "A B", False),
    ]
    assert '<p class="muted">model-a</p>' in response.content.decode()


def test_a_comparison_says_what_was_said_besides(client, project, member):
    project.protocol = to_json(
        Protocol(strengths=("a", "b"), criteria=QUALITIES[:1], flags=("x",), span_labels=("y",))
    )
    comparison = ComparisonFactory(project=project, texts=["Yes!", "No."])
    a, b = (entry.completion_id for entry in comparison.entries.all())
    make_judgment(
        comparison, UserFactory(), [1], [0],
        strength=2,
        criteria={"helpful": {"ranking": [[a], [b]], "strength": 1}},
        flags={str(a): ["x"]},
        spans=[{"completion": a, "start": 0, "end": 3, "label": "y"}],
    )  # fmt: skip
    member(Role.REVIEWER)

    ((*_, besides),) = client.get(url("comparison", comparison.pk)).context["judgments"]

    assert besides == [
        ("Strength", "2 of 2"),
        ("helpful", "A > B, 1"),
        ("Flags on A", "x"),
        ("Highlight in A", "“Yes”: y"),
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [2, 1, 0]),
        ("purpose=evaluation", [1]),
        ("round=2", [2]),
        ("state=open", [1, 0]),
        ("purpose=nonsense&round=x&state=", [2, 1, 0]),
    ],
)
def test_comparisons_are_filtered(client, project, member, query, found):
    comparisons = [
        ComparisonFactory(project=project),
        ComparisonFactory(project=project, purpose="evaluation"),
        ComparisonFactory(project=project, round_number=2),
    ]
    make_judgment(comparisons[2], UserFactory(), [0], [1])
    member(Role.REVIEWER)

    page = client.get(f"{url('comparisons')}?{query}").context["page"]

    assert page.rows == [comparisons[i] for i in found]


def test_a_prompt_leads_to_its_comparisons(client, project, member):
    _, comparison = (ComparisonFactory(project=project) for _ in range(2))
    member(Role.REVIEWER)
    link = f"{url('comparisons')}?prompt={comparison.prompt_id}"

    assert f'href="{link}"' in client.get(url("prompts")).content.decode()
    assert client.get(link).context["page"].rows == [comparison]


def test_an_export_leads_to_the_comparisons_that_it_has(client, project, member):
    comparisons = [ComparisonFactory(project=project) for _ in range(3)]
    for comparison in comparisons[:2]:
        make_judgment(comparison, UserFactory(), [0], [1])
    export = create_export(project)
    make_judgment(comparisons[2], UserFactory(), [0], [1])
    member(Role.REVIEWER)

    page = client.get(f"{url('comparisons')}?export={export.pk}").context["page"]

    assert page.rows == [comparisons[1], comparisons[0]]


def test_an_export_whose_file_was_changed_leads_to_no_comparisons(client, project, member):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    export = create_export(project)
    (export.folder / "votes.jsonl").write_text('{"comparison": 1}\n')
    member(Role.REVIEWER)

    answer = client.get(f"{url('comparisons')}?export={export.pk}")

    assert answer.status_code == 404


def test_older_rows_are_on_the_next_page_with_the_same_filter(client, project, member):
    rows = [PromptFactory(project=project) for _ in range(PAGE_SIZE + 2)]
    PromptFactory(project=project, split="test")
    member(Role.REVIEWER)

    first = client.get(f"{url('prompts')}?split=train")
    link = re.findall(r'href="(\?[^"]*)">Older<', first.content.decode())[0]
    second = client.get(url("prompts") + link.replace("&amp;", "&"))

    assert first.context["page"].rows == rows[:1:-1]
    assert second.context["page"].rows == rows[1::-1]


# --- export -------------------------------------------------------------------------------------
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
        settings_as_sent(name="My essays", overlap=2),
    )

    made = Project.objects.get(slug="my-essays")
    assert made.memberships.get().user == user
    assert made.overlap == 2


def test_annotators_make_no_projects(client, member):
    member(Role.ANNOTATOR)

    assert client.get(reverse("annotator:new_project")).status_code == 404


def test_new_guidelines_are_a_new_version(client, project, member):
    member(Role.ADMIN)

    client.post(url("edit_project"), settings_as_sent(guidelines="Be kind."))
    client.post(url("edit_project"), settings_as_sent(guidelines="Be kind.", overlap=2))

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


def test_members_are_shown_page_by_page_and_found_by_name(client, project, member, monkeypatch):
    monkeypatch.setattr("annotator.views.people.MEMBERS_SHOWN", 2)
    member(Role.ADMIN)
    for name in ("zoe", "aziz", "anna"):
        MembershipFactory(project=project, user__username=name)

    def shown(query):
        page = client.get(url("members") + query).context["page"]
        return [membership.user.username for membership in page]

    assert shown("") == ["anna", "aziz"]
    assert shown("?page=2")[1] == "zoe"
    assert shown("?name=Z") == ["aziz", "zoe"]


def test_saving_leads_back_to_the_same_page_of_members(client, project, member):
    member(Role.ADMIN)
    pk = MembershipFactory(project=project).pk

    response = client.post(url("change_member", pk) + "?page=2&name=a", {"role": "reviewer"})

    assert response["Location"] == url("members") + "?page=2&name=a"


def test_members_are_listed_with_their_votes_in_force(client, project, member):
    user = member(Role.ADMIN)
    first, second = (ComparisonFactory(project=project) for _ in range(2))
    make_judgment(first, user, [0], [1])
    last = make_judgment(second, user, verdict=Verdict.SKIPPED)
    make_judgment(ComparisonFactory(), user, [0], [1])  # elsewhere

    (row,) = client.get(url("members")).context["page"]

    assert (row.n_judged, row.last_active) == (1, last.created)


def test_who_voted_and_is_no_member_is_still_listed(client, project, member):
    member(Role.ADMIN)
    gone = UserFactory()
    make_judgment(ComparisonFactory(project=project), gone, [0], [1])
    make_judgment(ComparisonFactory(), UserFactory(), [0], [1])  # elsewhere
    project.memberships.filter(user=gone).delete()

    assert client.get(url("members")).context["others"] == [gone]


# --- what reviewers and admins do to the queue -----------------------------------------------------
def test_a_reviewer_holds_a_comparison_back_and_has_it_asked_again(client, project, member):
    member(Role.REVIEWER)
    comparison = ComparisonFactory(project=project)

    client.post(url("hold_comparison", comparison.pk), {"reason": "Two prompts in one."})
    html = client.get(url("comparisons") + "?state=held").content.decode()
    held = Comparison.objects.held().count()
    client.post(url("ask_comparison", comparison.pk))

    assert "Held back: Two prompts in one." in html
    assert (held, Comparison.objects.held().count()) == (1, 0)


def test_a_reviewer_sets_the_priority_of_a_filter(client, project, member):
    member(Role.REVIEWER)
    first, second = (ComparisonFactory(project=project, round_number=n) for n in (1, 2))
    other = ComparisonFactory(round_number=1)  # of another project

    client.post(url("change_comparisons"), {"round": "1", "priority": "7", "set": ""})
    client.post(url("set_priority", second.pk), {"priority": "-3"})

    priorities = [Comparison.objects.get(pk=c.pk).priority for c in (first, second, other)]
    assert priorities == [7, -3, 0]


def test_what_screening_has_held_is_asked_all_at_once(client, project, member):
    member(Role.REVIEWER)
    for name in ("Held.", ""):
        ComparisonFactory(project=project, hold=name)
    elsewhere = ComparisonFactory(hold="Held.")

    client.post(url("change_comparisons"), {"state": "held", "ask": "", "priority": ""})

    assert list(Comparison.objects.held()) == [elsewhere]


def test_a_worked_example_is_asked_by_nobody_until_its_ruling_ends(client, project, member):
    user = member(Role.REVIEWER)
    comparison = ComparisonFactory(project=project)
    rule(comparison, user, Verdict.ALL_BAD, explanation="Both are rude.", is_example=True)

    client.post(url("change_comparisons"), {"state": "held", "ask": ""})
    client.post(url("ask_comparison", comparison.pk))

    assert Comparison.objects.held().count() == 1


def test_an_admin_makes_a_known_answer_of_a_judged_comparison(client, project, member):
    user = member(Role.ADMIN)
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, user, [1], [0])
    one, other = completion_ids(comparison)
    page = client.get(url("comparison", comparison.pk)).content.decode()

    sent = {f"rank-{one}": 2, f"rank-{other}": 1, "explanation": "It is shorter."}
    response = client.post(url("make_known", comparison.pk), sent)

    known = Comparison.objects.gold().get()
    assert response["Location"] == url("comparison", known.pk)
    assert (known.expected, known.explanation) == ([[other], [one]], "It is shorter.")
    assert page.count('<option value="1" selected>') == 1  # filled in from the verdict
    assert "Expected" in client.get(url("comparison", known.pk)).content.decode()


def test_an_admin_pauses_and_resumes(client, project, member):
    member(Role.ADMIN)
    ComparisonFactory(project=project)

    client.post(url("pause_project"), {"note": "Back on Monday."})
    paused = client.get(url("compare")).content.decode()
    client.post(url("resume_project"))

    assert "This project is paused" in paused
    assert "Back on Monday." in paused
    assert Assignment.objects.count() == 0
    client.get(url("compare"))
    assert Assignment.objects.count() == 1


def test_an_admin_sets_quotas_and_decides_on_a_qualification(client, project, member):
    member(Role.ADMIN)
    membership = MembershipFactory(project=project, qualification="failed")
    project.qualification_items = 5
    project.save()

    sent = {"quota_total": 200, "quota_per_day": "", "qualification": "passed"}
    client.post(url("member", membership.pk), sent)

    membership.refresh_from_db()
    assert (membership.quota_total, membership.quota_per_day) == (200, None)
    assert membership.qualification == "passed"
    assert "Qualified" in client.get(url("members")).content.decode()


def test_an_admin_moves_what_somebody_holds_or_gives_it_back(client, project, member):
    member(Role.ADMIN)
    anna, ben = MembershipFactory(project=project), MembershipFactory(project=project)
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna.user)

    assert "Comparison" in client.get(url("member", anna.pk)).content.decode()
    client.post(url("move_assignment", held.pk), {"to": ben.user.username})
    moved = Assignment.objects.get(annotator=ben.user)
    client.post(url("move_assignment", moved.pk), {"to": ""})

    assert moved.state == "waiting"
    assert set(Assignment.objects.values_list("state", flat=True)) == {"released"}
    assert Comparison.objects.get().taken == 0


@pytest.mark.parametrize("n_comparisons", [2, 3])  # with nothing else left, and with more
def test_what_is_moved_to_somebody_at_work_comes_with_their_next_verdict(
    client, project, member, n_comparisons
):
    user, other = member(Role.ANNOTATOR), MembershipFactory(project=project).user
    ComparisonFactory.create_batch(n_comparisons, project=project)
    held = queue.claim(project, user)
    waiting = queue.move(queue.claim(project, other), user)

    response = client.post(url("judge"), verdict(held, "first"), headers=HTMX)

    assert response.context["assignment"] == waiting
    assert queue.held_by(project, user) == waiting


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("hold_comparison", Role.ANNOTATOR),
        ("ask_comparison", Role.ANNOTATOR),
        ("set_priority", Role.ANNOTATOR),
        ("make_known", Role.REVIEWER),
        ("member", Role.REVIEWER),
        ("move_assignment", Role.REVIEWER),
    ],
)
def test_others_may_not(client, project, member, name, role):
    user = member(role)
    comparison = ComparisonFactory(project=project, hold="Held.")
    held = AssignmentFactory(comparison=comparison)
    pks = {"member": project.memberships.get(user=user).pk, "move_assignment": held.pk}
    sent = {"reason": "No.", "priority": 9, "to": user.username, "quota_total": 3}

    response = client.post(url(name, pks.get(name, comparison.pk)), sent)

    assert response.status_code == 404
    comparison.refresh_from_db()
    assert (comparison.hold, comparison.priority) == ("Held.", 0)
    assert Comparison.objects.count() == 1


@pytest.mark.parametrize("name", ["change_comparisons", "pause_project", "resume_project"])
def test_annotators_may_not_change_the_queue(client, project, member, name):
    member(Role.ANNOTATOR)
    ComparisonFactory(project=project)

    assert client.post(url(name), {"priority": 9}).status_code == 404
    assert Comparison.objects.get().priority == 0
    assert Project.objects.get().paused is None


# --- qualification ---------------------------------------------------------------------------------
@pytest.fixture
def newcomer(project, member):
    """Signed in, and about to answer the first of two questions whose answer is shown."""
    project.qualification_items = 2
    project.qualification_shows_answers = True
    project.save()
    GoldFactory.create_batch(2, project=project, explanation="It is **kinder**.")
    return member(Role.ANNOTATOR)


def test_in_a_qualification_the_right_answer_and_the_reason_are_shown(client, project, newcomer):
    question = client.get(url("compare")).content.decode()
    assignment = queue.held_by(project, newcomer)
    right = assignment.order[0] == assignment.comparison.expected[0][0]

    html = client.post(url("judge"), verdict(assignment, "first"), headers=HTMX).content.decode()

    assert "question 1 of 2" in question
    assert "Undo" not in html
    assert ("<h2>Right</h2>" in html) == right
    assert ("<h2>Not as expected</h2>" in html) != right
    assert "It is <strong>kinder</strong>." in html
    assert html.lstrip().startswith('<section id="comparison"')


def test_without_javascript_the_right_answer_has_a_page_of_its_own(client, project, newcomer):
    client.get(url("compare"))
    assignment = queue.held_by(project, newcomer)

    response = client.post(url("judge"), verdict(assignment, "first"))

    judgment = Judgment.objects.get()
    assert response["Location"] == url("right_answer", judgment.pk)
    assert "You said A &gt; B" in client.get(response["Location"]).content.decode()


def test_in_real_work_a_known_answer_looks_like_any_other(client, project, member):
    user = member(Role.ANNOTATOR)
    project.qualification_shows_answers = True
    project.save()
    known = GoldFactory(project=project, explanation="It is kinder.")
    assignment = AssignmentFactory(comparison=known, annotator=user)

    html = client.get(url("compare")).content.decode()
    response = client.post(url("judge"), verdict(assignment, "first"), headers=HTMX)

    assert "Qualification" not in html
    assert "kinder" not in html + response.content.decode()
    shown = client.get(url("right_answer", Judgment.objects.get().pk))
    assert (shown.status_code, shown["Location"]) == (302, url("compare"))


def test_it_stays_so_when_a_qualification_is_asked_for_later(client, project, member):
    judgment = make_judgment(GoldFactory(project=project), member(Role.ANNOTATOR), [0], [1])
    project.qualification_items, project.qualification_shows_answers = 2, True
    project.save()
    exempt_who_has_judged(project)

    shown = client.get(url("right_answer", judgment.pk))
    own = client.get(url("own_judgment", judgment.pk)).content.decode()

    assert (shown.status_code, shown["Location"]) == (302, url("compare"))
    assert 'id="verdict"' in own  # it can be changed, as any other can


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"qualification": "failed"}, "You have not passed the qualification"),
        ({"qualification": "pending"}, "Your qualification cannot go on yet"),
        ({"qualification": "passed", "quota_total": 1}, "judged as many as you were asked for"),
        ({"qualification": "passed", "quota_per_day": 1}, "That is all for today"),
    ],
)
def test_whoever_is_handed_nothing_reads_why(client, project, member, fields, words):
    user = member(Role.ANNOTATOR)
    make_judgment(ComparisonFactory(project=project), user)
    ComparisonFactory(project=project)
    project.qualification_items = 5
    project.save()
    project.memberships.filter(user=user).update(**fields)

    assert words in client.get(url("compare")).content.decode()


# --- lists cost the same however long ------------------------------------------------------------
@pytest.mark.parametrize(("progress", "queries"), [("0/3", 11), ("9/30", 11), ("", 12)])
def test_a_verdict_and_the_next_comparison_take_few_queries(
    client, project, member, django_assert_num_queries, progress, queries
):
    user = member(Role.ANNOTATOR)
    ComparisonFactory.create_batch(3, project=project, draw=1.0)  # found without wrapping round
    held = queue.claim(project, user)
    sent = verdict(held, "first", progress=progress, shown=shown_now(held))

    with django_assert_num_queries(queries + 4):  # two savepoints: a test is in a transaction
        client.post(url("judge"), sent, headers=HTMX)


@pytest.fixture
def everything_on(project, monkeypatch):
    """Known answers, repetitions, a qualification, an order of questions and drafts."""
    monkeypatch.setattr("annotator.assignment.finding.REPEAT_AFTER", 1)
    project.gold_percent, project.repeat_percent, project.qualification_items = 30, 30, 2
    project.queue_order, project.ordered = QueueOrder.INFORMATIVE, timezone.now()
    project.protocol = to_json(PRESETS["qualities"].protocol)
    project.save()
    for place in range(40):
        ComparisonFactory(project=project, arm=Arm.ACTIVE, place=place)
    ComparisonFactory.create_batch(20, project=project, draw=1.0)  # found without wrapping round
    return project


def test_a_cycle_takes_a_dozen_queries_with_everything_on(
    client, everything_on, member, django_assert_max_num_queries
):
    user = member(Role.ANNOTATOR)
    everything_on.memberships.update(quota_total=100, quota_per_day=90, qualification="passed")
    GoldFactory.create_batch(30, project=everything_on)
    for comparison in ComparisonFactory.create_batch(20, project=everything_on):
        make_judgment(comparison, user, verdict=Verdict.ALL_BAD)
    random.seed(1)

    kinds = set()
    for done in range(21, 51):
        held = queue.claim(everything_on, user)
        kinds.add((held.is_repeat, held.comparison.purpose, held.comparison.arm))
        sent = verdict(held, "all_bad", progress=f"{done - 1}/90", shown=shown_now(held))
        with django_assert_max_num_queries(12 + 4):  # two savepoints: a test is in a transaction
            client.post(url("judge"), sent, headers=HTMX)

    assert {purpose for _, purpose, _ in kinds} == {Purpose.TRAINING, Purpose.GOLD}
    assert {arm for _, _, arm in kinds} == {Arm.ACTIVE, ""}
    assert {is_repeat for is_repeat, _, _ in kinds} == {True, False}


@pytest.mark.parametrize("lot", [0.1, 0.4])  # a known answer, a repetition
def test_what_is_looked_for_and_not_there_takes_no_more(
    client, everything_on, member, monkeypatch, django_assert_max_num_queries, lot
):
    user = member(Role.ANNOTATOR)
    everything_on.memberships.update(quota_total=100, quota_per_day=90, qualification="passed")
    held = queue.claim(everything_on, user)
    monkeypatch.setattr("annotator.assignment.claiming.random.random", lambda: lot)

    sent = verdict(held, "all_bad", progress="9/90", shown=shown_now(held))

    with django_assert_max_num_queries(12 + 4):
        client.post(url("judge"), sent, headers=HTMX)

    assert not queue.held_by(everything_on, user).is_repeat


def test_what_was_moved_takes_no_more(client, everything_on, member, django_assert_max_num_queries):
    user, other = member(Role.ANNOTATOR), MembershipFactory(project=everything_on).user
    everything_on.memberships.update(quota_total=100, quota_per_day=90, qualification="passed")
    held = queue.claim(everything_on, user)
    moved = queue.move(queue.hand_out(Comparison.objects.last(), other), user)
    sent = verdict(held, "all_bad", progress="9/90", shown=shown_now(held))

    with django_assert_max_num_queries(12 + 4):
        client.post(url("judge"), sent, headers=HTMX)

    assert queue.held_by(everything_on, user) == moved


def test_a_qualification_takes_no_more(
    client, everything_on, member, django_assert_max_num_queries
):
    user = member(Role.ANNOTATOR)
    GoldFactory.create_batch(2, project=everything_on)
    held = queue.claim(everything_on, user)
    sent = verdict(held, "all_bad", progress="0/2", shown=shown_now(held))

    with django_assert_max_num_queries(12 + 4):
        client.post(url("judge"), sent, headers=HTMX)

    assert queue.held_by(everything_on, user).is_qualification


def test_what_is_done_and_left_is_counted_after_a_tenth_verdict(client, project, member):
    """By the page itself, which has the next comparison by then."""
    user = member(Role.ANNOTATOR)
    ComparisonFactory.create_batch(3, project=project)
    sent = verdict(queue.claim(project, user), "first", progress="9/30")

    html = client.post(url("judge"), sent, headers=HTMX).content.decode()
    counted = client.get(url("so_far"), headers=HTMX).content.decode()

    assert f'hx-get="{url("so_far")}"' in html
    assert 'name="progress" value="10/30" form="verdict"' in html
    assert 'name="progress" value="1/3" form="verdict"' in counted
    assert "hx-get" not in counted


def test_what_is_done_and_left_is_not_for_outsiders(client, project):
    client.force_login(UserFactory())

    assert client.get(url("so_far")).status_code == 404


@pytest.mark.parametrize(
    ("name", "queries"), [("prompts", 5), ("comparisons", 5), ("members", 8), ("exports", 11)]
)
@pytest.mark.parametrize("rows", [1, 3])
def test_lists_cost_the_same_for_one_row_and_three(
    client, project, member, django_assert_num_queries, name, queries, rows
):
    user = member(Role.ADMIN)
    for _ in range(rows):
        make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
        create_export(project, user)

    with django_assert_num_queries(queries):
        client.get(url(name))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_comparison_costs_the_same_for_one_judgment_and_three(
    client, project, member, django_assert_num_queries, rows
):
    member(Role.REVIEWER)
    comparison = ComparisonFactory(project=project, overlap=3)
    for _ in range(rows):
        make_judgment(comparison, UserFactory(), [0], [1])

    with django_assert_num_queries(10):
        client.get(url("comparison", comparison.pk))


@pytest.mark.parametrize("rows", [1, 3])
def test_home_costs_the_same_for_one_project_and_three(client, django_assert_num_queries, rows):
    user = UserFactory()
    for _ in range(rows):
        comparison = ComparisonFactory(project=MembershipFactory(user=user).project)
        make_judgment(comparison, user, [0], [1])
    client.force_login(user)

    with django_assert_num_queries(6):
        client.get("/")


def test_home_has_as_many_pages_as_my_projects_need(client, monkeypatch):
    monkeypatch.setattr("annotator.views.projects.PROJECTS_SHOWN", 2)
    user = UserFactory()
    for name in ("Essays", "Poems", "Songs"):
        MembershipFactory(user=user, project__name=name)
    client.force_login(user)

    shown = [
        [project.name for project, _ in client.get(f"/?page={n}").context["rows"]] for n in (1, 2)
    ]

    assert shown == [["Essays", "Poems"], ["Songs"]]


def next_action(client):
    """The last line of the only project's card, as text."""
    card = client.get("/").content.decode().split('<li class="card">')[1].split("</li>")[0]
    return " ".join(re.sub("<[^>]*>", " ", card.split('class="next')[1].split(">", 1)[1]).split())


def test_home_names_my_next_action(client, project, member):
    user = member(Role.ADMIN)
    assert next_action(client) == "Import prompts into Essays"

    comparison = ComparisonFactory(project=project)
    assert next_action(client) == "Compare in Essays"

    queue.claim(project, user)  # the only place is taken, by me
    assert next_action(client) == "Compare in Essays"

    queue.release(queue.held_by(project, user))
    make_judgment(comparison, user, [0], [1])
    assert next_action(client) == "Nothing left for you at the moment."

    Membership.objects.update(is_qualified=False)
    assert next_action(client) == "You are not handed comparisons here."


@pytest.mark.parametrize("rows", [1, 3])
def test_home_shows_my_projects_and_no_others(client, rows):
    user = UserFactory()
    mine = [MembershipFactory(user=user).project for _ in range(rows)]
    other = PromptFactory().project
    client.force_login(user)

    html = client.get("/").content.decode()

    assert [project.name in html for project in mine] == [True] * rows
    assert other.name not in html
