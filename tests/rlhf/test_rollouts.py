import json
import tracemalloc

import pytest

from rlhf.rollouts import Baseline, Choice, baseline_of, find_lines, is_suspicious, read_answers

PROMPTS = {1: "Why is the sky blue?", 2: "What is tea?"}


@pytest.fixture
def write(tmp_path):
    """Write the rollout of a step; gives back the run's folder."""
    lines = [
        {"id": key, "messages": [{"role": "user", "content": text}]}
        for key, text in PROMPTS.items()
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "rollouts").mkdir()

    def write(step, *rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "rollouts" / f"step-{step:05d}.jsonl").write_text(text)
        return tmp_path

    return write


def row(text="", prompt=1, score=0.0, kl=0.0, n_tokens=10, repetition=0.0):
    return {
        "id": prompt, "completion": text, "score": score, "kl": kl, "n_tokens": n_tokens,
        "truncated": False, "repetition": repetition,
    }  # fmt: skip


def texts(folder, **choice):
    lines = find_lines(folder, Choice(**choice))
    return [answer.completion for answer in read_answers(folder, lines)]


def test_newest_step_comes_first_and_a_step_in_its_order(write):
    write(1, row("a"), row("b"))
    folder = write(2, row("c"), row("d"))

    assert texts(folder) == ["c", "d", "a", "b"]
    assert texts(folder, first=1, last=1) == ["a", "b"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("score-high", ["b", "c", "a"]), ("score-low", ["a", "c", "b"]), ("kl-high", ["c", "b", "a"]),
     ("n_tokens-low", ["b", "a", "c"]), ("repetition-high", ["a", "c", "b"])],
)  # fmt: skip
def test_answers_are_sorted_by_any_of_their_numbers(write, order, expected):
    folder = write(
        1,
        row("a", score=-1, kl=0, n_tokens=5, repetition=0.5),
        row("b", score=2, kl=1, n_tokens=4, repetition=0.0),
        row("c", score=0, kl=2, n_tokens=6, repetition=0.2),
    )

    assert texts(folder, order=order) == expected


def test_answers_that_members_disagree_about_come_first_and_those_without_members_last(write):
    folder = write(
        1, row("alone"), row("little") | {"disagreement": 0.1}, row("much") | {"disagreement": 2}
    )

    assert texts(folder, order="disagreement-high") == ["much", "little", "alone"]


def test_text_is_found_in_prompt_and_answer_in_any_case(write):
    folder = write(
        1, row("Because.", prompt=1), row("A DRINK", prompt=2), row("drink water", prompt=1)
    )

    assert texts(folder, text="Drink") == ["A DRINK", "drink water"]
    assert texts(folder, text="sky BLUE") == ["Because.", "drink water"]


def test_answer_comes_with_its_prompt_or_without_if_it_is_gone(write):
    folder = write(1, row("a", prompt=2), row("b", prompt=9))

    known, gone = read_answers(folder, find_lines(folder, Choice()))

    assert (known.prompt, gone.messages) == ("What is tea?", [])


def test_prompts_that_no_answer_asks_for_are_not_kept(write):
    """Of 20 MB of prompts one is on the page."""
    folder = write(1, row("a", prompt=2))
    others = ({"id": key, "messages": [{"content": "x" * 2**16}]} for key in range(3, 300))
    with (folder / "prompts.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in others)
    lines = find_lines(folder, Choice(text="tea"))

    tracemalloc.start()
    (answer,) = read_answers(folder, lines)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.prompt == "What is tea?"
    assert peak_bytes < 2**21


def test_baseline_is_the_upper_quartile_of_the_score_and_the_mean_length(write):
    folder = write(1, *[row(score=score, n_tokens=score) for score in (4, 1, 3, 2)])

    assert baseline_of((folder / "rollouts").iterdir()) == Baseline(score=3, n_tokens=2.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"score": 2, "kl": 31}, True),
        ({"score": 2, "n_tokens": 21}, True),
        ({"score": 2, "repetition": 0.31}, True),
        ({"score": 2, "kl": 30, "n_tokens": 20, "repetition": 0.3}, False),
        ({"score": 1, "kl": 99, "n_tokens": 99, "repetition": 0.9}, False),  # no high score
    ],
)
def test_high_score_with_kl_length_or_repetition_running_away_is_suspicious(values, expected):
    assert is_suspicious(row(**values), Baseline(score=1, n_tokens=10)) == expected


def test_suspicious_is_measured_by_the_first_three_steps(write):
    for step in (1, 2, 3):
        write(step, row(score=1.0, n_tokens=10))
    folder = write(4, row("long", score=1.5, n_tokens=21), row("short", score=1.5))

    assert texts(folder, suspicious=True) == ["long"]
    assert texts(folder, suspicious=True, last=3) == []


def test_run_that_did_not_report_length_and_repetition_still_shows(write):
    old = {"id": 1, "completion": "old", "score": 1.0, "kl": 40.0}
    folder = write(1, {**old, "completion": "older", "score": 0.0}, old)

    (line, _) = find_lines(folder, Choice(order="n_tokens-high"))

    assert (line.n_tokens, line.repetition, line.truncated) == (None, None, False)
    assert texts(folder, order="score-high") == ["old", "older"]


def test_line_being_written_is_left_out(write):
    folder = write(1, row("whole"))
    with (folder / "rollouts" / "step-00001.jsonl").open("a") as file:
        file.write('{"id": 1, "compl')

    assert texts(folder) == ["whole"]


def test_run_without_rollouts_has_no_answers(tmp_path):
    assert find_lines(tmp_path, Choice(text="a", suspicious=True)) == []
