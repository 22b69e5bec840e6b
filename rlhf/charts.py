"""What a run's page shows while it goes on: metric charts, sample answers, the end of its log.

`CHARTS` says which charts a kind of run has and what each means; `new_values` is what charts.js
asks for again and again, with the last step it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from django.db.models import F, Max, Min, Q

from rlhf.models import ONLINE, Metrics, Run, RunKind, Sample
from rlhf.training.artifacts import following_no_link
from rlhf.training.reward_rules import FIRST_NAME, names_of

MAX_POINTS = 1000  # reports sent at once; of a longer run every n-th, and those with an alarm
TABLE_ROWS = 50
LOG_BYTES = 64 * 1024
LOG_LINES = 200
DEVIATIONS = "standard deviations"  # unit of the score that a reward model gives


class Series(NamedTuple):
    metric: str  # as the run reports it
    label: str


class Chart(NamedTuple):
    title: str
    explanation: str  # one sentence, for somebody who has not read the paper
    series: list[Series]
    unit: str = ""

    @property
    def metrics(self) -> str:
        """The series as charts.js reads them. Example: [["kl/k1", "k1"], ["kl/k3", "k3"]]"""
        return json.dumps(self.series)


class Section(NamedTuple):
    title: str
    charts: list[Chart]


LEARNING_RATE = Chart(
    "Learning rate",
    "The size of the optimiser's steps: a short warm-up, then down to 0.",
    [Series("learning_rate", "learning rate")],
)
LENGTH = Chart(
    "Length",
    "Mean length of the answers; if it climbs along with the score, length itself may be what is "
    "rewarded.",
    [Series("length/mean", "length"), Series("eval/length", "on held-out prompts")],
    "tokens",
)
CUT_OFF = Chart(
    "Cut off",
    "Share of answers that reached the length limit instead of ending by themselves.",
    [Series("length/truncated_share", "cut off")],
)
REPETITION = Chart(
    "Repetition",
    "Share of three tokens in a row that the same answer has had before; if it climbs along with "
    "the score, the answers go round in circles.",
    [Series("repetition/mean", "repetition")],
)
SEARCH_CHARTS = [
    Section(
        "Does searching help?",
        [
            Chart(
                "Value of each trial",
                "What the trials that came to their end were worth on held-out data, and the best of "
                "them so far. When the best has not moved for many trials, more will hardly help.",
                [Series("search/value", "trial"), Series("search/best", "best so far")],
            ),
        ],
    ),
]

CONVERSE_CHARTS = [
    Section(
        "How do people find it?",
        [
            Chart(
                "Waiting",
                "Seconds from what was said to both answers.",
                [Series("seconds", "seconds")],
                "seconds",
            ),
            LENGTH._replace(
                explanation="Mean length of the answers of each turn.",
                series=[Series("length/mean", "length")],
            ),
            CUT_OFF,
        ],
    ),
]

SAMPLING_CHARTS = [
    Section(
        "What are the answers like?",
        [
            LENGTH._replace(
                explanation="Mean length of the answers of each batch.",
                series=[Series("length/mean", "length")],
            ),
            CUT_OFF,
        ],
    ),
]

REWARD_MODEL_CHARTS = [
    Section(
        "Does it learn the votes?",
        [
            Chart(
                "Loss",
                "How surprised it is by the votes; 0.69 is a coin toss, lower is better.",
                [Series("loss", "training"), Series("eval_loss", "held out")],
            ),
            Chart(
                "Accuracy",
                "Share of pairs in which the chosen answer scores higher; only the held-out "
                "line says how good it is on new prompts.",
                [Series("accuracy", "training"), Series("eval_accuracy", "held out")],
            ),
            Chart(
                "Margin",
                "Score of the chosen answer less that of the rejected one; a training line that "
                "runs away from the held-out one means that it learns by heart.",
                [Series("margin", "training"), Series("eval_margin", "held out")],
            ),
            Chart(
                "Gradient norm",
                "Length of the gradient before clipping; spikes come before trouble.",
                [Series("grad_norm", "gradient norm")],
            ),
            LEARNING_RATE,
        ],
    ),
]

PPO_CHARTS = [
    Section(
        "Do the answers get better?",
        [
            Chart(
                "Score",
                "The mean score of the answers; a reward model's is 0 for the policy it was "
                "calibrated on, and 1 a standard deviation better.",
                [Series("score/mean", "score"), Series("reward/mean", "less the price of KL")],
                DEVIATIONS,
            ),
            Chart(
                "KL from the reference",
                "How far the policy has moved: k1 is the plain estimate, k3 a steadier one of "
                "the same; above about 30 a high score often means little.",
                [
                    Series("kl/k1", "k1"),
                    Series("kl/k3", "k3"),
                    Series("eval/kl", "k1 on held-out prompts"),
                ],
                "nats per answer",
            ),
            Chart(
                "On held-out prompts",
                "The same measured on prompts that it does not learn from, with the same random "
                "numbers each time. By score less the price of KL the best step is kept.",
                [
                    Series("eval/score", "score"),
                    Series("eval/objective", "less the price of KL"),
                ],
                DEVIATIONS,
            ),
            LENGTH,
            CUT_OFF,
            REPETITION,
            Chart(
                "Spread of the scores",
                "Standard deviation within a batch; near 0 there is nothing left to learn from. "
                "Disagreement is that between the members of an ensemble, for the same answer: if it "
                "climbs with the score, the policy has found answers that they were not taught "
                "about.",
                [Series("score/std", "spread"), Series("score/disagreement", "disagreement")],
                DEVIATIONS,
            ),
        ],
    ),
    Section(
        "Is the policy's update healthy?",
        [
            Chart(
                "Entropy",
                "How undecided the policy is at each token; a fall to near 0 means that it says "
                "the same thing over and over.",
                [Series("entropy", "entropy")],
                "nats per token",
            ),
            Chart(
                "Clip fraction",
                "Share of tokens whose change was cut off at the clip range; up to about 0.2 is "
                "usual, much more asks for a lower learning rate.",
                [
                    Series("policy/clip_fraction", "policy"),
                    Series("policy/clip_fraction_first", "policy, first, by construction 0"),
                    Series("value/clip_fraction", "value"),
                ],
            ),
            Chart(
                "Change per update",
                "Approximate KL between the policy before and after the updates of one step.",
                [
                    Series("policy/approx_kl", "all updates"),
                    Series("policy/approx_kl_first", "first, by construction 0"),
                ],
                "nats per token",
            ),
            Chart(
                "Policy loss",
                "What the optimiser minimises; its sign and size say little, jumps say a lot.",
                [Series("policy/loss", "policy loss")],
            ),
            Chart(
                "First ratio",
                "New over old probability before the first update; exactly 1, or answers and "
                "updates do not see the same policy.",
                [Series("policy/ratio_first", "ratio")],
            ),
            Chart(
                "KL coefficient",
                "The price of distance from the reference; it moves only with a target KL.",
                [Series("kl/coefficient", "coefficient")],
            ),
        ],
    ),
    Section(
        "Does the value function keep up?",
        [
            Chart(
                "Value loss",
                "Squared error of the returns it predicts; it should fall and stay low.",
                [Series("value/loss", "value loss")],
            ),
            Chart(
                "Explained variance",
                "Share of the returns' variance that it predicts: 1 is perfect, 0 no better than "
                "a constant, below 0 worse.",
                [Series("value/explained_variance", "explained variance")],
            ),
        ],
    ),
    Section(
        "Is the machinery sound?",
        [
            Chart(
                "Steps left out",
                "Updates dropped because a number was not finite, log-ratios that had to be "
                "clamped, and updates not done because the policy had moved far enough; the first "
                "two should stay at 0.",
                [
                    Series("nonfinite_steps", "not finite"),
                    Series("log_ratio_clamped", "clamped"),
                    Series("policy/updates_left_out", "far enough"),
                ],
            ),
            Chart(
                "Gradient norm",
                "Length of the gradients before clipping; spikes come before trouble.",
                [Series("grad_norm/policy", "policy"), Series("grad_norm/value", "value")],
            ),
            LEARNING_RATE,
            Chart(
                "Seconds",
                "Where the time of a step goes.",
                [
                    Series("seconds/rollout", "writing answers"),
                    Series("seconds/score", "scoring"),
                    Series("seconds/update", "updating"),
                ],
                "seconds",
            ),
        ],
    ),
]

SUPERVISED_CHARTS = [
    Section(
        "Does it learn?",
        [
            Chart(
                "Loss",
                "How surprised it is by each token that counts; only the held-out line says what it "
                "does on rows that it has not learnt from.",
                [Series("loss", "training"), Series("eval_loss", "held out")],
                "nats per token",
            ),
            Chart(
                "Accuracy",
                "Share of tokens that it would have written by itself, in training.",
                [Series("accuracy", "training")],
            ),
            Chart(
                "Entropy",
                "How undecided it is at each token, in training; near 0 it learns by heart.",
                [Series("entropy", "entropy")],
                "nats per token",
            ),
            Chart(
                "Pull towards the start",
                "What the distance from where it began costs, as part of the training loss; nothing "
                "without an anchor.",
                [Series("anchor", "anchor")],
            ),
            Chart(
                "Gradient norm",
                "Length of the gradient before clipping; spikes come before trouble.",
                [Series("grad_norm", "gradient norm")],
            ),
            LEARNING_RATE,
        ],
    ),
]


def _without_critic(sections: list[Section]) -> list[Section]:
    """What is left of the charts where there is no value function."""
    kept = []
    for section in sections:
        charts = [
            chart._replace(series=[each for each in chart.series if "value" not in each.metric])
            for chart in section.charts
        ]
        kept.append(section._replace(charts=[chart for chart in charts if chart.series]))
    return [section for section in kept if section.charts]


GROUP_CHARTS = _without_critic(PPO_CHARTS)

PREFERENCE_CHARTS = [
    Section(
        "Does it learn the votes?",
        [
            Chart(
                "Loss",
                "What the optimiser minimises; with the sigmoid loss 0.69 is a coin toss, and lower is "
                "better.",
                [Series("loss", "training")],
            ),
            Chart(
                "Accuracy",
                "Share of pairs whose chosen answer has become likelier than the rejected one, against "
                "the policy before training; only the held-out line says how good it is on new prompts.",
                [Series("accuracy", "training"), Series("eval_accuracy", "held out")],
            ),
            Chart(
                "Margin",
                "How much likelier the chosen answer has become than the rejected one; a training line "
                "that runs away from the held-out one has learnt these pairs by heart.",
                [Series("margin", "training"), Series("eval_margin", "held out")],
                "nats",
            ),
        ],
    ),
    Section(
        "Is the update healthy?",
        [
            Chart(
                "Change of the answers",
                "Logarithm of how much likelier each side has become. Both falling is usual: it unlearns "
                "the rejected ones, and the chosen ones with them; too far, and it writes something else "
                "altogether.",
                [Series("logratio/chosen", "chosen"), Series("logratio/rejected", "rejected")],
                "nats",
            ),
            Chart(
                "Gradient norm",
                "Length of the gradients before clipping; spikes come before trouble.",
                [Series("grad_norm", "gradient")],
            ),
            LEARNING_RATE,
        ],
    ),
]

CHARTS: dict[str, list[Section]] = {
    RunKind.IMPORT_MODEL: [],
    RunKind.GENERATE: SAMPLING_CHARTS,
    RunKind.REWARD_MODEL: REWARD_MODEL_CHARTS,
    RunKind.PPO: PPO_CHARTS,
    RunKind.EVALUATE: SAMPLING_CHARTS,
    RunKind.PROBE: [],
    RunKind.ORDER_QUEUE: [],
    RunKind.CONVERSE: CONVERSE_CHARTS,
    RunKind.MERGE: [],
    RunKind.COMBINE: [],
    RunKind.SUPERVISED: SUPERVISED_CHARTS,
    RunKind.DOMAIN: SUPERVISED_CHARTS,
    RunKind.RLOO: GROUP_CHARTS,
    RunKind.GRPO: GROUP_CHARTS,
    RunKind.DPO: PREFERENCE_CHARTS,
    RunKind.KTO: PREFERENCE_CHARTS,
    RunKind.SEARCH: SEARCH_CHARTS,
    RunKind.DISTILL: SAMPLING_CHARTS,
    RunKind.INDEX: [],
    RunKind.SUITE: SAMPLING_CHARTS,
    RunKind.SCREEN: [],
}


def sections_of(run: Run) -> list[Section]:
    """The charts of its kind, in the units of what gave the score, and one of the score's parts
    where it has several sources."""
    sections = CHARTS[run.kind]
    if len(run.config.get("datasets", [])) > 1:
        return [_with_each_dataset(sections[0], run.config["datasets"]), *sections[1:]]
    names = reward_names(run)
    if names in ([], [FIRST_NAME]):
        return sections
    first, *others = sections
    score, *rest = [
        chart._replace(unit="") if chart.unit == DEVIATIONS else chart for chart in first.charts
    ]
    score = score._replace(
        explanation="Mean over the answers of the sum of all rewards, each times its weight."
    )
    if len(names) == 1:
        return [first._replace(charts=[score, *rest]), *others]
    by_source = Chart(
        "Score by source",
        "Mean score that each source of rewards gives, before its weight: one that climbs while the "
        "others fall is what the policy has found easiest to please.",
        [Series(f"score/{name}", name) for name in names],
    )
    return [first._replace(charts=[score, by_source, *rest]), *others]


def _with_each_dataset(section: Section, datasets: list[dict[str, str]]) -> Section:
    by_dataset = Chart(
        "Held out, by dataset",
        "The held-out loss of each dataset: one that climbs while the others fall is being forgotten.",
        [Series(f"eval_loss/{each['name']}", each["name"]) for each in datasets],
        "nats per token",
    )
    first, *rest = section.charts
    return section._replace(charts=[first, by_dataset, *rest])


def reward_names(run: Run) -> list[str]:
    if run.kind not in ONLINE:
        return []
    return names_of(bool(run.config.get("reward_model")), run.config.get("rewards", []))


def second_models(run: Run) -> list[tuple[str, int]]:
    """Reward models that it loaded beside the policy, with the memory in MiB that each took."""
    reports = run.metrics.filter(step=0).values_list("values", flat=True)
    return [
        (name.removeprefix("memory_mib/"), mib)
        for values in reports
        for name, mib in values.items()
        if name.startswith("memory_mib/")
    ]


# --- values ------------------------------------------------------------------------------------
def new_values(run: Run, after: int = -1) -> dict[str, Any]:
    """The reports after a step, by metric, at most `MAX_POINTS` of each. Step 0 is before training.

    A resumed run reports steps again: when `attempt` differs from the last answer's, whoever
    asks starts again from the beginning.
    """
    marked = {step for alarm in run.alarms for step in alarm["steps"]}
    reports = _thinned(run.metrics.filter(step__gt=after), marked)
    series: dict[str, dict[str, list[Any]]] = {}
    for step, values in reports:
        for metric, value in values.items():
            points = series.setdefault(metric, {"x": [], "y": []})
            points["x"].append(step)
            points["y"].append(value)
    return {
        "attempt": run.attempts,
        "is_active": run.is_active,
        "last_step": reports[-1][0] if reports else after,
        "alarms": run.alarms,
        "series": series,
    }


def _thinned(reports: Any, marked: set[int]) -> list[tuple[int, dict[str, float | None]]]:
    """Every n-th step, those marked, and the last, as (step, values)."""
    if (stride := -(-reports.count() // MAX_POINTS)) > 1:
        last = reports.aggregate(last=Max("step"))["last"]
        reports = reports.annotate(place=F("step") % stride).filter(
            Q(place=0) | Q(step=last) | Q(step__in=marked)
        )
    return list(reports.values_list("step", "values"))


class Table(NamedTuple):
    """The same values for those who cannot see the charts."""

    metrics: list[str]
    rows: list[tuple[int, list[float | None]]]  # newest first: step, values


def table_of(run: Run) -> Table:
    reports: Iterable[Metrics] = run.metrics.order_by("-step")[:TABLE_ROWS]
    rows = [(report.step, report.values) for report in reports]
    metrics = list(dict.fromkeys(metric for _, values in rows for metric in values))
    return Table(metrics, [(step, [values.get(m) for m in metrics]) for step, values in rows])


# --- sample answers ----------------------------------------------------------------------------
class Pair(NamedTuple):
    now: Sample
    before: Sample | None  # the first answer to the same prompt, at an earlier step


class Samples(NamedTuple):
    step: int  # 0: there are none
    is_last: bool
    first: int | None  # steps to go to
    previous: int | None
    next: int | None
    last: int | None
    answers: list[Pair]


def samples_of(run: Run, step: int | None = None) -> Samples:
    """The answers at a step (the last one, if there are none at it), beside earlier ones."""
    if step is None or not run.samples.filter(step=step).exists():
        step = run.samples.aggregate(last=Max("step"))["last"]
    if step is None:
        return Samples(0, True, None, None, None, None, [])
    steps = run.samples.aggregate(
        first=Min("step", filter=Q(step__lt=step)),
        previous=Max("step", filter=Q(step__lt=step)),
        next=Min("step", filter=Q(step__gt=step)),
        last=Max("step", filter=Q(step__gt=step)),
    )
    now = list(run.samples.filter(step=step))
    return Samples(step, steps["last"] is None, **steps, answers=_beside_earlier(run, now))


def _beside_earlier(run: Run, now: list[Sample]) -> list[Pair]:
    # Each step answers other prompts: only the same prompt's answers are worth comparing.
    same_prompt = Q(pk=None)
    for sample in now:
        same_prompt |= Q(prompt=sample.prompt)
    earlier = run.samples.filter(same_prompt, step__lt=now[0].step).order_by("-step", "-index")
    first = {str(sample.prompt): sample for sample in earlier}
    return [Pair(sample, first.get(str(sample.prompt))) for sample in now]


# --- the log -----------------------------------------------------------------------------------
def log_tail(path: Path) -> str:
    """The last lines of a log, read from its end; of a progress bar only what it last showed."""
    try:
        with open(path, "rb", opener=following_no_link) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return ""
    lines = text.split("\n")
    if size > LOG_BYTES:
        lines = lines[1:]  # its beginning was cut off
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines[-LOG_LINES:]).strip(
        "\n"
    )
