import sys
import types

import pytest

from rlhf.training.suite_metrics import Estimate
from rlhf.training.suite_tasks import NOT_INSTALLED, figures_of, run_tasks


@pytest.fixture
def harness(monkeypatch):
    """Something that is called like lm-evaluation-harness, and knows one task."""
    lm_eval, models, wrapper = (
        types.ModuleType(name)
        for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface")
    )
    lm_eval.__spec__ = types.SimpleNamespace()
    wrapper.HFLM = lambda pretrained, tokenizer: (pretrained, tokenizer)

    def simple_evaluate(model, tasks, limit):
        (task,) = tasks
        if task != "local":
            raise FileNotFoundError(f"Couldn't find {task} in the cache\nand more")
        return {
            "results": {"local": {"alias": "local", "acc,none": 0.5, "acc_stderr,none": 0.1}},
            "n-samples": {"local": {"original": 300, "effective": limit}},
        }

    lm_eval.simple_evaluate = simple_evaluate
    for module in (lm_eval, models, wrapper):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_without_the_harness_each_task_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)

    assert run_tasks("model", "tokenizer", ["arc"], 10) == {
        "arc": Estimate(None, reason=NOT_INSTALLED)
    }


def test_a_task_has_its_figures_and_one_without_data_a_reason(harness):
    found = run_tasks("model", "tokenizer", ["local", "arc"], 20)

    assert found["local/acc"] == Estimate(0.5, pytest.approx(0.304), pytest.approx(0.696), 20)
    assert found["arc"].reason == (
        "it could not be run offline (FileNotFoundError: Couldn't find arc in the cache)"
    )


def test_figures_of_other_ways_to_score_keep_their_names():
    values = {"alias": "x", "em,strict-match": 0.25, "em_stderr,strict-match": "N/A"}

    assert figures_of("gsm", values, 4) == {"gsm/em (strict-match)": Estimate(0.25, n=4)}
