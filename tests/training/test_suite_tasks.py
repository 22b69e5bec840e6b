import json
import math
import sys
import types
from collections import Counter
from importlib.util import find_spec

import pytest
import torch

from rlhf.training.models import load_policy
from rlhf.training.suite_metrics import Estimate
from rlhf.training.suite_tasks import (
    NOT_INSTALLED,
    OWN_TASKS,
    UNKNOWN,
    TaskAnswer,
    TaskResults,
    figures_of,
    readable,
    run_tasks,
    with_shares,
)

CHOSEN = {  # as the harness logs a question with two choices
    "doc_id": 3, "target": 1, "arguments": [("Why?", " Yes."), ("Why?", " No.")],
    "filtered_resps": [(-2.0, False), (-1.0, True)], "filter": "none",
    "metrics": ["acc", "said"], "acc": 1.0, "said": ["No."],
}  # fmt: skip


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
        assert options["log_samples"]
        return {
            "samples": {"local": [CHOSEN]},
            "results": {"local": {"sample_len": limit, "acc,none": 0.5, "acc_stderr,none": 0.1}},
            "higher_is_better": {"local": {"acc": True}},
        }

    lm_eval.simple_evaluate = simple_evaluate
    monkeypatch.delenv(OWN_TASKS, raising=False)
    for module in (lm_eval, tasks, models, wrapper):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_without_the_harness_each_task_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)

    assert run_tasks("model", "tokenizer", ["arc"], 10) == TaskResults(
        {"arc": Estimate(None, reason=NOT_INSTALLED)}, [], []
    )


def test_a_task_has_its_figures_and_one_without_data_a_reason(harness):
    found, answers, lower = run_tasks("model", "tokenizer", ["local", "arc"], 20)

    assert lower == []
    assert answers == [TaskAnswer("local", 3, "Why?", "No.", "No.", {"local/acc": 1.0})]
    assert found["local/acc"] == Estimate(0.5, pytest.approx(0.304), pytest.approx(0.696), 20)
    assert found["arc"].reason == (
        "it could not be run offline (FileNotFoundError: Couldn't find arc in the cache)"
    )


def test_a_task_that_is_always_answered_rightly_is_not_certain():
    answers = [TaskAnswer("arc", n, "Why?", "No.", "No.", {"arc/acc": 1.0}) for n in range(50)]
    figures = {"arc/acc": Estimate(1.0, 1.0, 1.0, 50), "arc/bits": Estimate(0.8, 0.7, 0.9, 50)}

    found = with_shares(figures, answers)

    assert found["arc/acc"] == Estimate(1.0, pytest.approx(0.9287, abs=1e-4), 1.0, 50)
    assert found["arc/bits"] == figures["arc/bits"]


def test_a_file_is_no_task(harness, tmp_path):
    file = tmp_path / "task.yaml"
    file.write_text("task: local\n")

    assert run_tasks("model", "tokenizer", [str(file)], 20).figures == {
        str(file): Estimate(None, reason=UNKNOWN)
    }


def test_figures_of_other_ways_to_score_keep_their_names():
    values = {"sample_len": 4, "em,strict-match": 0.25, "em_stderr,strict-match": "N/A"}

    assert figures_of("gsm", values) == {"gsm/em (strict-match)": Estimate(0.25, n=4)}


def test_what_a_model_wrote_is_read_as_it_was_filtered():
    sample = {
        "doc_id": 0, "target": "42", "arguments": [("How many?", {"until": []})],
        "filtered_resps": ["41"], "filter": "strict-match", "metrics": ["em"], "em": False,
    }  # fmt: skip

    assert readable("gsm", sample) == TaskAnswer(
        "gsm", 0, "How many?", "42", "41", {"gsm/em (strict-match)": 0.0}
    )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (-2.5, "log-likelihood -2.5"),
        ((-2.5, False), "log-likelihood -2.5"),
        ((-2.5, True), "log-likelihood -2.5, and nothing is likelier"),
    ],
)
def test_of_a_text_that_the_task_gives_it_is_said_how_likely_it_is(reply, said):
    sample = {
        "doc_id": 0, "target": " sun", "arguments": [("Here comes the", " sun")],
        "filtered_resps": [reply], "metrics": ["ppl"], "ppl": (-2.5, 1),
    }  # fmt: skip

    assert readable("songs", sample) == TaskAnswer("songs", 0, "Here comes the", " sun", said, {})


