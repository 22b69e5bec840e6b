"""All numbers are computed by hand."""

import math

import pytest

from rlhf.training.retrieval import Collection, Passage, write_passages
from rlhf.training.retrieval_metrics import (
    Relevant,
    gains_of,
    hit_at_k,
    measure,
    ndcg,
    reciprocal_rank,
)


def test_a_document_gains_once_and_a_passage_by_its_name():
    found = [Passage("a", 1, ""), Passage("b", 1, ""), Passage("b", 2, ""), Passage("c", 2, "")]

    assert gains_of(found, ["b", "c#2"]) == [0, 1, 0, 1]


def test_hit_and_reciprocal_rank_look_at_the_first_relevant_one():
    assert (hit_at_k([0, 0, 1], 2), hit_at_k([0, 0, 1], 3)) == (0.0, 1.0)
    assert (reciprocal_rank([0, 0, 1, 1]), reciprocal_rank([0, 0])) == (1 / 3, 0.0)


@pytest.mark.parametrize(
    ("gains", "n_relevant", "k", "expected"),
    [
        ([1, 0], 1, 2, 1.0),
        ([0, 1], 1, 2, 1 / math.log2(3)),
        ([1, 0, 1], 2, 3, (1 + 1 / 2) / (1 + 1 / math.log2(3))),
        ([1, 1], 5, 2, 1.0),  # no more than k can be found
        ([0, 0], 1, 2, 0.0),
    ],
)
def test_ndcg_is_the_share_of_the_best_order(gains, n_relevant, k, expected):
    assert ndcg(gains, n_relevant, k) == pytest.approx(expected)


def test_a_collection_is_measured_by_means_over_questions(tmp_path):
    write_passages(tmp_path, [Passage("Cats", 1, "They purr."), Passage("Dogs", 1, "They bark.")])
    rows = [Relevant("who purrs? purr", ["Cats"]), Relevant("they bark", ["Cats"])]

    assert measure(Collection(tmp_path), rows, k=2) == {
        "k": 2, "n_questions": 2, "hit_at_k": 1.0, "mrr": 0.75,
        "ndcg": pytest.approx((1 + 1 / math.log2(3)) / 2),
    }  # fmt: skip
