import json
import shutil
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.training.artifacts import RunError, Stopped, write_json
from rlhf.training.data import Generated, PromptLine
from rlhf.training.distill import run
from rlhf.training.distill_choice import (
    Candidate,
    choose,
    fault_of,
    first_good,
    histogram,
    is_refusal,
    rehearsal_rows,
    share_out,
    worth,
)
from rlhf.training.distill_config import DistillConfig
from rlhf.training.generate import read_kept
from rlhf.training.prompting import Prompting
from tests.training.conftest import write_prompts

SHORT = {"kind": "length", "target": 4}
LINES = [PromptLine(number, [{"role": "user", "content": "Hi"}]) for number in range(10)]


def candidate(prompt, score=None, text="Yes.", truncated=False):
    return Candidate(Generated(prompt, 0, text, 3, truncated), score)


def chosen_of(*candidates, lowest_score=None, drop_refusals=True):
    return choose(candidates, lowest_score=lowest_score, drop_refusals=drop_refusals)


# --- choosing ---------------------------------------------------------------------------------
def test_the_best_of_each_prompt_is_chosen():
    found, left_out = chosen_of(
        candidate(7, 0.1), candidate(7, 0.9, "Best."), candidate(8, -2.0), candidate(8, -3.0)
    )

    assert [(best.prompt, best.score, best.n) for best in found] == [(7, 0.9, 2), (8, -2.0, 2)]
    assert (found[0].answer.completion, found[0].mean_score) == ("Best.", 0.5)
    assert not left_out


def test_what_nobody_should_learn_from_is_not_chosen_however_well_it_scores():
    found, _ = chosen_of(
        candidate(7, 0.9, "  \n"), candidate(7, 0.8, "And so", True), candidate(7, 0.1, "Yes.")
    )

    assert [best.score for best in found] == [0.1]


def test_prompts_without_an_answer_are_counted_by_reason():
    found, left_out = chosen_of(
        candidate(1, 0.5, ""), candidate(2, 0.5, "I am", True), candidate(3, 0.1), candidate(4, 0.3),
        candidate(5, 0.5, "I'm sorry, but I can't help with that."), lowest_score=0.2,
    )  # fmt: skip

    assert [best.prompt for best in found] == [4]
    assert left_out == {"empty": 1, "cut_off": 1, "low_score": 1, "refused": 1}


def test_a_prompt_without_an_answer_to_learn_from_is_worth_the_worst_of_all_answers():
    candidates = [candidate(1, 0.9), candidate(1, 0.1), candidate(2, -1.0, truncated=True)]
    chosen, _ = chosen_of(*candidates)

    assert worth(chosen, candidates, 2) == {"eval_share": 0.5, "eval_score": pytest.approx(-0.05)}
    assert worth([], [candidate(1)], 1) == {"eval_share": 0.0}


def test_leaving_out_long_prompts_gains_nothing():
    candidates = [candidate(1, 0.9), candidate(1, 0.1)]
    chosen, _ = chosen_of(*candidates)

    assert worth(chosen, candidates, 2) == {"eval_share": 0.5, "eval_score": pytest.approx(0.5)}
    assert worth([], [], 2) == {"eval_share": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot answer this.",
        "Sorry, but I can't do that.",
        "I cannot assist with this request.",
        "As an AI language model, I don't have opinions.",
        "Unfortunately, I am unable to help.",
    ],
)
def test_refusals_are_known_by_how_they_begin(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that! Try some tea.",
        "I can help you with that.",
        "You can't open the door without a key.",
        "Say: “I'm sorry, but I can't come.”",
        "Ich kann das nicht beantworten.",
    ],
)
def test_other_answers_are_no_refusals(text):
    assert not is_refusal(text)


def test_refusals_are_kept_if_they_are_wanted():
    refusal = candidate(1, text="I cannot help with that.").answer

    assert fault_of(refusal, drop_refusals=True) == "refused"
    assert fault_of(refusal, drop_refusals=False) == ""


# --- rehearsal --------------------------------------------------------------------------------
def test_each_prompt_is_answered_by_one_of_the_two():
    taught, rehearsed = share_out(LINES, 0.2)

    assert (taught, rehearsed) == (LINES[:8], LINES[8:])
    assert share_out(LINES, 0.0) == (LINES, [])
    assert share_out(LINES[:2], 0.9) == (LINES[:1], LINES[1:2])


def test_the_students_first_answer_that_may_be_learnt_from_is_rehearsed():
    answers = [
        candidate(1, truncated=True).answer, candidate(1, text="Second.").answer,
        candidate(1, text="Third.").answer, candidate(2, truncated=True).answer,
    ]  # fmt: skip

    found, left_out = first_good(answers, drop_refusals=True)

    assert [row.completion for row in found] == ["Second."]
    assert left_out == Counter(cut_off=1)


