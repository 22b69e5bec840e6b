"""Judgments to pairs: what the votes on a comparison say of each two of its completions.

Completions are known by their place in the record, from 0; judgments are as in votes.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from annotator.rankings import places_of

Judged = Mapping[str, Any]  # one of the judgments of a record
PREFERS = {1: "chosen", 0: "tie", -1: "rejected"}
SPAN = ("start", "end", "label")


class PairVotes(NamedTuple):
    """What the rankings of a comparison say of two of its completions, `first` and `second`."""

    wins: int  # of first
    losses: int
    ties: int
    strength: float  # sum over the rankings, positive where `first` is preferred

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def p_first(self) -> float:
        """Share of the rankings that prefer `first`, a tie counting half."""
        return (self.wins + self.ties / 2) / self.n

    def swapped(self) -> PairVotes:
        return PairVotes(self.losses, self.wins, self.ties, -self.strength)


class Preference:
    """What one judgment says of the order of completions, as a whole or by one criterion."""

    # No dataclass: an export makes one for each vote, and its time is that of all of them.
    __slots__ = ("is_pick", "place", "strength")

    def __init__(
        self, ranking: Sequence[Sequence[int]], strength: float = 0.0, is_pick: bool = False
    ) -> None:
        self.place = places_of(ranking)  # of tie groups, best first
        self.strength = strength  # as a share of the strongest that could be said
        self.is_pick = is_pick  # one group was picked; the others were not compared

    def outcome(self, first: int, second: int) -> int | None:
        """1 if `first` is preferred, -1 if `second` is, 0 if they are tied; None: nothing is said."""
        a, b = self.place[first], self.place[second]
        if self.is_pick and a == b > 0:
            return None
        return (b > a) - (b < a)


def preference_of(judgment: Judged) -> Preference:
    """That of a ranking as a whole."""
    strength = strength_share(judgment["strength"], judgment["strength_of"])
    return Preference(judgment["ranking"], strength, judgment["is_pick"])


def preferences_by_criterion(judgment: Judged) -> dict[str, Preference]:
    """Those by what was asked for besides. Of several completions only the best was asked for."""
    is_pick = len(judgment["order"]) > 2
    return {
        said["criterion"]: Preference(
            said["ranking"], strength_share(said["strength"], said["strength_of"]), is_pick
        )
        for said in judgment["criteria"]
    }


def strength_share(strength: int | None, strength_of: int | None) -> float:
    """Scales of different length agree at their ends. Example: 2 of 4 steps are 0.5."""
    return strength / strength_of if strength and strength_of else 0.0


def count_votes(first: int, second: int, preferences: Iterable[Preference]) -> PairVotes:
    """Example: [[1], [2, 3]] and [[3], [1], [2]] say of 1 and 3: one win, one loss, no tie."""
    wins = losses = ties = 0
    strength = 0.0
    for preference in preferences:
        outcome = preference.outcome(first, second)
        if outcome is None:
            continue
        wins += outcome > 0
        losses += outcome < 0
        ties += outcome == 0
        strength += preference.strength * outcome
    return PairVotes(wins, losses, ties, strength)


def list_votes(
    chosen: int, rejected: int, said: Iterable[tuple[Judged, Preference]]
) -> Iterator[dict[str, Any]]:
    """What each ranking says of two of its completions, one by one, in the order of the rankings.

    Example: {"annotator": "7", "prefers": "chosen", "first": "rejected", "strength": 0.5, …}
    """
    of = {chosen: "chosen", rejected: "rejected"}
    for judgment, preference in said:
        outcome = preference.outcome(chosen, rejected)
        if outcome is None:
            continue
        order = judgment["order"]
        yield {
            "annotator": judgment["annotator"],
            "prefers": PREFERS[outcome],
            "first": "chosen" if order.index(chosen) < order.index(rejected) else "rejected",
            "strength": preference.strength,
            "criteria": list(_votes_by_criterion(chosen, rejected, judgment)),
            "reasons": judgment["reasons"],
            "rationale": judgment["rationale"],
            "spans": [
                {"of": of[span["completion"]], **{name: span[name] for name in SPAN}}
                for span in judgment["spans"]
                if span["completion"] in of
            ],
        }


def ruling_as_vote(chosen: int, rejected: int, ruling: Judged) -> dict[str, Any]:
    """A ruling beside the votes. Its author is told apart from the same person as an annotator, so
    that a reward model learns for itself how far rulings can be believed."""
    return {
        "annotator": ruling["annotator"],
        "prefers": PREFERS[Preference(ruling["ranking"]).outcome(chosen, rejected) or 0],
        # Reviewers see the completions as they are stored.
        "first": "chosen" if chosen < rejected else "rejected",
        "strength": 0.0,
        "criteria": [],
        "reasons": [],
        "rationale": "",
        "spans": [],
    }


def _votes_by_criterion(
    chosen: int, rejected: int, judgment: Judged
) -> Iterator[dict[str, str | float]]:
    if not judgment["criteria"]:
        return
    for key, preference in preferences_by_criterion(judgment).items():
        outcome = preference.outcome(chosen, rejected)
        if outcome is not None:
            prefers = PREFERS[outcome]
            yield {"criterion": key, "prefers": prefers, "strength": preference.strength}


def by_criterion(
    chosen: int, rejected: int, judgments: Sequence[Judged]
) -> Iterator[dict[str, str | float]]:
    """The shares of a pair, criterion by criterion, in the order in which they were first asked."""
    asked = [preferences_by_criterion(judgment) for judgment in judgments if judgment["criteria"]]
    for key in dict.fromkeys(key for preferences in asked for key in preferences):
        preferences = [preferences[key] for preferences in asked if key in preferences]
        votes = count_votes(chosen, rejected, preferences)
        if votes.n:
            yield {
                "criterion": key,
                "p_chosen": votes.p_first,
                "n_judgments": votes.n,
                "margin": votes.strength / votes.n,
            }


def pair_weight(n_rankings: int, n_completions: int, n_picks: int = 0) -> float:
    """How much a pair counts, so that a ranking of K completions counts as K - 1 choices.

    That is how many choices it is under Plackett-Luce: the best of K, the best of the others, and
    so on. Its K (K - 1) / 2 pairs are no independent votes. Example: 3 rankings of 2 completions
    weigh 3, and those of 4 completions 1.5 for each of the 6 pairs. To pick the best of K is one
    choice, and K - 1 pairs.
    """
    return n_rankings * 2 / n_completions + n_picks / (n_completions - 1)
