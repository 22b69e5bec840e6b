"""The evaluation suites of a project: what the next one is like, and candidates side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings

from annotator.models import Project
from annotator.quality.keeping import report_of
from rlhf.evaluation import WinRate, win_rates
from rlhf.generation import read_lines
from rlhf.models import ModelKind, ModelVersion, Run, RunKind, Status, SuiteSettings
from rlhf.training.reward_rules import complete, names_of

VERSIONS = ("model", "rival", "judge", "reward_model")
FILES = ("prompts", "references", "texts", "general", "pairs")
PROMPTS_AFTER_TRAINING = 50  # minutes on a processor with a small model
SHOWN = 6  # candidates side by side, unless somebody chooses
SUITES_READ = 300  # the newest
SHOWN_WITHOUT = 20  # versions
REFUSED = "suite_refused"  # in a version's details: a sentence

# Figures of references and of text: which digest of the result says what they are of.
MEASURED_ON = {
    **dict.fromkeys(("chrf", "bleu", "rouge_l", "exact_match"), "references"),
    **dict.fromkeys(("own_loss", "own_perplexity"), "own"),
    **dict.fromkeys(("general_loss", "general_perplexity"), "general"),
}
RULE, TASK = "rule/", "task/"  # before the names of figures
BEST, AS_GOOD = "best", "may be as good"


class Metric(NamedTuple):
    name: str  # as the run reports it
    label: str
    better: str = ""  # "high", "low", or neither
    note: str = ""
    is_share: bool = False
    has_answers: bool = True  # that can be read
    of_text: bool = False  # behind it stand texts, and not answers
    of_task: bool = False  # behind it stand answers to questions of its own


GROUPS: list[tuple[str, list[Metric]]] = [
    (
        "Against reference answers",
        [
            Metric("own_loss", "Loss of references", "low", "Nats per token."),
            Metric("own_perplexity", "Perplexity of references", "low", "How surprising they are."),
            Metric("chrf", "chrF", "high", "0 to 100, by groups of letters."),
            Metric("bleu", "BLEU", "high", "0 to 100, by groups of words."),
            Metric("rouge_l", "ROUGE-L", "high", "0 to 1, by words in the same order."),
            Metric("exact_match", "The same words", "high", is_share=True),
        ],
    ),
    (
        "General text",
        [
            Metric("general_loss", "Loss", "low", "Nats per token.", of_text=True),
            Metric("general_perplexity", "Perplexity", "low", of_text=True),
            Metric(
                "forgetting", "Forgotten", "low",
                "Growth of the loss against the version before, in nats per token.", of_text=True,
            ),
        ],
    ),
    ("Scores", [Metric("reward", "Reward model", "high", "In standard deviations.")]),
    (
        "The answers",
        [
            Metric("length", "Length", note="Tokens."),
            Metric("truncated", "Cut off", "low", is_share=True),
            Metric("repetition", "Repetition", "low", is_share=True),
            Metric("distinct_1", "Different words", note="Falls with length."),
            Metric("distinct_2", "Different pairs of words", note="Falls with length."),
            Metric("self_bleu", "Alike", "low", "BLEU of each answer against all others, 0 to 100."),
        ],
    ),
    (
        "By word lists",
        [
            Metric("refused", "Refusals", is_share=True),
            Metric("unsafe", "With unsafe words", "low", is_share=True),
        ],
    ),
    (
        "A model's opinion",
        [Metric("judge_win_rate", "Preferred by the judge", "high", is_share=True)],
    ),
]  # fmt: skip


class Cell(NamedTuple):
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str = ""  # why there is no value
    mark: str = ""  # "best", or "may be as good": its interval overlaps that of the best


class Row(NamedTuple):
    metric: Metric
    cells: list[Cell]


class Candidate(NamedTuple):
    version: ModelVersion
    run: Run
    is_comparable: bool  # prompts, text and sampling are those of most of the others
    people: tuple[Run, WinRate] | None  # the newest blind evaluation of it

    @property
    def judge(self) -> Mapping[str, Any]:
        return self.run.result.get("judge", {})


class Table(NamedTuple):
    candidates: list[Candidate]
    groups: list[tuple[str, list[Row]]]
    others: list[ModelVersion]  # that have a suite too, and are not shown


# --- the next suite ---------------------------------------------------------------------------
def like_the_latest(policy: ModelVersion) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings for a suite of this version, and the versions and the sample it takes: those of the
    project's latest one, so that the two can be compared; else the defaults."""
    suites = policy.project.runs.filter(kind=RunKind.SUITE, status=Status.SUCCEEDED)
    latest = suites.select_related("rival", "reward_model", "judge").first()
    root = policy.root() if policy.parent else None
    if latest is None:
        return {}, {"rival": root}
    values = {k: v for k, v in latest.config.items() if k not in (*VERSIONS, *FILES)}
    rival = latest.rival if latest.rival and latest.rival != policy else root
    return values, {
        "rival": rival,
        "reward_model": latest.reward_model,
        "judge": latest.judge if rival else None,
        "max_prompts": _number_of_prompts(latest),
    }


