"""One's own verdicts: found again, shown as they were seen, changed."""

import pytest
from django.urls import reverse

from annotator.assignment import NotRecorded, NotUndone, correct, held_by, record, undo_last
from annotator.exporting import create_export
from annotator.models import Comparison, Judgment, Membership, Role, Verdict
from annotator.protocols import Said
from annotator.views.review import PAGE_SIZE
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=2)


@pytest.fixture
def anna(client, project):
    user = MembershipFactory(project=project, role=Role.ANNOTATOR).user
    client.force_login(user)
    return user


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def change(judgment, verdict=Verdict.ALL_BAD, ranking=()):
    said = Said(verdict=verdict, ranking=list(ranking), strength=None, criteria={}, rationale="",
                reasons=[], flags={}, spans=[], rewrite="")  # fmt: skip
    return correct(judgment, said, payload_hash=judgment.assignment.payload_hash)


def taken(comparison):
    return Comparison.objects.get(pk=comparison.pk).taken


def found(client, **query):
    """The comparisons that the page lists, from the top."""
    page = client.get(url("history"), query).context["page"]
    return [judgment.comparison for judgment in page.rows]


# --- changing ------------------------------------------------------------------------------------
def test_a_correction_supersedes_and_the_old_verdict_stays_on_record(project, anna):
    comparison = ComparisonFactory(project=project)
    old = make_judgment(comparison, anna, [0], [1])

    new = change(old, Verdict.RANKING, old.ranking[::-1])

    old.refresh_from_db()
    assert (new.supersedes, new.ranking) == (old, old.ranking[::-1])
    assert old.voided is not None
    assert list(Judgment.objects.counted()) == [new]
    assert taken(comparison) == 1


def test_a_correction_sent_twice_is_one(project, anna):
    old = make_judgment(ComparisonFactory(project=project), anna, [0], [1])

    assert change(old) == change(old)
    assert Judgment.objects.count() == 2


def test_a_correction_of_what_was_changed_in_another_tab_is_refused(project, anna):
    old = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    change(old)

    with pytest.raises(NotRecorded, match="changed this verdict or taken it back"):
        change(old, Verdict.RANKING, old.ranking)


def test_a_correction_is_said_under_the_guidelines_of_today(project, anna):
    old = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    project.guideline_version = 5
    project.save()

    assert (old.guideline_version, change(old).guideline_version) == (1, 5)


def test_a_skip_that_becomes_a_verdict_takes_a_place_and_back(project, anna):
    comparison = ComparisonFactory(project=project)
    skip = make_judgment(comparison, anna, verdict=Verdict.SKIPPED)

    verdict = change(skip)
    assert taken(comparison) == 1

    change(verdict, Verdict.SKIPPED)
    assert taken(comparison) == 0


def test_a_skip_whose_place_is_gone_cannot_become_a_verdict(project, anna):
    comparison = ComparisonFactory(project=project, overlap=1)
    skip = make_judgment(comparison, anna, verdict=Verdict.SKIPPED)
    make_judgment(comparison, UserFactory(), [0], [1])

    with pytest.raises(NotRecorded, match="Others have answered"):
        change(skip)
    assert Judgment.objects.get(pk=skip.pk).voided is None


def test_a_skip_cannot_become_a_verdict_beyond_the_quota(project, anna):
    anna.memberships.update(quota_total=1)
    skip = make_judgment(ComparisonFactory(project=project), anna, verdict=Verdict.SKIPPED)
    make_judgment(ComparisonFactory(project=project), anna, [0], [1])

    with pytest.raises(NotRecorded, match="as many as you were asked for"):
        change(skip)
    assert Judgment.objects.get(pk=skip.pk).voided is None


def test_a_frozen_export_forbids_no_correction_and_keeps_what_it_had(project, anna):
    old = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    export = create_export(project, None)
    before = (export.folder / "data.jsonl").read_bytes()

    change(old)

    assert (export.folder / "data.jsonl").read_bytes() == before


def test_an_undo_after_a_correction_hands_the_comparison_out_again(project, anna):
    comparison = ComparisonFactory(project=project)
    change(make_judgment(comparison, anna, [0], [1]))

    assert undo_last(project, anna).comparison == comparison
    assert not Judgment.objects.filter(voided=None).exists()


def test_twenty_verdicts_are_taken_back_one_after_the_other_and_no_more(project, anna):
    comparisons = [ComparisonFactory(project=project) for _ in range(22)]
    for comparison in comparisons:
        make_judgment(comparison, anna, [0], [1])

    taken_back = [undo_last(project, anna).comparison for _ in range(20)]

    assert taken_back == comparisons[:1:-1]
    with pytest.raises(NotUndone, match="20 verdicts are taken back"):
        undo_last(project, anna)
    held = held_by(project, anna)
    record(held, Verdict.ALL_BAD, payload_hash=held.payload_hash)
    assert undo_last(project, anna).comparison == held.comparison


