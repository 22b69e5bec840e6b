"""Protocols where the browser is the point: one key for a strength, steps, drafts, drag, highlights."""

import pytest
from playwright.sync_api import expect

from annotator.models import Assignment, Judgment, Verdict
from annotator.protocols import PRESETS, Protocol, to_json
from tests.e2e.test_compare import (
    expect_done,
    live_server,
    open_queue,
    page,
    project,
    pytestmark,
    rankings,
    sign_in,
)
from tests.factories import ComparisonFactory

__all__ = ["live_server", "page", "project", "pytestmark"]  # fixtures of the comparing page


def ask(project, protocol):
    project.protocol = to_json(protocol)
    project.save()


def test_one_key_says_choice_and_strength_as_the_sheet_says(page, project):
    ask(project, PRESETS["anthropic"].protocol)
    open_queue(page, project, 3)

    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keys")
    expect(sheet.get_by_text("B much better")).to_be_visible()
    expect(sheet.get_by_text("Both bad")).to_have_count(0)
    page.keyboard.press("Escape")
    for done, key in enumerate(["1", "8", "5"], start=1):
        page.keyboard.press(key)
        expect_done(page, done)

    assert rankings() == [[[0], [1]], [[1], [0]], [[1], [0]]]
    strengths = Judgment.objects.order_by("pk").values_list("strength", "strength_of")
    assert list(strengths) == [(4, 4), (4, 4), (1, 4)]


def test_reasons_follow_the_choice_and_are_there_on_another_device_without_javascript(
    browser, live_server, page, project
):
    ask(project, PRESETS["helpsteer"].protocol)
    open_queue(page, project, 1)
    reasons = page.get_by_label("In a few words, why")
    expect(reasons).to_be_hidden()

    page.keyboard.press("2")
    expect(reasons).to_be_focused()
    page.keyboard.type("It is 1. right, 2. short.")
    expect(page.get_by_text("Draft kept.")).to_be_visible()
    other = browser.new_context(base_url=live_server.url, java_script_enabled=False).new_page()
    sign_in(other)
    other.goto("/projects/essays/compare/")
    expect(other.get_by_label("In a few words, why")).to_have_value("It is 1. right, 2. short.")
    other.get_by_role("button", name="Send").click()
    expect(other.get_by_role("heading", name="All done")).to_be_visible()
    other.context.close()

    judgment = Judgment.objects.get()
    assert (judgment.strength, judgment.rationale) == (2, "It is 1. right, 2. short.")
    assert Assignment.objects.get().draft == {}


def test_reasons_are_given_by_key_and_ctrl_enter_sends_from_the_text(page, project):
    ask(project, Protocol(rationale="optional", reasons=("Clear", "Short", "True")))
    open_queue(page, project, 2)

    for key in ("1", "3", "2", "3", "1", "j"):  # A; on, on, off, on; to the text
        page.keyboard.press(key)
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    expect(page.get_by_label("In a few words, why")).to_be_focused()
    page.keyboard.type("Of 2,")
    page.keyboard.press("Enter")
    page.keyboard.type("this.")
    page.keyboard.press("Control+Enter")
    expect_done(page, 1)

    judgment = Judgment.objects.get()
    assert (rankings(), judgment.reasons) == ([[[0], [1]]], ["Clear", "Short"])
    assert judgment.rationale == "Of 2,\nthis."


def test_a_draft_that_found_no_connection_is_kept_when_it_is_back(page, project):
    ask(project, PRESETS["helpsteer"].protocol)
    open_queue(page, project, 1)

    page.keyboard.press("2")
    expect(page.get_by_text("Draft kept.")).to_be_visible()
    page.context.set_offline(True)
    page.keyboard.type("It is short.")
    expect(page.get_by_text("No connection: the draft is on this page alone")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_text("Draft kept.")).to_be_visible()

    assert Assignment.objects.get().draft["rationale"] == ["It is short."]


# Of what is drawn for each field: as it is, and while its field has the focus.
OUTLINES = """fields => fields.map(field => {
    const drawn = field.matches("label > input") ? field.nextElementSibling : field;
    const outline = () => getComputedStyle(drawn).outlineStyle;
    field.blur();
    const before = outline();
    field.focus();
    return [before, outline()];
})"""


@pytest.mark.parametrize("n", [2, 3])
def test_the_focus_is_in_sight_in_forced_colours_and_nothing_moves(page, project, n):
    ask(project, Protocol(rationale="optional", reasons=("Clear", "Short"), flags=("unsafe",)))
    page.emulate_media(forced_colors="active", reduced_motion="reduce")
    open_queue(page, project, 1, answers=n)

    for key in "123"[:n] if n > 2 else "11q":  # what is chosen, ranked or marked too
        page.keyboard.press(key)
    fields = page.locator(
        "#verdict :is(input:not([type=hidden]), button, textarea):enabled:visible"
    )
    outlines = fields.evaluate_all(OUTLINES)

    assert fields.and_(page.locator(":checked")).count() == 3
    assert outlines == [["none", "solid"]] * fields.count()
    moving = "all => all.filter(each => getComputedStyle(each).transitionDuration !== '0s').length"
    assert page.locator("*").evaluate_all(moving) == 0