def test_choices_of_the_question_are_read_with_it():
    sample = {
        **CHOSEN, "target": 0, "arguments": [("He sat", " down."), ("She sat", " down.")],
        "filtered_resps": [-1.0, -2.0], "metrics": [],
    }  # fmt: skip

    assert readable("who", sample) == TaskAnswer(
        "who", 3, "He sat", "He sat down.", "He sat down.", {}
    )


# --- the harness itself -------------------------------------------------------------------------
FILES = {
    "doors.yaml": """
task: doors
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/doors.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "written.yaml": """
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/doors.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[right]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "read.yaml": """
task: read
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/doors.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
""",
    "both.yaml": """
group: both
task: [doors, written]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
""",
}
QUESTION, CHOICES = "What is a red cup?", ["Try it.", "Because."]

needs_the_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason=NOT_INSTALLED)


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """A folder with tasks of each kind, of four questions, of which the third has another right answer."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    monkeypatch.setenv(OWN_TASKS, str(folder))
    rows = [{"question": QUESTION, "choices": CHOICES, "right": int(n == 2)} for n in range(4)]
    (folder / "doors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("FOLDER", str(folder)))
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


@needs_the_harness
def test_the_real_harness_runs_a_task_of_ones_own(tiny_reference, own_tasks):
    model, tokenizer = load_policy(tiny_reference)
    first, second = (likelihood(model, tokenizer, choice) for choice in CHOICES)

    found, answers, _ = run_tasks(model, tokenizer, ["doors"], 4)

    likelier = CHOICES[0] if first > second else CHOICES[1]
    assert [(each.question, each.said) for each in answers] == [(QUESTION, likelier)] * 4
    assert [each.wanted for each in answers] == [CHOICES[int(n == 2)] for n in range(4)]
    assert found["doors/acc"].value == (0.75 if first > second else 0.25)
    assert (list(found), found["doors/acc"].n) == (["doors/acc"], 4)


@needs_the_harness
def test_the_real_harness_lets_the_model_write(tiny_reference, own_tasks):
    model, tokenizer = load_policy(tiny_reference)
    asked = tokenizer(QUESTION, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = model.generate(asked, max_new_tokens=4, do_sample=False)[0, asked.shape[1] :]

    found, answers, _ = run_tasks(model, tokenizer, ["written"], 2)

    text = tokenizer.decode(ids, skip_special_tokens=True).split(".")[0]
    assert [each.said for each in answers] == [text] * 2
    assert found["written/exact_match"].n == 2


@needs_the_harness
def test_the_real_harness_says_of_which_figures_less_is_better(tiny_reference, own_tasks):
    found, answers, lower = run_tasks(*load_policy(tiny_reference), ["read", "doors"], 4)

    (nats,) = {float(each.said.split()[1]) for each in answers if each.task == "read"}
    bits = -nats / math.log(2) / len(QUESTION)
    assert found["read/bits_per_byte"].value == pytest.approx(bits, rel=1e-3)
    assert lower == ["read/bits_per_byte"]


@needs_the_harness
def test_the_real_harness_counts_each_question_of_a_group_once(tiny_reference, own_tasks):
    found, answers, _ = run_tasks(*load_policy(tiny_reference), ["doors", "both"], 3)

    assert {name: figure.n for name, figure in found.items()} == {
        "doors/acc": 3, "written/exact_match": 3, "both/acc": 3,
    }  # fmt: skip
    assert Counter(each.task for each in answers) == {"doors": 3, "written": 3}


@needs_the_harness
def test_the_real_harness_downloads_nothing(tiny_reference, own_tasks):
    away = FILES["doors.yaml"].replace("task: doors", "task: away").replace("json", "nobody/none")
    (own_tasks / "away.yaml").write_text(away)

    found, _, _ = run_tasks(*load_policy(tiny_reference), ["away", "doors"], 4)

    assert found["away"].reason.startswith("it could not be run offline (ConnectionError: ")
    assert found["doors/acc"].n == 4
