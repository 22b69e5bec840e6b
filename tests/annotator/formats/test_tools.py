"""A row of each tool and data set that is recognised, with all the keys that it has there."""

import pytest

from annotator.formats.entries import Answer, FieldError, Vote
from annotator.formats.shapes import entry_of, recognise

BREW = "How long does green tea steep?"
SHORT, LONG = "Two minutes.", "An hour at least."
ASKED = [{"role": "user", "content": BREW}]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def texts_of(entry):
    return [answer.text for answer in entry.answers]


# --- Label Studio -------------------------------------------------------------------------------
def exported_task(data, *results):
    """As the export that is called JSON has it, one annotation for each result."""
    at = "2025-03-02T10:15:42.118034Z"
    annotations = [
        {
            "id": 40 + number, "completed_by": number, "result": [{**result, "origin": "manual"}],
            "was_cancelled": False, "ground_truth": False, "created_at": at, "updated_at": at,
            "draft_created_at": at, "lead_time": 11.8, "prediction": {}, "result_count": 1,
            "unique_id": "0b1c6f0e-6f5e-4c39-9d3b-8f6d0a8a4f11", "import_id": None,
            "last_action": None, "bulk_created": False, "task": 12, "project": 3, "updated_by": 1,
            "parent_prediction": None, "parent_annotation": None, "last_created_by": None,
        }
        for number, result in enumerate(results, 1)
    ]  # fmt: skip
    return {
        "id": 12, "annotations": annotations, "file_upload": "5f1c-tea.json", "drafts": [],
        "predictions": [], "data": data, "meta": {}, "created_at": at, "updated_at": at,
        "inner_id": 1, "total_annotations": len(results), "cancelled_annotations": 0,
        "total_predictions": 0, "comment_count": 0, "unresolved_comment_count": 0,
        "last_comment_updated_at": None, "project": 3, "updated_by": 1, "comment_authors": [],
    }  # fmt: skip


def pairwise(side):
    """The editor names the tag that compares, twice, and not the tags that are compared."""
    value = {"selected": side}
    return {"value": value, "id": "Zq1", "from_name": "pw", "to_name": "pw", "type": "pairwise"}


def ranker(value):
    named = {"id": "Zq2", "from_name": "rank", "to_name": "results", "type": "ranker"}
    return {"value": {"ranker": value}, **named}


def of_one_annotation(data, **results):
    """As JSON-MIN has it."""
    at = "2025-03-02T10:15:42.118034Z"
    return {
        **data, "id": 12, **results, "annotator": 1, "annotation_id": 41, "created_at": at,
        "updated_at": at, "lead_time": 11.8,
    }  # fmt: skip


PAIR = {"prompt": BREW, "answer1": SHORT, "answer2": LONG}
LIST = {
    "prompt": BREW,
    "items": [
        {"id": "m1", "title": "Model 1", "body": LONG},
        {"id": "m2", "title": "Model 2", "body": SHORT},
    ],
}


@pytest.mark.parametrize("data", [PAIR, dict(reversed(PAIR.items()))])
def test_label_studio_pairwise(data):
    entry = entry_of(exported_task(data, pairwise("left"), pairwise("right")))

    assert (entry.messages, texts_of(entry)) == (ASKED, [SHORT, LONG])
    assert entry.votes == [Vote([[0], [1]], "1"), Vote([[1], [0]], "2")]


@pytest.mark.parametrize("data", [PAIR, dict(reversed(PAIR.items()))])
def test_label_studio_pairwise_json_min(data):
    row = of_one_annotation(data, pw=[{"selected": "right"}])

    assert recognise(row) == "Label Studio, JSON-MIN"
    assert (entry_of(row).messages, texts_of(entry_of(row))) == (ASKED, [SHORT, LONG])
    assert entry_of(row).votes == [Vote([[1], [0]], "1")]


def test_label_studio_ranker():
    entry = entry_of(exported_task(LIST, ranker({"rank": ["m2", "m1"]})))

    assert (entry.messages, texts_of(entry)) == (ASKED, [LONG, SHORT])
    assert entry.votes == [Vote([[1], [0]], "1")]


