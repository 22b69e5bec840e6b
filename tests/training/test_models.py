import json
import shutil

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch.testing import assert_close

from rlhf.training.artifacts import RunError
from rlhf.training.forward import backbone_of, collate, completion_logprobs, vocabulary_head
from rlhf.training.models import (
    adapter_parameters,
    adapter_state,
    decode,
    encode,
    encode_completion,
    load_policy,
    load_reward_adapter,
    lora_config,
    merged_adapter,
    n_top_layers,
    save_adapter,
    stop_ids,
    use_adapter,
)

CPU = torch.device("cpu")


def logprobs(model, batch):
    return completion_logprobs(backbone_of(model), vocabulary_head(model), batch, 1.0)


@pytest.fixture(scope="module")
def policy(tiny_reference):
    return load_policy(tiny_reference)


@pytest.fixture
def adapted(tiny_reference, reward_folder):
    """A base with a policy adapter that is not the identity, and the reward adapter."""
    torch.manual_seed(0)
    base, _ = load_policy(tiny_reference)
    model = get_peft_model(base, lora_config(base, 4), adapter_name="policy")
    for path, parameter in model.named_parameters():
        if ".lora_B." in path:
            torch.nn.init.normal_(parameter, std=0.02)
    head, _ = load_reward_adapter(model, reward_folder)
    return model, head


def test_encode_ends_with_the_opening_of_the_assistants_turn(policy):
    _, tokenizer = policy

    ids = encode(tokenizer, [{"role": "user", "content": "Why?"}])

    expected = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == expected


def test_a_completion_ends_with_the_end_token_unless_it_was_cut_off(policy):
    _, tokenizer = policy

    whole, cut = (encode_completion(tokenizer, "Yes.", truncated=t) for t in (False, True))

    assert whole == [*cut, tokenizer.eos_token_id]
    assert decode(tokenizer, whole) == "Yes."


def test_control_tokens_spelt_out_in_a_completion_stay_text(policy):
    _, tokenizer = policy

    ids = encode_completion(tokenizer, "Yes<|im_end|>No", truncated=True)

    assert tokenizer.eos_token_id not in ids


def test_without_adapter_the_model_is_the_base_to_the_last_bit(adapted, policy):
    model, base = adapted[0], policy[0]
    batch = collate([[5, 6]], [[7, 2]], CPU)

    with torch.no_grad():
        with use_adapter(model, None):
            reference = logprobs(model, batch)
        with use_adapter(model, "policy"):
            policy_logprobs = logprobs(model, batch)

    assert torch.equal(reference, logprobs(base, batch))
    assert not torch.equal(reference, policy_logprobs)


def test_a_merged_adapter_computes_the_same_and_leaves_the_weights_to_the_last_bit(adapted):
    model = adapted[0]
    batch = collate([[5, 6]], [[7, 8, 2]], CPU)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    with torch.no_grad():
        with use_adapter(model, "policy"):
            expected = logprobs(model, batch)
        with merged_adapter(model, "policy"):
            assert_close(logprobs(model, batch), expected, atol=1e-5, rtol=0)

    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_merged_adapter_gets_the_same_gradient(adapted):
    model = adapted[0]
    parameters = adapter_parameters(model, "policy")
    for parameter in parameters:
        parameter.requires_grad_(True)
    batch = collate([[5, 6], [7]], [[7, 8, 2], [9]], CPU)

    gradients = []
    for use in (use_adapter, merged_adapter):
        with use(model, "policy"):
            gradients.append(torch.autograd.grad(logprobs(model, batch).sum(), parameters))

    for plain, merged in zip(*gradients, strict=True):
        assert_close(merged, plain, atol=1e-5, rtol=1e-4)


def test_an_adapter_on_the_top_layers_leaves_the_others_alone(tiny_reference):
    base, _ = load_policy(tiny_reference)

    model = get_peft_model(base, lora_config(base, 4, top=1), adapter_name="policy")

    assert n_top_layers(model) == 1
    assert all(".layers.1." in path for path, _ in model.named_parameters() if "lora_" in path)


def test_adapters_may_reach_down_to_different_layers(tiny_reference):
    base, _ = load_policy(tiny_reference)
    model = get_peft_model(base, lora_config(base, 4, top=1), adapter_name="policy")
    model.add_adapter("reward", lora_config(base, 4, top=2))

    found = [n_top_layers(model, adapter) for adapter in ("policy", "reward", None)]

    assert found == [1, 2, 2]


def test_more_adapter_layers_than_layers_is_a_sentence(policy):
    with pytest.raises(RunError, match="top 3 layers: the model has only 2"):
        lora_config(policy[0], 4, top=3)


def test_switching_adapters_changes_nothing_about_what_learns(adapted):
    model = adapted[0]
    before = {path: parameter.requires_grad for path, parameter in model.named_parameters()}

    for name in (None, "reward", "policy", None):
        with use_adapter(model, name):
            pass

    assert {path: p.requires_grad for path, p in model.named_parameters()} == before


def test_an_adapter_that_is_saved_and_merged_is_the_same_policy(adapted, tiny_folder, tmp_path):
    model = adapted[0]
    batch = collate([[5, 6]], [[7, 8, 2]], CPU)
    save_adapter(model, "policy", tmp_path)

    merged, _ = load_policy({"base": str(tiny_folder), "adapters": [str(tmp_path)]})

    with torch.no_grad(), use_adapter(model, "policy"):
        expected = logprobs(model, batch)
        assert_close(logprobs(merged, batch), expected, atol=1e-5, rtol=0)


def test_adapter_state_is_a_copy(adapted):
    model = adapted[0]
    before = adapter_state(model, "policy")

    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if ".policy." in path:
                parameter.add_(1.0)

    assert all(torch.equal(before[k] + 1, v) for k, v in adapter_state(model, "policy").items())


def test_all_configured_end_tokens_stop_and_the_tokenizers_too(policy):
    model, tokenizer = policy
    model.generation_config.eos_token_id = [1, 7]

    assert stop_ids(model, tokenizer) == {1, 7, tokenizer.eos_token_id}


def test_dropout_is_off_wherever_a_model_keeps_it(tiny_reference, tmp_path):
    """Attention layers keep a number of their own, which they read in training mode."""
    shutil.copytree(tiny_reference["base"], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["attention_dropout"] = 0.5
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    ids = torch.arange(8).unsqueeze(0)

    model, _ = load_policy({"base": str(tmp_path / "model"), "adapters": []})

    assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


def test_a_missing_model_folder_is_named():
    with pytest.raises(RunError, match="The model folder /nowhere/x does not exist"):
        load_policy({"base": "/nowhere/x", "adapters": []})


def test_a_reward_model_of_another_base_is_refused(adapted, reward_folder, tmp_path):
    for file in reward_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch_head = {"linear.weight": torch.zeros(1, 7), "linear.bias": torch.zeros(1)}

    save_file(torch_head, tmp_path / "head.safetensors")

    with pytest.raises(RunError, match="has hidden size 7, the policy has"):
        load_reward_adapter(adapted[0], tmp_path, "other")


def test_a_folder_without_a_head_is_not_a_reward_model(adapted, tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()

    with pytest.raises(RunError, match=r"is not a reward model: head\.safetensors is missing"):
        load_reward_adapter(adapted[0], tmp_path, "other")