def after_training(policy: ModelVersion) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same for the suite that starts by itself: a project's first one is small."""
    values, versions = like_the_latest(policy)
    return values, {"max_prompts": PROMPTS_AFTER_TRAINING, **versions}


def _number_of_prompts(run: Run) -> int | None:
    try:
        with (run.folder / "prompts.jsonl").open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return None


def runs_after_training(project: Project) -> bool:
    """As its admins have chosen; else as the machine's owner has."""
    chosen = SuiteSettings.objects.filter(project=project).values_list("after_training").first()
    return settings.SUITE_AFTER_TRAINING if chosen is None else chosen[0]


def run_after_training(project: Project, *, wanted: bool) -> None:
    SuiteSettings.objects.update_or_create(project=project, defaults={"after_training": wanted})


# --- side by side -----------------------------------------------------------------------------
def latest_suites(project: Project) -> list[Run]:
    """The newest suite of each version, the newest first."""
    rows = project.runs.filter(kind=RunKind.SUITE, status=Status.SUCCEEDED)
    newest: dict[int | None, Run] = {}
    for run in rows.select_related("policy", "rival", "judge", "reward_model")[:SUITES_READ]:
        newest.setdefault(run.policy_id, run)
    return list(newest.values())


def table_of(project: Project, chosen: Sequence[int] = ()) -> Table:
    """The versions with these numbers, or the newest that have a suite; the oldest stands first. The
    number of queries does not depend on how many there are."""
    suites = latest_suites(project)
    runs = [run for run in suites if run.policy_id in chosen] or suites[:SHOWN]
    runs.sort(key=lambda run: run.policy_id or 0)
    people = _blind_evaluations(project, runs)
    conditions = Counter(map(_conditions, runs)).most_common(1)
    candidates = []
    for run in runs:
        assert run.policy is not None
        same = _conditions(run) == conditions[0][0]
        candidates.append(Candidate(run.policy, run, same, people.get(run.policy.pk)))
    groups = [(title, list(_rows(metrics, candidates))) for title, metrics in _groups(runs)]
    shown = {run.pk for run in runs}
    others = [run.policy for run in suites if run.pk not in shown and run.policy]
    return Table(candidates, [(title, rows) for title, rows in groups if rows], others)


def _conditions(run: Run) -> tuple[Any, ...]:
    """Of all figures: which prompts were asked, and how."""
    return run.result.get("conditions"), run.config.get("max_prompt_tokens")


