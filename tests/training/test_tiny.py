import pytest
import torch
from safetensors.torch import load_file

from rlhf.training.generate import sample
from rlhf.training.models import decode, encode, encode_completion, load_policy, stop_ids
from rlhf.training.tiny import build_tiny_model, build_tokenizer


@pytest.fixture(scope="module")
def sampled(tiny_reference):
    """100 completions of one prompt, with the tokenizer."""
    model, tokenizer = load_policy(tiny_reference)
    prompt = encode(tokenizer, [{"role": "user", "content": "How do I fix the lamp?"}])
    generator = torch.Generator().manual_seed(0)
    completions = sample(
        model,
        [prompt],
        stop=stop_ids(model, tokenizer),
        max_new_tokens=60,
        temperature=1.0,
        generator=generator,
        completions_per_prompt=100,
    )
    return completions, tokenizer


def test_answers_end_by_themselves_and_vary_in_length(sampled):
    completions, _ = sampled

    lengths = [len(completion.ids) for completion in completions]

    assert sum(completion.truncated for completion in completions) <= 1
    assert min(lengths) <= 5
    assert max(lengths) >= 18


def test_some_answers_are_polite_and_some_are_not(sampled):
    completions, tokenizer = sampled

    texts = [decode(tokenizer, completion.ids).lower() for completion in completions]
    polite = sum("please" in text or "thank" in text for text in texts)

    assert 15 <= polite <= 60


def test_answers_become_the_same_tokens_again(sampled):
    completions, tokenizer = sampled

    same = [
        encode_completion(tokenizer, decode(tokenizer, c.ids), truncated=c.truncated) == c.ids
        for c in completions
    ]

    assert sum(same) >= 90  # the rest begin with a space or the like


def test_text_of_known_words_survives_the_tokenizer():
    tokenizer = build_tokenizer()
    text = "Please try the red one: it's a 12 year old.\nThank you!"

    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_an_unknown_word_becomes_one_unknown_token():
    tokenizer = build_tokenizer()

    assert tokenizer.tokenize("Boil the quinoa") == ["<unk>", " the", "<unk>"]


def test_the_padding_token_is_the_end_token_as_in_the_embedded_model():
    tokenizer = build_tokenizer()

    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")


def test_the_seed_decides_the_weights_and_nothing_else(tmp_path):
    before = torch.get_rng_state()

    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        build_tiny_model(tmp_path / name, seed=seed, steps=3)
    first, again, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other")
    )

    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.norm.weight"], other["model.norm.weight"])
    assert torch.equal(torch.get_rng_state(), before)
