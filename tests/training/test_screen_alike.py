# ruff: noqa: RUF001 (a text in Chinese)
import pytest

from rlhf.training.screen_alike import Index, are_alike, bands_for

SEA = "Please write a short poem about the sea, the gulls and an old sailor who cannot sleep."


def like(index, text):
    found = index.find(text)
    return found and (found.place, found.percent == 100)


@pytest.fixture
def index():
    index = Index(85)
    index.add(SEA, "line 1")
    return index


def test_the_same_but_for_spaces_and_capitals_is_the_same(index):
    assert like(index, SEA.upper().replace(" ", "\n ")) == ("line 1", True)


def test_one_word_more_is_nearly_the_same(index):
    assert like(index, SEA + " Thanks!") == ("line 1", False)


@pytest.mark.parametrize(
    ("other", "expected"),
    [(SEA.upper(), True), (f"{SEA} Thanks!", True), (f"{SEA} In 3 lines.", False)],
)
def test_two_texts_are_compared_as_one_with_many(other, expected):
    assert are_alike(SEA, other, 85) is expected


def test_another_text_is_not_alike(index):
    assert like(index, "What is the capital of Australia, and how many people live in it?") is None


def test_texts_with_different_numbers_are_not_nearly_the_same():
    index = Index(85)
    index.add(f"{SEA} Use 12 lines.", "line 1")

    assert like(index, f"{SEA} Use 14 lines.") is None


def test_scripts_without_spaces_are_compared_too():
    index = Index(80)
    text = "请写一首关于大海、海鸥和一位失眠的老水手的短诗，语言要朴素，不要超过十二行，并且不要押韵。谢谢你的帮助。"
    index.add(text, "line 1")

    assert like(index, text.replace("谢谢你", "多谢你")) == ("line 1", False)


def test_of_texts_that_are_alike_only_the_first_is_kept(index):
    index.add(SEA + " Thanks!", "line 2")

    assert like(index, SEA + " Thanks!") == ("line 1", False)


def test_short_texts_are_only_ever_the_same():
    index = Index(50)
    index.add("Hello there, friend", "line 1")

    assert [like(index, "hello there, friend"), like(index, "Hello there, friends")] == [
        ("line 1", True), None,
    ]  # fmt: skip


@pytest.mark.parametrize(("threshold", "bands"), [(1.0, 8), (0.85, 16), (0.8, 32), (0.5, 64)])
def test_bands_find_what_is_as_alike_as_asked_for(threshold, bands):
    rows = 128 // bands

    assert bands_for(threshold) == bands
    assert 1 - (1 - threshold**rows) ** bands >= 0.99
