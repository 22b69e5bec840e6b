"""The playground in the browser; the test plays the model server."""

import os

import pytest
from playwright.sync_api import expect

from annotator.models import Membership, Role
from tests.e2e.test_compare import live_server, page, project  # noqa: F401
from tests.rlhf.factories import PolicyFactory
from tests.rlhf.model_server_stand_in import YES, model_server_that_says

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture
def playground(page, project, settings, tmp_path):  # noqa: F811
    """The page, with two policies."""
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"
    Membership.objects.update(role=Role.ADMIN)
    base = PolicyFactory(project=project, name="before")
    PolicyFactory(project=project, name="after", parent=base)

    def say(text):
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Enter")

    page.say = say
    return page


def test_both_sides_are_asked_and_remember_what_they_said(playground):
    with model_server_that_says(*YES) as questions:
        playground.goto("/projects/essays/playground/")
        playground.say("May I?")
        expect(playground.locator(".reply-text")).to_have_text(["Yes, please."] * 2)
        expect(playground.get_by_role("button", name="Send")).to_be_enabled()
        playground.say("Thank you.")
        expect(playground.locator(".reply-text")).to_have_text(["Yes, please."] * 4)

    assert playground.locator(".reply-name").all_inner_texts() == ["before", "after"] * 2
    said = [message["content"] for message in questions[-1]["messages"]]
    assert said == ["May I?", "Yes, please.", "Thank you."]


def test_what_is_being_written_can_be_stopped(playground):
    with model_server_that_says({"index": 0, "text": "No"}, and_then={"index": 0, "text": "o"}):
        playground.goto("/projects/essays/playground/")
        playground.say("May I?")
        expect(playground.locator(".reply-text").first).to_contain_text("Noo")
        playground.get_by_role("button", name="Stop").click()

        expect(playground.locator(".reply-note")).to_have_text(["Stopped."] * 2)
        expect(playground.get_by_role("button", name="Send")).to_be_enabled()


def test_an_error_is_shown_in_the_place_of_the_answer_and_the_message_is_kept(playground):
    with model_server_that_says({"error": "The folder is gone.", "kind": "model"}):
        playground.goto("/projects/essays/playground/")
        playground.say("May I?")

        expect(playground.locator(".reply-note")).to_have_text(["The folder is gone."] * 2)
        expect(playground.get_by_label("Message", exact=True)).to_have_value("May I?")
