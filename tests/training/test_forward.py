from itertools import count

import pytest
import torch
from torch.testing import assert_close

from rlhf.training import forward
from rlhf.training.forward import (
    backbone_of,
    collate,
    completion_logprobs,
    is_alike,
    is_trunk_reusable,
    layers_of,
    score,
    token_kls,
    token_logprobs,
    top_layers,
    vocabulary_head,
    watching,
)
from rlhf.training.models import ScalarHead, encode, encode_completion, load_policy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(tiny_reference):
    return load_policy(tiny_reference)


def logprobs(model, batch, temperature=1.0):
    with torch.no_grad():
        return completion_logprobs(backbone_of(model), vocabulary_head(model), batch, temperature)


# --- batches ------------------------------------------------------------------------------------
def test_what_counts_comes_from_lengths_also_when_the_padding_token_ends_completions():
    batch = collate([[5], [6, 7]], [[8, 2], [9]], CPU)

    assert batch.inputs["input_ids"].tolist() == [[5, 8, 2], [6, 7, 9]]
    assert batch.before.tolist() == [[True, True, False], [False, True, False]]
    assert batch.targets.tolist() == [8, 2, 9]
    assert batch.last.tolist() == [2, 2]


def test_padding_does_not_change_log_probabilities(policy):
    model, tokenizer = policy
    prompts = [
        encode(tokenizer, [{"role": "user", "content": text}]) for text in ("Why?", "A cup.")
    ]
    prompts[1] = prompts[1] + prompts[0]  # of very different lengths
    completions = [encode_completion(tokenizer, text) for text in ("Try it.", "No.")]

    together = logprobs(model, collate(prompts, completions, CPU), 0.7)

    alone = [
        logprobs(model, collate([prompt], [completion], CPU), 0.7)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_log_probabilities_equal_those_of_a_batch_padded_on_the_left(policy):
    """As others do it: with a mask, and positions counted from the first real token."""
    model, _ = policy
    prompts, completions = [[5], [6, 7, 8, 9]], [[11, 12], [13, 14]]
    ids = torch.tensor([[0, 0, 0, 5, 11, 12], [6, 7, 8, 9, 13, 14]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 3:5]
    left = (logits / 0.7).log_softmax(-1).gather(-1, ids[:, 4:].unsqueeze(-1))

    ours = logprobs(model, collate(prompts, completions, CPU), 0.7)
    assert_close(ours, left.flatten(), atol=1e-5, rtol=0)


def test_the_score_is_read_at_the_last_real_token(policy):
    layers = backbone_of(policy[0])
    torch.manual_seed(0)
    head = ScalarHead(layers.config.hidden_size)

    short = score(layers, head, collate([[5, 6]], [[7, 2]], CPU))
    padded = score(layers, head, collate([[5, 6], [5]], [[7, 2], [8, 9, 9, 9]], CPU))
    cut = score(layers, head, collate([[5, 6]], [[7]], CPU))

    assert_close(padded[0], short[0], atol=1e-5, rtol=0)
    assert not torch.allclose(cut, short, atol=1e-4)


# --- log-probabilities --------------------------------------------------------------------------
def test_log_probabilities_are_of_the_distribution_at_the_sampling_temperature(policy):
    model, tokenizer = policy
    prompt = encode(tokenizer, [{"role": "user", "content": "Why?"}])

    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]

    found = logprobs(model, collate([prompt], [[7]], CPU), 0.5)
    assert_close(found[0], (logits / 0.5).log_softmax(-1)[7])


@pytest.mark.parametrize("at_once", [1, 3 * 11, 10_000])
def test_chunked_log_probabilities_equal_those_of_all_logits(monkeypatch, at_once):
    """Seven tokens of a vocabulary of eleven, in chunks of 1, 3 and 7: values and gradients."""
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", at_once)
    torch.manual_seed(0)
    hidden, targets = torch.randn(7, 4, requires_grad=True), torch.randint(11, (7,))
    head, weights = torch.nn.Linear(4, 11), torch.randn(7)
    expected = (head(hidden) / 0.7).log_softmax(-1)
    (gradient,) = torch.autograd.grad((weights * expected[torch.arange(7), targets]).sum(), hidden)

    found, entropies = token_logprobs(hidden, head, targets, 0.7)
    (weights * found).sum().backward()

    assert_close(found, expected[torch.arange(7), targets])
    assert_close(entropies, -(expected.exp() * expected).sum(-1))
    assert_close(hidden.grad, gradient)


# --- the trunk ----------------------------------------------------------------------------------
@pytest.mark.parametrize("at_once", [1, 7 * 3, 2**22])
def test_the_kl_of_a_token_is_summed_over_the_whole_vocabulary(monkeypatch, at_once):
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", at_once)
    own, other = torch.randn(2, 5, 4)  # five places
    heads = [torch.nn.Linear(4, 7, bias=False) for _ in range(2)]
    logprobs = [
        (head(states) / 0.7).log_softmax(-1)
        for head, states in zip(heads, (own, other), strict=True)
    ]

    found = token_kls((own, heads[0]), (other, heads[1]), temperature=0.7)

    expected = torch.nn.functional.kl_div(
        logprobs[1], logprobs[0], log_target=True, reduction="none"
    )
    assert_close(found, expected.sum(-1))
    assert_close(token_kls((own, heads[0]), (own, heads[0]), 0.7), torch.zeros(5))


def test_the_top_layers_on_the_trunks_states_repeat_the_whole_forward(policy):
    model, _ = policy
    backbone = backbone_of(model)
    prompts, completions = [[5, 6, 7], [5]], [[7, 2], [8, 9, 9, 9]]
    with torch.no_grad(), watching(layers_of(backbone)[1][-1]) as watch:
        backbone(collate(prompts, completions, CPU).inputs["input_ids"])
    states = [watch.states[0, :5], watch.states[1, :5]]

    from_states = completion_logprobs(
        top_layers(backbone, 1),
        vocabulary_head(model),
        collate(prompts, completions, CPU, states),
        1.0,
    )

    assert_close(
        from_states, logprobs(model, collate(prompts, completions, CPU)), atol=1e-5, rtol=0
    )


def test_a_model_whose_layers_cannot_be_run_alone_is_found_out(policy, monkeypatch):
    model, _ = policy
    backbone = backbone_of(model)
    assert is_trunk_reusable(model, 1)

    # As GPT-2 does it: something is added to the inputs, whichever way they come.
    whole = type(backbone).forward

    def with_offset(self, input_ids=None, inputs_embeds=None, **kwargs):
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return whole(self, inputs_embeds=embedded + 1.0, **kwargs)

    monkeypatch.setattr(type(backbone), "forward", with_offset)

    assert not is_trunk_reusable(model, 1)


def test_layers_of_mixed_attention_are_not_run_apart_from_the_trunk(policy, monkeypatch):
    model, _ = policy
    kinds = ["sliding_attention", "full_attention"]
    monkeypatch.setattr(model.config, "layer_types", kinds, raising=False)

    assert not is_trunk_reusable(model, 1)


def test_rounding_is_no_reason_to_run_all_layers(policy):
    model, _ = policy
    calls = count()

    def rounded(module, inputs, states):  # otherwise each time, by 1e-4 of their length
        return states + next(calls) * 1e-4 * states.norm(dim=-1, keepdim=True) / 64**0.5

    handle = backbone_of(model).norm.register_forward_hook(rounded)

    assert is_trunk_reusable(model, 1)
    assert next(calls) == 2
    handle.remove()


@pytest.mark.parametrize(
    ("dtype", "off", "expected"),
    [
        (torch.float32, 0.05, True), (torch.float32, 0.2, False),
        (torch.bfloat16, 5.0, True), (torch.bfloat16, 20.0, False),
    ],
)  # fmt: skip
def test_states_are_alike_by_their_length_and_the_farthest_counts(dtype, off, expected):
    states = torch.tensor([[60.0, 80.0], [100.0, 0.0]], dtype=dtype)
    others = states + torch.tensor([[0.0, 0.0], [0.0, off]], dtype=dtype)

    assert is_alike(others, states) == expected
    assert not is_alike(others * float("nan"), states)


def test_in_bf16_a_nearly_certain_token_has_the_gradient_it_has_in_fp32():
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 50, bias=False)
    hidden = 40 * head.weight[:5].detach()  # the first five tokens are all but certain
    found = []
    head.weight.data = head.weight.data.bfloat16().float()  # the same numbers in both
    for dtype in (torch.float32, torch.bfloat16):
        states = hidden.bfloat16().to(dtype).detach().requires_grad_()
        head.to(dtype)
        token_logprobs(states, head, torch.arange(5), 1.0)[0].sum().backward()
        found.append(states.grad.float())

    assert_close(found[1], found[0], atol=0.1 * float(found[0].abs().max()), rtol=0.1)
