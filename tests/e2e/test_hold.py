"""Holding a comparison back, where the browser is the point: only it knows what time zone it is in."""

from datetime import UTC, datetime

from playwright.sync_api import expect

from annotator.models import Comparison, Role
from tests.e2e.test_compare import live_server, project, pytestmark, sign_in
from tests.factories import ComparisonFactory, MembershipFactory, UserFactory

__all__ = ["live_server", "project", "pytestmark"]  # fixtures of the comparing page


def test_a_hold_ends_by_the_clock_of_the_browser(browser, live_server, project):
    rita = UserFactory(username="rita", password="correct horse")
    MembershipFactory(project=project, user=rita, role=Role.REVIEWER)
    comparison = ComparisonFactory(project=project)
    context = browser.new_context(base_url=live_server.url, timezone_id="Europe/Berlin")
    page = context.new_page()
    sign_in(page, "rita")
    page.goto(f"/projects/essays/comparisons/{comparison.pk}/")
    expect(page.get_by_text("The time is read by your clock, Europe/Berlin.")).to_be_visible()

    page.get_by_label("Reason").fill("Later.")
    page.get_by_label("Until").fill("2199-07-01T12:00")
    page.get_by_role("button", name="Hold back").click()

    expect(page.get_by_text("Held back: nobody is asked it for now.")).to_be_visible()
    assert Comparison.objects.get().held_until == datetime(2199, 7, 1, 10, tzinfo=UTC)
    expect(page.get_by_text("Nobody is asked it until 2199-07-01 12:00")).to_be_visible()
    context.close()
