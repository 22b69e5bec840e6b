import json
import sys
import types
from importlib.util import find_spec

import pytest
import torch

from rlhf.training.models import load_policy
from rlhf.training.suite_metrics import Estimate
from rlhf.training.suite_tasks import NOT_INSTALLED, OWN_TASKS, UNKNOWN, figures_of, run_tasks


@pytest.fixture
def harness(monkeypatch):
    """Something that is called like lm-evaluation-harness, and knows two tasks, one without its data."""
    names = ("lm_eval", "lm_eval.tasks", "lm_eval.models", "lm_eval.models.huggingface")
    lm_eval, tasks, models, wrapper = map(types.ModuleType, names)
    tasks.TaskManager = lambda: types.SimpleNamespace(task_index={"local": None, "arc": None})
    lm_eval.__spec__ = types.SimpleNamespace()
    wrapper.HFLM = lambda pretrained, tokenizer: (pretrained, tokenizer)

    def simple_evaluate(model, tasks, limit, **options):
        (task,) = tasks
        if task != "local":
            raise FileNotFoundError(f"Couldn't find {task} in the cache\nand more")
        return {
            "results": {"local": {"alias": "local", "acc,none": 0.5, "acc_stderr,none": 0.1}},
            "n-samples": {"local": {"original": 300, "effective": limit}},
        }

    lm_eval.simple_evaluate = simple_evaluate
    monkeypatch.delenv(OWN_TASKS, raising=False)
    for module in (lm_eval, tasks, models, wrapper):
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


def test_a_file_is_no_task(harness, tmp_path):
    file = tmp_path / "task.yaml"
    file.write_text("task: local\n")

    assert run_tasks("model", "tokenizer", [str(file)], 20) == {
        str(file): Estimate(None, reason=UNKNOWN)
    }


def test_figures_of_other_ways_to_score_keep_their_names():
    values = {"alias": "x", "em,strict-match": 0.25, "em_stderr,strict-match": "N/A"}

    assert figures_of("gsm", values, 4) == {"gsm/em (strict-match)": Estimate(0.25, n=4)}


# --- the harness itself -------------------------------------------------------------------------
TASK = """
task: doors
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/doors.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
QUESTION, CHOICES = "What is a red cup?", ["Try it.", "Because."]


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """A folder with the task *doors*: four questions, of which the third has another right answer."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    monkeypatch.setenv(OWN_TASKS, str(folder))
    rows = [{"question": QUESTION, "choices": CHOICES, "right": int(n == 2)} for n in range(4)]
    (folder / "doors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "doors.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    return folder


@torch.no_grad()
def likelihood(model, tokenizer, choice):
    """Of the choice after the question and a space, in nats: the sum over its tokens."""
    ids, question = (
        torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (f"{QUESTION} {choice}", QUESTION)
    )
    logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(1, ids[1:, None])[len(question) - 1 :].sum().item()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason=NOT_INSTALLED)
def test_the_real_harness_runs_a_task_of_ones_own(tiny_reference, own_tasks):
    model, tokenizer = load_policy(tiny_reference)
    first, second = (likelihood(model, tokenizer, choice) for choice in CHOICES)

    found = run_tasks(model, tokenizer, ["doors"], 4)

    assert found["doors/acc"].value == (0.75 if first > second else 0.25)
    assert (list(found), found["doors/acc"].n) == (["doors/acc"], 4)
