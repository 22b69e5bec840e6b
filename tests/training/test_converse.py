import json
import os
import time
from dataclasses import replace

import pytest
import torch

from rlhf.training.artifacts import RunError, Stopped, read_json, write_json
from rlhf.training.config import ConverseConfig
from rlhf.training.converse import (
    NO_ANSWER,
    load_speakers,
    run,
    two_answers_each,
    waiting_questions,
)
from rlhf.training.models import encode
from tests.rlhf.stand_in import StandIn


@pytest.fixture
def config(tiny_reference):
    return ConverseConfig(tiny_reference, max_new_tokens=8, temperature=1.0, idle_minutes=0.005)


def ask(folder, name, *contents):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    (folder.path / "asked").mkdir(exist_ok=True)
    write_json(folder.path / "asked" / f"{name}.json", {"messages": messages})


def read_events(folder):
    return [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]


def events(folder):
    return [event["type"] for event in read_events(folder)]


def answered(folder, name):
    return read_json(folder.path / "answered" / f"{name}.json")


def test_each_question_gets_two_different_answers_and_the_run_ends_when_nobody_asks(config, folder):
    ask(folder, 1, "Why?")
    ask(folder, 2, "How do I open the door?", "Push it.", "Which one?")

    result = run(config, folder)

    texts = [{a["text"] for a in answered(folder, name)["answers"]} for name in (1, 2)]
    assert [len(both) for both in texts] == [2, 2]
    assert result["turns"] == 2
    (told,) = [event for event in read_events(folder) if event["type"] == "metrics"]
    assert told["values"]["tokens/written"] >= 4  # they waited together, and were answered together
    assert list((folder.path / "asked").iterdir()) == []


def test_with_a_rival_each_side_gives_one_answer(config, folder, tiny_reference):
    ask(folder, 1, "Why?")

    run(ConverseConfig(**{**config.to_dict(), "rival": tiny_reference}), folder)

    assert [a["side"] for a in answered(folder, 1)["answers"]] == ["policy", "rival"]


def test_a_prompt_version_speaks_with_what_stands_around_each_turn(
    config, tiny_reference, tmp_path
):
    write_json(tmp_path / "prompting.json", {"system": "Be brief.", "template": "{prompt} Why?"})
    prompted = {**tiny_reference, "prompting": str(tmp_path / "prompting.json")}

    plain, around = load_speakers(replace(config, rival=prompted))

    said = [{"role": "user", "content": "Open the door."}]
    whole = [
        {"role": "system", "content": "Be brief."},
        {**said[0], "content": "Open the door. Why?"},
    ]
    assert (plain.encode(said), around.encode(said)) == (
        encode(plain.tokenizer, said), encode(plain.tokenizer, whole),
    )  # fmt: skip
    assert around.count(said) == plain.count(said)  # too long is what people said


@pytest.fixture
def server():
    with StandIn(takes=["n"]) as server:
        yield server


def test_people_talk_to_a_policy_elsewhere_and_its_use_is_told(config, folder, server):
    ask(folder, 1, "Why?")

    run(replace(config, model=server.reference()), folder)
    ask(folder, 2, "Why?")
    run(replace(config, model=server.reference()), folder)  # resumed

    texts = [[a["text"] for a in answered(folder, name)["answers"]] for name in (1, 2)]
    assert (
        len({*texts[0], *texts[1]}) == 4
    )  # the same words again are another turn, with another seed
    used = [event for event in read_events(folder) if event["type"] == "usage"]
    assert (used[-1]["side"], used[-1]["requests"]) == ("new", 2)
    assert not {"progress", "sample"} & set(events(folder))


def test_what_it_does_not_answer_is_said_and_the_others_go_on(config, folder, server):
    server.faults = ["filtered"]
    ask(folder, 1, "Why?")
    run(replace(config, model=server.reference(requests_at_once=1), batch_size=1), folder)
    ask(folder, 2, "How?")
    run(replace(config, model=server.reference(requests_at_once=1), batch_size=1), folder)

    assert answered(folder, 1) == {"error": NO_ANSWER}
    assert len(answered(folder, 2)["answers"]) == 2


def test_nobody_talks_to_it_for_more_than_may_be_spent(config, folder, server, monkeypatch):
    monkeypatch.setenv("PREFERENDUM_ENDPOINTS", json.dumps({"7": {"budget": 1e-6}}))
    ask(folder, 1, "Why?")

    with pytest.raises(RunError, match="The spending limit was reached"):
        run(replace(config, model=server.reference(completion_price=1.0)), folder)

    assert server.asked == []


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