def test_label_studio_ranker_json_min():
    entry = entry_of(of_one_annotation(LIST, rank=[{"ranker": {"rank": ["m2", "m1"]}}]))

    assert (entry.messages, texts_of(entry)) == (ASKED, [LONG, SHORT])
    assert entry.votes == [Vote([[1], [0]], "1")]


@pytest.mark.parametrize("buckets", [{"good": ["m1"], "bad": ["m2"]}, {"_": [], "rank": ["m1", "m2"]}])  # fmt: skip
def test_label_studio_buckets_are_no_ranking(buckets):
    with pytest.raises(
        FieldError, match=r'sorts into the buckets "(good|_)", "(bad|rank)"; buckets'
    ):
        entry_of(exported_task(LIST, ranker(buckets)))


UNTOLD = [
    {"prompt": BREW, "ours": SHORT, "theirs": LONG},
    {"prompt": BREW, "tea_a": SHORT, "tea_b": LONG, "note_1": "x", "note_2": "y"},
    {"prompt": BREW, "answer1": SHORT, "answer2": LONG, "answer3": "Never."},
]


@pytest.mark.parametrize("data", UNTOLD)
def test_label_studio_pairwise_asks_where_nothing_says_which_text_was_on_the_left(data):
    first, second = list(data)[1:3]

    with pytest.raises(
        FieldError, match=f"completions=LEFT,RIGHT, of .*data.{first}, data.{second}"
    ):
        entry_of(exported_task(data, pairwise("left")))
    with pytest.raises(
        FieldError, match=r'"pw\[0\].selected" is left, and nothing says which text'
    ):
        entry_of(of_one_annotation(data, pw=[{"selected": "left"}]))


def test_label_studio_pairwise_goes_by_the_mapping_before_all_else():
    task = exported_task(PAIR, pairwise("left"))
    row = of_one_annotation(PAIR, pw=[{"selected": "left"}])

    for record, mapped in ((task, "data.answer2,data.answer1"), (row, "answer2,answer1")):
        entry = entry_of(record, {"completions": mapped})

        assert (entry.messages, texts_of(entry)) == (ASKED, [LONG, SHORT])
        assert entry.votes == [Vote([[0], [1]], "1")]


def test_label_studio_tags_in_the_other_order_change_the_sides():
    turned = pairwise("left") | {"to_name": "txt-2,txt-1"}

    assert texts_of(entry_of(exported_task(PAIR, turned))) == [LONG, SHORT]


def test_label_studio_json_min_is_no_prompt_where_it_has_another_result():
    with pytest.raises(FieldError, match="no result of a Pairwise or a Ranker"):
        entry_of(of_one_annotation(PAIR, better="Answer 1"))


def test_label_studio_addresses_of_people_are_not_taken_along():
    row = of_one_annotation(PAIR, pw=[{"selected": "left"}]) | {"annotator": "anna@example.org"}

    (vote,) = entry_of(row).votes

    assert (len(vote.annotator), "anna" in vote.annotator) == (12, False)


# --- Argilla ------------------------------------------------------------------------------------
TEA = {"system": "Be brief.", "prompt": BREW, "response-1": LONG, "response-2": SHORT}
ANNA = "3c1a7a0e-52a5-4b3c-8a6d-6f1f6a1c2b3d"


def argilla_1(**questions):
    """A row of a dataset that Argilla 1 has saved."""
    return {
        **TEA, **questions, "preference-suggestion": None, "external_id": None, "metadata": "{}",
        "preference-suggestion-metadata": {"type": None, "score": None, "agent": None},
    }  # fmt: skip


def argilla_2(*values):
    """`to_list` and `to_json` of the records of Argilla 2."""
    responses = [{"value": value, "user_id": ANNA} for value in values]
    return {
        "id": "tea-1", "fields": TEA, "metadata": {"source": "kitchen"}, "suggestions": {},
        "responses": {"preference": responses}, "vectors": {}, "status": "completed",
        "_server_id": "0f0c2b0a-9a56-4c0e-a3a5-0a7d4b3a4c11",
    }  # fmt: skip


