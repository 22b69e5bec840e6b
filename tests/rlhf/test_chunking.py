import pytest

from rlhf.chunking import passages_of


@pytest.mark.parametrize(
    ("text", "size", "overlap", "expected"),
    [
        ("aa\n\nbb\n\ncc", 100, 0, ["aa\n\nbb\n\ncc"]),
        ("aa\n\nbb\n\ncc", 6, 0, ["aa\n\nbb", "cc"]),
        ("aa\n\nbb\n\ncc", 6, 2, ["aa\n\nbb", "bb\n\ncc"]),
        ("aaaa\n\nbb\n\ncc", 8, 3, ["aaaa\n\nbb", "bb\n\ncc"]),
        ("One two. Three four. Five.", 16, 0, ["One two.", "Three four.", "Five."]),
        ("one two three", 8, 0, ["one two", "three"]),
        ("東京は大きい。雨が降る。", 8, 0, ["東京は大きい。", "雨が降る。"]),
        ("aaaaaaaaaa", 4, 0, ["aaaa", "aaaa", "aa"]),
        (" \n\n \n", 8, 0, []),
    ],
)
def test_passages_end_where_paragraphs_sentences_or_words_do(text, size, overlap, expected):
    assert passages_of(text, size, overlap) == expected


def test_no_passage_is_longer_than_asked_for_and_no_text_is_lost():
    text = "\n\n".join(f"Paragraph {n} " + "word " * (n % 40) for n in range(60))

    passages = passages_of(text, 150, 60)

    assert max(map(len, passages)) <= 150
    assert set(" ".join(passages).split()) == set(text.split())
