from annotator.formats.entries import Answer, Entry, Vote
from annotator.imports.preview import marks_of, note_of

ASKED = [{"role": "user", "content": "Why?"}]
TWO = [Answer("Because."), Answer("No.")]
THREE = [*TWO, Answer("Ask me tomorrow.")]


def test_of_two_answers_the_better_one_is_marked():
    assert marks_of(Entry(ASKED, TWO, votes=[Vote([[1], [0]])])) == ["", "Chosen"]
    assert marks_of(Entry(ASKED, TWO, expected=[[0], [1]])) == ["Right answer", ""]


def test_of_more_answers_each_has_its_rank():
    entry = Entry(ASKED, THREE, votes=[Vote([[2], [0, 1]])])

    assert marks_of(entry) == ["Rank 2", "Rank 2", "Rank 1"]


def test_ties_and_bad_answers_are_said():
    assert marks_of(Entry(ASKED, TWO, votes=[Vote([[0, 1]])])) == ["As good as the others"] * 2
    assert marks_of(Entry(ASKED, TWO, votes=[Vote([])])) == ["Bad"] * 2


def test_of_several_votes_only_their_number_is_said():
    entry = Entry(ASKED, TWO, votes=[Vote([[0], [1]], "ada"), Vote([[1], [0]], "bob")])

    assert (marks_of(entry), note_of(entry)) == (["", ""], "With 2 votes.")