def _groups(runs: Sequence[Run]) -> Iterator[tuple[str, list[Metric]]]:
    """With the rules and tasks that any of these runs has."""
    yield from GROUPS
    names = dict.fromkeys(name for run in runs for name in run.result.get("metrics", {}))
    rules = [name for name in names if name.startswith(RULE)]
    yield "Rules", [Metric(name, name.removeprefix(RULE), "high") for name in rules]
    kept = {name for run in runs for name in run.result.get("task_answers", [])}
    lower = {name for run in runs for name in run.result.get("lower_is_better", [])}
    tasks = [
        (name.removeprefix(TASK), "low" if name.removeprefix(TASK) in lower else "high")
        for name in names
        if name.startswith(TASK)
    ]
    yield (
        "lm-evaluation-harness",
        [
            Metric(f"{TASK}{name}", name, better, has_answers=name in kept, of_task=True)
            for name, better in tasks
        ],
    )


def _rows(metrics: Sequence[Metric], candidates: Sequence[Candidate]) -> Iterator[Row]:
    """Those metrics of which any candidate says something."""
    for metric in metrics:
        found = [each.run.result.get("metrics", {}).get(metric.name) for each in candidates]
        if any(found):
            cells = [Cell(**figure) if figure else Cell(None) for figure in found]
            yield Row(metric, marked(metric, cells, _comparable(metric, candidates)))


def _comparable(metric: Metric, candidates: Sequence[Candidate]) -> list[bool]:
    """Whose figures are of the same thing: against the same version or references, by the same judge, reward
    model or rule, in the same tokens, on as many questions of a task."""
    bases = [
        (each.is_comparable, _answered(metric, each.run), *_basis(metric, each.run))
        for each in candidates
    ]
    has_figure = [metric.name in each.run.result.get("metrics", {}) for each in candidates]
    known = [basis for basis, has in zip(bases, has_figure, strict=True) if has and basis[0]]
    common = Counter(known).most_common(1)
    return [bool(common) and basis == common[0][0] for basis in bases]


def _answered(metric: Metric, run: Run) -> str:
    """Which prompts a figure of answers is of, where some were too long: that goes by a version's tokens and by
    how much it can read."""
    is_of_answers = not (metric.of_text or metric.of_task or metric.name.startswith("own_"))
    if not is_of_answers or not run.result.get("left_out", {}).get("too_long"):
        return ""
    return run.result.get("measured_on", {}).get("answers", f"run {run.pk}")


def _basis(metric: Metric, run: Run) -> tuple[Any, ...]:
    if metric.name == "judge_win_rate":
        return run.judge_id, run.rival_id
    if metric.name == "forgetting":
        return run.rival_id, run.result.get("windows", {}).get("tokens")
    if metric.of_task:
        return (run.result.get("metrics", {}).get(metric.name, {}).get("n"),)
    if metric.name == "reward":
        names = ("ensemble", "uncertainty_coefficient")
        return (run.reward_model_id, *(run.config.get(name) for name in names))
    if metric.name.startswith(RULE):
        return (_rule_named(metric.name.removeprefix(RULE), run),)
    if part := MEASURED_ON.get(metric.name):
        # Suites of before this was kept: nobody knows, so each is of something else.
        return (run.result.get("measured_on", {}).get(part, f"run {run.pk}"),)
    return ()


def _rule_named(name: str, run: Run) -> str:
    """Its settings in the order of their names; empty if the run does not say."""
    rules = [complete(rule) for rule in run.config.get("rewards", [])]
    found = dict(zip(names_of(False, rules), rules, strict=True))
    return json.dumps(found.get(name, {}), sort_keys=True)


def marked(metric: Metric, cells: Sequence[Cell], comparable: Sequence[bool]) -> list[Cell]:
    """The best said to be so, and those whose intervals overlap its own; among two or more that can be
    compared.

    Example: 0.9 (0.8 to 1), 0.7 (0.5 to 0.85) and 0.2 (0.1 to 0.3): best, may be as good, nothing.
    """
    values = [
        cell.value if fair and cell.value is not None else None
        for cell, fair in zip(cells, comparable, strict=True)
    ]
    known = [value for value in values if value is not None]
    if not metric.better or len(known) < 2 or len(set(known)) == 1:
        return list(cells)
    top = max(known) if metric.better == "high" else min(known)
    best = next(cell for cell, value in zip(cells, values, strict=True) if value == top)
    return [
        cell._replace(mark=_mark(cell, best, is_best=value == top)) if value is not None else cell
        for cell, value in zip(cells, values, strict=True)
    ]


