import json

import pytest
import torch
from torch.testing import assert_close

from rlhf.training import trunk
from rlhf.training.artifacts import RunError, Stopped
from rlhf.training.config import GenerateConfig
from rlhf.training.data import PromptLine, read_prompts
from rlhf.training.forward import (
    backbone_of,
    collate,
    completion_logprobs,
    layers_of,
    vocabulary_head,
)
from rlhf.training.generate import encode_prompts, length_buckets, read_kept, run, sample
from rlhf.training.models import ScalarHead, encode, load_policy, stop_ids

CPU = torch.device("cpu")
EXACT = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def policy(tiny_reference):
    return load_policy(tiny_reference)


@pytest.fixture(scope="module")
def prompts(policy):
    texts = ["Why?", "How do I open the door?", "Tell me about the old red lamp in my house."]
    return [encode(policy[1], [{"role": "user", "content": text}]) for text in texts]


def draw(policy, prompts, seed=0, **settings):
    model, tokenizer = policy
    settings = {
        "stop": stop_ids(model, tokenizer),
        "max_new_tokens": 12,
        "temperature": 0.8,
    } | settings
    return sample(model, prompts, generator=torch.Generator().manual_seed(seed), **settings)


def kept_logprobs(sampled):
    return torch.cat([torch.tensor(completion.logprobs) for completion in sampled])


def forced_logprobs(policy, prompts, sampled):
    batch = collate(prompts, [completion.ids for completion in sampled], CPU)
    with torch.no_grad():
        return completion_logprobs(backbone_of(policy[0]), vocabulary_head(policy[0]), batch, 0.8)


def test_kept_log_probabilities_equal_teacher_forcing(policy, prompts):
    sampled = draw(policy, prompts * 4)

    assert_close(kept_logprobs(sampled), forced_logprobs(policy, prompts * 4, sampled), **EXACT)


def test_a_completion_ends_at_its_stop_token_or_is_truncated(policy, prompts):
    stop = stop_ids(*policy)

    for completion in draw(policy, prompts * 8):
        ends = [token in stop for token in completion.ids]
        assert sum(ends) == (0 if completion.truncated else 1)
        assert completion.truncated or ends[-1]
        assert not completion.truncated or len(completion.ids) == 12


def test_several_stop_tokens(policy, prompts):
    comma = policy[1].convert_tokens_to_ids(".")

    sampled = draw(policy, prompts * 8, stop={comma, *stop_ids(*policy)})

    assert {completion.ids[-1] for completion in sampled if not completion.truncated} >= {comma}
    assert all(comma not in completion.ids[:-1] for completion in sampled)


def test_finished_rows_leave_the_batch_without_disturbing_the_others(policy, prompts):
    """The first tokens of all rows are drawn together, so up to the first end the texts agree
    with those of a run that never drops a row."""
    dropping = draw(policy, prompts)
    keeping = draw(policy, prompts, stop=set())

    first_end = min(len(completion.ids) for completion in dropping)
    assert [c.ids[:first_end] for c in dropping] == [c.ids[:first_end] for c in keeping]


def test_completions_of_one_prompt_share_its_prefill_and_differ(policy, prompts):
    sampled = draw(policy, prompts[:1], completions_per_prompt=6)

    assert len({tuple(completion.ids) for completion in sampled}) > 1
    assert_close(kept_logprobs(sampled), forced_logprobs(policy, prompts[:1] * 6, sampled), **EXACT)


def test_entropy_is_of_the_distribution_drawn_from(policy, prompts):
    completion = draw(policy, prompts[:1])[0]

    with torch.no_grad():
        logits = policy[0](torch.tensor([prompts[0]])).logits[0, -1] / 0.8
    expected = -(logits.softmax(-1) * logits.log_softmax(-1)).sum()
    assert_close(torch.tensor(completion.entropies[0]), expected)


