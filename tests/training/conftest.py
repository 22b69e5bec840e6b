"""Reward models with random tastes on the tiny model."""

import json

import pytest
import torch
from peft import get_peft_model

from rlhf.training.artifacts import RunFolder, write_json
from rlhf.training.models import (
    RewardStatistics,
    ScalarHead,
    load_policy,
    lora_config,
    save_adapter,
    save_reward_head,
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Several torch processes with a thread per core each wait for one another, actively.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder):
    return {"base": str(tiny_folder), "adapters": []}


@pytest.fixture(scope="session")
def reward_folder(tiny_reference, tmp_path_factory):
    return make_reward_model(tiny_reference, tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="session")
def top_reward_folder(tiny_reference, tmp_path_factory):
    """With its adapter on the top layer alone."""
    return make_reward_model(tiny_reference, tmp_path_factory.mktemp("top-reward"), top=1)


@pytest.fixture(scope="session")
def ensemble_folder(tiny_reference, tmp_path_factory):
    return make_ensemble(tiny_reference, tmp_path_factory.mktemp("ensemble"))


@pytest.fixture(scope="session")
def top_ensemble_folder(tiny_reference, tmp_path_factory):
    return make_ensemble(tiny_reference, tmp_path_factory.mktemp("top-ensemble"), top=1)


def make_ensemble(reference, folder, top=None, members=3):
    """A reward model with several members; each is as good a reward model by itself."""
    for number in range(members):
        member = folder / "members" / str(number) if number else folder
        member.mkdir(parents=True, exist_ok=True)
        make_reward_model(reference, member, top, seed=number + 1)
        write_json(member / "model.json", reference)
    return folder


def make_reward_model(reference, folder, top=None, seed=1):
    """A reward adapter with random weights: a fixed taste, though nobody's."""
    torch.manual_seed(seed)
    base, _ = load_policy(reference)
    model = get_peft_model(base, lora_config(base, 4, top), adapter_name="reward")
    for path, parameter in model.named_parameters():
        if ".lora_B." in path:
            torch.nn.init.normal_(parameter, std=0.02)
    save_adapter(model, "reward", folder)
    head = ScalarHead(base.config.hidden_size)
    save_reward_head(head, RewardStatistics(mean=0.1 * seed, std=0.5 * seed), folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def prompts_file(folder):
    """Five prompts, as the web process would have written them into the run's folder."""
    return write_prompts(folder.path / "prompts.jsonl")


def write_prompts(path):
    questions = ["How do I open the door?", "What is a red cup?", "Why?", "Tell me about my lamp.",
                 "Should I clean the old window today?"]  # fmt: skip
    lines = [
        json.dumps({"id": number, "messages": [{"role": "user", "content": question}]})
        for number, question in enumerate(questions, 1)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_group_config(tiny_reference, top_reward_folder):
    """Makes a small RLOOConfig or GRPOConfig."""

    def make(kind, **settings):
        small = {"steps": 2, "batch_size": 8, "max_new_tokens": 8, "lora_rank": 4, "samples": 2,
                 "adapter_layers": 1, "learning_rate": 1e-3}  # fmt: skip
        small["reward_model"] = str(top_reward_folder)
        return kind(tiny_reference, **small | settings)

    return make


def reports(folder):
    """The metrics of each step of a run."""
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event["values"] for event in events if event["type"] == "metrics" and event["step"]]
