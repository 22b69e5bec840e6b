"""Votes as a reward model learns from them: prompts with their distinct completions, and pairs of those.

Every completion is run through the model once, in however many pairs it stands: completions of a
prompt lie in one group, and the pairs name them by number.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.training.artifacts import RunError
from rlhf.training.data import Offer, Pair, Vote, n_votes
from rlhf.training.models import encode, encode_completion


class EncodedPair(NamedTuple):
    """Two completions of one group and what people said of them. "Chosen" is what most preferred."""

    place: int  # in the list of pairs that were read
    chosen: int  # places of the two in their group
    rejected: int
    p_chosen: float  # at least 1/2
    n_judgments: int
    weight: float
    margin: float
    tie_share: float
    votes: tuple[Vote, ...] = ()
    comparison: int = 0

    @property
    def is_decided(self) -> bool:
        return self.p_chosen != 0.5


class EncodedOffer(NamedTuple):
    """A comparison as a choice: to rank its completions, or to call all of them bad."""

    completions: tuple[int, ...]  # places in their group
    n_bad: float  # judgments
    n_ranked: float


class Group(NamedTuple):
    """A prompt, distinct completions of it, and the judged pairs of those, as tokens. Where "all bad" is
    learnt from, also the comparisons, some of which nobody ranked: they have no pairs."""

    prompt: list[int]
    completions: list[list[int]]
    pairs: list[EncodedPair]
    number: int = 0  # among all groups of the run
    offers: tuple[EncodedOffer, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


class Encoded(NamedTuple):
    train: list[Group]
    test: list[Group]
    left_out: dict[str, int]  # pairs, by reason


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    max_tokens: int,
    group_tokens: int,
    offers: Sequence[Offer] = (),
) -> Encoded:
    """The groups to learn from, those held out, and how many pairs were left out for which reason.

    No pair is cut: one with a conversation of more than `max_tokens` tokens is left out. A prompt with
    more completions than fit into `group_tokens` gets several groups. `offers` are added to the groups
    to learn from, where all of their completions are short enough. Raises RunError if no pair is left to learn from.
    """
    splits: dict[str, dict[tuple[int, ...], list[Group]]] = {"train": {}, "test": {}}
    too_long = 0
    for place, pair in enumerate(pairs):
        prompt = encode(tokenizer, pair.prompt)
        chosen = encode_completion(tokenizer, pair.chosen, truncated=pair.chosen_truncated)
        rejected = encode_completion(tokenizer, pair.rejected, truncated=pair.rejected_truncated)
        if len(prompt) + max(len(chosen), len(rejected)) > max_tokens:
            too_long += 1
            continue
        groups = splits[pair.split].setdefault(tuple(prompt), [])
        group = _group_for(groups, prompt, (chosen, rejected), group_tokens)
        group.pairs.append(_encoded(pair, place, *map(group.completions.index, (chosen, rejected))))
    if not splits["train"]:
        raise RunError(_nothing_to_learn(pairs, max_tokens))
    for offer in offers:
        _add_offer(splits["train"], tokenizer, offer, max_tokens, group_tokens)
    train = [group for groups in splits["train"].values() for group in groups]
    test = [group for groups in splits["test"].values() for group in groups]
    return Encoded(numbered(train, 0), numbered(test, len(train)), {"too_long": too_long})


def numbered(groups: Sequence[Group], first: int) -> list[Group]:
    return [group._replace(number=number) for number, group in enumerate(groups, first)]


def _add_offer(
    groups_of: dict[tuple[int, ...], list[Group]], tokenizer: PreTrainedTokenizerBase, offer: Offer,
    max_tokens: int, group_tokens: int,
) -> None:  # fmt: skip
    """To one group, with all its completions: their scores are needed together."""
    prompt = encode(tokenizer, offer.prompt)
    completions = [
        encode_completion(tokenizer, text, truncated=is_cut)
        for text, is_cut in zip(offer.completions, offer.truncated, strict=True)
    ]
    if len(prompt) + max(map(len, completions)) > max_tokens:
        return
    groups = groups_of.setdefault(tuple(prompt), [])
    group = _group_for(groups, prompt, completions, group_tokens)
    places = tuple(map(group.completions.index, completions))
    added = EncodedOffer(places, offer.n_bad, offer.n_ranked)
    groups[groups.index(group)] = group._replace(offers=(*group.offers, added))


def _group_for(
    groups: list[Group], prompt: list[int], completions: Sequence[list[int]], group_tokens: int
) -> Group:
    """The first group of the prompt that has both completions or room for them; else a new one."""
    for group in groups:
        added = [ids for ids in completions if ids not in group.completions]
        if not added or group.n_tokens + sum(map(len, added)) <= group_tokens:
            break
    else:
        group = Group(prompt, [], [])
        groups.append(group)
    for ids in completions:
        if ids not in group.completions:
            group.completions.append(ids)
    return group


def _encoded(pair: Pair, place: int, chosen: int, rejected: int) -> EncodedPair:
    p_chosen, margin, votes = pair.p_chosen, pair.margin, pair.votes
    if p_chosen < 0.5:
        chosen, rejected, p_chosen, margin = rejected, chosen, 1 - p_chosen, -margin
        votes = tuple(turned(vote) for vote in votes)
    return EncodedPair(
        place, chosen, rejected, p_chosen, pair.n_judgments, pair.weight, margin, pair.tie_share,
        votes, pair.comparison,
    )  # fmt: skip


def turned(vote: Vote) -> Vote:
    """The same vote on the pair with its sides exchanged."""
    other = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
    return Vote(vote.annotator, other[vote.prefers], other[vote.first])


def _nothing_to_learn(pairs: Sequence[Pair], max_tokens: int) -> str:
    n_train = sum(pair.split == "train" for pair in pairs)
    if n_train == 0:
        return (
            f"there are no pairs to learn from: of the export's {len(pairs)} pairs, all are held "
            "out. Judge comparisons of more prompts, and export again"
            if pairs
            else "there are no pairs to learn from: the export holds no judged comparison"
        )
    return (
        f"all {n_train} pairs to learn from are longer than max_tokens={max_tokens}: raise it, or "
        "judge shorter completions"
    )


def pairs_of(groups: Sequence[Group]) -> list[EncodedPair]:
    return [pair for group in groups for pair in group.pairs]


def encoded_offers(groups: Sequence[Group]) -> list[EncodedOffer]:
    return [offer for group in groups for offer in group.offers]


def n_judgments(groups: Sequence[Group]) -> float:
    """On their offers: rankings and "all bad" alike."""
    return sum(offer.n_bad + offer.n_ranked for offer in encoded_offers(groups))


def n_pairs(groups: Sequence[Group]) -> int:
    return len(pairs_of(groups))


def n_split_prompts(groups: Sequence[Group]) -> int:
    """How many prompts have more completions than one group holds."""
    n_groups = Counter(tuple(group.prompt) for group in groups)
    return sum(n > 1 for n in n_groups.values())


def with_mean_weight_1(groups: Sequence[Group]) -> list[Group]:
    """The same with weights that say what a pair counts against the average pair. Pairs that count
    nothing are dropped, and groups of which nothing is left."""
    total = total_weight(groups)
    if total == 0:
        raise RunError("all pairs to learn from have weight 0: none of them would count")
    kept = sum(pair.weight > 0 for group in groups for pair in group.pairs)
    scaled = [
        group._replace(
            pairs=[
                pair._replace(weight=pair.weight * kept / total)
                for pair in group.pairs
                if pair.weight > 0
            ]
        )
        for group in groups
    ]
    return [group for group in scaled if group.pairs or group.offers]


def total_weight(groups: Sequence[Group]) -> float:
    return sum(pair.weight for group in groups for pair in group.pairs)


def bootstrap(groups: Sequence[Group], seed: int) -> list[Group]:
    """Groups drawn with replacement, as weights: each counts as often as a Poisson variable of mean 1
    says (Oza and Russell 2001), so a member does not see about a third of the prompts. Prompts are
    drawn, not pairs: those of one prompt are not independent."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.ones(len(groups)), generator).tolist()
    drawn = [
        group._replace(
            pairs=[pair._replace(weight=pair.weight * n) for pair in group.pairs],
            offers=tuple(
                offer._replace(n_bad=offer.n_bad * n, n_ranked=offer.n_ranked * n)
                for offer in group.offers
                if n
            ),
        )
        for group, n in zip(groups, counts, strict=True)
    ]
    return drawn if total_weight(drawn) else list(groups)


