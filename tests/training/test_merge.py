import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.training.config import MergeConfig
from rlhf.training.merge import run
from rlhf.training.models import load_policy, lora_config, save_adapter

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def reference(tiny_reference, tmp_path):
    """A policy of round 2: two adapters on the tiny model."""
    adapters = []
    for number in (1, 2):
        base, _ = load_policy({**tiny_reference, "adapters": adapters})
        torch.manual_seed(number)
        model = get_peft_model(base, lora_config(base, 4), adapter_name="policy")
        for path, parameter in model.named_parameters():
            if ".lora_B." in path:
                torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        save_adapter(model, "policy", folder)
        adapters.append(str(folder))
    return {**tiny_reference, "adapters": adapters}


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def test_what_was_merged_loads_without_us_and_computes_the_same(reference, folder, tmp_path):
    result = run(MergeConfig(reference, str(tmp_path / "merged")), folder)

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ours, tokenizer = load_policy(reference)
    torch.testing.assert_close(logits(merged), logits(ours), atol=0, rtol=0)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert theirs.chat_template == tokenizer.chat_template
    assert result["bytes"] > 4 * merged.num_parameters()


def test_half_the_bytes_if_so_wished(reference, folder, tmp_path):
    run(MergeConfig(reference, str(tmp_path / "merged"), dtype="bfloat16"), folder)

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16


def test_adapters_load_with_peft_as_the_model_card_says(reference):
    model = AutoModelForCausalLM.from_pretrained(reference["base"])
    for folder in reference["adapters"]:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()

    torch.testing.assert_close(logits(model), logits(load_policy(reference)[0]), atol=0, rtol=0)