def test_criteria_are_answered_line_by_line(page, project):
    ask(project, PRESETS["qualities"].protocol)
    open_queue(page, project, 2)

    for key in ("1", "2", "0", "1", "Enter"):
        page.keyboard.press(key)
    expect_done(page, 1)

    judgment = Judgment.objects.get()
    places = [
        [[judgment.assignment.order.index(pk) for pk in group] for group in said["ranking"]]
        for said in judgment.criteria.values()
    ]
    assert rankings() == [[[0], [1]]]
    assert list(judgment.criteria) == ["helpful", "honest", "harmless"]
    assert places == [[[1], [0]], [[0, 1]], [[0], [1]]]


def test_the_best_of_three_is_picked_by_key_or_none_can_be_ranked(page, project):
    ask(project, Protocol(many="best", allow_unrankable=True))
    open_queue(page, project, 4, answers=3)

    for done, key in enumerate(["2", "n", "x"], start=1):
        page.keyboard.press(key)
        expect_done(page, done)

    verdicts = Judgment.objects.order_by("pk").values_list("verdict", flat=True)
    assert list(verdicts) == [Verdict.RANKING, Verdict.UNRANKABLE, Verdict.ALL_BAD]
    assert rankings()[0] == [[1], [0, 2]]


def test_answers_are_dragged_to_ranks_by_the_handle(page, project):
    open_queue(page, project, 1, answers=3)

    for place, rank in enumerate(["2", "1", "2"]):
        handle = page.locator(".handle").nth(place).bounding_box()
        slot = page.locator(f".tray [data-rank='{rank}']").bounding_box()
        page.mouse.move(handle["x"] + 5, handle["y"] + 5)
        page.mouse.down()
        page.mouse.move(slot["x"] + 5, slot["y"] + 5, steps=4)
        page.mouse.up()
    expect(page.get_by_label("Ranking so far")).to_have_text("B > A = C")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", name="All done")).to_be_visible()

    assert rankings() == [[[1], [0, 2]]]


def test_a_highlight_counts_the_characters_of_the_raw_text(page, project):
    ask(project, Protocol(span_labels=("wrong",), flags=("unsafe",)))
    text = "# 🙂 Title\r\n\r\nA **bold** claim."
    ComparisonFactory(project=project, texts=[text, f"{text} "[:-1] + "!"])
    page.goto("/projects/essays/compare/")
    first = page.locator(".answer").first

    first.get_by_role("button", name="Highlight").click()
    first.locator(".raw").evaluate(
        """raw => {
            const node = raw.firstChild.firstChild;
            const start = node.data.indexOf("**bold**");
            getSelection().setBaseAndExtent(node, start, node, start + 8);
        }"""
    )
    first.get_by_role("button", name="wrong").click()
    expect(first.locator("mark")).to_have_text("**bold**")
    page.keyboard.press("q")  # a flag on the answer in hand
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="All done")).to_be_visible()

    judgment = Judgment.objects.get()
    first_id = judgment.assignment.order[0]
    (span,) = judgment.spans
    marked = judgment.comparison.completions.get(pk=span["completion"]).text
    assert marked[span["start"] : span["end"]] == "**bold**"
    assert (span["completion"], span["label"]) == (first_id, "wrong")
    assert judgment.flags == {str(first_id): ["unsafe"]}


def test_a_passage_is_highlighted_by_keyboard_alone(page, project):
    ask(project, Protocol(span_labels=("wrong", "vague")))
    text = "🙂 A **bold** claim."
    ComparisonFactory(project=project, texts=[text, f"{text}!"])
    page.goto("/projects/essays/compare/")

    page.keyboard.press("h")
    raw = page.get_by_role("textbox", name="Text of answer A")
    expect(raw).to_be_focused()
    for key in ["ArrowRight"] * 4 + ["Shift+ArrowRight"] * 8 + ["2", "x", "Delete"]:
        page.keyboard.press(key)
    expect(raw.locator("mark")).to_have_text("**bold**")
    expect(page.locator("#said")).to_have_text("Marked as vague.")
    for key in ["Shift+End", "Enter"]:  # from behind the mark
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    expect(raw).to_have_count(0)
    for key in ["2", "Enter"]:
        page.keyboard.press(key)
    expect(page.get_by_role("heading", name="All done")).to_be_visible()

    judgment = Judgment.objects.get()
    shown_first = judgment.comparison.completions.get(pk=judgment.assignment.order[0]).text
    marked = [(shown_first[span["start"] : span["end"]], span["label"]) for span in judgment.spans]
    assert marked == [("**bold**", "vague"), (shown_first[12:], "wrong")]
