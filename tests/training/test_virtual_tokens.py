"""What each method of fine-tuning leaves behind is loaded, written with, measured, and served."""

import json
from typing import NamedTuple

import pytest
import torch

from rlhf.training import evaluate, suite
from rlhf.training.artifacts import RunError
from rlhf.training.config import EvaluateConfig
from rlhf.training.generate import Decoding
from rlhf.training.model_judge import at_the_answer
from rlhf.training.models import load_policy
from rlhf.training.parameter_settings import ParameterSettings
from rlhf.training.parameters import load, make_trainable, save, trainable
from rlhf.training.serve import Request, Ticket
from rlhf.training.serve_batch import Batch, encode_messages
from rlhf.training.serve_models import Models
from rlhf.training.suite_config import SuiteConfig
from rlhf.training.suite_metrics import Estimate
from rlhf.training.virtual_tokens import n_virtual_tokens, prefix_of

METHODS = {
    "lora": {"lora_rank": 4},
    "dora": {"lora_rank": 4, "dora": True},
    "rslora": {"lora_rank": 4, "rslora": True},
    "ia3": {"method": "ia3"},
    "prompt": {"method": "prompt", "virtual_tokens": 3},
    "prefix": {"method": "prefix", "virtual_tokens": 3},
}
PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture(scope="module")
def versions(tiny_reference, tmp_path_factory):
    """A policy of each method on the tiny model, that says other things."""
    found = {}
    for name, settings in METHODS.items():
        torch.manual_seed(3)
        chosen = ParameterSettings(**settings)
        model, tokenizer = load(tiny_reference, chosen)
        model = make_trainable(model, chosen)
        for parameter in trainable(model).values():
            parameter.data += 0.1 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp(name)
        save(model, tokenizer, folder, chosen)
        reference = {**tiny_reference, "adapters": [str(folder)]}
        found[name] = Version(reference, what_it_says(model.eval()))
    return found


class Version(NamedTuple):
    reference: dict
    logits: (
        torch.Tensor
    )  # (2, V), of the model that was saved, after each prompt and one more token


@torch.no_grad()
def what_it_says(model):
    rows = [model(input_ids=torch.tensor([[*ids, 11]])).logits[0, -1] for ids in PROMPTS]
    return torch.stack(rows)


def as_we_decode(model, prefix):
    """The logits after each prompt and one more token, (2, V)."""
    decoding = Decoding(model, PROMPTS, 1, torch.device("cpu"), prefix=prefix)
    decoding.advance(torch.tensor([[11], [11]]))
    return decoding.logits(1.0)[decoding.rows.argsort()]


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_a_policy_of_each_method_writes_as_what_was_saved(name, versions):
    model, _ = load_policy(versions[name].reference, may_wrap=True)

    found = as_we_decode(model, prefix_of(model))

    torch.testing.assert_close(found, versions[name].logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_policy_of_each_method_judges_as_what_was_saved(name, versions):
    model, _ = load_policy(versions[name].reference, may_wrap=True)

    found = at_the_answer(model, [[*ids, 11] for ids in PROMPTS])

    torch.testing.assert_close(found, versions[name].logits.softmax(-1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_server_goes_from_one_to_another_without_loading_the_base_again(
    versions, tiny_reference
):
    models = Models(free_bytes=lambda: 10**9)
    first = models.base_of(tiny_reference)
    weights = first.model.get_input_embeddings().weight

    for name in ("lora", "prefix", "dora", "prompt", "rslora", "lora"):
        reference, logits = versions[name]
        base = models.base_of(reference)
        found = as_we_decode(base.use(reference["adapters"]), base.prefix(reference["adapters"]))

        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
        assert base is first
        assert base.model.get_input_embeddings().weight is weights


@torch.no_grad()
def test_what_cannot_be_added_has_a_base_of_its_own(versions, tiny_reference):
    models = Models(free_bytes=lambda: 10**9)
    shared = models.base_of(tiny_reference)

    reference, logits = versions["ia3"]

    base = models.base_of(reference)

    found = as_we_decode(base.use(reference["adapters"]), None)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert base is not shared
    assert base is models.base_of(reference)


def test_virtual_tokens_are_not_taken_for_weights(versions):
    with pytest.raises(RunError, match="virtual tokens, which cannot be merged into weights"):
        load_policy(versions["prompt"].reference)


def test_virtual_tokens_take_room_in_the_context(versions, tiny_reference):
    base = Models(free_bytes=lambda: 10**9).base_of(tiny_reference)

    assert n_virtual_tokens(versions["prefix"].reference["adapters"]) == 3
    assert base.context_for(versions["prefix"].reference["adapters"]) == base.context_tokens - 3
    assert base.context_for(versions["lora"].reference["adapters"]) == base.context_tokens


# --- in gates, the suite and the playground -----------------------------------------------------
UNLIKE_LORA = ("ia3", "prompt", "prefix")


@pytest.mark.parametrize("name", UNLIKE_LORA)
def test_a_gate_compares_what_the_playground_would_answer(name, versions, folder, prompts_file):
    reference, base = versions[name].reference, versions["lora"].reference
    config = EvaluateConfig(base, reference, max_new_tokens=6, temperature=0.001)

    evaluate.run(config, folder)

    pairs = (folder.path / "artifact" / "pairs.jsonl").read_text().splitlines()
    messages = [json.loads(line)["messages"] for line in prompts_file.read_text().splitlines()]
    for side, version in (("new", base), ("old", reference)):
        assert [json.loads(pair)[side] for pair in pairs] == served(version, messages)


@torch.no_grad()
def served(reference, asked):
    """The likeliest answer of the model server to each."""
    base = Models(free_bytes=lambda: 10**9).base_of(reference)
    tickets = [Ticket(Request(reference, each, max_tokens=6, temperature=0)) for each in asked]
    batch = Batch(base, reference, tickets, [encode_messages(base, each) for each in tickets])
    while batch.is_going:
        batch.step()
    return ["".join(line.get("text", "") for line in lines_of(ticket)) for ticket in tickets]


def lines_of(ticket):
    return [ticket.lines.get() for _ in range(ticket.lines.qsize())]


@pytest.mark.parametrize("name", UNLIKE_LORA)
def test_the_suite_measures_them_and_says_what_it_cannot(
    name, versions, tiny_reference, folder, prompts_file
):
    (folder.path / "texts.jsonl").write_text(json.dumps({"text": "The red door is open."}) + "\n")
    reference = versions[name].reference
    config = SuiteConfig(reference, rival=tiny_reference, max_new_tokens=4)

    metrics = suite.run(config, folder)["metrics"]

    assert metrics["length"]["n"] == 5
    reason = "" if name == "ia3" else suite.VIRTUAL
    assert (metrics["forgetting"]["reason"], metrics["general_loss"]["reason"]) == (reason, reason)
    assert (metrics["forgetting"]["value"] is None) == (name != "ia3")


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_tasks_of_the_harness_are_not_run_with_virtual_tokens(name, versions, folder, prompts_file):
    config = SuiteConfig(versions[name].reference, tasks=["arc"], max_new_tokens=4)

    metrics = suite.run(config, folder)["metrics"]

    assert metrics["task/arc"] == Estimate(None, reason=suite.VIRTUAL)._asdict()
