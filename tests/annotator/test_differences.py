import pytest

from annotator.differences import Piece, shortened, split_words, word_changes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b,  c", ["a ", "b", ",  ", "c"]),
        ("naïve Größe", ["naïve ", "Größe"]),
        ("in 東京 now", ["in ", "東", "京 ", "now"]),
        ("\n  a", ["\n  ", "a"]),
        ("", []),
    ],
)
def test_words_keep_the_space_behind_them(text, words):
    assert split_words(text) == words
    assert "".join(words) == text


def test_changes_by_word():
    assert word_changes("be kind, please", "be very kind") == [
        Piece("same", "be "),
        Piece("added", "very "),
        Piece("same", "kind"),
        Piece("removed", ", please"),
    ]


def test_other_space_is_no_change():
    assert word_changes("be  kind\n", "be kind") == [Piece("same", "be kind")]


def test_long_parts_that_are_the_same_are_cut_but_for_what_is_near():
    pieces = [Piece("same", "abcdefgh"), Piece("added", "x" * 50), Piece("same", "12345678")]

    assert shortened(pieces, keep=2) == [
        Piece("same", " … gh"),
        Piece("added", "x" * 50),
        Piece("same", "12 … "),
    ]
