"""Tasks of lm-evaluation-harness, where it is installed and their data are on this machine.

The harness is an optional extra, `harness`, in the trainer's environment. Nothing is downloaded: a task whose
data are missing says so. A task is known by its name, the harness's own or one in the folder that the owner of
the machine keeps for more of them: a path would be a file that may name any code.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.suite_metrics import Estimate, is_share, share

OWN_TASKS = "PREFERENDUM_LM_EVAL_TASKS"  # environment: a folder of YAML files
NOT_INSTALLED = (
    "lm-evaluation-harness is not installed where runs are carried out: see docs/evaluation.md"
)
UNKNOWN = "the harness that is installed knows no task of this name"
BOOTSTRAPPED = 1_000  # resamples, where a metric's error has no formula
DEVIATIONS = 1.96  # standard errors to either side, for 95 %


class TaskAnswer(NamedTuple):
    """To one question of a task, as somebody can read it."""

    task: str
    number: int  # of the question
    question: str
    wanted: str
    said: str  # of choices, the likeliest
    values: dict[str, float]  # by figure. Example: {"arc/acc": 1.0}


class TaskResults(NamedTuple):
    figures: dict[str, Estimate]  # {"task/metric": …}, or one per task that says why there is none
    answers: list[TaskAnswer]  # behind them
    lower: list[str]  # of these figures, those of which less is better


def run_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], limit: int
) -> TaskResults:
    if importlib.util.find_spec("lm_eval") is None:
        return no_results(tasks, NOT_INSTALLED)
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    lm_eval = importlib.import_module("lm_eval")
    known = known_tasks(tasks)
    wrapper = importlib.import_module("lm_eval.models.huggingface")
    wrapped = wrapper.HFLM(pretrained=model, tokenizer=tokenizer)
    found: dict[str, Estimate] = {}
    answers: dict[str, list[TaskAnswer]] = {}  # by task: several groups may have the same one
    lower: list[str] = []
    for task in tasks:
        if task not in known.task_index:
            found[task] = Estimate(None, reason=UNKNOWN)
            continue
        try:
            given = lm_eval.simple_evaluate(
                model=wrapped, tasks=[task], limit=limit, task_manager=known,
                bootstrap_iters=BOOTSTRAPPED, log_samples=True,
            )  # fmt: skip
        except Exception as error:  # whatever a task of somebody else's may raise
            words = str(error).strip().splitlines() or [""]
            why = f"{type(error).__name__}: {words[0]}"[:300]
            found[task] = Estimate(None, reason=f"it could not be run offline ({why})")
        else:
            for name, values in given["results"].items():
                found |= figures_of(name, values)
                lower += lower_of(name, values, given["higher_is_better"].get(name, {}))
            for name, samples in given["samples"].items():
                answers[name] = [readable(name, sample) for sample in samples]
    every = [each for rows in answers.values() for each in rows]
    return TaskResults(with_shares(found, every), every, lower)


def with_shares(figures: dict[str, Estimate], answers: Sequence[TaskAnswer]) -> dict[str, Estimate]:
    """Those that say of each question whether it was answered rightly, with Wilson's interval: by the harness's
    standard error, a model that is right on all of them could not be anything else."""
    found = dict(figures)
    for name, figure in figures.items():
        values = [answer.values[name] for answer in answers if name in answer.values]
        if values and is_share(values) and _is_mean(figure, values):
            found[name] = share(values)
    return found


def _is_mean(figure: Estimate, values: Sequence[float]) -> bool:
    return figure.n == len(values) and math.isclose(figure.value or 0.0, sum(values) / figure.n)


def no_results(tasks: Sequence[str], why: str) -> TaskResults:
    return TaskResults({task: Estimate(None, reason=why) for task in tasks}, [], [])


def known_tasks(names: Sequence[str]) -> Any:
    """The harness's TaskManager. Its own many thousand files are read only for a name that is not in the
    machine's folder."""
    manager = importlib.import_module("lm_eval.tasks").TaskManager
    folder = os.environ.get(OWN_TASKS, "")
    if not folder or not Path(folder).is_dir():
        return manager()
    own = manager(include_path=folder, include_defaults=False)
    return own if own.task_index.keys() >= set(names) else manager(include_path=folder)


def figures_of(task: str, values: dict[str, Any]) -> dict[str, Estimate]:
    """Example: {"sample_len": 9, "acc,none": 0.5, "acc_stderr,none": 0.1} of "arc" -> {"arc/acc": 0.5 ± 0.196}.

    Of a group, the questions are those of the tasks that have the metric.
    """
    found = {}
    for key, metric, way in _metrics(values):
        error = values.get(f"{metric}_stderr,{way}")
        half = DEVIATIONS * float(error) if isinstance(error, int | float) else None
        value = float(values[key])
        low, high = (None, None) if half is None else (value - half, value + half)
        n = values.get("sample_count", {}).get(key, values["sample_len"])
        found[figure_name(task, metric, way)] = Estimate(value, low, high, n)
    return found


def lower_of(task: str, values: dict[str, Any], higher_is_better: dict[str, bool]) -> list[str]:
    """Example: {"sample_len": 9, "bits_per_byte,none": 0.8} of "wiki" -> ["wiki/bits_per_byte"]."""
    return [
        figure_name(task, metric, way)
        for _, metric, way in _metrics(values)
        if higher_is_better.get(metric) is False
    ]


def _metrics(values: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Example: {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1} -> ("acc,none", "acc", "none")."""
    for key, value in values.items():
        metric, _, way = key.partition(",")
        if way and isinstance(value, int | float) and not metric.endswith("_stderr"):
            yield key, metric, way


def figure_name(task: str, metric: str, way: str) -> str:
    """Example: "gsm", "em", "strict-match" -> "gsm/em (strict-match)"; the way "none" is not said."""
    return f"{task}/{metric}" + ("" if way == "none" else f" ({way})")


# --- answers ----------------------------------------------------------------------------------
def readable(task: str, sample: dict[str, Any]) -> TaskAnswer:
    """A sample of the harness: what was asked, and what the model said or found likeliest."""
    requests = [tuple(request) for request in sample["arguments"]]
    replies, wanted = sample["filtered_resps"], sample["target"]
    if len(requests) > 1:
        choices = _choices(requests)
        said = choices[max(range(len(choices)), key=lambda place: _likelihood(replies[place]))]
        if isinstance(wanted, int) and 0 <= wanted < len(choices):
            wanted = choices[wanted]
    else:
        said = _said(replies[0])
    values = {
        figure_name(task, metric, sample.get("filter", "none")): float(sample[metric])
        for metric in sample["metrics"]
        if isinstance(sample[metric], bool | int | float)
    }
    return TaskAnswer(task, sample["doc_id"], str(requests[0][0]), str(wanted), said, values)


def _choices(requests: Sequence[tuple[Any, ...]]) -> list[str]:
    """What may follow the question; where questions differ, and not what follows, the whole of each."""
    first = requests[0]
    same = [str(request[1]).strip() for request in requests if request[0] == first[0]]
    return same if len(same) > 1 else [f"{request[0]}{request[1]}" for request in requests]


def _said(reply: Any) -> str:
    """What was written; if the task gives the text, how likely the model finds it."""
    match reply:
        case float(nats) | (float(nats), False):
            return f"log-likelihood {nats:.4g}"
        case (float(nats), True):
            return f"log-likelihood {nats:.4g}, and nothing is likelier"
    return str(reply)


def _likelihood(reply: Any) -> float:
    """A reply is a log-likelihood, or that and whether nothing is likelier."""
    return float(reply[0] if isinstance(reply, list | tuple) else reply)
