"""Finding passages by their words."""

from rlhf.training.retrieval import Bm25, Collection, Passage, tokens, write_passages


def test_words_are_compared_without_case_and_scripts_without_spaces_by_character():
    assert tokens("Open at 9, \uff21\uff22 東京") == ["open", "at", "9", "ab", "東", "京"]


def test_vowel_signs_and_points_are_parts_of_words():
    assert tokens("दिन क्या है? நான், שָׁלוֹם") == ["दिन", "क्या", "है", "நான்", "שָׁלוֹם"]


def test_rare_words_count_more_than_frequent_ones():
    index = Bm25.of(["the cat", "the dog", "the cat and the dog"])

    assert [place for place, _ in index.search("the dog", 3)] == [1, 2, 0]


def test_what_shares_no_word_is_not_found():
    index = Bm25.of(["the cat", "", "a dog"])

    assert index.search("a bird, a dog", 5)[0][0] == 2
    assert index.search("bird", 5) == []
    assert index.search("…", 5) == []


def test_a_collection_is_found_again_from_its_folder(tmp_path):
    passages = [Passage("Cats", 1, "They purr."), Passage("Dogs", 1, "They bark."),
                Passage("Dogs", 2, "Они лают.")]  # fmt: skip

    write_passages(tmp_path, passages)

    assert Collection(tmp_path).find("who barks? лают dogs", 2) == [passages[2], passages[1]]
    assert [each.name for each in Collection(tmp_path).passages] == ["Cats#1", "Dogs#1", "Dogs#2"]
