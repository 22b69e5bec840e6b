"""The comparing page where the browser is the point: keys, double clicks, a lost connection."""

import os

import pytest
from playwright.sync_api import expect
from pytest_django.live_server_helper import LiveServer

from annotator.assignment import standing
from annotator.guidelines import publish
from annotator.models import Judgment, Role, User, Verdict
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    make_judgment,
)

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
    for done in (4, 3):
        page.keyboard.press("u")
        expect_done(page, done)
    for done, key in ((4, "9"), (5, "2")):
        page.keyboard.press(key)
        expect_done(page, done)

    assert rankings() == [[[0], [1]], [[1], [0]], [[0], [1]], [], [[1], [0]]]
    assert Judgment.objects.get(voided=None, ranking=[]).verdict == Verdict.ALL_BAD


def test_what_is_left_is_counted_when_the_next_comparison_is_there(page, project, monkeypatch):
    monkeypatch.setattr(standing, "COUNT_EVERY", 2)
    open_queue(page, project, 4)
    page.keyboard.press("1")
    expect_done(page, 1)

    ComparisonFactory(project=project)
    page.keyboard.press("1")
    expect(page.locator("#progress")).to_have_text("2 of 5 for you")
    expect_done(page, 2)
    page.keyboard.press("1")

    expect(page.locator("#progress")).to_have_text("3 of 5 for you")


def test_the_first_interaction_is_measured_once_and_not_again_after_a_reload(page, project):
    open_queue(page, project, 2)
    field = page.locator("[name=first_interaction_ms]")
    page.evaluate("new Promise(requestAnimationFrame)")  # the answers are to be seen

    page.mouse.wheel(0, 40)
    expect(field).not_to_have_value("")
    first = field.input_value()
    page.reload()
    expect(field).to_have_value(first)
    page.keyboard.press("1")
    expect_done(page, 1)

    assert Judgment.objects.get().assignment.first_interaction_ms == int(first)
    expect(field).to_have_value("")  # of the next one


def test_twenty_verdicts_are_taken_back_by_key_and_the_next_one_says_where_it_is_changed(
    page, project
):
    for i in range(21):
        comparison = ComparisonFactory(project=project, texts=[f"{i}a", f"{i}b"])
        make_judgment(comparison, User.objects.get(), [0], [1])
    page.goto("/projects/essays/compare/")

    for done in range(20, 0, -1):
        page.keyboard.press("u")
        expect_done(page, done)
    page.keyboard.press("u")
    expect(page.locator("#comparison").get_by_role("alert")).to_have_text(
        "20 verdicts are taken back: no more at once. "
        "Answer these first; older ones can be changed under My votes."
    )

    assert rankings() == [[[0], [1]]]
    page.get_by_role("link", name="My votes").click()
    expect(page.get_by_role("row", name="A > B")).to_have_count(1)


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


def test_four_answers_are_ranked_by_digits_on_a_narrow_screen_too(page, project):
    page.set_viewport_size({"width": 390, "height": 800})
    open_queue(page, project, 2, answers=4)
    assert (
        page.evaluate("document.documentElement.scrollWidth") == 390
    )  # the cards scroll, not the page

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
        route.fetch(max_retries=3)  # the server may have closed the connection meanwhile
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


def test_a_comparison_by_role_and_name_alone(page, project):
    """What a screen reader has to go by: no place on the screen, no colour, no key."""
    prompt = PromptFactory(
        project=project, messages=[{"role": "user", "content": "Why is the *sky* blue?"}]
    )
    ComparisonFactory(project=project, prompt=prompt, texts=["Because of *scattering*.", "No."])
    page.goto("/projects/essays/compare/")
    page.get_by_role("button", name="I have read them").click()

    comparison = page.get_by_role("region", name="Comparison", exact=True)
    conversation = comparison.get_by_role("group", name="Conversation")
    expect(conversation).to_contain_text("Why is the sky blue?")
    expect(comparison.get_by_role("progressbar", name="0 of 1 for you")).to_be_visible()
    answers = [comparison.get_by_role("article", name=f"Answer {letter}") for letter in "AB"]
    place = 0 if "scattering" in answers[0].inner_text() else 1
    expect(answers[place].get_by_role("heading", name="Answer")).to_be_visible()
    comparison.get_by_role("button", name=f"{'AB'[place]} better").click()

    expect(page.get_by_role("heading", name="All done")).to_be_visible()
    assert rankings() == [[[place], [1 - place]]]