def _mark(cell: Cell, best: Cell, *, is_best: bool) -> str:
    if is_best:
        return BEST
    if cell.low is None or cell.high is None or best.low is None or best.high is None:
        return ""
    return AS_GOOD if cell.low <= best.high and best.low <= cell.high else ""


def _blind_evaluations(project: Project, runs: Sequence[Run]) -> dict[int, tuple[Run, WinRate]]:
    """The newest blind evaluation of each version, by its number."""
    rows = project.runs.evaluations().filter(
        status=Status.SUCCEEDED, policy__in=[run.policy_id for run in runs]
    )
    newest: dict[int, Run] = {}
    for run in rows.select_related("rival", "policy")[:SUITES_READ]:
        assert run.policy is not None
        newest.setdefault(run.policy.pk, run)
    rates = win_rates(list(newest.values()))
    return {pk: (run, rates[run.pk]) for pk, run in newest.items()}


def leaderboard_of(project: Project) -> dict[str, Any]:
    """Who wins by all blind votes, as the worker has computed it last: {"rows": …, "as_of": …}."""
    report = report_of(project)
    if report is None or report.as_of is None:
        return {"rows": [], "as_of": None, "reason": "It has not been computed yet."}
    return {**report.figures.get("leaderboard", {"rows": []}), "as_of": report.as_of}


class Missing(NamedTuple):
    version: ModelVersion
    reason: str  # a sentence; empty: nobody has asked for a suite


def missing_suites(project: Project) -> list[Missing]:
    """Versions that write text and have none, the newest first."""
    judged = project.runs.filter(kind=RunKind.SUITE, status=Status.SUCCEEDED).values("policy")
    versions = project.model_versions.exclude(kind__in=[ModelKind.REWARD, ModelKind.BASE])
    return _with_reasons(project, list(versions.exclude(pk__in=judged)[:SHOWN_WITHOUT]))


def why_without(version: ModelVersion) -> str:
    """A sentence, if a suite of this version was to run and has not; else empty."""
    ((_, reason),) = _with_reasons(version.project, [version])
    return reason


def _with_reasons(project: Project, versions: Sequence[ModelVersion]) -> list[Missing]:
    suites = project.runs.filter(kind=RunKind.SUITE, policy__in=[each.pk for each in versions])
    newest: dict[int | None, Run] = {}
    for run in suites:  # the newest first
        newest.setdefault(run.policy_id, run)
    return [Missing(each, _reason(each, newest.get(each.pk))) for each in versions]


def _reason(version: ModelVersion, suite: Run | None) -> str:
    if suite is None:
        return version.details.get(REFUSED, "")
    if suite.status == Status.SUCCEEDED:
        return ""
    return f"{suite} {suite.get_status_display().lower()}. {suite.error}".strip()


def keep_refusal(version: ModelVersion, sentence: str) -> None:
    """Why the suite that was to follow its training did not; empty: it did."""
    kept = version.details.get(REFUSED, "")
    if sentence != kept:
        others = {name: value for name, value in version.details.items() if name != REFUSED}
        version.details = {**others, REFUSED: sentence} if sentence else others
        version.save(update_fields=["details"])


# --- what stands behind a cell ----------------------------------------------------------------
class Question(NamedTuple):
    """One prompt with the answers of all candidates, or one text with its losses."""

    messages: list[dict[str, str]]
    references: list[str]
    answers: list[dict[str, Any] | None]  # in the order of the candidates; None: it has none


