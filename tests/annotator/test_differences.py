import pytest
from django.urls import reverse

from annotator.differences import Piece, differing, shortened, split_words, word_changes
from tests.factories import UserFactory


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


def test_differing_words_as_places_in_both_texts():
    assert differing("be kind always", "be very kind") == ([(8, 14)], [(3, 7)])


def test_places_are_counted_as_browsers_count():
    assert differing("😀 a", "😀 b") == ([(3, 4)], [(3, 4)])


def test_long_answers_of_the_same_words_are_compared():
    first = " ".join(f"word{n % 50}" for n in range(3000))
    second = " ".join(f"word{n * 7 % 50}" for n in range(3000))

    assert differing(first, first) == ([], [])
    assert differing(first, second) != ([], [])


@pytest.mark.django_db
def test_a_page_asks_where_its_two_answers_differ(client):
    client.force_login(UserFactory())

    def ask(first):
        return client.post(reverse("annotator:differences"), {"first": first, "second": "a c"})

    assert ask("a b").json() == {"first": [[2, 3]], "second": [[2, 3]]}
    assert ask("x" * 50_001).json() == {"error": "These texts are too long to be compared."}


@pytest.mark.django_db
def test_whether_differences_are_marked_is_remembered(client):
    user = UserFactory()
    client.force_login(user)

    remembered = []
    for sent in ({"on": "1"}, {}):
        client.post(reverse("annotator:show_differences"), sent)
        user.refresh_from_db()
        remembered.append(user.shows_differences)

    assert remembered == [True, False]
