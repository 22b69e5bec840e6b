"""The comparing page as axe sees it where not all is as usual: with nothing to compare, in a
qualification, without a connection."""

from datetime import timedelta

from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from annotator.assignment import claim, record
from annotator.models import Qualification, Role, User
from tests.e2e.test_compare import live_server, open_queue, page, project, pytestmark
from tests.e2e.test_pages import WIDTHS, look_at, violations
from tests.factories import (
    AssignmentFactory,
    ComparisonFactory,
    GoldFactory,
    MembershipFactory,
    ProjectFactory,
    make_judgment,
)

__all__ = ["live_server", "page", "project", "pytestmark"]  # fixtures of the comparing page


def judged(project, user):
    make_judgment(ComparisonFactory(project=project), user, [0], [1])


def held_by_others(project, user):
    AssignmentFactory(comparison__project=project)


def held_back(project, user):
    tomorrow = timezone.now() + timedelta(days=1)
    ComparisonFactory(project=project, hold="until", held_until=tomorrow)


def nothing(project, user):
    pass


# Why there is nothing: the project, the membership, and what there is in the project.
STANDINGS = {
    "nothing_imported": ({}, {}, nothing),
    "not_qualified": ({}, {"is_qualified": False}, nothing),
    "qualification_failed": (
        {"qualification_items": 1},
        {"qualification": Qualification.FAILED},
        nothing,
    ),
    "qualification_lacks_answers": ({"qualification_items": 1}, {}, nothing),
    "paused": ({"paused": timezone.now()}, {"role": Role.ADMIN}, judged),
    "quota_reached": ({}, {"quota_total": 1}, judged),
    "daily_quota_reached": ({}, {"quota_per_day": 1}, judged),
    "held_by_others": ({}, {}, held_by_others),
    "held_back": ({}, {}, held_back),
    "all_done": ({}, {"role": Role.ADMIN}, judged),
}


def test_a_page_with_nothing_to_compare_is_not_hard_to_use(page):
    user, found = User.objects.get(), {}
    for reason, (fields, standing, fill) in STANDINGS.items():
        project = ProjectFactory(slug=reason, guidelines="Be *kind*.", **fields)
        MembershipFactory(project=project, user=user, **standing)
        fill(project, user)
        looks = look_at(page, f"/projects/{reason}/compare/")
        found[page.locator(".empty").get_attribute("data-reason")] = looks

    assert found == {reason: (200, [], []) for reason in STANDINGS}


def test_a_qualification_is_not_hard_to_use(page, project):
    project.qualification_items, project.qualification_shows_answers = 3, True
    project.save()
    for _ in range(3):
        GoldFactory(project=project, explanation="Because it *is*.")
    addresses = ["/projects/essays/compare/"]
    for order in (1, -1):  # as expected, and not
        held = claim(project, User.objects.get())
        said = held.comparison.expected[::order]
        judgment = record(held, "ranking", said, payload_hash=held.payload_hash)
        addresses.append(reverse("annotator:right_answer", args=["essays", judgment.pk]))

    found = {address: look_at(page, address) for address in addresses}

    assert found == {address: (200, [], []) for address in addresses}


def test_a_page_with_a_verdict_that_waits_is_not_hard_to_use(page, project):
    open_queue(page, project, 1)
    page.route("**/judge/", lambda route: route.fulfill(status=502, body="Bad gateway"))
    page.keyboard.press("1")
    expect(page.get_by_role("button", name="Send it now")).to_be_visible()

    light = violations(page)
    page.emulate_media(color_scheme="dark")

    assert (light, violations(page, ["color-contrast"], WIDTHS[:1])) == ([], [])
