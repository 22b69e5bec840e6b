from importlib.util import find_spec

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional as F
from trl import SFTConfig, SFTTrainer

from rlhf.training.artifacts import RunError
from rlhf.training.forward import layers_of
from rlhf.training.models import adapted_modules, load_policy
from rlhf.training.parameter_settings import ParameterSettings
from rlhf.training.parameters import (
    Anchored,
    callbacks,
    count,
    in_four_bits,
    l2_sp,
    layers_moving,
    load,
    make_trainable,
    save,
    token_kl,
    trainable,
)
from rlhf.training.virtual_tokens import prefix_of

IDS = torch.tensor([[5, 6, 7, 8]])
LORA = ParameterSettings(lora_rank=4)
METHODS = {
    "lora": LORA,
    "dora": ParameterSettings(lora_rank=4, dora=True),
    "rslora": ParameterSettings(lora_rank=4, rslora=True),
    "ia3": ParameterSettings(method="ia3"),
    "prompt": ParameterSettings(method="prompt", virtual_tokens=3),
    "prefix": ParameterSettings(method="prefix", virtual_tokens=3),
    "full": ParameterSettings(method="full"),
}
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is a {noun}?"}],
        "completion": [{"role": "assistant", "content": f"Try the {noun}."}],
    }
    for noun in ("door", "lamp", "cup", "box")
]


class AnchoredSFT(Anchored, SFTTrainer):
    pass


@pytest.fixture
def learn(tiny_reference, tmp_path):
    def train(settings, **options):
        torch.manual_seed(0)
        model, tokenizer = load(tiny_reference, settings)
        model = make_trainable(model, settings)
        arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
        trainer = AnchoredSFT(
            model=model,
            settings=settings,
            train_dataset=Dataset.from_list(ROWS),
            processing_class=tokenizer,
            callbacks=callbacks(settings, 2, steps=2),
            args=SFTConfig(
                output_dir=str(tmp_path / "out"),
                report_to=[],
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                gradient_checkpointing=False,
                logging_steps=1,
                **arguments | options,
            ),
        )
        trainer.train()
        return trainer

    return train


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def kl(logits, base):
    """Mean nats a token."""
    log_p, log_q = logits.log_softmax(-1), base.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@pytest.mark.parametrize("name", METHODS)
def test_only_what_the_method_moves_has_moved(name, tiny_reference, learn):
    before, _ = load_policy(tiny_reference)

    model = learn(METHODS[name]).model

    moved = trainable(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    kept = {
        path.replace(".base_layer", ""): parameter
        for path, parameter in base.named_parameters()
        if all(parameter is not each for each in moved.values())
    }
    old = dict(before.named_parameters())
    assert all(torch.equal(kept[path], old[path]) for path in kept if path in old)
    assert not torch.allclose(logits(model)[:, -4:], logits(before))


def test_the_top_layer_alone_moves_if_so_wished(tiny_reference):
    for method in ("lora", "ia3", "full"):
        settings = ParameterSettings(method=method, lora_rank=4, adapter_layers=1)

        model = make_trainable(load(tiny_reference, settings)[0], settings)

        places = {name.partition(".layers.")[2][:1] for name in trainable(model)}
        assert places - {""} == {"1"}  # "": the last norm


def test_count_tells_how_much_of_the_model_moves(tiny_reference):
    model = make_trainable(load(tiny_reference, METHODS["prompt"])[0], METHODS["prompt"])

    total = sum(p.numel() for p in model.parameters())
    assert count(model) == {"trainable": 3 * 64, "total": total, "share": 3 * 64 / total}


@torch.no_grad()
def test_a_prefix_starts_as_what_the_model_itself_keeps_of_words(tiny_reference):
    base = load_policy(tiny_reference)[0].base_model
    words = torch.arange(base.config.vocab_size)
    known = base(input_ids=words[:, None], use_cache=True).past_key_values.layers[0].values

    prefix = prefix_of(make_trainable(load_policy(tiny_reference)[0], METHODS["prefix"]))

    values = prefix.layers[0].values[0].transpose(0, 1)  # (virtual tokens, heads, D)
    said = torch.cdist(values.flatten(1), known.flatten(1)).argmin(1)
    kept = base(input_ids=said[None], use_cache=True).past_key_values
    for ours, theirs in zip(prefix.layers, kept.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)


def test_one_more_layer_moves_every_so_many_steps():
    assert [layers_moving(step, every=2, most=3) for step in range(7)] == [1, 1, 2, 2, 3, 3, 3]


def test_lower_layers_wait_for_their_turn(tiny_reference, learn):
    old = load_policy(tiny_reference)[0]

    model = learn(
        ParameterSettings(method="full", unfreeze_every=1.0), max_steps=2
    ).model  # 1 epoch

    def has_moved(number):
        layers = [layers_of(each.base_model)[1][number].parameters() for each in (model, old)]
        return not all(torch.equal(new, before) for new, before in zip(*layers, strict=True))

    assert [has_moved(0), has_moved(1)] == [False, True]
    only_top = ParameterSettings(method="full", adapter_layers=1)
    assert count(model) == count(make_trainable(old, only_top))


def test_an_anchor_wakes_no_layer_before_its_turn(learn):
    settings = ParameterSettings(
        lora_rank=4, unfreeze_every=1.0, anchor="kl", anchor_coefficient=1.0
    )

    model = learn(
        settings, max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=2
    ).model

    moved = {
        name.partition(".layers.")[2][:1]
        for name, parameter in trainable(model).items()
        if ".lora_B." in name and parameter.any()
    }
    assert moved == {"1"}


@pytest.mark.parametrize(("method", "anchor"), [("lora", "l2_sp"), ("lora", "kl"), ("full", "kl")])
def test_an_anchor_keeps_the_policy_nearer_to_the_base(method, anchor, tiny_reference, learn):
    before = logits(load_policy(tiny_reference)[0])
    held = ParameterSettings(
        method=method,
        lora_rank=4,
        anchor=anchor,
        anchor_coefficient=20.0 if anchor == "l2_sp" else 2.0,
    )

    distances = [
        kl(logits(learn(settings, max_steps=8, learning_rate=2e-3).model), before)
        for settings in (held, METHODS[method])
    ]

    assert distances[0] < 0.9 * distances[1]


def test_kl_and_its_gradient_are_those_of_torch():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 9).requires_grad_(False)
    policy, base = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)

    ours = torch.autograd.grad(token_kl(policy, base, head).sum(), policy)
    log_p, log_q = (head(states).log_softmax(-1) for states in (policy, base))
    expected = F.kl_div(log_q, log_p, log_target=True, reduction="sum")

    torch.testing.assert_close(token_kl(policy, base, head).sum(), expected)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, policy))