@settings(max_examples=50)
@given(st.integers(1, 500), st.floats(0, 0.9))
def test_rehearsal_is_the_share_that_was_asked_for(n_taught, share):
    n = rehearsal_rows(n_taught, 10_000, share)

    assert abs(n - share * (n_taught + n)) <= 0.5


def test_a_histogram_counts_all_scores_in_the_same_bins():
    found = histogram({"all": [0.0, 1.0, 1.0], "chosen": [1.0]})

    assert (found["low"], found["high"]) == (0.0, 1.0)
    assert Counter(found["counts"]["all"]) == {0: 18, 1: 1, 2: 1}
    assert found["counts"]["chosen"][-1] == 1
    assert histogram({"all": []}) == {}


# --- settings ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "completions_per_prompt=4 needs a reward model or a rule to pick the best by"),
        (
            {"completions_per_prompt": 1, "lowest_score": 0.0},
            "lowest_score=0.0 needs a reward model",
        ),
        ({"rewards": [SHORT], "rehearsal_share": 0.1}, "rehearsal_share=0.1 needs a student"),
        ({"rewards": [SHORT], "rehearsal_share": 1.0}, "rehearsal_share=1.0 must be between 0 and"),
    ],
)
def test_settings_that_do_not_work_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        DistillConfig(model={"base": "tiny", "adapters": []}, **values)


# --- the run ----------------------------------------------------------------------------------
@pytest.fixture
def distil(folder, tiny_reference, prompts_file):
    def distil(**values):
        values = {"rewards": [SHORT], "completions_per_prompt": 3, "max_new_tokens": 24, **values}
        return run(DistillConfig(model=tiny_reference, **values), folder)

    return distil


def rows_of(folder):
    return [json.loads(line) for line in (folder.path / "artifact/data.jsonl").open()]


def test_the_dataset_holds_the_best_answers_and_the_students_own(distil, folder, tiny_reference):
    result = distil(student=tiny_reference, rehearsal_share=0.2)

    rows = rows_of(folder)
    assert result["n_rows"] == len(rows) == result["n_teacher"] + result["n_rehearsal"]
    assert [row["source"] for row in rows] == ["teacher"] * result["n_teacher"] + [
        "rehearsal"
    ] * result["n_rehearsal"]
    assert result["n_rehearsal"] == 1
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert result["score_best"] >= result["score_mean"]
    kept = [read_kept(folder.path / f"{name}.jsonl") for name in ("teacher", "student")]
    written = [row for batches in kept for batch in batches.values() for row in batch]
    assert result["tokens"] == {"written": sum(row.n_tokens for row in written)}


def test_a_reward_model_picks_by_its_own_score(distil, folder, reward_folder, tiny_reference):
    mine = shutil.copytree(reward_folder, folder.path / "reward")
    write_json(mine / "model.json", tiny_reference)

    result = distil(rewards=[], reward_model=str(mine))

    assert {row["best_of"] for row in rows_of(folder)} == {3}
    assert result["score_best"] >= result["score_mean"]


def test_a_run_that_was_stopped_goes_on_after_its_last_batch(distil, folder):
    whole = distil(batch_size=3)
    rows = rows_of(folder)
    kept = (folder.path / "teacher.jsonl").read_text().splitlines(keepends=True)
    (folder.path / "teacher.jsonl").write_text("".join(kept[:2]) + kept[2][:20])
    (folder.path / "stop").touch()
    with pytest.raises(Stopped):
        distil(batch_size=3)
    (folder.path / "stop").unlink()

    assert distil(batch_size=3) == whole
    assert rows_of(folder) == rows


def test_held_out_prompts_are_answered_to_be_scored_and_give_no_rows(distil, folder):
    rows = distil() and rows_of(folder)
    write_prompts(folder.path / "eval_prompts.jsonl")

    distil(eval_prompts=5)

    events = map(json.loads, (folder.path / "events.jsonl").open())
    values = [event["values"] for event in events if event["type"] == "metrics"]
    (found,) = [each for each in values if "eval_score" in each]
    assert 0 < found["eval_share"] <= 1
    assert rows_of(folder) == rows


def test_a_teacher_without_a_usable_answer_is_said_in_words(distil):
    with pytest.raises(RunError, match="No answer of the teacher is left to learn from: 5 cut off"):
        distil(max_new_tokens=1)


def test_a_prompt_version_teaches_with_its_words_and_the_rows_have_the_prompt_alone(
    folder, tiny_reference, prompts_file
):
    write_json(folder.path / "prompting.json", Prompting(system="Be brief.").to_dict())
    teacher = {**tiny_reference, "prompting": str(folder.path / "prompting.json")}

    result = run(DistillConfig(teacher, rewards=[SHORT], max_new_tokens=24), folder)

    around = (folder.path / "prompting.jsonl").read_text().splitlines()
    assert (len(around), result["prompting"]["examples_mean"]) == (5, 0)
    assert {row["messages"][0]["role"] for row in rows_of(folder)} == {"user"}
