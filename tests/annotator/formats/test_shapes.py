"""What rows of other tools say: each shape as its tool writes it."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.formats.entries import Answer, Vote
from annotator.formats.shapes import (
    check_mapping,
    entry_of,
    guess_mapping,
    recognise,
)

QUESTION = [{"role": "user", "content": "Hi!"}]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


# --- TRL and OpenAI -----------------------------------------------------------------------------
def test_an_implicit_prompt_ends_between_words():
    entry = entry_of({"chosen": "The sky is blue.", "rejected": "The sky is black."})

    assert entry.messages == [user("The sky is")]
    assert [answer.text for answer in entry.answers] == ["black.", "blue."]
    assert entry.chosen == 1


def test_beside_other_fields_no_prompt_is_read_into_two_answers():
    row = {"question": "Why?", "chosen": "I think so.", "rejected": "I think not."}

    with pytest.raises(
        ValueError, match=r'missing; is it "question"\? Then map it: prompt=question'
    ):
        entry_of(row)


def test_messages_are_a_prompt_and_their_last_answer_is_named():
    entry = entry_of({"messages": [user("Hi!"), assistant("Hello.")], "id": 3})

    assert (entry.messages, entry.answers) == (QUESTION, [])
    assert entry.ignored == ["id", "the last answer of messages"]


def test_messages_with_parts_and_names_are_texts():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]
    row = {
        "messages": [{"role": "user", "name": "anna", "content": parts}],
        "completions": ["a", "b"],
    }

    entry = entry_of(row)

    assert recognise(row) == "messages"
    assert (entry.messages, len(entry.answers)) == (QUESTION, 2)


def test_a_rejected_answer_makes_the_last_message_the_chosen_one():
    entry = entry_of({"messages": [user("Hi!"), assistant("yes")], "rejected": "no"})

    assert [answer.text for answer in entry.answers] == ["no", "yes"]
    assert entry.chosen == 1


def test_openai_preferences():
    row = {
        "input": {"messages": QUESTION, "tools": []},
        "preferred_output": [assistant("yes")],
        "non_preferred_output": [assistant("no")],
    }

    assert recognise(row) == "OpenAI preference"
    assert entry_of(row).answers[entry_of(row).chosen].text == "yes"


# --- scores -------------------------------------------------------------------------------------
def test_ultrafeedback_ranks_by_overall_score():
    row = {
        "instruction": "Hi!",
        "source": "sharegpt",
        "models": ["m1", "m2", "m3"],
        "completions": [
            {"model": "m1", "response": "a", "overall_score": 6.5, "critique": "…"},
            {"model": "m2", "response": "b", "overall_score": 8, "critique": "…"},
            {"model": "m3", "response": "c", "overall_score": 6.5, "critique": "…"},
        ],
    }

    entry = entry_of(row)

    assert recognise(row) == "scored completions"
    assert entry.messages == QUESTION
    assert entry.answers == [Answer("a", "m1"), Answer("b", "m2"), Answer("c", "m3")]
    assert entry.votes == [Vote([[1], [0, 2]])]


def test_ranks_count_from_the_best():
    answers = [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]

    assert entry_of({"prompt": "Hi!", "answers": answers}).votes == [Vote([[1], [0]])]


def test_scores_beside_texts():
    row = {"prompt": "Hi!", "completions": ["a", "b"], "scores": [1, 2.5], "annotator": 7}

    assert entry_of(row).votes == [Vote([[1], [0]], "7")]


def test_a_score_that_is_missing_is_named():
    row = {"prompt": "Hi!", "completions": [{"text": "a", "score": 1}, {"text": "b"}]}

    with pytest.raises(ValueError, match=r'"completions\[1\].score" must be a number, not null'):
        entry_of(row)


# --- Arena --------------------------------------------------------------------------------------
BATTLE = {
    "question_id": "58210e39b3fd4441a2bd4a518bb44c2d",
    "model_a": "chatglm-6b",
    "model_b": "koala-13b",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [user("Hi!"), assistant("a")],
    "conversation_b": [user("Hi!"), assistant("b")],
    "turn": 1,
}


def test_an_arena_battle():
    entry = entry_of(BATTLE)

    assert recognise(BATTLE) == "Arena battle"
    assert entry.messages == QUESTION
    assert entry.answers == [Answer("a", "chatglm-6b"), Answer("b", "koala-13b")]
    assert entry.votes == [Vote([[1], [0]], "arena_user_973")]
    assert entry.ignored == ["question_id", "turn"]


@pytest.mark.parametrize(
    ("winner", "ranking"),
    [("model_a", [[0], [1]]), ("tie", [[0, 1]]), ("tie (bothbad)", []), ("both_bad", [])],
)
def test_how_a_battle_can_end(winner, ranking):
    assert entry_of(BATTLE | {"winner": winner}).votes[0].ranking == ranking


def test_a_battle_as_a_table_has_it():
    row = {
        "model_a": "m1",
        "model_b": "m2",
        "prompt": '["Hi!", "And?"]',
        "response_a": '["Hello.", "a"]',
        "response_b": '["Hello.", "b"]',
        "winner_model_a": "0",
        "winner_model_b": "0",
        "winner_tie": "1",
    }

    entry = entry_of(row)

    assert entry.messages == [user("Hi!"), assistant("Hello."), user("And?")]
    assert entry.votes == [Vote([[0, 1]])]


def test_a_battle_that_parted_earlier_is_no_comparison():
    parted = [user("Hi!"), assistant("x"), user("And?"), assistant("b")]

    with pytest.raises(ValueError, match='"conversation_a" and "conversation_b" must be alike'):
        entry_of(BATTLE | {"conversation_b": parted})


# --- summarize-from-feedback ----------------------------------------------------------------------
SUMMARIES = {
    "info": {"id": "t3_1", "post": "My dog ate it.", "title": "Dog", "subreddit": "dogs"},
    "summaries": [
        {"text": " Dog ate it.", "policy": "sup1", "note": ""},
        {"text": " It is gone.", "policy": "ref", "note": ""},
    ],
    "choice": 1,
    "worker": "Qo6cHYm3KmZoMRP",
    "batch": "batch3",
    "split": "train",
    "extra": {"confidence": 8},
}


def test_summaries_are_asked_for_as_in_the_paper():
    entry = entry_of(SUMMARIES)

    assert recognise(SUMMARIES) == "summarize-from-feedback"
    assert entry.messages == [
        user("SUBREDDIT: r/dogs\n\nTITLE: Dog\n\nPOST: My dog ate it.\n\nTL;DR:")
    ]
    assert [answer.source for answer in entry.answers] == ["sup1", "ref"]
    assert entry.votes == [Vote([[1], [0]], "Qo6cHYm3KmZoMRP", 3, 4)]


@pytest.mark.parametrize("confidence", [None, 5, 2, 12])
def test_a_confidence_that_does_not_fit_the_choice_is_no_strength(confidence):
    (vote,) = entry_of(SUMMARIES | {"extra": {"confidence": confidence}}).votes

    assert (vote.ranking, vote.strength, vote.strength_of) == ([[1], [0]], None, None)


# --- Label Studio -------------------------------------------------------------------------------
def task(*annotations, **data):
    return {"id": 1, "data": data, "annotations": list(annotations), "project": 3}


def annotation(who, kind, value, to_name="answer1,answer2", **fields):
    result = {"from_name": "c", "to_name": to_name, "type": kind, "value": value}
    return {"completed_by": who, "was_cancelled": False, "result": [result], **fields}


TEXTS = {"prompt": "Hi!", "answer1": "a", "answer2": "b"}


def test_label_studio_pairs_of_several_people():
    row = task(
        annotation(1, "pairwise", {"selected": "left"}),
        annotation({"id": 2, "email": "anna@example.org"}, "pairwise", {"selected": "right"}),
        annotation(3, "pairwise", {"selected": "left"}, was_cancelled=True),
        **TEXTS,
    )

    entry = entry_of(row)

    assert recognise(row) == "Label Studio"
    assert (entry.messages, [answer.text for answer in entry.answers]) == (QUESTION, ["a", "b"])
    assert entry.votes == [Vote([[0], [1]], "1"), Vote([[1], [0]], "2")]


def test_label_studio_tags_may_be_called_otherwise_than_the_data():
    row = task(annotation(1, "pairwise", {"selected": "right"}, to_name="txt-1,txt-2"), **TEXTS)

    assert entry_of(row).votes == [Vote([[1], [0]], "1")]


def test_label_studio_rankings():
    items = [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}, {"id": "z", "body": "c"}]
    row = task(annotation(4, "ranker", {"ranker": ["z", "x", "y"]}), prompt="Hi!", items=items)

    assert entry_of(row).votes == [Vote([[2], [0], [1]], "4")]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("pairwise", {"selected": "up"}, "must be left or right"),
        ("pairwise", {"selected": []}, "must be left or right"),
        ("ranker", {"ranker": {"best": ["x"], "rest": ["y"]}}, "buckets have no order"),
        ("ranker", {"ranker": ["x", "y"]}, "ranks ids that no list of the data has"),
        ("choices", {"choices": ["a"]}, "hold no result of a Pairwise or a Ranker"),
    ],
)
def test_what_label_studio_says_and_does_not_rank(kind, value, words):
    with pytest.raises(ValueError, match=words):
        entry_of(task(annotation(1, kind, value), **TEXTS))


# --- Argilla ------------------------------------------------------------------------------------
FIELDS = {"prompt": "Hi!", "response-1": "a", "response-2": "b"}
RANKS = [{"rank": 2, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
ARGILLA = [
    {  # 2, records as JSON
        "fields": FIELDS,
        "responses": {
            "ranking": [{"value": ["response-2", "response-1"], "user_id": "u1"}],
            "comment": [{"value": "good", "user_id": "u1"}],
        },
    },
    {  # 2, flattened, as a dataset
        **FIELDS,
        "status": "completed",
        "ranking.responses": [["response-2", "response-1"], ["response-1", "response-2"]],
        "ranking.responses.users": ["u1", "u2"],
        "ranking.responses.status": ["submitted", "draft"],
    },
    {  # 1, records as JSON
        "fields": FIELDS,
        "responses": [
            {"user_id": "u1", "status": "submitted", "values": {"ranking": {"value": RANKS}}},
            {"user_id": "u2", "status": "discarded", "values": {}},
        ],
    },
    {  # 1, as a dataset
        **FIELDS,
        "ranking": [{"user_id": "u1", "value": RANKS, "status": "submitted"}],
    },
    {  # a question with labels
        "fields": FIELDS,
        "responses": {"better": [{"value": "response-2", "user_id": "u1", "status": "submitted"}]},
    },
]


@pytest.mark.parametrize("row", ARGILLA)
def test_argilla_in_all_its_forms(row):
    entry = entry_of(row)

    assert recognise(row) == "Argilla"
    assert (entry.messages, [answer.text for answer in entry.answers]) == (QUESTION, ["a", "b"])
    assert entry.votes == [Vote([[1], [0]], "u1")]


def test_argilla_ties():
    ranks = [{"rank": 1, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
    row = {"fields": FIELDS, "responses": {"r": [{"value": ranks, "user_id": "u1"}]}}

    assert entry_of(row).votes == [Vote([[0, 1]], "u1")]


# --- our own exports ------------------------------------------------------------------------------
def test_votes_of_several_people():
    row = {
        "prompt": "Hi!",
        "completions": ["a", "b", "c"],
        "judgments": [
            {"annotator": "7", "ranking": [[2], [0, 1]], "is_pick": True, "order": [1, 2, 0]},
            {"annotator": 8, "ranking": [0, 1, 2], "strength": 2, "strength_of": 3},
            {"annotator": "9", "verdict": "all_bad", "flags": [["unsafe"], [], []]},
            {"annotator": "10", "verdict": "skipped"},
        ],
    }

    assert recognise(row) == "comparison with votes"
    assert entry_of(row).votes == [
        Vote([[2], [0, 1]], "7", is_pick=True, order=[1, 2, 0]),
        Vote([[0], [1], [2]], "8", 2, 3),
        Vote([], "9", said={"flags": {0: ["unsafe"]}}),
    ]


@pytest.mark.parametrize(
    ("judgment", "words"),
    [
        ("yes", r'"judgments\[0\]" must be an object with "annotator" and "ranking"'),
        ({"ranking": [[0], [1]]}, r'"judgments\[0\]" must be an object with "annotator"'),
        ({"annotator": "7"}, r'"judgments\[0\].ranking" must list the numbers 0 to 1'),
        ({"annotator": "7", "verdict": "meh"}, "must be ranking, all_bad, unrankable or skipped"),
        ({"annotator": "7", "ranking": [0, 1], "strength": 3}, "from 1 to"),
        ({"annotator": "7", "ranking": [0, 1], "flags": [[]]}, "a list for each of the 2"),
        ({"annotator": "7", "ranking": [0, 1], "seconds": -1}, "must be a number of seconds"),
        (
            {
                "annotator": "7",
                "ranking": [0, 1],
                "spans": [{"completion": 0, "start": 0, "end": 9}],
            },
            "characters from 0 to 1",
        ),
        (
            {"annotator": "7", "ranking": [0, 1], "criteria": [{"criterion": "Not so"}]},
            "must be up to 30 small letters",
        ),
    ],
)
def test_votes_that_cannot_be(judgment, words):
    row = {"prompt": "Hi!", "completions": ["a", "b"], "judgments": [judgment]}

    with pytest.raises(ValueError, match=words):
        entry_of(row)


def test_nobody_judges_twice():
    judgment = {"annotator": "7", "ranking": [0, 1]}
    row = {"prompt": "Hi!", "completions": ["a", "b"], "judgments": [judgment, judgment]}

    with pytest.raises(ValueError, match=r'"judgments\[1\].annotator" is "7" once more'):
        entry_of(row)


PAIR = {
    "prompt": QUESTION,
    "chosen": [assistant("b")],
    "rejected": [assistant("a")],
    "p_chosen": 0.75,
    "votes": [{"annotator": "7", "prefers": "chosen", "first": "rejected"}],
    "chosen_source": "m1",
    "rejected_source": "m2",
}


@pytest.mark.parametrize(("p_chosen", "ranking"), [(0.75, [[1], [0]]), (0.5, [[0, 1]])])
def test_a_pair_of_an_export_is_what_most_say_of_it(p_chosen, ranking):
    entry = entry_of(PAIR | {"p_chosen": p_chosen})

    assert recognise(PAIR) == "pair of an export"
    assert entry.answers == [Answer("a", "m2"), Answer("b", "m1")]
    assert entry.votes == [Vote(ranking)]


SHOWING = {
    "prompt": "Hi!",
    "completions": ["a", "b"],
    "annotator": "a1",
    "verdict": "ranking",
    "ranking": [[1], [0]],
    "strength": 2,
    "strength_of": 3,
    "order": [1, 0],
    "outcome": "judged",
    "is_repeat": False,
    "showing": 5,
}


def test_a_showing_that_was_answered_is_a_vote():
    entry = entry_of(SHOWING)

    assert recognise(SHOWING) == "showing of an export"
    assert entry.votes == [Vote([[1], [0]], "a1", 2, 3, order=[1, 0])]


@pytest.mark.parametrize(
    "else_",
    [
        {"outcome": "expired", "verdict": None},
        {"outcome": "skipped", "verdict": "skipped", "ranking": []},
        {"is_repeat": True},
        {"is_repeat": "true"},  # of a table
    ],
)
def test_any_other_showing_is_a_comparison_without_a_vote(else_):
    entry = entry_of(SHOWING | else_)

    assert ([answer.text for answer in entry.answers], entry.votes) == (["a", "b"], [])
    assert entry.expected is None


def test_a_showing_of_a_known_answer_is_a_known_answer():
    entry = entry_of(SHOWING | {"expected": [[0], [1]]})

    assert (entry.expected, entry.votes) == ([[0], [1]], [])


def test_a_showing_says_what_is_wrong_by_its_own_columns():
    with pytest.raises(ValueError, match=r'^"strength" must be a whole number'):
        entry_of(SHOWING | {"strength": 4})


# --- mapping --------------------------------------------------------------------------------------
def test_a_mapping_gives_columns_our_names():
    row = {"question": "Hi!", "answer_a": "a", "answer_b": "b", "prompt": "of something else"}

    entry = entry_of(row, {"prompt": "question", "completions": "answer_a, answer_b"})

    assert (entry.messages, [answer.text for answer in entry.answers]) == (QUESTION, ["a", "b"])
    assert entry.ignored == []


def test_mistakes_are_told_in_the_words_of_the_file():
    with pytest.raises(ValueError, match=r'^"question" is empty; it must say something$'):
        entry_of({"question": " "}, {"prompt": "question"})


def test_a_mistake_in_one_of_several_columns_names_that_one():
    row = {"prompt": "Hi!", "answer_a": "a", "answer_b": "b\0"}

    with pytest.raises(ValueError, match=r'^"answer_b" holds the character U\+0000'):
        entry_of(row, {"completions": "answer_a,answer_b"})


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"promt": "question"}, '"promt" is no field of ours; these are: annotator, chosen'),
        ({"prompt": "qestion"}, 'there is no column "qestion"; there are "question", "a"'),
        ({"completions": "a,b"}, 'there is no column "b"; there are "question", "a"'),
    ],
)
def test_a_mapping_that_cannot_be(mapping, words):
    with pytest.raises(ValueError, match=words):
        check_mapping(mapping, ["question", "a"])


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (["prompt", "chosen", "rejected"], {}),
        (["question", "chosen", "rejected", "system"], {"prompt": "question"}),
        (["text", "Answer_A", "Answer_B"], {"prompt": "text", "completions": "Answer_A,Answer_B"}),
        (["id"], {}),
    ],
)
def test_a_mapping_to_begin_with(columns, mapping):
    assert guess_mapping(columns) == mapping


# --- properties -----------------------------------------------------------------------------------
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["a", "b", "Hi!", ""]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "value", "user_id", "text", "score", "ranking"]),
            values,
        )
    ),
    max_leaves=6,
)
SHAPES = [
    BATTLE,
    SUMMARIES,
    task(annotation(1, "pairwise", {"selected": "left"}), **TEXTS),
    task(
        annotation(1, "ranker", {"ranker": {"c": [1, 2]}}),
        prompt="Hi!",
        items=[{"id": 1, "body": "a"}, {"id": 2, "body": "b"}],
    ),
    {**TEXTS, "pw": [{"selected": "left"}], "annotator": 1, "annotation_id": 2, "lead_time": 3.5},
    *ARGILLA,
    {**FIELDS, "best.responses": ["response-1"], "best.responses.users": ["u1"]},
    {
        "prompt": "Hi!",
        "completions": ["a", "b"],
        "judgments": [{"annotator": "7", "ranking": [0, 1]}],
    },
    {"messages": QUESTION, "chosen": "a", "rejected": "b"},
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SHAPES), st.data())
def test_a_row_with_anything_in_one_place_is_read_or_refused(row, data):
    """Only ever with a sentence, and what is read can be stored."""
    row = json.loads(json.dumps(row))
    parent, place = data.draw(st.sampled_from(list(_places(row))))
    parent[place] = data.draw(json_values)

    recognise(row)
    with suppress(ValueError):
        entry = entry_of(row)
        assert len(entry.answers) != 1
        for vote in entry.votes:
            indices = sorted(index for group in vote.ranking for index in group)
            assert indices in ([], list(range(len(entry.answers))))


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for place, item in list(items):
        yield value, place
        if isinstance(item, dict | list):
            yield from _places(item)
