"""The comparing page as it is laid out: widths, long and foreign texts, what a screen reader finds."""

import pytest
from playwright.sync_api import expect

from annotator.models import User
from annotator.protocols import PRESETS, QUALITIES, Protocol, to_json
from tests.e2e.test_compare import (
    expect_marked,
    live_server,
    open_queue,
    page,
    project,
    pytestmark,
    rankings,
)
from tests.e2e.test_pages import BY_WIDTH, violations
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, PromptFactory

__all__ = ["live_server", "page", "project", "pytestmark"]  # fixtures of the comparing page

ALL_OF_IT = Protocol(
    criteria=QUALITIES,
    rationale="optional",
    reasons=("Clear", "Short"),
    rewrite=True,
    span_labels=("wrong", "vague"),
    flags=("unsafe", "broken"),
)
PROTOCOLS = {name: preset.protocol for name, preset in PRESETS.items()} | {"all": ALL_OF_IT}
PARAGRAPH = "The kettle whistles, and the tea is steeped for three minutes before it is poured. "


def boxes(locator):
    return [element.bounding_box() for element in locator.all()]


def has_no_scroll_bar_below(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_answers_are_equal_columns_from_900_pixels_on(page, project):
    page.set_viewport_size({"width": 900, "height": 700})
    ComparisonFactory(project=project, texts=[PARAGRAPH * 40, "No."])
    page.goto("/projects/essays/compare/")

    left, right = boxes(page.get_by_role("article"))

    assert (left["width"], left["y"], left["height"]) == (
        right["width"], right["y"], right["height"]
    )  # fmt: skip
    assert left["x"] + left["width"] < right["x"]
    assert has_no_scroll_bar_below(page)


def test_below_they_are_stacked_over_a_bar_that_is_always_in_sight(page, project):
    ComparisonFactory(project=project, texts=[PARAGRAPH * 40] * 2)
    page.goto("/projects/essays/compare/")

    for width in (899, 390):
        page.set_viewport_size({"width": width, "height": 700})
        above, below = boxes(page.get_by_role("article"))
        assert (above["x"], above["width"]) == (below["x"], below["width"])
        assert above["y"] + above["height"] < below["y"]
        assert has_no_scroll_bar_below(page)
        for scrolled in (500, 0):
            page.evaluate(f"scrollTo(0, {scrolled})")
            bar = page.locator(".verdict-bar").bounding_box()
            assert round(bar["y"] + bar["height"]) == 700


def test_on_a_phone_three_answers_are_cards_of_which_one_is_always_in_place(page, project):
    page.set_viewport_size({"width": 390, "height": 700})
    open_queue(page, project, 1, answers=3)
    row, cards = page.get_by_role("group", name="Answers", exact=True), page.get_by_role("article")
    first, second, _ = (box["x"] for box in boxes(cards))
    row.evaluate(
        """row => {
            row.end = new Promise(end => {
                row.addEventListener("scrollend", end);
                setTimeout(end, 10_000);
            });
        }"""
    )

    cards.first.hover()
    page.mouse.wheel(200, 0)  # not quite two thirds of the way to the next one
    row.evaluate("row => row.end")

    assert (first, second - first > 300) == (16, True)
    assert boxes(cards)[1]["x"] == pytest.approx(first, abs=1)


def test_guidelines_stay_open_beside_the_answers_of_a_wide_window(page, project):
    page.set_viewport_size({"width": 1200, "height": 800})
    open_queue(page, project, 3)
    guidelines = page.locator("#guidelines")
    page.keyboard.press("g")
    page.keyboard.press("g")  # somebody wants them open
    page.keyboard.press("1")
    expect(page.locator("#progress strong")).to_have_text("1")
    page.reload()

    beside = guidelines.bounding_box()
    answers = boxes(page.get_by_role("article"))

    expect(guidelines).to_have_attribute("open", "")
    assert all(answer["x"] + answer["width"] < beside["x"] for answer in answers)
    assert beside["y"] < answers[0]["y"]
    page.set_viewport_size({"width": 1199, "height": 800})
    assert guidelines.bounding_box()["width"] > 1000
    assert has_no_scroll_bar_below(page)


def edges(locator):
    """Left and right of the first line of an element's text, and of the element."""
    return locator.evaluate(
        """element => {
            const range = document.createRange();
            range.selectNodeContents(element);
            const [line] = range.getClientRects();
            const box = element.getBoundingClientRect();
            return [line.left, line.right, box.left, box.right].map(Math.round);
        }"""
    )


def test_arabic_is_read_from_the_right(page, project):
    messages = [{"role": "user", "content": "لماذا السماء زرقاء؟"}]
    prompt = PromptFactory(project=project, messages=messages)
    ComparisonFactory(project=project, prompt=prompt, texts=["بسبب تشتت رايلي.", "لا أعرف."])
    page.goto("/projects/essays/compare/")

    texts = [page.locator(".turn.last p:not(.who)"), *page.locator(".answer .markdown p").all()]

    assert len(texts) == 3
    for left, right, start, end in map(edges, texts):
        assert (right, left > start) == (end, True)


def test_japanese_without_spaces_is_broken_into_lines_and_compared_by_sign(page, project):
    page.set_viewport_size({"width": 390, "height": 700})
    sentence = "空が青いのは太陽の光が空気の分子に散乱されるからです。"
    texts = [sentence * 8, sentence * 7 + sentence.replace("青", "赤")]
    ComparisonFactory(project=project, texts=texts)
    page.goto("/projects/essays/compare/")

    page.keyboard.press("d")

    expect_marked(page, "青", "赤")
    assert has_no_scroll_bar_below(page)


def test_answers_of_20000_characters_are_judged_like_any_other(page, project):
    page.set_viewport_size({"width": 390, "height": 700})
    ComparisonFactory(project=project, texts=["tea " * 5000, "x" * 20_000])
    page.goto("/projects/essays/compare/")
    lengths = [len(answer.inner_text()) for answer in page.locator(".answer .markdown").all()]

    assert sorted(lengths) == [19_999, 20_000]  # a space at the end is not shown
    assert has_no_scroll_bar_below(page)
    page.get_by_role("button", name="A better").click()
    expect(page.get_by_role("heading", name="All done")).to_be_visible()

    assert rankings() == [[[0], [1]]]


def test_wide_tables_code_and_formulas_scroll_by_themselves_on_a_phone(page, project):
    page.set_viewport_size({"width": 390, "height": 700})
    row = "|".join(["", *["kettle"] * 20, ""])
    table = f"{row}\n{row.replace('kettle', '---')}\n{row}"
    formula = " + ".join(f"x_{{{n}}}^2" for n in range(60))
    texts = [f"{table}\n\n```\n{PARAGRAPH}\n```", f"It is ${formula}$, so\n\n$${formula}$$"]
    ComparisonFactory(project=project, texts=texts)
    page.goto("/projects/essays/compare/")

    wide = page.locator(".answer :is(table, pre, .formula, math[display=inline])")

    assert (
        wide.evaluate_all("all => all.map(each => each.tabIndex)") == [0] * 4
    )  # by arrow keys too
    assert has_no_scroll_bar_below(page)
    assert violations(page, BY_WIDTH, [390]) == []


def test_four_answers_by_role_and_name_alone(page, project):
    """What a screen reader has to go by, as of two answers in test_compare.py."""
    open_queue(page, project, 1, answers=4)
    comparison = page.get_by_role("region", name="Comparison", exact=True)

    for letter, rank in zip("ABCD", "2143", strict=True):
        expect(comparison.get_by_role("article", name=f"Answer {letter}")).to_be_visible()
        ranks = comparison.get_by_role("group", name=f"Rank of answer {letter}, 1 is best")
        ranks.get_by_role("radio", name=rank, exact=True).check(force=True)  # under its number
    expect(comparison.get_by_role("status", name="Ranking so far")).to_have_text("B > A > D > C")
    comparison.get_by_role("button", name="Send the ranking").click()

    expect(page.get_by_role("heading", name="All done")).to_be_visible()
    assert rankings() == [[[1], [0], [3], [2]]]


def test_under_no_protocol_the_page_is_hard_to_use(page):
    """As axe sees it, with what is asked after the choice, and with the sheet of keys."""
    found = {}
    for name, protocol in PROTOCOLS.items():
        project = ProjectFactory(slug=name, guidelines="Be *kind*.", protocol=to_json(protocol))
        MembershipFactory(project=project, user=User.objects.get())
        n = 4 if name in ("instructgpt", "best_of_n") else 2
        ComparisonFactory(project=project, texts=[f"Answer *{n}*." for n in range(n)])
        page.goto(f"/projects/{name}/compare/")
        for key in "1h" if protocol.asks_more else "":
            page.keyboard.press(key)
        found[name] = violations(page)
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        found[f"{name}, keys"] = violations(page, widths=[1280])

    assert found == {where: [] for where in found}
