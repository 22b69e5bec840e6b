import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.training.artifacts import RunError
from rlhf.training.data import Offer, Pair, Vote
from rlhf.training.models import encode, encode_completion, load_policy
from rlhf.training.reward_data import (
    EncodedOffer,
    EncodedPair,
    Group,
    bootstrap,
    encode_pairs,
    epoch_batches,
    n_pairs,
    n_split_prompts,
    share_of_votes,
    with_mean_weight_1,
)

PROMPT = [{"role": "user", "content": "Why?"}]
OTHER_PROMPT = [{"role": "user", "content": "What now?"}]


def make_pair(chosen="No.", rejected="Try the cup.", p_chosen=1.0, split="train", **others):
    prompt = others.pop("prompt", PROMPT)
    return Pair(prompt, chosen, rejected, p_chosen, split, False, False)._replace(**others)


def make_groups(*sizes):
    """A group for each number of pairs; the pairs' places count on."""
    places = iter(range(1000))
    return [
        Group([1], [[2], [3]], [
            EncodedPair(next(places), 0, 1, 1.0, 1, 1.0, 0.0, 0.0) for _ in range(size)
        ], number)
        for number, size in enumerate(sizes)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_reference):
    return load_policy(tiny_reference)[1]


def test_a_pair_is_encoded_as_ppo_scores_it(tokenizer):
    ((group,), _, _) = encode_pairs(tokenizer, [make_pair(rejected_truncated=True)], 100, 100)

    assert group.prompt == encode(tokenizer, PROMPT)
    assert group.completions == [
        encode_completion(tokenizer, "No."),
        encode_completion(tokenizer, "Try the cup.")[:-1],
    ]


def test_pairs_of_a_prompt_share_its_completions(tokenizer):
    pairs = [
        make_pair("No.", "Yes."), make_pair("No.", "Try the cup."), make_pair("Yes.", "Try the cup."),
        make_pair("No.", "Yes.", prompt=OTHER_PROMPT),
    ]  # fmt: skip

    train, _, _ = encode_pairs(tokenizer, pairs, 100, 100)

    assert [len(group.completions) for group in train] == [3, 2]
    assert [(p.chosen, p.rejected) for p in train[0].pairs] == [(0, 1), (0, 2), (1, 2)]


def test_a_prompt_with_many_completions_gets_several_groups(tokenizer):
    pairs = [make_pair("No." * n, "Yes." * n) for n in (1, 2, 3)]
    room = len(encode(tokenizer, PROMPT)) + 20

    train, _, _ = encode_pairs(tokenizer, [*pairs, pairs[0]], 100, room)

    assert [[pair.place for pair in group.pairs] for group in train] == [[0, 1, 3], [2]]
    assert n_split_prompts(train) == 1
    assert n_split_prompts(train[:1]) == 0
    assert all(group.n_tokens <= room for group in train)


def test_chosen_is_what_most_preferred(tokenizer):
    vote = Vote("7", "rejected", "chosen")
    turned_round = make_pair("No.", "Yes.", 0.25, margin=-1.0, votes=(vote,))

    ((group,), _, _) = encode_pairs(tokenizer, [turned_round], 100, 100)

    (pair,) = group.pairs
    assert group.completions[pair.chosen] == encode_completion(tokenizer, "Yes.")
    assert (pair.p_chosen, pair.margin) == (0.75, 1.0)
    assert pair.votes == (Vote("7", "chosen", "rejected"),)


def test_pairs_that_are_too_long_are_left_out_and_counted(tokenizer):
    fits, long = make_pair(), make_pair(rejected="Try the cup. " * 20)
    held_out = make_pair(split="test")

    train, test, left_out = encode_pairs(tokenizer, [fits, long, held_out], 40, 100)

    assert (n_pairs(train), n_pairs(test), left_out) == (1, 1, {"too_long": 1})
    assert [group.number for group in (*train, *test)] == [0, 1]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "the export holds no judged comparison"),
        ([make_pair(split="test")] * 3, "of the export's 3 pairs, all are held out"),
        (
            [make_pair(rejected="No. " * 90)] * 2,
            "all 2 pairs to learn from are longer than max_tok",
        ),
    ],
)
def test_without_pairs_to_learn_from_the_reason_is_said(tokenizer, pairs, sentence):
    with pytest.raises(RunError, match=sentence):
        encode_pairs(tokenizer, pairs, 50, 100)