def test_kept_values_and_states_equal_teacher_forcing(policy, prompts):
    backbone = backbone_of(policy[0])
    head = ScalarHead(backbone.config.hidden_size)

    sampled = draw(
        policy, prompts[:2], completions_per_prompt=3, value_head=head,
        watch=layers_of(backbone)[1][1],
    )  # fmt: skip

    for prompt, completion in zip([p for p in prompts[:2] for _ in range(3)], sampled, strict=True):
        with torch.no_grad():
            output = backbone(torch.tensor([prompt + completion.ids]), output_hidden_states=True)
            values = head(output.last_hidden_state[0, len(prompt) - 1 : -1])
        assert_close(torch.tensor(completion.values), values, **EXACT)
        assert_close(completion.states, output.hidden_states[1][0], atol=1e-5, rtol=1e-5)


def test_large_states_are_mapped_to_a_file_without_a_name(policy, prompts, tmp_path, monkeypatch):
    watch = layers_of(backbone_of(policy[0]))[1][1]
    in_memory = draw(policy, prompts, watch=watch)
    monkeypatch.setattr(trunk, "MOST_IN_MEMORY", 0)

    mapped = draw(policy, prompts, watch=watch, states_file=tmp_path / "states")

    for found, expected in zip(mapped, in_memory, strict=True):
        assert torch.equal(found.states, expected.states)
    assert list(tmp_path.iterdir()) == []


def test_sampling_stops_when_asked(policy, prompts):
    with pytest.raises(Stopped):
        draw(policy, prompts, should_stop=lambda: True)


def test_prompts_that_are_too_long_are_left_out_and_counted(policy):
    lines = [PromptLine(1, [{"role": "user", "content": "Why?"}]),
             PromptLine(2, [{"role": "user", "content": "Why? " * 50}])]  # fmt: skip

    fitting, too_long = encode_prompts(policy[1], lines, max_prompt_tokens=20)

    assert ([prompt.line.id for prompt in fitting], too_long) == ([1], 1)


def test_when_all_prompts_are_too_long_the_sentence_says_how_long_the_shortest_is(policy):
    lines = [PromptLine(1, [{"role": "user", "content": "Why? " * 50}])]

    with pytest.raises(RunError, match="All 1 prompts are longer than 20 tokens; the shortest has"):
        encode_prompts(policy[1], lines, max_prompt_tokens=20)


def test_buckets_hold_prompts_of_similar_length(policy):
    lines = [PromptLine(n, [{"role": "user", "content": "Why? " * n}]) for n in (3, 1, 4, 2)]
    fitting, _ = encode_prompts(policy[1], lines, 100)

    buckets = length_buckets(fitting, 2)

    assert [[prompt.line.id for prompt in bucket] for bucket in buckets] == [[1, 2], [3, 4]]


def test_the_run_writes_the_completions_of_every_prompt(tiny_reference, folder, prompts_file):
    config = GenerateConfig(
        tiny_reference, completions_per_prompt=2, max_new_tokens=10, batch_size=4
    )

    result = run(config, folder)

    lines = (folder.path / "artifact" / "completions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    ids = [prompt.id for prompt in read_prompts(prompts_file)]
    assert [(row["id"], row["index"]) for row in rows] == [(i, n) for i in ids for n in (0, 1)]
    assert (result["n_prompts"], result["n_completions"]) == (5, 10)
    assert result["tokens"] == {"written": sum(row["n_tokens"] for row in rows)}


def test_an_interrupted_run_goes_on_to_the_same_text(tiny_reference, folder, prompts_file):
    config = GenerateConfig(
        tiny_reference, completions_per_prompt=2, max_new_tokens=10, batch_size=4
    )
    run(config, folder)
    whole = (folder.path / "artifact" / "completions.jsonl").read_bytes()
    kept = folder.path / "generated.jsonl"
    first, second, *_ = kept.read_text().splitlines()
    kept.write_text(first + "\n" + second[:20])  # killed in the middle of the second line

    run(config, folder)

    assert (folder.path / "artifact" / "completions.jsonl").read_bytes() == whole


def test_a_half_written_line_is_not_a_finished_batch(tmp_path):
    path = tmp_path / "generated.jsonl"
    path.write_text('[0, [[1, 0, "Yes.", 2, false]]]\n[1, [[2, 0, "N')

    assert list(read_kept(path)) == [0]
    assert path.read_text() == '[0, [[1, 0, "Yes.", 2, false]]]\n'
