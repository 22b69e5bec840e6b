import re

import pytest

from rlhf.training.combine_config import CombineConfig, format_parts, parse_parts

PARTS = [{"version": "kind one", "weight": 0.75}, {"version": "curt", "weight": -0.25}]


def test_parts_are_a_weight_and_a_name_a_line():
    assert parse_parts("0.75 kind one\n\n -0.25  curt \n") == PARTS
    assert parse_parts(format_parts(PARTS)) == PARTS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "there is nothing to combine: name the policies and their weights"),
        ("kind 1", "line 1 begins with 'kind', which is no number"),
        ("1 kind\nnan curt", "line 2 begins with 'nan', which is no number"),
        ("0.5", "line 1: '0.5' names no policy"),
        ("1 kind\n2 kind", "kind stands there twice: add its weights up"),
        ("0 kind", "all weights are 0, which leaves the base"),
    ],
)
def test_what_is_wrong_with_parts_is_said(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_parts(text)


def test_a_rank_is_for_the_ways_that_can_choose_one():
    with pytest.raises(ValueError, match="rank=8 is for the ways by SVD"):
        CombineConfig({}, PARTS, rank=8)