def make_offer(*completions, n_bad=1, n_ranked=0, prompt=PROMPT):
    return Offer(prompt, list(completions), [False] * len(completions), "train", n_bad, n_ranked)


def test_an_offer_is_of_completions_that_its_pairs_have_too(tokenizer):
    offers = [make_offer("Yes.", "No."), make_offer("Try the cup.", "No.", n_bad=2, n_ranked=3)]

    ((group,), _, _) = encode_pairs(tokenizer, [make_pair()], 100, 100, offers)

    assert [len(group.pairs), len(group.completions)] == [1, 3]
    assert group.offers == (EncodedOffer((2, 0), 1, 0), EncodedOffer((1, 0), 2, 3))


def test_an_offer_without_pairs_is_a_group_of_its_own_unless_it_is_too_long(tokenizer):
    offers = [make_offer("No.", "Yes.", prompt=OTHER_PROMPT), make_offer("No. " * 90, "Yes.")]

    train, _, _ = encode_pairs(tokenizer, [make_pair()], 50, 100, offers)

    assert [len(group.offers) for group in train] == [0, 1]
    assert train[1].pairs == []
    assert with_mean_weight_1(train) == train


def test_a_batch_has_no_more_offers_without_pairs_than_it_could_have_pairs():
    offer = EncodedOffer((0, 1), 1, 0)
    groups = [Group([1], [[2], [3]], [], number, (offer,)) for number in range(8)]

    assert [len(batch) for batch in epoch_batches(groups, 4, 0, 0)] == [4, 4]


def test_weights_are_relative_and_pairs_without_weight_are_dropped():
    (group,) = make_groups(3)
    pairs = [p._replace(weight=w) for p, w in zip(group.pairs, (2.0, 0.0, 6.0), strict=True)]

    (scaled,) = with_mean_weight_1([group._replace(pairs=pairs)])

    assert [(pair.place, pair.weight) for pair in scaled.pairs] == [(0, 0.5), (2, 1.5)]
    with pytest.raises(RunError, match="all pairs to learn from have weight 0"):
        with_mean_weight_1([group._replace(pairs=pairs[1:2])])


def test_a_bootstrap_leaves_out_about_a_third_of_the_prompts_and_differs_by_seed():
    groups = make_groups(*[1] * 300)

    first, second = (with_mean_weight_1(bootstrap(groups, seed)) for seed in (0, 1))

    assert 165 < len(first) < 215  # 1 - 1/e of 300
    assert {g.number for g in first} != {g.number for g in second}
    assert with_mean_weight_1(bootstrap(groups, 0)) == first


def test_a_smaller_share_of_the_votes_is_part_of_a_larger_one():
    groups = make_groups(*[1] * 100)

    tenth, half = ({g.number for g in share_of_votes(groups, s, 0)} for s in (0.1, 0.5))

    assert (len(tenth), len(half)) == (10, 50)
    assert tenth < half


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(1, 16))
def test_every_epoch_has_all_groups_in_batches_of_at_most_so_many_pairs(sizes, batch_size):
    groups = make_groups(*sizes)

    batches = epoch_batches(groups, batch_size, 0, 0)

    assert sorted(itertools.chain(*batches)) == list(range(len(groups)))
    assert all(len(b) == 1 or sum(sizes[i] for i in b) <= batch_size for b in batches)


def test_the_order_depends_on_seed_and_epoch_alone():
    groups = make_groups(*[1] * 40)

    orders = [epoch_batches(groups, 8, 0, epoch) for epoch in (0, 1, 0)]

    assert orders[0] == orders[2] != orders[1]


def test_a_batch_has_groups_of_similar_length():
    lengths = random.Random(0).sample(range(1, 33), 32)
    groups = [Group([1] * n, [[2], [3]], g.pairs, g.number)
              for n, g in zip(lengths, make_groups(*[1] * 32), strict=True)]  # fmt: skip

    batches = epoch_batches(groups, 4, 0, 0)

    spans = sorted(sorted(lengths[i] for i in batch) for batch in batches)
    assert spans == [list(range(start, start + 4)) for start in range(1, 33, 4)]
