import json
import os
import time

import pytest
import torch

from rlhf.training.artifacts import Stopped, read_json, write_json
from rlhf.training.config import ConverseConfig
from rlhf.training.converse import load_speakers, run, two_answers_each, waiting_questions


@pytest.fixture
def config(tiny_reference):
    return ConverseConfig(tiny_reference, max_new_tokens=8, temperature=1.0, idle_minutes=0.005)


def ask(folder, name, *contents):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    (folder.path / "asked").mkdir(exist_ok=True)
    write_json(folder.path / "asked" / f"{name}.json", {"messages": messages})


def events(folder):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["type"] for line in lines]


def answered(folder, name):
    return read_json(folder.path / "answered" / f"{name}.json")


def test_each_question_gets_two_different_answers_and_the_run_ends_when_nobody_asks(config, folder):
    ask(folder, 1, "Why?")
    ask(folder, 2, "How do I open the door?", "Push it.", "Which one?")

    result = run(config, folder)

    texts = [{a["text"] for a in answered(folder, name)["answers"]} for name in (1, 2)]
    assert [len(both) for both in texts] == [2, 2]
    assert result["turns"] == 2
    assert events(folder).count("metrics") == 1  # they waited together, and were answered together
    assert list((folder.path / "asked").iterdir()) == []


def test_with_a_rival_each_side_gives_one_answer(config, folder, tiny_reference):
    ask(folder, 1, "Why?")

    run(ConverseConfig(**{**config.to_dict(), "rival": tiny_reference}), folder)

    assert [a["side"] for a in answered(folder, 1)["answers"]] == ["policy", "rival"]


def test_a_conversation_that_is_too_long_is_told_so(config, folder):
    ask(folder, 1, "Why? " * 50)
    ask(folder, 2, "Why?")

    run(ConverseConfig(**{**config.to_dict(), "max_prompt_tokens": 20}), folder)

    assert "begin a new one" in answered(folder, 1)["error"]
    assert len(answered(folder, 2)["answers"]) == 2


def test_a_question_of_long_ago_is_not_answered(folder):
    ask(folder, 1, "Why?")
    long_ago = time.time() - 3600
    os.utime(folder.path / "asked" / "1.json", (long_ago, long_ago))

    assert waiting_questions(folder.path / "asked") == []
    assert list((folder.path / "asked").iterdir()) == []


def test_a_request_to_stop_ends_it_before_it_answers(config, folder):
    ask(folder, 1, "Why?")
    folder.interrupt()

    with pytest.raises(Stopped):
        run(config, folder)

    assert (folder.path / "asked" / "1.json").exists()


def test_answers_that_are_the_same_are_sampled_anew(config, folder):
    sure = ConverseConfig(**{**config.to_dict(), "max_new_tokens": 1, "temperature": 5.0})
    speakers = load_speakers(sure)
    ask(folder, 1, "Why?")
    questions = waiting_questions(folder.path / "asked")

    answers = [
        two_answers_each(questions, speakers, sure, torch.Generator().manual_seed(seed), folder)[0]
        for seed in range(20)
    ]

    assert all(len({answer.text for answer in both}) == 2 for both in answers)
