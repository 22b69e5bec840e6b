"""When a PPO run's metrics say that something is wrong: pure functions over its series.

docs/ppo.md has the table of alarms. They stop nothing: a person looks, and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

KL_YELLOW, KL_RED = 30.0, 50.0  # nats per answer
ENTROPY_SHARE = 0.2  # of its first value
ENTROPY_FLOOR = 0.1  # nats per token
NEGATIVE_FOR = 5  # steps in a row
CLIP_FRACTION = 0.4
FIRST_STEPS = 3  # what a run was like at first, and is like now, is a mean over so many
MOST_MARKS = 100  # steps of one alarm that are kept and marked on its chart
SCORE_GAIN = 0.5  # of the scores' standard deviation in a batch at first


class Level(StrEnum):
    YELLOW = "yellow"
    RED = "red"


class Alarm(NamedTuple):
    name: str
    metric: str  # of the chart it is marked in
    level: Level
    steps: list[int]  # at which it held, ascending
    sentence: str

    @property
    def step_from(self) -> int:
        return self.steps[0]

    @property
    def step_to(self) -> int:
        return self.steps[-1]


class Start(NamedTuple):
    """What a step's first update starts at by construction, and how far off it may be."""

    alarm: str
    metric: str
    promised: float
    exact: float  # in fp32, which moves log-probabilities by the order of sums: 3e-5 on SmolLM2
    rounded: float  # in bf16, which rounds differently where the padding has another length
    finding: str


STARTS = [
    Start("first ratio", "policy/ratio_first", 1.0, 1e-4, 1e-2, "First ratio is not 1"),
    Start(  # 1e-3 nats per token: log-probabilities that differ by about 0.045
        "first KL", "policy/approx_kl_first", 0.0, 1e-6, 1e-3,
        "The first update does not start at KL 0",
    ),
    Start(  # where numbers are rounded it depends on the clip range: any share is allowed
        "first clip fraction", "policy/clip_fraction_first", 0.0, 0.0, 1.0,
        "The first update is clipped before anything has moved",
    ),
]  # fmt: skip


Points = list[tuple[int, float]]  # (step, value), ascending; what was not finite is left out


def find_alarms(reports: Iterable[tuple[int, Mapping[str, float | None]]]) -> list[Alarm]:
    """The alarms of a run that reported these (step, values), in ascending order; red ones first."""
    reports = list(reports)

    def series(metric: str) -> Points:
        found = [(step, values.get(metric)) for step, values in reports]
        return [(step, value) for step, value in found if value is not None]

    kl = series("kl/k1")
    entropy = series("entropy")
    drafts = [
        *_reward_hacking(
            series("score/mean"),
            series("score/std"),
            series("length/mean"),
            series("repetition/mean"),
        ),
        Alarm(
            "KL", "kl/k1", Level.RED, _where(kl, lambda value: value > KL_RED),
            f"KL above {KL_RED:.0f} nats: the policy is far from the answers that people have "
            "judged, and its scores mean little.",
        ),
        Alarm(
            "KL", "kl/k1", Level.YELLOW, _where(kl, lambda value: KL_YELLOW < value <= KL_RED),
            f"KL above {KL_YELLOW:.0f} nats: read the answers before you trust the score; a higher "
            "KL coefficient holds the policy back.",
        ),
        Alarm(
            "entropy collapse", "entropy", Level.RED, _where(entropy, _has_collapsed(entropy)),
            f"Entropy has collapsed, below {ENTROPY_SHARE:.0%} of its first value or "
            f"{ENTROPY_FLOOR:g} nats per token: the policy says the same over and over. A lower "
            "learning rate or a higher KL coefficient keeps it open.",
        ),
        Alarm(
            "explained variance", "value/explained_variance", Level.YELLOW,
            _long_negative(series("value/explained_variance")),
            f"Explained variance was negative for {NEGATIVE_FOR} steps in a row or more: the value "
            "function predicts worse than a constant. A lower value learning rate may help.",
        ),
        Alarm(
            "clip fraction", "policy/clip_fraction", Level.YELLOW,
            _where(series("policy/clip_fraction"), lambda value: value > CLIP_FRACTION),
            f"Clip fraction above {CLIP_FRACTION:g}: most of each update is cut off; lower the "
            "learning rate or the epochs.",
        ),
    ]  # fmt: skip
    drafts += [*_first_update(reports), *_forgetting(reports)]
    raised = [alarm for alarm in drafts if alarm.steps]
    return sorted(raised, key=lambda alarm: alarm.level != Level.RED)


