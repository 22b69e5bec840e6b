"""What a line may say, and what is said of one that may not."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.formats.entries import TURN, Answer, Entry, Vote, check_prompt
from annotator.jsonl import MAX_LINE_BYTES, parse_line


def line(**fields):
    return json.dumps(fields).encode()


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


# --- good lines -------------------------------------------------------------------------------
def test_a_prompt_as_text():
    assert parse_line(line(prompt="Hi!")) == Entry([user("Hi!")], [])


def test_a_prompt_as_messages():
    messages = [{"role": "system", "content": "Be kind."}, user("Hi!"), assistant("?"), user("Hi.")]

    assert parse_line(line(prompt=messages)) == Entry(messages, [])


def test_completions_with_sources():
    entry = parse_line(
        line(prompt="Hi!", completions=["a", "b"], sources=["m1", "m2"], truncated=[False, True])
    )

    assert entry.answers == [Answer("a", "m1", False), Answer("b", "m2", True)]
    assert entry.chosen is None


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi!", "chosen": "yes", "rejected": "no"},
        {"prompt": [user("Hi!")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
        {
            "prompt": "Hi!",
            "chosen": [user("Hi!"), assistant("yes")],
            "rejected": [user("Hi!"), assistant("no")],
        },
        {"chosen": [user("Hi!"), assistant("yes")], "rejected": [user("Hi!"), assistant("no")]},
        {
            "chosen": "\n\nHuman: Hi!\n\nAssistant: yes",
            "rejected": "\n\nHuman: Hi!\n\nAssistant: no",
        },
        {"prompt": "\n\nHuman: Hi!\n\nAssistant:", "chosen": "yes", "rejected": "no"},
    ],
)
def test_known_choices_in_all_forms(fields):
    assert parse_line(line(**fields)) == Entry(
        [user("Hi!")], [Answer("no"), Answer("yes")], votes=[Vote([[1], [0]])]
    )


def test_a_transcript_of_several_turns():
    before = "\n\nHuman: One\n\nand a half\n\nAssistant: Two\n\nHuman: Three"

    entry = parse_line(
        line(chosen=f"{before}\n\nAssistant: Four", rejected=f"{before}\n\nAssistant: ")
    )

    assert entry.messages == [user("One\n\nand a half"), assistant("Two"), user("Three")]
    assert entry.answers == [Answer(""), Answer("Four")]


@pytest.mark.parametrize("end", ["", "\n\nAssistant:", "\n\nAssistant: "])
def test_a_prompt_may_be_a_transcript(end):
    prompt = "\n\nHuman: One\n\nAssistant: Two\n\nHuman: Three"

    entry = parse_line(line(prompt=prompt + end))

    assert entry.messages == [user("One"), assistant("Two"), user("Three")]


def test_a_prompt_that_only_quotes_a_transcript_is_a_text():
    prompt = "Go on:\n\nHuman: Hi!\n\nAssistant: Hello!"

    assert parse_line(line(prompt=prompt)).messages == [user(prompt)]


def test_the_place_of_an_answer_does_not_tell_that_it_was_chosen():
    one = parse_line(line(prompt="Hi!", chosen="a", rejected="b"))
    other = parse_line(line(prompt="Hi!", chosen="b", rejected="a"))

    assert one.answers == other.answers
    assert (one.chosen, other.chosen) == (0, 1)


def test_other_fields_are_named():
    assert parse_line(line(prompt="Hi!", id=7, score=None, lang="en")).ignored == ["id", "lang"]


def test_a_byte_order_mark_is_no_harm():
    assert parse_line(b"\xef\xbb\xbf" + line(prompt="Hi!")).messages == [user("Hi!")]


# --- bad lines --------------------------------------------------------------------------------
PAIR = {"prompt": "Hi!", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b'{"prompt": "Hi!"', "broken JSON: Expecting ',' delimiter at column 17, near "),
        (b"[" * 100_000, "broken JSON: nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON: a number has thousands of digits"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8: byte 0xe9 at position 16; save the file as UTF-8"),
        (b'{"prompt": "a\0b"}', "broken JSON: Invalid control character at column 14"),
        (b'["Hi!"]', 'a line must be an object like {"prompt": …}, not ["Hi!"]'),
        (b" " * (MAX_LINE_BYTES + 1), "the line is longer than 1,048,576 bytes"),
        (b'{"prompt": "a\\u0000b"}', '"prompt" holds the character U+0000'),
        (b'{"prompt": "a\\ud800"}', '"prompt" holds half of a surrogate pair, \\ud800'),
        (line(), 'the field "prompt" is missing; so are "chosen" and "rejected"'),
        (line(prompt=None), 'the field "prompt" is missing'),
        (line(prompt=3), '"prompt" must be text or a list of messages {"role": …, "content": …}'),
        (line(prompt=" \n"), '"prompt" is empty; it must say something'),
        (line(prompt=[]), '"prompt" must be text or a list of messages'),
        (line(prompt=["Hi!"]), '"prompt[0]" must be a message {"role": …, "content": …}, not "Hi'),
        (line(prompt=[{"role": "user"}]), '"prompt[0]" must be a message'),
        (line(prompt=[{**user("Hi!"), "name": "x"}]), '"prompt[0]" must be a message'),
        (line(prompt=[user(7)]), '"prompt[0].content" must be text, not 7'),
        (line(prompt=[user("")]), '"prompt[0].content" is empty; every message must say something'),
        (
            line(prompt=[{"role": "human", "content": "Hi!"}]),
            '"prompt[0].role" must be system, user or assistant, not "human"',
        ),
        (
            line(prompt=[user("Hi!"), assistant("Hello.")]),
            '"prompt" must end with a message of the user, not of the assistant',
        ),
        (
            line(prompt="\n\nHuman: Hi!\n\nAssistant: Hello!"),
            '"prompt" must end with a message of the user, not of the assistant',
        ),
        (line(prompt="\n\nAssistant:"), '"prompt[0].content" is empty'),
        (
            line(prompt=[user("Hi!"), {"role": "system", "content": "Be kind."}, user("?")]),
            '"prompt[1]" is a system message; only the first message may be one',
        ),
        (
            line(prompt="Hi!", completions="a"),
            '"completions" must be a list of 2 to 9 texts, not "',
        ),
        (line(prompt="Hi!", completions=["a"]), '"completions" must be a list of 2 to 9 texts'),
        (line(prompt="Hi!", completions=list("0123456789")), '"completions" must be a list of 2'),
        (line(prompt="Hi!", completions=["a", 1]), '"completions[1]" must be text, not 1'),
        (
            line(prompt="Hi!", completions=["a", "b", "a "]),
            '"completions[0]" and "completions[2]" are the same text, "a"',
        ),
        (
            line(prompt="Hi!", completions=["a", "b"], sources=["m"]),
            '"sources" must have as many items as "completions": 2, not 1',
        ),
        (
            line(prompt="Hi!", completions=["a", "b"], truncated=[0, 1]),
            '"truncated" must be a list of true or false, not [0, 1]',
        ),
        (
            line(prompt="Hi!", completions=["a", "b"], sources=["m" * 201, "m"]),
            '"sources[0]" is longer than 200 characters',
        ),
        (line(prompt="Hi!", sources=["m"]), 'the field "sources" needs the field "completions"'),
        (
            line(prompt="Hi!", chosen="a"),
            'the field "rejected" is missing; "chosen" and "rejected"',
        ),
        (line(**PAIR, completions=["a"]), 'the field "completions" cannot stand beside "chosen"'),
        (line(**PAIR | {"rejected": "a"}), '"chosen" and "rejected" are the same text, "a"'),
        (line(**PAIR | {"chosen": 1}), '"chosen" must be text or a list of messages'),
        (
            line(**PAIR | {"chosen": [user("a")]}),
            '"chosen" must end with a message of the assistant',
        ),
        (
            line(**PAIR | {"chosen": [user("Hey!"), assistant("a")]}),
            '"chosen" must be one message of the assistant, or the prompt and that message',
        ),
        (line(chosen="a", rejected="b"), 'the field "prompt" is missing, and "chosen" and "rej'),
        (
            line(chosen=[assistant("a")], rejected=[assistant("b")]),
            '"chosen" and "rejected" hold no prompt, and the field "prompt" is missing',
        ),
        (
            line(chosen=[user("a"), assistant("a")], rejected=[user("b"), assistant("b")]),
            '"chosen" and "rejected" must be alike up to the last message',
        ),
        (
            line(chosen="\n\nHuman: a\n\nAssistant: b\n\nHuman: c", rejected="…"),
            '"chosen" must be a transcript that ends with an "Assistant:" turn',
        ),
        (
            line(
                chosen="\n\nHuman: Hi!\n\nAssistant: a", rejected="\n\nHuman: Ho!\n\nAssistant: b"
            ),
            "they differ from character 11: ",
        ),
        (
            line(chosen="Hi!\n\nAssistant: a", rejected="Hi!\n\nAssistant: b"),
            'a transcript must begin with a "Human:" turn, not with "Hi!"',
        ),
    ],
)
def test_bad_lines_are_explained(bad, sentence):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        parse_line(bad)

    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 250


# --- properties -------------------------------------------------------------------------------
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
spoken = texts.filter(str.strip)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(content):
    with suppress(ValueError):
        messages = parse_line(content).messages
        assert check_prompt(messages) == messages


FIELDS = ("completions", "sources", "truncated", "chosen", "rejected")


@given(st.fixed_dictionaries({"prompt": json_values}, optional=dict.fromkeys(FIELDS, json_values)))
def test_any_values_in_the_fields_are_read_or_refused(fields):
    with suppress(ValueError):
        assert len(parse_line(line(**fields)).answers) != 1


@given(spoken, st.lists(texts, min_size=2, max_size=9, unique_by=str.strip))
def test_completions_come_through_unchanged(prompt, completions):
    entry = parse_line(line(prompt=[user(prompt)], completions=completions))

    assert entry.messages == [user(prompt)]
    assert [answer.text for answer in entry.answers] == completions


@given(spoken, texts, texts)
def test_known_choices_come_through_unchanged(prompt, chosen, rejected):
    fields = {"prompt": [user(prompt)], "chosen": chosen, "rejected": rejected}
    if chosen.strip() == rejected.strip():
        return

    entry = parse_line(line(**fields))

    assert entry.answers[entry.chosen].text == chosen
    assert entry.answers[1 - entry.chosen].text == rejected


turns = texts.map(str.strip).filter(lambda text: text and not TURN.search("\n\n" + text))


@given(st.lists(turns, min_size=1, max_size=4), turns, turns)
def test_transcripts_are_split_where_they_were_joined(questions, chosen, rejected):
    """Every question but the last was answered with itself."""
    parts = [f"\n\nHuman: {text}\n\nAssistant: {text}" for text in questions[:-1]]
    before = "".join(parts) + f"\n\nHuman: {questions[-1]}\n\nAssistant: "
    if chosen == rejected:
        return

    entry = parse_line(line(chosen=before + chosen, rejected=before + rejected))

    assert [message["content"] for message in entry.messages[::2]] == questions
    assert [message["content"] for message in entry.messages[1::2]] == questions[:-1]
    assert entry.answers[entry.chosen].text == chosen


# --- known answers ------------------------------------------------------------------------------
def test_a_known_answer_names_the_right_ranking_and_why():
    entry = parse_line(
        line(prompt="Hi!", completions=["a", "b", "c"], expected=[[2], [0, 1]], explanation="Kind.")
    )

    assert (entry.expected, entry.explanation) == ([[2], [0, 1]], "Kind.")


def test_a_ranking_without_ties_needs_no_groups():
    entry = parse_line(line(prompt="Hi!", completions=["a", "b"], expected=[1, 0]))

    assert entry.expected == [[1], [0]]


@pytest.mark.parametrize("expected", [[], [[0]], [[0], [0]], [[0], [2]], [[], [0, 1]], "a"])
def test_what_does_not_rank_each_completion_once_is_refused(expected):
    with pytest.raises(ValueError, match=r"must list the numbers 0 to 1 of the completions"):
        parse_line(line(prompt="Hi!", completions=["a", "b"], expected=expected))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expected": [[0]]}, 'the field "expected" needs the field "completions"'),
        ({"explanation": "Kind."}, 'the field "explanation" needs the field "expected"'),
        ({"chosen": "a", "rejected": "b", "expected": [[0]]}, 'cannot stand beside "chosen"'),
    ],
)
def test_what_is_expected_stands_beside_completions(fields, words):
    with pytest.raises(ValueError, match=words):
        parse_line(line(prompt="Hi!", **fields))
