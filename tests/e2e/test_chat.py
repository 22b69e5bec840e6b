"""A live conversation in the browser; the test plays the process that answers."""

import os

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from annotator.models import Judgment
from rlhf.models import RunKind, Status, Turn
from rlhf.training.artifacts import write_json
from tests.e2e.test_compare import expect_marked, live_server, page, project  # noqa: F401
from tests.e2e.test_pages import violations
from tests.rlhf.factories import SAMPLING, PolicyFactory, RunFactory

os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture
def listener(project):  # noqa: F811
    run = RunFactory(
        project=project, kind=RunKind.CONVERSE, status=Status.RUNNING, phase="talking",
        config=SAMPLING, policy=PolicyFactory(project=project), seen=timezone.now(),
    )  # fmt: skip
    for name in ("asked", "answered"):
        (run.folder / name).mkdir()
    return run


def talk(page, listener):  # noqa: F811
    """As far as the two answers."""
    page.goto("/projects/essays/chat/")
    page.get_by_label("Say something").fill("Tea or coffee?")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text("The model writes two answers …")
    answers = [{"side": "policy", "text": text, "truncated": False} for text in ("Tea.", "Coffee.")]
    write_json(listener.folder / "answered" / Turn.objects.get().file_name, {"answers": answers})
    expect(page.get_by_role("heading", name="Answer A")).to_be_visible()
    expect(page.locator("#said")).to_have_text("Two new answers. The one you choose stays.")


def test_without_a_connection_the_verdict_on_a_turn_is_kept_and_sent_once(page, listener):  # noqa: F811
    talk(page, listener)

    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_text("Your verdict has not arrived. It is kept")).to_be_visible()
    page.context.set_offline(False)

    expect(page.get_by_label("Say something")).to_be_visible()
    expect(page.get_by_text("Your verdict has not arrived.")).to_be_hidden()
    assert Judgment.objects.count() == 1


def test_talking_to_the_model_by_keyboard(page, listener):  # noqa: F811
    talk(page, listener)
    assert violations(page) == []
    chosen = page.locator(".answer .markdown").first.inner_text()
    page.keyboard.press("1")

    expect(page.get_by_label("Say something")).to_be_visible()
    expect(page.locator(".turn.assistant .markdown")).to_have_text(chosen)


def test_answers_of_a_turn_are_compared_by_word(page, listener):  # noqa: F811
    talk(page, listener)

    page.keyboard.press("d")

    expect_marked(page, "Coffee", "Tea")
