"""The comparing page where the browser is the point: keys, double clicks, a lost connection."""

import os

import pytest
from playwright.sync_api import expect
from pytest_django.live_server_helper import LiveServer

from annotator.models import Judgment, Role, Verdict
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, UserFactory

# Playwright keeps a loop in this thread; while a test asks the database, nothing else does.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

pytestmark = [
    pytest.mark.e2e,
    # A connection that the browser has left open ends after the server has given the database back.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="essays", guidelines="Be *kind*.")


@pytest.fixture
def live_server(settings, transactional_db):
    """One of each test's own: the usual one starts before the settings of a test are in force."""
    settings.SECURE_SSL_REDIRECT = False
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = False
    server = LiveServer("localhost")
    yield server
    server.stop()


@pytest.fixture
def page(browser, live_server, project):
    """Signed in as an annotator of the project."""
    user = UserFactory(username="ann", password="correct horse")
    MembershipFactory(project=project, user=user, role=Role.ANNOTATOR)
    context = browser.new_context(base_url=live_server.url, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    sign_in(page)
    yield page
    context.close()


def sign_in(page, name="ann"):
    page.goto("/sign-in/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def open_queue(page, project, n, answers=2):
    for i in range(n):
        ComparisonFactory(project=project, texts=[f"{i}{letter}" for letter in "abcd"[:answers]])
    page.goto("/projects/essays/compare/")


def expect_done(page, n):
    """Wait until the page counts n judgments and would take the next one."""
    expect(page.locator("#progress strong")).to_have_text(str(n))
    expect(page.locator("#comparison")).not_to_have_attribute("aria-busy", "true")


def rankings():
    """What was said in the order said, as places from left to right."""
    return [
        [[judgment.assignment.order.index(pk) for pk in group] for group in judgment.ranking]
        for judgment in Judgment.objects.filter(voided=None).order_by("pk")
    ]


def test_verdicts_by_key_and_undo(page, project):
    open_queue(page, project, 6)

    for done, key in enumerate(["1", "2", "ArrowLeft", "ArrowRight", "0"], start=1):
        page.keyboard.press(key)
        expect_done(page, done)
    page.keyboard.press("u")
    expect_done(page, 4)
    page.keyboard.press("9")
    expect_done(page, 5)

    assert rankings() == [[[0], [1]], [[1], [0]], [[0], [1]], [[1], [0]], []]
    assert Judgment.objects.get(voided=None, ranking=[]).verdict == Verdict.ALL_BAD


def test_a_double_click_and_a_bouncing_key_are_one_verdict_each(page, project):
    open_queue(page, project, 5)

    page.get_by_role("button", name="A better").dblclick()
    expect_done(page, 1)
    page.keyboard.press("2")
    expect(page.locator("#progress strong")).to_have_text("2")
    page.keyboard.press("2")
    expect_done(page, 2)

    assert rankings() == [[[0], [1]], [[1], [0]]]


def test_no_key_judges_while_the_sheet_is_open(page, project):
    open_queue(page, project, 2)

    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keys")
    expect(sheet).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.keyboard.press("1")
    expect_done(page, 1)

    assert len(rankings()) == 1


def test_four_answers_are_ranked_by_digits(page, project):
    open_queue(page, project, 2, answers=4)

    page.keyboard.press("Enter")  # nothing is ranked yet: the order shown is no verdict
    for digit in "2113":
        page.keyboard.press(digit)
    expect(page.get_by_label("Ranking so far")).to_have_text("B = C > A > D")
    page.keyboard.press("Enter")
    expect_done(page, 1)

    assert rankings() == [[[1, 2], [0], [3]]]


def test_without_a_connection_the_verdict_is_kept_and_sent_once(page, project):
    open_queue(page, project, 2)

    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_text("Your verdict has not arrived. It is kept")).to_be_visible()
    page.keyboard.press("2")  # no second verdict beside the one that waits
    page.context.set_offline(False)
    expect_done(page, 1)

    expect(page.get_by_text("Your verdict has not arrived.")).to_be_hidden()
    assert rankings() == [[[0], [1]]]


def test_a_verdict_outlives_a_lost_answer_a_restart_and_a_reload_and_is_recorded_once(
    page, project
):
    open_queue(page, project, 2)

    def lose_the_answer(route):
        route.fetch()
        route.abort()

    page.route("**/judge/", lambda route: route.fulfill(status=502, body="Bad gateway"))
    page.route("**/judge/", lose_the_answer, times=1)  # the last one added is asked first
    page.keyboard.press("2")
    with page.expect_response("**/judge/") as response:
        page.get_by_role("button", name="Send it now").click()
    assert response.value.status == 502
    page.unroute_all()
    page.reload()
    expect_done(page, 1)

    assert rankings() == [[[1], [0]]]


def test_the_verdict_of_who_was_signed_out_waits_for_them_and_nobody_else(page, project):
    MembershipFactory(project=project, user=UserFactory(username="ben", password="correct horse"))
    open_queue(page, project, 3)

    page.context.clear_cookies(name="sessionid")
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    sign_in(page, "ben")
    page.goto("/projects/essays/compare/")
    page.get_by_role("button", name="B better").click()
    expect_done(page, 1)
    page.get_by_role("button", name="Sign out").click()
    sign_in(page)
    page.goto("/projects/essays/compare/")
    expect_done(page, 1)

    said = Judgment.objects.order_by("pk").values_list("annotator__username", flat=True)
    assert (list(said), rankings()) == (["ben", "ann"], [[[1], [0]], [[0], [1]]])


def test_guidelines_are_open_until_they_were_used(page, project):
    open_queue(page, project, 3)
    guidelines = page.locator("#guidelines")
    expect(guidelines).to_have_attribute("open", "")

    page.keyboard.press("1")
    expect_done(page, 1)
    expect(guidelines).not_to_have_attribute("open", "")
    page.keyboard.press("g")
    page.reload()

    expect(guidelines).to_have_attribute("open", "")


def test_all_of_it_works_without_javascript(browser, live_server, page, project):
    open_queue(page, project, 1, answers=4)
    context = browser.new_context(base_url=live_server.url, java_script_enabled=False)
    plain = context.new_page()
    sign_in(plain)
    plain.goto("/projects/essays/compare/")

    for place, rank in enumerate([2, 1, 4, 3]):
        plain.locator(f"[name=rank-{place}][value='{rank}']").check(force=True)
    plain.get_by_role("button", name="Send").click()
    expect(plain.get_by_role("heading", name="All done")).to_be_visible()

    assert rankings() == [[[1], [0], [3], [2]]]
    context.close()