def test_l2_sp_is_half_the_squared_way_of_the_weights(tiny_reference):
    model = make_trainable(load(tiny_reference, METHODS["full"])[0], METHODS["full"])
    start = {name: p.detach() - 0.5 for name, p in trainable(model).items()}

    assert l2_sp(model, start).item() == pytest.approx(count(model)["trainable"] * 0.5**2 / 2)


def test_l2_sp_holds_the_product_of_loras_factors(tiny_reference):
    model = make_trainable(load(tiny_reference, LORA)[0], LORA)
    start = {name: p.detach().clone() for name, p in trainable(model).items()}
    assert l2_sp(model, start).item() == 0
    for parameter in trainable(model).values():
        torch.nn.init.normal_(parameter, std=0.1)

    deltas = [module.get_delta_weight("default") for module in adapted_modules(model)]
    expected = sum(delta.pow(2).sum() for delta in deltas) / 2
    torch.testing.assert_close(l2_sp(model, start), expected)


# --- QLoRA --------------------------------------------------------------------------------------
FOUR_BIT = ParameterSettings(lora_rank=4, four_bit=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_base_in_4_bit_is_refused_without_cuda_before_anything_is_loaded():
    with pytest.raises(RunError, match="needs a GPU with CUDA, and this machine has none"):
        load({"base": "/nowhere", "adapters": []}, FOUR_BIT)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_base_in_4_bit_learns_by_its_adapter(tiny_reference, tmp_path):
    model, tokenizer = in_four_bits(tiny_reference)
    model = make_trainable(model, FOUR_BIT)
    ids = IDS.to(model.device)

    model(input_ids=ids, labels=ids).loss.backward()

    packed = [p for p in model.parameters() if p.dtype == torch.uint8]
    assert packed
    assert all(p.grad is not None for p in trainable(model).values())
    save(model, tokenizer, tmp_path, FOUR_BIT)
    assert load_policy(
        {**tiny_reference, "adapters": [str(tmp_path)]}
    )  # merges into the whole base


def logits_in_four_bits(reference):
    model = make_trainable(in_four_bits(reference)[0], FOUR_BIT)  # nothing has moved yet
    return model(input_ids=IDS.to(model.device)).logits.float().cpu()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_what_earlier_adapters_learned_is_in_the_base_in_4_bit(tiny_reference, tmp_path):
    learned, tokenizer = load(tiny_reference, LORA)
    learned = make_trainable(learned, LORA)
    for parameter in trainable(learned).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save(learned, tokenizer, tmp_path, LORA)
    adapted = {**tiny_reference, "adapters": [str(tmp_path)]}

    with_adapter, without = logits_in_four_bits(adapted), logits_in_four_bits(tiny_reference)

    wanted = learned(input_ids=IDS.to(learned.device)).logits.float().cpu()
    assert (with_adapter - wanted).norm() < (without - wanted).norm() / 2