def argilla_2_flat(*values):
    """`to_list(flatten=True)` and `to_datasets`."""
    return {
        "id": "tea-1", "status": "completed", "_server_id": "0f0c2b0a-9a56-4c0e-a3a5-0a7d4b3a4c11",
        **TEA, "source": "kitchen", "preference.responses": list(values),
        "preference.responses.users": [ANNA] * len(values),
        "preference.responses.status": ["submitted"] * len(values),
        "preference.suggestion": None, "preference.suggestion.score": None,
        "preference.suggestion.agent": None,
    }  # fmt: skip


RANKS = {"rank": [1, 2], "value": ["response-2", "response-1"]}
ARGILLA = {
    "1, a ranking": argilla_1(
        preference=[{"user_id": ANNA, "value": RANKS, "status": "submitted"}]
    ),
    "1, a label": argilla_1(
        preference=[{"user_id": ANNA, "value": "response-2", "status": "submitted"}]
    ),
    "2, a ranking": argilla_2(["response-2", "response-1"]),
    "2, a label": argilla_2("response-2"),
    "2, flat, a ranking": argilla_2_flat(["response-2", "response-1"]),
    "2, flat, a label": argilla_2_flat("response-2"),
}


@pytest.mark.parametrize("kind", ARGILLA)
def test_argilla(kind):
    entry = entry_of(ARGILLA[kind])

    assert recognise(ARGILLA[kind]) == "Argilla"
    assert (entry.messages, texts_of(entry)) == (ASKED, [LONG, SHORT])
    assert entry.votes == [Vote([[1], [0]], ANNA)]


@pytest.mark.parametrize("row", [argilla_2("tie"), argilla_2_flat("tie")])
def test_argilla_a_tie_is_between_the_fields_that_are_called_alike(row):
    entry = entry_of(row)

    assert texts_of(entry) == [LONG, SHORT]
    assert entry.votes == [Vote([[0, 1]], ANNA)]


def test_argilla_a_label_that_names_one_of_no_pair_asks_for_a_mapping():
    nested = argilla_2("ours") | {"fields": {"prompt": BREW, "ours": SHORT, "theirs": LONG}}
    flat = argilla_2_flat("ours") | {"ours": SHORT, "theirs": LONG}

    for row, mapped in ((nested, "fields.theirs,fields.ours"), (flat, "theirs,ours")):
        with pytest.raises(FieldError, match=r'"preference" is "ours", and nothing says which'):
            entry_of(row)
        entry = entry_of(row, {"completions": mapped})
        assert texts_of(entry) == [SHORT, LONG]
        assert entry.votes == [Vote([[0], [1]], ANNA)]


def test_argilla_a_record_that_nobody_has_answered_is_no_prompt():
    with pytest.raises(FieldError, match="hold no submitted ranking"):
        entry_of(argilla_1(preference=[]))


# --- data sets ----------------------------------------------------------------------------------
def battle(*turns, winner="model_b"):
    """Of lmsys/chatbot_arena_conversations; a turn is a question and two answers to it."""
    sides = zip(*[((q, a), (q, b)) for q, a, b in turns], strict=True)
    one, other = ([m for q, a in side for m in (user(q), assistant(a))] for side in sides)
    return {
        "question_id": "9c0d3bb3c5f84a0f", "model_a": "vicuna-13b", "model_b": "koala-13b",
        "winner": winner, "judge": "arena_user_1042", "conversation_a": one, "conversation_b": other,
        "turn": len(turns), "anony": True, "language": "English", "tstamp": 1682351591.1322,
        "openai_moderation": {"categories": {}, "category_scores": {}, "flagged": False},
        "toxic_chat_tag": {"roberta-large": {"flagged": False, "probability": 0.01}},
    }  # fmt: skip