def _first_update(reports: Sequence[tuple[int, Mapping[str, float | None]]]) -> list[Alarm]:
    """Where it does not start from the policy that sampled. Runs that do not say in what precision they
    compute are taken to round."""
    found = []
    for start in STARTS:
        steps = []
        for step, values in reports:
            value = values.get(start.metric)
            allowed = start.exact if values.get("policy/bits") == 32 else start.rounded
            if value is not None and abs(value - start.promised) > allowed:
                steps.append(step)
        sentence = (
            f"{start.finding}: sampling and updating disagree about the probabilities, which is an "
            "error of the program or of its precision."
        )
        found.append(Alarm(start.alarm, start.metric, Level.RED, steps, sentence))
    return found


def _forgetting(reports: Sequence[tuple[int, Mapping[str, float | None]]]) -> list[Alarm]:
    """Of an evaluation suite: red where even the lower end of the interval is beyond the bound."""
    found = []
    for step, values in reports:
        grown, low = values.get("forgetting"), values.get("forgetting/low")
        bound = values.get("forgetting/bound")
        if grown is None or low is None or bound is None or grown <= bound:
            continue
        sentence = (
            f"It has forgotten: the loss on general text has grown by {grown:.3g} nats per token, beyond "
            f"the bound of {bound:g}. Rehearsal, a pull towards the base, or fewer steps keep more of it."
        )
        level = Level.RED if low > bound else Level.YELLOW
        found.append(Alarm("forgetting", "forgetting", level, [step], sentence))
    return found


def as_json(alarms: Sequence[Alarm]) -> list[dict[str, Any]]:
    """As they are kept with the run, and sent to the charts: from when to when, at how many steps,
    and those that are marked."""
    return [
        {
            **alarm._asdict(),
            "steps": _spread(alarm.steps),
            "n_steps": len(alarm.steps),
            "step_from": alarm.step_from,
            "step_to": alarm.step_to,
        }
        for alarm in alarms
    ]


def _spread(steps: list[int]) -> list[int]:
    """About `MOST_MARKS` of them, evenly spread, the last among them."""
    stride = -(-len(steps) // MOST_MARKS)
    return sorted({*steps[::stride], steps[-1]})


def _where(points: Points, holds: Callable[[float], bool]) -> list[int]:
    return [step for step, value in points if holds(value)]


def _has_collapsed(entropy: Points) -> Callable[[float], bool]:
    first = entropy[0][1] if entropy else 0.0
    return lambda value: value < max(ENTROPY_SHARE * first, ENTROPY_FLOOR)


def _long_negative(points: Points) -> list[int]:
    """The steps that lie in a row of at least `NEGATIVE_FOR` negative ones."""
    found: list[int] = []
    row: list[int] = []
    for step, value in points:
        row = [*row, step] if value < 0 else []
        if len(row) == NEGATIVE_FOR:
            found += row
        elif len(row) > NEGATIVE_FOR:
            found.append(step)
    return found


def _reward_hacking(
    score: Points, spread: Points, length: Points, repetition: Points
) -> list[Alarm]:
    """The score rises while the answers get much longer, or go round in circles.

    What a run is like at a step is the mean of its last `FIRST_STEPS` values.
    """
    rising = _rising(score, spread)
    alarms: list[Alarm] = []
    for level, factor, share in ((Level.RED, 2.0, 0.3), (Level.YELLOW, 1.5, 0.2)):
        signs = {
            "length/mean": (
                _run_away(length, factor, 0.0),
                f"the answers have become more than {factor:g} times as long",
            ),
            "repetition/mean": (
                _run_away(repetition, 1.5, share),
                f"more than {share:.0%} of the answers repeats what they have said",
            ),
        }
        for metric, (steps, words) in signs.items():
            known = {step for alarm in alarms if alarm.metric == metric for step in alarm.steps}
            alarms.append(
                Alarm(
                    "reward hacking",
                    metric,
                    level,
                    sorted((rising & steps) - known),
                    f"The score rises while {words}: the policy may please what gives the "
                    "score without becoming better.",
                )
            )
    return alarms


def _rising(score: Points, spread: Points) -> set[int]:
    """A reward model's scores have a deviation of 1 at first, those of rules any at all."""
    means, spreads = _moving_mean(score), _moving_mean(spread)
    gain = SCORE_GAIN * (spreads[0][1] if spreads else 1.0)
    return {step for step, value in means if value > means[0][1] + gain}


def _run_away(points: Points, factor: float, above: float) -> set[int]:
    means = _moving_mean(points)
    return {step for step, value in means if value > max(factor * means[0][1], above)}


def _moving_mean(points: Points) -> Points:
    """At each step from the `FIRST_STEPS`-th on, the mean of so many values up to it."""
    return [
        (
            points[end - 1][0],
            sum(value for _, value in points[end - FIRST_STEPS : end]) / FIRST_STEPS,
        )
        for end in range(FIRST_STEPS, len(points) + 1)
    ]
