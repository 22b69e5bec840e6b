"""Blind evaluation: the new policy's answers against the old one's, as people judge them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from django.db.models import F, Q

from annotator.models import Comparison, Judgment, Purpose, Verdict
from rlhf.generation import BATCH, Answer, add_completions, compare, read_lines
from rlhf.models import GeneratedCompletion, Run

WIN, LOSS, TIE, ALL_BAD = "win", "loss", "tie", "all_bad"


class WinRate(NamedTuple):
    """How the new policy fares against the old one, one outcome per comparison."""

    wins: int
    losses: int
    ties: int  # with the pairs of identical answers, which nobody need look at
    all_bad: int
    undecided: int  # nobody has judged it yet
    held: int  # nobody is asked it, nor has been: it is held back
    n_comparisons: int  # of the six above together
    n_judgments: int
    rate: float | None  # wins among wins and losses; None while there are neither
    low: float | None  # Wilson's 95 % interval of the rate
    high: float | None
    reward_rate: float | None  # the reward model's own opinion of the same pairs
    reward_margin: float | None


def store_pairs(run: Run) -> dict[str, int]:
    """Completions and blind comparisons for all lines of pairs.jsonl; what became of them."""
    assert run.policy is not None
    assert run.rival is not None
    counts = Counter(n_comparisons=0, n_identical=0, n_repeated=0)
    lines = read_lines(run.folder / "artifact" / "pairs.jsonl")
    while batch := list(islice(lines, BATCH)):
        new, old = (
            [
                Answer(row["id"], row[side], row[f"{side}_truncated"], row.get(f"{side}_score"))
                for row in batch
            ]
            for side in ("new", "old")
        )
        pairs = zip(
            add_completions(run, run.policy, new, run.best_of),
            add_completions(run, run.rival, old),
            strict=True,
        )
        for first, second in pairs:
            if first is not None and second is not None:
                counts[compare(run, (first, second), Purpose.EVALUATION)] += 1
    return dict(counts)


def win_rate(run: Run) -> WinRate:
    """As of now: it moves as people judge."""
    return win_rates([run])[run.pk]


def win_rates(runs: Sequence[Run]) -> dict[int, WinRate]:
    """By run; the number of queries does not depend on how many runs there are."""
    ballots, held = ballots_of(runs)
    return {
        run.pk: _win_rate(run, list(ballots[run.origin].values()), held[run.origin]) for run in runs
    }


def _win_rate(run: Run, ballots: Sequence[Sequence[str]], held: int) -> WinRate:
    outcomes = Counter(outcome(verdicts) for verdicts in ballots if verdicts)
    decided = outcomes[WIN] + outcomes[LOSS]
    identical = run.result.get("n_identical", 0)
    low, high = interval(outcomes[WIN], decided)
    return WinRate(
        wins=outcomes[WIN],
        losses=outcomes[LOSS],
        ties=outcomes[TIE] + identical,
        all_bad=outcomes[ALL_BAD],
        undecided=sum(not verdicts for verdicts in ballots),
        held=held,
        n_comparisons=len(ballots) + held + identical,
        n_judgments=sum(map(len, ballots)),
        rate=outcomes[WIN] / decided if decided else None,
        low=low,
        high=high,
        reward_rate=run.result.get("reward_rate"),
        reward_margin=run.result.get("reward_margin"),
    )


def ballots_of(runs: Sequence[Run]) -> tuple[dict[str, dict[int, list[str]]], Counter[str]]:
    """What each counted judgment says of the new policy, by origin and comparison; and how many
    comparisons are held back, by origin, of which nobody has said anything."""
    asked = Comparison.objects.filter(
        project__in={run.project_id for run in runs}, origin__in=[run.origin for run in runs]
    )
    ballots: dict[str, dict[int, list[str]]] = {run.origin: {} for run in runs}
    on_hold = []
    for origin, comparison, hold in asked.values_list("origin", "pk", "hold"):
        ballots[origin][comparison] = []
        if hold:
            on_hold.append((origin, comparison))
    by_new_policy = Q(model_version=F("run__policy")) & ~Q(model_version=F("run__rival"))
    new = set(
        GeneratedCompletion.objects.filter(
            by_new_policy | Q(best_of__gt=1), run__in=runs
        ).values_list("completion_id", flat=True)
    )
    counted = Judgment.objects.counted().filter(comparison__in=asked)
    for origin, comparison, verdict, ranking in counted.values_list(
        "comparison__origin", "comparison_id", "verdict", "ranking"
    ):
        ballots[origin][comparison].append(ballot(verdict, ranking, new))
    unheard = [(origin, pk) for origin, pk in on_hold if not ballots[origin][pk]]
    for origin, pk in unheard:
        del ballots[origin][pk]
    return ballots, Counter(origin for origin, _ in unheard)


def ballot(verdict: str, ranking: Sequence[Sequence[int]], new: set[int]) -> str:
    """Example: RANKING with [[7], [8]] is a win if 7 is new, and a tie as [[7, 8]]."""
    if verdict == Verdict.ALL_BAD:
        return ALL_BAD
    if len(ranking) == 1:
        return TIE
    return WIN if ranking[0][0] in new else LOSS


def outcome(ballots: Sequence[str]) -> str:
    """What more than half of the judgments say; a tie where no verdict has so many."""
    verdict, votes = Counter(ballots).most_common(1)[0]
    return verdict if votes > len(ballots) / 2 else TIE


def interval(wins: int, decided: int) -> tuple[float | None, float | None]:
    if not decided:
        return None, None
    # Imported late: it takes a second and 100 MB, and every process imports this module.
    from statsmodels.stats.proportion import proportion_confint  # noqa: PLC0415

    low, high = proportion_confint(wins, decided, alpha=0.05, method="wilson")
    return float(low), float(high)