def with_places(groups: Sequence[Group], places: Collection[int]) -> list[Group]:
    """The same with the pairs alone that stand at these places of the list that was read, and without
    offers: they are of no arm."""
    wanted = set(places)
    kept = [[pair for pair in group.pairs if pair.place in wanted] for group in groups]
    return [
        group._replace(pairs=pairs, offers=())
        for group, pairs in zip(groups, kept, strict=True)
        if pairs
    ]


def share_of_votes(groups: Sequence[Group], share: float, seed: int) -> list[Group]:
    """The first groups in a random order, up to that share of all judgments, at least one group.

    Smaller shares are contained in larger ones of the same seed.
    """
    order = random.Random(seed).sample(list(groups), len(groups))
    wanted = share * n_votes(pairs_of(groups))
    chosen: list[Group] = []
    for group in order:
        if chosen and wanted <= 0:
            break
        chosen.append(group)
        wanted -= n_votes(group.pairs)
    return chosen


POOL = 8  # batches sorted together: larger pools pad less, and mix less


def epoch_batches(
    groups: Sequence[Group], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The places of the groups of each optimiser step: all groups once, in an order that seed and
    epoch alone decide, those of similar length together, which need little padding.

    A batch has up to `batch_size` pairs, or one group that has more; an offer without pairs counts as one.
    """
    sizes = [len(group.pairs) or len(group.offers) for group in groups]
    rng = random.Random(seed * 1_000_003 + epoch)
    order = rng.sample(range(len(groups)), len(groups))
    pools = _filled(order, sizes, POOL * batch_size)
    batches = [
        batch
        for pool in pools
        for batch in _filled(
            sorted(pool, key=lambda place: groups[place].n_tokens), sizes, batch_size
        )
    ]
    rng.shuffle(batches)
    return batches


def _filled(places: Sequence[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    """Example: places [2, 0, 1] of sizes [1, 1, 3], at most 3 -> [[2], [0, 1]]."""
    lists: list[list[int]] = []
    room = 0
    for place in places:
        if not lists or sizes[place] > room:
            lists.append([])
            room = most
        lists[-1].append(place)
        room -= sizes[place]
    return lists


def column(pairs: Sequence[EncodedPair], name: str) -> Tensor:
    """(pairs,) of a number of theirs."""
    return torch.tensor([float(getattr(pair, name)) for pair in pairs])
