from datetime import UTC, date, datetime, timedelta

import pytest
from django.core.cache import cache
from django.urls import reverse
from django.utils import timezone

from annotator import assignment as queue
from annotator import progress as work
from annotator.importing import import_jsonl, judge_named
from annotator.models import Assignment, DailyWork, Judgment, Project, Role, Verdict
from annotator.progress import Day, Remaining, count_work, days_of, forecast, history, remaining
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

TODAY = date(2026, 11, 20)  # a Friday
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def nothing_cached():
    cache.clear()


@pytest.fixture
def project(db):
    return ProjectFactory(slug="essays", overlap=5)


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project, user__username="anna").user


@pytest.fixture
def vote(project):
    """A vote that was given at a time, after so many seconds."""

    def vote(annotator, at=NOON, **fields):
        fields.setdefault("seconds", 10)
        said = make_judgment(ComparisonFactory(project=project), annotator, [0], [1], **fields)
        Judgment.objects.filter(pk=said.pk).update(created=at)
        return said

    return vote


def url(name, query=""):
    return reverse(f"annotator:{name}", args=["essays"]) + query


def counted(project):
    rows = DailyWork.objects.filter(project=project).order_by("day", "annotator__username")
    return list(rows.values_list("day", "annotator__username", "n_judgments", "seconds"))


# --- counting -------------------------------------------------------------------------------------
def test_votes_are_counted_per_day_and_person_each_of_them_once(project, anna, vote):
    vote(anna, NOON - timedelta(days=1))
    vote(anna)
    assert count_work(project)
    vote(anna, seconds=20)
    vote(UserFactory(username="ben"))

    assert count_work(project)
    assert count_work(project)

    assert counted(project) == [
        (TODAY - timedelta(days=1), "anna", 1, 10.0),
        (TODAY, "anna", 2, 30.0),
        (TODAY, "ben", 1, 10.0),
    ]


def test_the_newest_votes_wait_until_nothing_before_them_can_appear(project, anna, vote):
    vote(anna, NOON)

    count_work(project, now=NOON + work.SETTLED)
    assert counted(project) == []

    count_work(project, now=NOON + 2 * work.SETTLED)
    assert counted(project) == [(TODAY, "anna", 1, 10.0)]


def test_a_vote_taken_back_a_skip_and_a_long_pause_are_time_but_no_votes(project, anna, vote):
    vote(anna, seconds=3600)
    queue.undo_last(project, anna)
    queue.release(queue.held_by(project, anna))
    skip = make_judgment(
        ComparisonFactory(project=project), anna, verdict=Verdict.SKIPPED, seconds=7
    )
    Judgment.objects.filter(pk=skip.pk).update(created=NOON)

    count_work(project)

    assert counted(project) == [(TODAY, "anna", 0, work.LONGEST_PAUSE + 7)]


def test_known_answers_and_repetitions_are_time_but_no_votes(project, anna, vote):
    for known in GoldFactory.create_batch(2, project=project):
        said = make_judgment(known, anna, [0], [1], seconds=20)
        Judgment.objects.filter(pk=said.pk).update(created=NOON)
    again = vote(anna)
    Judgment.objects.filter(pk=again.pk).update(is_repeat=True)
    vote(anna)

    assert count_work(project)

    assert counted(project) == [(TODAY, "anna", 1, 60.0)]


def test_known_choices_from_a_file_are_nobodys_work(project):
    line = b'{"prompt": "Hi!", "chosen": "Hello!", "rejected": "No."}'
    import_jsonl(project, [line], judge=judge_named("imported"))
    Judgment.objects.update(created=NOON)

    assert count_work(project)

    assert Judgment.objects.count() == 1
    assert counted(project) == []


def test_many_votes_are_counted_in_several_calls(project, anna, vote, monkeypatch):
    monkeypatch.setattr(work, "COUNTED_AT_ONCE", 2)
    for _ in range(3):
        vote(anna)

    assert [count_work(project), count_work(project)] == [False, True]
    assert counted(project) == [(TODAY, "anna", 3, 30.0)]


def test_of_two_who_count_at_once_the_first_counts(project, anna, vote):
    vote(anna)
    other = Project.objects.get(pk=project.pk)

    assert [count_work(project), count_work(other)] == [True, False]

    assert counted(project) == [(TODAY, "anna", 1, 10.0)]


def test_days_without_votes_are_days_too(project, anna, vote):
    vote(anna, NOON - timedelta(days=2))
    vote(UserFactory())
    count_work(project)

    assert days_of(project, TODAY, n_days=3) == [
        Day(TODAY - timedelta(days=2), 1, 10.0),
        Day(TODAY - timedelta(days=1), 0, 0.0),
        Day(TODAY, 1, 10.0),
    ]
    assert [day.votes for day in days_of(project, TODAY, n_days=3, annotator=anna)] == [1, 0, 0]


def test_who_judges_no_more_is_left_out_of_the_rate(project, anna, vote):
    gone = UserFactory()
    vote(anna)
    vote(gone)
    count_work(project)
    project.memberships.filter(user=gone).update(is_qualified=False)

    assert days_of(project, TODAY, n_days=1, still_here=True) == [Day(TODAY, 1, 10.0)]
    assert days_of(project, TODAY, n_days=1) == [Day(TODAY, 2, 20.0)]


def test_people_are_listed_with_their_pace_who_did_most_first(project, anna, vote):
    vote(UserFactory(username="ben"), seconds=60)
    vote(anna, NOON - timedelta(days=1), seconds=20)
    vote(anna, seconds=20)
    count_work(project)

    assert [person[1:] for person in work.people_of(project, TODAY, limit=5)] == [
        ("anna", 2, 2, 180.0, TODAY),
        ("ben", 1, 1, 60.0, TODAY),
    ]