def test_arena():
    entry = entry_of(battle((BREW, LONG, SHORT)))

    assert entry.messages == ASKED
    assert entry.answers == [Answer(LONG, "vicuna-13b"), Answer(SHORT, "koala-13b")]
    assert entry.votes == [Vote([[1], [0]], "arena_user_1042")]


def test_arena_of_several_turns_that_are_alike():
    entry = entry_of(battle(("Hi!", "Hello.", "Hello."), (BREW, LONG, SHORT), winner="tie"))

    assert entry.messages == [user("Hi!"), assistant("Hello."), user(BREW)]
    assert (texts_of(entry), entry.votes) == ([LONG, SHORT], [Vote([[0, 1]], "arena_user_1042")])


def test_arena_of_several_turns_that_differ_is_no_vote_on_one_answer():
    with pytest.raises(
        FieldError, match="differ from message 2 on: the vote is on two conversations"
    ):
        entry_of(battle(("Hi!", "Hello.", "Hey."), (BREW, LONG, SHORT)))


def rated(model, text, score):
    """A completion of openbmb/UltraFeedback."""
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    rating = {"Rating": "4", "Rationale": "It answers."}
    return {
        "annotations": dict.fromkeys(aspects, rating), "custom_system_prompt": "As a helper.",
        "model": model, "principle": "helpfulness", "response": text, "critique": "Fine.",
        "overall_score": score, "fine-grained_score": 4.25,
    }  # fmt: skip


def test_ultrafeedback():
    row = {
        "source": "evol_instruct", "instruction": BREW, "models": ["alpaca-7b", "gpt-4"],
        "completions": [rated("alpaca-7b", LONG, 3.0), rated("gpt-4", SHORT, 8.5)],
        "correct_answers": ["None"], "incorrect_answers": ["None"],
    }  # fmt: skip

    entry = entry_of(row)

    assert entry.messages == ASKED
    assert entry.answers == [Answer(LONG, "alpaca-7b"), Answer(SHORT, "gpt-4")]
    assert entry.votes == [Vote([[1], [0]])]


BINARIZED = {"prompt": BREW, "chosen": [*ASKED, assistant(SHORT)], "rejected": [*ASKED, assistant(LONG)]}  # fmt: skip


@pytest.mark.parametrize(
    "beside",
    [
        {"prompt_id": "f0e3", "messages": BINARIZED["chosen"], "score_chosen": 8.5, "score_rejected": 3.0},
        {"source": "evol_instruct", "chosen-rating": 5.0, "chosen-model": "gpt-4",
         "rejected-rating": 3.75, "rejected-model": "alpaca-7b"},
    ],
    ids=["HuggingFaceH4/ultrafeedback_binarized", "argilla/ultrafeedback-binarized-preferences-cleaned"],
)  # fmt: skip
def test_ultrafeedback_binarized(beside):
    entry = entry_of(BINARIZED | beside)

    assert (entry.messages, texts_of(entry)) == (ASKED, [LONG, SHORT])
    assert entry.votes == [Vote([[1], [0]])]


def test_summarize_from_feedback():
    row = {
        "info": {"id": "t3_34xale", "post": "It was cold.", "title": "Tea", "subreddit": "tea",
                 "site": None, "article": None},
        "summaries": [{"text": " Cold tea.", "policy": "sup4_ppo_rm4", "note": None},
                      {"text": " Tea, cold.", "policy": "ref", "note": None}],
        "choice": 0, "worker": "HNzkrs9geGu1YMMfZ5Qvdt0ZaCthfB", "batch": "batch10",
        "split": "train", "extra": {"confidence": 1},
    }  # fmt: skip

    entry = entry_of(row)

    assert entry.messages == [
        user("SUBREDDIT: r/tea\n\nTITLE: Tea\n\nPOST: It was cold.\n\nTL;DR:")
    ]
    assert entry.answers == [Answer(" Cold tea.", "sup4_ppo_rm4"), Answer(" Tea, cold.", "ref")]
    assert entry.votes == [Vote([[0], [1]], "HNzkrs9geGu1YMMfZ5Qvdt0ZaCthfB", 4, 4)]