# --- the pages -----------------------------------------------------------------------------------
def test_my_votes_are_listed_the_newest_first_and_only_mine(client, project, anna):
    first, second = (ComparisonFactory(project=project) for _ in range(2))
    make_judgment(first, anna, [1], [0])
    make_judgment(second, anna, [0, 1])
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    make_judgment(ComparisonFactory(), anna, [0], [1])

    assert found(client) == [second, first]
    words = [words for _, words in client.get(url("history")).context["rows"]]
    assert words == ["A = B", "B > A"]


@pytest.mark.parametrize(
    "text", ["Größe", "größe?\n", "“quoted”", '"plain"', "東京", "100%", "a_b"]
)
def test_search_looks_into_question_answers_and_own_words(client, project, anna, text):
    messages = [{"role": "user", "content": f"Say … {text} …"}]
    asked = ComparisonFactory(
        project=project, prompt=PromptFactory(project=project, messages=messages)
    )
    answered = ComparisonFactory(project=project, texts=[f"… {text} …", "no"])
    explained, other = ComparisonFactory.create_batch(2, project=project)
    for comparison in (asked, answered, explained, other):
        make_judgment(comparison, anna, [0], [1])
    Judgment.objects.filter(comparison=explained).update(rationale=f"… {text} …")

    assert found(client, search=text) == [explained, answered, asked]


def test_votes_are_filtered_by_verdict(client, project, anna):
    ranked, bad, skipped = (ComparisonFactory(project=project) for _ in range(3))
    make_judgment(ranked, anna, [0], [1])
    make_judgment(bad, anna)
    make_judgment(skipped, anna, verdict=Verdict.SKIPPED)

    assert found(client, verdict="all_bad") == [bad]
    assert found(client, verdict="skipped") == [skipped]


def test_the_list_goes_on_with_older_ones(client, project, anna):
    for _ in range(PAGE_SIZE + 1):
        make_judgment(ComparisonFactory(project=project), anna, [0], [1])

    older = client.get(url("history")).context["page"].older

    assert found(client, before=older) == [Comparison.objects.order_by("pk").first()]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_list_costs_the_same_for_one_row_and_three(
    client, project, anna, django_assert_num_queries, rows
):
    for _ in range(rows):
        make_judgment(ComparisonFactory(project=project), anna, [0], [1])

    with django_assert_num_queries(5):
        client.get(url("history"), {"search": "Answer"})


def test_a_vote_is_shown_as_it_was_seen_without_sources_or_others(client, project, anna):
    comparison = ComparisonFactory(project=project, texts=["left", "right"])
    comparison.completions.update(source="SecretModel-7B")
    ids = list(comparison.completions.order_by("pk").values_list("pk", flat=True))
    mine = make_judgment(comparison, anna, [0], [1], order=ids[::-1])
    make_judgment(comparison, UserFactory(username="ben"), [1], [0])

    response = client.get(url("own_judgment", mine.pk))

    shown = [(letter, completion.text) for letter, completion in response.context["answers"]]
    assert shown == [("A", "right"), ("B", "left")]
    assert response.context["words"] == "B > A"
    html = response.content.decode()
    assert ("SecretModel" in html, "ben" in html) == (False, False)


def test_a_vote_is_changed_on_its_page(client, project, anna):
    mine = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    sent = {
        "assignment": mine.assignment_id,
        "payload_hash": mine.assignment.payload_hash,
        "choice": "second",
    }

    response = client.post(url("correct_judgment", mine.pk), sent)

    assert response["Location"] == url("history")
    assert Judgment.objects.get(voided=None).ranking == mine.ranking[::-1]
    assert "This vote counts no more" in client.get(url("own_judgment", mine.pk)).content.decode()
    refused = client.post(url("correct_judgment", mine.pk), sent | {"choice": "tie"})
    assert refused.status_code == 422
    assert "changed this verdict or taken it back" in refused.content.decode()


def test_who_judges_no_more_looks_but_changes_nothing(client, project, anna):
    mine = make_judgment(ComparisonFactory(project=project), anna, [0], [1])
    Membership.objects.update(is_qualified=False)

    html = client.get(url("own_judgment", mine.pk)).content.decode()

    assert "You are not handed comparisons here, so your votes stay as they are." in html
    with pytest.raises(NotRecorded, match="no longer judge"):
        change(mine)


@pytest.mark.parametrize("name", ["own_judgment", "correct_judgment"])
def test_the_votes_of_others_do_not_exist_for_me(client, project, anna, name):
    theirs = make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    sent = {"assignment": theirs.assignment_id, "choice": "tie",
            "payload_hash": theirs.assignment.payload_hash}  # fmt: skip
    Membership.objects.filter(user=anna).update(role=Role.ADMIN)

    send = client.post if name == "correct_judgment" else client.get
    assert send(url(name, theirs.pk), sent).status_code == 404
    assert Judgment.objects.get() == theirs
