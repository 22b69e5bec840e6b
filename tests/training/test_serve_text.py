import pytest

from rlhf.training.serve_text import Writing, cut_at_stop, sendable

END = 9


def writing(text, **settings):
    """Token n is the n-th character of the text."""
    return Writing(
        lambda ids: "".join(text[n] for n in ids if n != END),
        end_tokens={END},
        **{"stops": [], "max_tokens": 100, **settings},
    )


def test_the_first_stop_text_ends_an_answer_and_is_left_out():
    assert cut_at_stop("One. Two. Three", ["Th", "Tw"]) == "One. "
    assert cut_at_stop("One. Two.", ["Th"]) is None


@pytest.mark.parametrize(
    ("text", "sent"),
    [("Hello", "Hello"), ("Hello #", "Hello "), ("Hello ##", "Hello "), ("na\ufffd", "na")],
)
def test_what_the_next_token_may_change_is_kept_back(text, sent):
    assert sendable(text, ["###"]) == sent


def test_an_answer_ends_with_an_end_token():
    answer = writing("Yes")

    sent = [answer.add(token) for token in (0, 1, 2, END)]

    assert (sent, answer.finish_reason) == (["Y", "e", "s", ""], "stop")


def test_what_was_kept_back_is_sent_when_no_stop_text_came_of_it():
    answer = writing("a##b", stops=["###"])

    assert [answer.add(token) for token in range(4)] == ["a", "", "", "##b"]


def test_an_answer_that_reaches_its_length_is_sent_whole():
    answer = writing("a##", stops=["###"], max_tokens=3)

    assert "".join(answer.add(token) for token in range(3)) == "a##"
    assert answer.finish_reason == "length"


def test_a_stop_text_ends_an_answer_in_the_middle_of_a_token():
    words = Writing(
        lambda ids: "One. Two"[: 4 * len(ids)], end_tokens=set(), stops=["e"], max_tokens=9
    )

    assert (words.add(0), words.finish_reason) == ("On", "stop")
