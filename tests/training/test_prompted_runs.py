"""Runs and the model server ask with what a prompt version puts around each question."""

import json
from dataclasses import replace

import pytest

from rlhf.training import ask, evaluate, generate
from rlhf.training.artifacts import RunFolder, write_json
from rlhf.training.config import EvaluateConfig, GenerateConfig
from rlhf.training.models import encode, load_policy
from rlhf.training.prompting import Prompting
from rlhf.training.serve import Request, Ticket
from rlhf.training.serve_batch import encode_messages
from rlhf.training.serve_models import Base
from tests.rlhf.stand_in import StandIn

EXAMPLES = [
    {"messages": [{"role": "user", "content": f"Why {n}?"}], "answer": "Clean.", "origin": {}}
    for n in range(3)
]


@pytest.fixture
def prompting_file(tmp_path):
    prompting = Prompting(system="Tell me.", template="{prompt} Why?", examples=EXAMPLES)
    write_json(tmp_path / "prompting.json", prompting.to_dict())
    return str(tmp_path / "prompting.json")


@pytest.fixture
def prompted(tiny_reference, prompting_file):
    return {**tiny_reference, "prompting": prompting_file}


def events(folder, kind):
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def test_a_run_shows_the_whole_prompt_and_keeps_what_was_in_it(prompted, folder, prompts_file):
    config = GenerateConfig(prompted, completions_per_prompt=1, max_new_tokens=4)

    result = generate.run(config, folder)

    assert [m["role"] for m in events(folder, "sample")[0]["prompt"]] == [
        "system", *["user", "assistant"] * 3, "user",
    ]  # fmt: skip
    rows = (folder.path / "prompting.jsonl").read_text().splitlines()
    assert [json.loads(row)["n_examples"] for row in rows] == [3] * 5
    assert result["prompting"]["examples_mean"] == 3.0


def test_examples_are_left_out_by_the_tokens_of_the_model_itself(
    prompted, folder, prompts_file, tiny_reference
):
    _, tokenizer = load_policy(tiny_reference)
    lines = generate.read_prompts(prompts_file)[:1]
    whole, _ = generate.encode_arranged(prompted, tokenizer, lines, 512, 16, folder)
    budget = Prompting(
        system="Tell me.", template="{prompt} Why?", examples=EXAMPLES,
        budget_tokens=len(whole[0].ids) - 1,
    )  # fmt: skip
    write_json(folder.path / "smaller.json", budget.to_dict())
    smaller = {**tiny_reference, "prompting": str(folder.path / "smaller.json")}

    (prompt,), _ = generate.encode_arranged(smaller, tokenizer, lines, 512, 16, folder)

    assert len(prompt.ids) < len(whole[0].ids)
    assert len(prompt.line.messages) == len(whole[0].line.messages) - 2


def test_a_prompt_version_and_its_policy_answer_the_same_prompts(
    prompted, tiny_reference, folder, prompts_file
):
    config = EvaluateConfig(prompted, tiny_reference, max_new_tokens=4, max_prompt_tokens=40)

    result = evaluate.run(config, folder)

    assert (result["n_pairs"], result["left_out"]) == (5, {"too_long": 0})
    assert (folder.path / "prompting-new.jsonl").exists()
    assert not (folder.path / "prompting-old.jsonl").exists()


def test_an_endpoint_is_sent_the_whole_prompt(prompting_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ask, "POLL_SECONDS", 0.02)
    row = {"id": 1, "messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    with StandIn() as server:
        reference = {**server.reference(), "prompting": prompting_file}
        config = GenerateConfig(reference, completions_per_prompt=1, max_new_tokens=4)
        ask.run(replace(config), RunFolder(tmp_path))

    sent = server.asked[0]["messages"]
    assert (len(sent), sent[0]["content"], sent[-1]["content"]) == (8, "Tell me.", "Hi Why?")


def test_the_model_server_puts_it_around_what_it_is_asked(tiny_reference, prompted):
    base = Base(*load_policy(tiny_reference))
    asked = [{"role": "user", "content": "What is a red cup?"}]

    bare = encode_messages(base, Ticket(Request(tiny_reference, asked)))
    whole = encode_messages(base, Ticket(Request(prompted, asked)))

    assert bare == encode(base.tokenizer, asked)
    assert whole[-len(encode(base.tokenizer, [{"role": "user", "content": "Why?"}])) :] != bare
    assert len(whole) > len(bare)