# --- what remains ---------------------------------------------------------------------------------
def test_what_remains_is_by_round_and_purpose(project, anna):
    first = ComparisonFactory(project=project, overlap=3)
    ComparisonFactory(project=project, overlap=2)
    ComparisonFactory(project=project, overlap=2, hold="A reason.")
    ComparisonFactory(project=project, overlap=1, purpose="evaluation", round_number=2)
    ComparisonFactory()  # elsewhere
    GoldFactory(project=project)  # asked without an end
    make_judgment(first, anna, [0], [1])

    assert remaining(project) == [
        Remaining(2, "evaluation", comparisons=1, votes=0, left=1, held=0),
        Remaining(1, "training", comparisons=3, votes=1, left=4, held=2),
    ]


# --- the forecast -----------------------------------------------------------------------------------
def test_equal_days_leave_no_doubt():
    assert forecast(100, [20, 20, 20]) == (20.0, 5.0, 5.0, 5.0)


def test_the_range_is_the_prediction_interval_of_a_mean():
    found = forecast(60, [10, 20, 30])  # mean 20, s = 10, d = 3, t(2) = 1.886

    half = 1.886 * 10 * (1 / 3 + 1 / 3) ** 0.5
    assert found[:2] == (20.0, 3.0)
    assert found.low == pytest.approx(60 / (20 + half))
    assert found.high == pytest.approx(60 / (20 - half))


def test_more_days_of_the_same_kind_narrow_the_range():
    few, many = forecast(600, [15, 25] * 2), forecast(600, [15, 25] * 3)

    assert few.low < many.low < 30 < many.high < few.high


def test_days_that_differ_much_give_no_latest_day():
    assert forecast(1000, [0, 0, 100]).high is None


@pytest.mark.parametrize("votes", [[], [100, 100], [9, 10, 10]])
def test_too_few_votes_give_no_forecast(votes):
    assert forecast(10, votes) is None


def test_history_begins_with_the_first_vote_and_leaves_today_out():
    def days(*votes):
        return [Day(TODAY, n, 0.0) for n in votes]

    assert history(days(0, 0, 5, 0, 7, 100)) == [5, 0, 7]
    assert history(days(*range(20))) == list(range(12, 19))
    assert history(days(0, 0)) == []


# --- the pages ------------------------------------------------------------------------------------------
@pytest.fixture
def reviewer(client, project):
    user = MembershipFactory(project=project, role=Role.REVIEWER).user
    client.force_login(user)
    return user


def test_the_page_says_when_all_is_done(client, project, reviewer, anna):
    ComparisonFactory(project=project, overlap=100)
    today = timezone.localdate()
    for n in (1, 2, 3):
        DailyWork.objects.create(
            project=project, annotator=anna, day=today - timedelta(days=n), n_judgments=20
        )

    response = client.get(url("progress"))

    done = timezone.localtime() + timedelta(days=5)
    assert response.context["done"].date() == done.date()
    assert f"Done on <strong>{done:%A}</strong>" in response.content.decode()


@pytest.mark.parametrize(
    ("comparisons", "sentence"),
    [(0, "There is nothing to judge yet."), (1, "No forecast: too few votes yet.")],
)
def test_the_page_says_why_there_is_no_forecast(client, project, reviewer, comparisons, sentence):
    ComparisonFactory.create_batch(comparisons, project=project)

    assert sentence in " ".join(client.get(url("progress")).content.decode().split())


def test_the_page_of_one_annotator_shows_their_votes_alone(client, project, reviewer, anna, vote):
    now = timezone.now() - timedelta(minutes=10)
    vote(anna, now)
    vote(UserFactory(), now)
    vote(UserFactory(), now)

    def shown(query):
        return sum(bar["day"].votes for bar in client.get(url("progress", query)).context["bars"])

    assert (shown(""), shown(f"?annotator={anna.pk}")) == (3, 1)


@pytest.mark.parametrize("number", ["0", "x", "9" * 30])
def test_an_annotator_that_is_not_here_is_not_found(client, project, reviewer, number):
    stranger = UserFactory()

    assert client.get(url("progress", f"?annotator={number}")).status_code == 404
    assert client.get(url("progress", f"?annotator={stranger.pk}")).status_code == 404


def test_the_live_view_names_who_holds_what(client, project, reviewer, anna):
    held = AssignmentFactory(comparison=ComparisonFactory(project=project), annotator=anna)
    over = AssignmentFactory(comparison=ComparisonFactory(project=project))
    Assignment.objects.filter(pk=over.pk).update(lease_until=timezone.now())
    AssignmentFactory()  # elsewhere

    response = client.get(url("live_now"))

    assert response.context["assignments"] == [held]
    html = response.content.decode()
    link = reverse("annotator:comparison", args=["essays", held.comparison_id])
    assert f'href="{link}"' in html
    assert 'hx-trigger="every 10s"' in html


@pytest.mark.parametrize("name", ["progress", "live", "live_now"])
@pytest.mark.parametrize("role", [None, Role.ANNOTATOR])
def test_annotators_and_outsiders_do_not_see_how_others_work(client, project, name, role):
    user = MembershipFactory(project=project, role=role).user if role else UserFactory()
    client.force_login(user)

    assert client.get(url(name)).status_code == 404


@pytest.mark.parametrize(("name", "queries"), [("progress", 9), ("live", 5)])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_pages_cost_the_same_for_one_row_and_three(
    client, project, reviewer, vote, django_assert_num_queries, name, queries, rows
):
    for n in range(rows):
        vote(UserFactory(), NOON - timedelta(days=n))
        AssignmentFactory(comparison=ComparisonFactory(project=project, round_number=n + 1))
    count_work(project)

    with django_assert_num_queries(queries):
        client.get(url(name))
