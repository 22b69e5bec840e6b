"""Tasks of lm-evaluation-harness, where it is installed and their data are on this machine.

The harness is no dependency: it brings more packages than everything else here. `pip install lm_eval` in
the trainer's environment is enough. Nothing is downloaded: a task whose data are missing says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.suite_metrics import Estimate

NOT_INSTALLED = (
    "lm-evaluation-harness is not installed where runs are carried out: `pip install lm_eval` there"
)
DEVIATIONS = 1.96  # standard errors to either side, for 95 %


def run_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], limit: int
) -> dict[str, Estimate]:
    """{"task/metric": …}, or one figure per task that says why there is none."""
    if importlib.util.find_spec("lm_eval") is None:
        return {task: Estimate(None, reason=NOT_INSTALLED) for task in tasks}
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    lm_eval = importlib.import_module("lm_eval")
    wrapper = importlib.import_module("lm_eval.models.huggingface")
    wrapped = wrapper.HFLM(pretrained=model, tokenizer=tokenizer)
    found: dict[str, Estimate] = {}
    for task in tasks:
        try:
            given = lm_eval.simple_evaluate(model=wrapped, tasks=[task], limit=limit)
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
