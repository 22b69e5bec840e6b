import pytest
import torch
from peft import PeftModel, get_peft_model

from rlhf.training.artifacts import RunError
from rlhf.training.combine import run
from rlhf.training.combine_config import WAYS, CombineConfig
from rlhf.training.models import adapted_modules, load_policy, lora_config, save_adapter


@pytest.fixture
def make(tiny_reference, tmp_path):
    """A policy whose adapter changes the weights at random, on top of others if so wished."""

    def make_adapter(name, rank=4, top=None, rslora=False, below=()):
        base, _ = load_policy({**tiny_reference, "adapters": list(below)})
        torch.manual_seed(len(name))
        config = lora_config(base, rank, top)
        config.use_rslora = rslora
        model = get_peft_model(base, config, adapter_name="policy")
        for path, parameter in model.named_parameters():
            if ".lora_B." in path:
                torch.nn.init.normal_(parameter, std=0.1)
        folder = tmp_path / name
        folder.mkdir()
        save_adapter(model, "policy", folder)
        return [*below, str(folder)]

    return make_adapter


@pytest.fixture
def combined(tiny_reference, folder):
    def run_with(*parts, **settings):
        named = [
            {"version": f"part {number}", "weight": weight, "adapters": adapters}
            for number, (weight, adapters) in enumerate(parts)
        ]
        result = run(CombineConfig(tiny_reference, named, **settings), folder)
        return result, [str(folder.path / "artifact")]

    return run_with


def change(tiny_reference, adapters):
    """What adapters change of all layers' weights, as one vector."""
    base, with_adapters = (
        load_policy({**tiny_reference, "adapters": each})[0] for each in ([], adapters)
    )
    pairs = zip(with_adapters.parameters(), base.parameters(), strict=True)
    return torch.cat([(new - old).flatten() for new, old in pairs])


def test_the_rank_of_an_svd_is_at_most_what_each_layer_can_have(make, combined, tiny_reference):
    parts = (
        (1.0, make("wide", rank=64)),
        (1.0, make("narrow")),
    )  # the tiny model's keys have 32 dimensions

    result, adapter = combined(*parts, way="svd")

    assert result["rank"] == 32
    assert change(tiny_reference, adapter).any()
    with pytest.raises(RunError, match="rank=33 is more than 32, which is the most"):
        combined(*parts, way="svd", rank=33)


def test_side_by_side_is_the_weighted_sum(make, combined, tiny_reference):
    kind, curt = make("kind", rank=4), make("curtly", rank=2)

    result, adapter = combined((0.7, kind), (-0.4, curt))

    expected = 0.7 * change(tiny_reference, kind) - 0.4 * change(tiny_reference, curt)
    torch.testing.assert_close(change(tiny_reference, adapter), expected, atol=1e-5, rtol=1e-4)
    assert result["rank"] == 6


def test_the_first_part_does_not_decide_scale_and_layers_of_all(make, combined, tiny_reference):
    top, whole = make("top", top=1, rslora=True), make("whole")

    _, adapter = combined((1.0, top), (1.0, whole))

    expected = change(tiny_reference, top) + change(tiny_reference, whole)
    torch.testing.assert_close(change(tiny_reference, adapter), expected, atol=1e-5, rtol=1e-4)


def test_a_policy_of_a_later_round_counts_with_all_its_adapters(make, combined, tiny_reference):
    first = make("first")
    second = make("second", below=first)

    _, adapter = combined((0.5, second), (0.5, first))

    expected = (change(tiny_reference, second) + change(tiny_reference, first)) / 2
    torch.testing.assert_close(change(tiny_reference, adapter), expected, atol=1e-5, rtol=1e-4)


def test_svd_of_full_rank_loses_nothing(make, combined, tiny_reference):
    kind, curt = make("kind", rank=4), make("curtly", rank=2)

    result, adapter = combined((1.0, kind), (1.0, curt), way="svd", rank=6)

    expected = change(tiny_reference, kind) + change(tiny_reference, curt)
    torch.testing.assert_close(change(tiny_reference, adapter), expected, atol=1e-4, rtol=1e-3)
    assert result["rank"] == 6


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_an_adapter_that_peft_loads(way, make, combined, tiny_reference):
    _, (adapter,) = combined((0.5, make("kind")), (0.5, make("curtly")), way=way)

    model = PeftModel.from_pretrained(load_policy(tiny_reference)[0], adapter)

    assert len(adapted_modules(model)) == 2 * 7
    assert change(tiny_reference, [adapter]).norm() > 0


def test_ways_that_add_factors_up_want_one_rank(make, combined):
    with pytest.raises(RunError, match=r"\(part 0 4, part 1 2\): choose 'ties_svd' or 'cat'"):
        combined((1.0, make("kind")), (1.0, make("curtly", rank=2)), way="ties")
