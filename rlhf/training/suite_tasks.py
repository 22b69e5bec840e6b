"""Tasks of lm-evaluation-harness, where it is installed and their data are on this machine.

The harness is an optional extra, `harness`, in the trainer's environment. Nothing is downloaded: a task whose
data are missing says so. A task is known by its name, the harness's own or one in the folder that the owner of
the machine keeps for more of them: a path would be a file that may name any code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.suite_metrics import Estimate

OWN_TASKS = "PREFERENDUM_LM_EVAL_TASKS"  # environment: a folder of YAML files
NOT_INSTALLED = (
    "lm-evaluation-harness is not installed where runs are carried out: see docs/evaluation.md"
)
UNKNOWN = "the harness that is installed knows no task of this name"
BOOTSTRAPPED = 1_000  # resamples, where a metric's error has no formula
DEVIATIONS = 1.96  # standard errors to either side, for 95 %


def run_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], limit: int
) -> dict[str, Estimate]:
    """{"task/metric": …}, or one figure per task that says why there is none."""
    if importlib.util.find_spec("lm_eval") is None:
        return {task: Estimate(None, reason=NOT_INSTALLED) for task in tasks}
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    lm_eval = importlib.import_module("lm_eval")
    known = known_tasks(tasks)
    wrapper = importlib.import_module("lm_eval.models.huggingface")
    wrapped = wrapper.HFLM(pretrained=model, tokenizer=tokenizer)
    found: dict[str, Estimate] = {}
    for task in tasks:
        if task not in known.task_index:
            found[task] = Estimate(None, reason=UNKNOWN)
            continue
        try:
            given = lm_eval.simple_evaluate(
                model=wrapped, tasks=[task], limit=limit, task_manager=known,
                bootstrap_iters=BOOTSTRAPPED, log_samples=False,
            )  # fmt: skip
        except Exception as error:  # whatever a task of somebody else's may raise
            words = str(error).strip().splitlines() or [""]
            why = f"{type(error).__name__}: {words[0]}"[:300]
            found[task] = Estimate(None, reason=f"it could not be run offline ({why})")
        else:
            n_samples = given.get("n-samples", {})
            for name, values in given["results"].items():
                n = n_samples.get(name, {}).get("effective", limit)
                found |= figures_of(name, values, n)
    return found


def known_tasks(names: Sequence[str]) -> Any:
    """The harness's TaskManager. Its own many thousand files are read only for a name that is not in the
    machine's folder."""
    manager = importlib.import_module("lm_eval.tasks").TaskManager
    folder = os.environ.get(OWN_TASKS, "")
    if not folder or not Path(folder).is_dir():
        return manager()
    own = manager(include_path=folder, include_defaults=False)
    return own if own.task_index.keys() >= set(names) else manager(include_path=folder)


def figures_of(task: str, values: dict[str, Any], n: int) -> dict[str, Estimate]:
    """Example: {"acc,none": 0.5, "acc_stderr,none": 0.1} of "arc" -> {"arc/acc": 0.5 ± 0.196}."""
    found = {}
    for key, value in values.items():
        metric, _, way = key.partition(",")
        if not isinstance(value, int | float) or "_stderr" in metric or not way:
            continue
        error = values.get(f"{metric}_stderr,{way}")
        half = DEVIATIONS * error if isinstance(error, int | float) else None
        name = f"{task}/{metric}" + ("" if way == "none" else f" ({way})")
        low, high = (None, None) if half is None else (value - half, value + half)
        found[name] = Estimate(float(value), low, high, n)
    return found
