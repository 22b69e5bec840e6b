"""One record, and what each kind of training makes of it."""

import pytest

from annotator.exports.shapes import (
    DPO,
    KTO,
    SFT,
    VOTES,
    dpo_rows,
    kto_rows,
    reward_rows,
    sft_rows,
    shares_won,
    vote_rows,
)
from tests.annotator.exports.records import judgment, record

PROMPT = [{"role": "user", "content": "Why?"}]


def answer(text):
    return [{"role": "assistant", "content": text}]


def pair(p_chosen):
    names = dict.fromkeys(DPO, "")
    return names | {"p_chosen": p_chosen, "weight": 1.0}


def test_dpo_has_the_decided_pairs_with_fewer_columns():
    assert list(dpo_rows(pair(0.75))) == [dict.fromkeys(DPO, "") | {"p_chosen": 0.75}]
    assert list(dpo_rows(pair(0.5))) == []


def test_an_answer_wins_the_share_of_the_others_that_it_beats():
    """Of three, the first beats one and ties with one; "all bad" gives nothing to anybody."""
    three = record(judgment([0, 1], [2]), judgment(), completions="abc")

    assert shares_won(three) == [(0.375, 2), (0.375, 2), (0.0, 2)]


def test_who_was_not_picked_has_lost_to_the_pick_only():
    picked = record(judgment([2], [0, 1], is_pick=True), completions="abc")

    assert shares_won(picked) == [(0.0, 1), (0.0, 1), (1.0, 1)]


def test_a_ruling_counts_as_one_more_and_a_skip_not_at_all():
    ruling = {
        "verdict": "ranking",
        "ranking": [[1], [0]],
        "is_pick": False,
        "annotator": "ruling-2",
    }
    both = record(judgment([0], [1]), judgment(verdict="skipped"), rulings=[ruling])

    assert shares_won(both) == [(0.5, 2), (0.5, 2)]


def test_what_cannot_be_ranked_says_nothing_of_the_answers():
    flags = [[], []]
    said = [judgment([0], [1], flags=flags), judgment(verdict="unrankable", flags=flags)]

    assert shares_won(record(*said)) == [(1.0, 1), (0.0, 1)]
    (row,) = reward_rows(record(*said))
    assert (row["n_judgments"], row["n_all_bad"]) == (1, 0)
    assert [row["verdict"] for row in vote_rows(record(*said))] == ["ranking", "unrankable"]


def test_kto_labels_each_answer_and_leaves_out_what_is_undecided():
    rows = list(kto_rows(record(judgment([0], [1, 2]), completions="abc")))

    assert [(row["completion"], row["label"], row["share"]) for row in rows] == [
        (answer("a"), True, 1.0),
        (answer("b"), False, 0.25),
        (answer("c"), False, 0.25),
    ]
    assert list(kto_rows(record(judgment([0, 1])))) == []


def test_all_bad_makes_every_answer_a_bad_one():
    rows = list(kto_rows(record(judgment())))

    assert [(row["source"], row["label"]) for row in rows] == [
        ("model-a", False),
        ("model-b", False),
    ]
    assert list(rows[0]) == list(KTO)


def test_sft_has_what_annotators_wrote_and_the_best_answer():
    rows = list(sft_rows(record(judgment([1], [0], rewrite="c"))))

    assert [(row["kind"], row["completion"], row["share"]) for row in rows] == [
        ("rewrite", answer("c"), None),
        ("best", answer("b"), 1.0),
    ]
    assert [list(row) for row in rows] == [list(SFT)] * 2


@pytest.mark.parametrize(
    "judgments",
    [
        [judgment([0, 1])],  # nobody is ahead
        [judgment([0], [1]), judgment()],  # one is, but half of the people call it bad
    ],
)
def test_no_answer_is_the_best_that_most_do_not_prefer(judgments):
    assert list(sft_rows(record(*judgments))) == []


def test_raw_votes_have_a_row_for_each_showing_skips_among_them():
    said = [
        judgment([1], [0], annotator="5", order=[1, 0], seconds=3.5, guideline_version=2),
        judgment(annotator="6", verdict="skipped"),
    ]

    first, second = vote_rows(record(*said))

    assert list(first) == list(VOTES)
    assert (first["annotator"], first["ranking"], first["order"]) == ("5", [[1], [0]], [1, 0])
    assert (first["seconds"], first["guideline_version"], first["prompt"]) == (3.5, 2, PROMPT)
    assert (first["first_interaction_ms"], first["ui_version"]) == (800, "0.1.0")
    assert (second["annotator"], second["verdict"]) == ("6", "skipped")


def test_raw_votes_of_an_early_export_have_nothing_where_it_lacks_something():
    early = judgment([1], [0])
    del early["first_interaction_ms"], early["ui_version"]

    (row,) = vote_rows(record(early))

    assert (row["first_interaction_ms"], row["ui_version"]) == (None, None)