def answers_behind(candidates: Sequence[Candidate]) -> tuple[list[Question], list[ModelVersion]]:
    """All prompts that any of them has answered; and those whose files are gone."""
    by_prompt: dict[int, Question] = {}
    gone = []
    for place, candidate in enumerate(candidates):
        try:
            rows = list(read_lines(candidate.run.folder / "artifact" / "answers.jsonl"))
        except FileNotFoundError:
            gone.append(candidate.version)
            continue
        for row in rows:
            empty: list[dict[str, Any] | None] = [None] * len(candidates)
            question = Question(row["messages"], row["references"], empty)
            by_prompt.setdefault(row["id"], question).answers[place] = row
    return [by_prompt[pk] for pk in sorted(by_prompt)], gone


def task_answers_behind(
    candidates: Sequence[Candidate], metric: Metric
) -> tuple[list[Question], list[ModelVersion]]:
    """All questions of a task that have this figure; and the versions whose answers are gone."""
    figure = metric.name.removeprefix(TASK)
    by_question: dict[tuple[str, int], Question] = {}
    gone = []
    for place, candidate in enumerate(candidates):
        if figure not in candidate.run.result.get("task_answers", []):
            continue
        path = candidate.run.folder / "artifact" / "tasks.jsonl"
        if not path.exists():
            gone.append(candidate.version)
            continue
        for row in (row for row in read_lines(path) if figure in row["values"]):
            empty: list[dict[str, Any] | None] = [None] * len(candidates)
            asked = [{"role": "user", "content": row["question"]}]
            question = Question(asked, [row["wanted"]], empty)
            answer = {"answer": row["said"], "values": {metric.name: row["values"][figure]}}
            by_question.setdefault((row["task"], row["number"]), question).answers[place] = answer
    return [by_question[key] for key in sorted(by_question)], gone


def texts_behind(
    candidates: Sequence[Candidate],
) -> tuple[list[tuple[str, list[dict[str, Any] | None]]], list[ModelVersion]]:
    """General text, with the loss per token of each candidate; and the versions whose files are gone."""
    by_text: dict[str, list[dict[str, Any] | None]] = {}
    gone = []
    for place, candidate in enumerate(candidates):
        path = candidate.run.folder / "artifact" / "texts.jsonl"
        if not path.exists():
            gone.append(candidate.version)
            continue
        for row in read_lines(path):
            row["loss"] = row["nats"] / row["n_tokens"] if row["n_tokens"] else None
            before = row.get("nats_before")
            row["grown"] = None if before is None else row["nats"] - before
            by_text.setdefault(row["text"], [None] * len(candidates))[place] = row
    return list(by_text.items()), gone


def metric_named(name: str, candidates: Sequence[Candidate]) -> Metric | None:
    groups = _groups([candidate.run for candidate in candidates])
    return next((m for _, metrics in groups for m in metrics if m.name == name), None)


# --- as JSON ----------------------------------------------------------------------------------
def as_json(table: Table, missing: Sequence[Missing] = ()) -> dict[str, Any]:
    """For the API: candidates with their figures, the judge's with its agreement, and who has none."""
    candidates = [
        {
            "version": candidate.version.pk,
            "name": candidate.version.name,
            "run": candidate.run.pk,
            "is_comparable": candidate.is_comparable,
            "n_prompts": candidate.run.result.get("n_prompts"),
            "texts": candidate.run.result.get("texts"),
            "references": candidate.run.result.get("references"),
            "windows": candidate.run.result.get("windows"),
            "alarms": candidate.run.alarms,
            "judge": {
                "version": candidate.run.judge.name,
                **{k: v for k, v in candidate.judge.items() if k != "prompt"},
            }
            if candidate.judge and candidate.run.judge
            else None,
            "people": candidate.people[1]._asdict() if candidate.people else None,
        }
        for candidate in table.candidates
    ]
    metrics = {
        row.metric.name: [cell._asdict() for cell in row.cells]
        for _, rows in table.groups
        for row in rows
    }
    without = [
        {"version": each.version.pk, "name": each.version.name, "reason": each.reason}
        for each in missing
    ]
    return {"candidates": candidates, "metrics": metrics, "without_suite": without}