def test_a_vote_is_found_again_and_changed(page, project):
    open_queue(page, project, 2)
    page.keyboard.press("1")
    expect_done(page, 1)

    page.get_by_role("link", name="My votes").click()
    page.get_by_role("row", name="A > B").get_by_role("link").click()
    page.wait_for_url("**/history/*/")  # until its scripts are there, no key does anything
    page.keyboard.press("2")
    expect(page.get_by_text("Changed. What you said before stays on record")).to_be_visible()

    expect(page.get_by_role("row", name="B > A (changed)")).to_be_visible()
    assert rankings() == [[[1], [0]]]


def test_keys_of_ones_own_are_printed_on_the_buttons_and_work(page, project):
    page.goto("/keys/")
    page.get_by_label("A is better").fill("f")
    page.get_by_label("Skip").fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    open_queue(page, project, 2)

    expect(page.get_by_role("button", name="A better F")).to_be_visible()
    expect(page.get_by_role("button", name="Skip 1")).to_be_visible()
    page.keyboard.press("s")  # of nobody now
    page.keyboard.press("f")
    expect_done(page, 1)
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="All done")).to_be_visible()

    said = Judgment.objects.order_by("pk").values_list("verdict", flat=True)
    assert list(said) == [Verdict.RANKING, Verdict.SKIPPED]


MARKED = """async expected => {
    const marked = () => [...(CSS.highlights.get('difference') ?? [])].map(String).sort().join();
    for (let frame = 0; frame < 900 && marked() !== expected; frame++)
        await new Promise(requestAnimationFrame);
    return marked();
}"""


def expect_marked(page, *words):
    """Wait for it: `wait_for_function` cannot, because the page forbids the eval that it needs."""
    expected = ",".join(sorted(words))
    assert page.evaluate(MARKED, expected) == expected


def test_what_only_one_answer_says_is_marked_until_one_wants_it_no_more(page, project):
    ComparisonFactory(project=project, texts=["Be *kind* always, $x$.", "Be *very* kind, $y$."])
    page.goto("/projects/essays/compare/")
    expect_marked(page)

    with page.expect_response("**/differences/show/"):
        page.keyboard.press("d")
    expect_marked(page, "always", "very", "x", "y")
    page.reload()
    expect_marked(page, "always", "very", "x", "y")
    page.keyboard.press("d")
    expect_marked(page)


def test_three_answers_are_compared_with_one_of_them_or_two_of_them(page, project):
    ComparisonFactory(project=project, texts=["one same", "two same", "three same"])
    page.goto("/projects/essays/compare/")
    texts = page.locator(".answer .markdown").all_inner_texts()
    a, b, c = (text.removesuffix(" same") for text in texts)

    page.keyboard.press("d")
    expect_marked(page, b, c)
    page.get_by_label("Compare answer").select_option("B")
    expect_marked(page, a, c)
    page.get_by_label("Compare with").select_option("C")
    expect_marked(page, b, c)
    page.get_by_label("Compare answer").select_option("C")  # with itself: with the others

    expect_marked(page, a, b)


def test_new_guidelines_are_announced_on_a_page_that_is_open(page, project):
    open_queue(page, project, 2)
    page.get_by_role("button", name="I have read them").click()
    expect(page.get_by_role("button", name="I have read them")).to_be_hidden()

    publish(project, "Be *kind*. Be brief.", None)
    page.keyboard.press("1")

    expect(page.get_by_text("The guidelines have changed since you last read")).to_be_visible()
    expect(page.get_by_role("insertion")).to_have_text("Be brief.")


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
