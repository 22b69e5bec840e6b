"""Loading policies and reward models, and the one way in which text becomes tokens.

A policy is a frozen base with LoRA adapters merged into it. Masks come from lengths, never from
token ids: the embedded model's padding token is its end token.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from rlhf.training.artifacts import RunError, read_json, write_json
from rlhf.training.forward import backbone_of, is_trunk_reusable, layers_of
from rlhf.training.model_safety import refuse_pickled_adapter
from rlhf.training.virtual_tokens import is_virtual

Message = dict[str, str]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware is made for it; on a CPU fp32 is faster and exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


# --- kinds of models --------------------------------------------------------------------------
def is_encoder(config: PretrainedConfig) -> bool:
    """Whether every token sees all others, as in BERT and its relatives. Those are in transformers'
    list of causal models too, because they can be made decoders."""
    is_decoder = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder


def writes_text(config: PretrainedConfig) -> bool:
    """Whether this is a causal language model, and so may be a policy."""
    is_classifier = any(
        name.endswith("ForSequenceClassification") for name in config.architectures or []
    )
    is_causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return is_causal and not is_classifier and not is_encoder(config)


# --- policies ---------------------------------------------------------------------------------
def load_policy(
    reference: dict[str, Any],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    may_wrap: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `{"base": folder, "adapters": [folder, …]}`, frozen, without dropout.

    Adapters are merged in fp32, oldest first, before the model is cast: "no adapter" then *is*
    that policy, so that it can serve as PPO's reference. Virtual tokens cannot be merged: who can do
    with a PeftModel around the weights, as `generate.sample` can, says `may_wrap`. Raises RunError for
    missing files, and for virtual tokens where they cannot be.
    """
    device = device or default_device()
    check_folders(reference)
    if not writes_text(
        config := AutoConfig.from_pretrained(reference["base"], trust_remote_code=False)
    ):
        raise RunError(
            f"The {config.model_type} model in {reference['base']} writes no text: it can be the base "
            "of a reward model, and no policy."
        )
    tokenizer = AutoTokenizer.from_pretrained(reference["base"], trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        reference["base"], dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    for adapter in reference["adapters"]:
        if is_virtual(adapter) and not (may_wrap and adapter == reference["adapters"][-1]):
            raise RunError(
                f"The policy in {adapter} is virtual tokens, which cannot be merged into weights: it can "
                "write answers and be evaluated, and nothing can be trained on top of it."
            )
        model = PeftModel.from_pretrained(model, adapter)
        if not is_virtual(adapter):
            model = model.merge_and_unload()
    model.to(device=device, dtype=dtype or default_dtype(device))
    model.requires_grad_(False)
    disable_dropout(model)
    return model.eval(), tokenizer


def check_folders(reference: dict[str, Any]) -> None:
    for folder in [reference["base"], *reference["adapters"]]:
        if not Path(folder).is_dir():
            raise RunError(f"The model folder {folder} does not exist. Was it moved or deleted?")
    for adapter in reference["adapters"]:
        refuse_pickled_adapter(Path(adapter))


DROPOUTS = ("attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")


def disable_dropout(model: PreTrainedModel) -> None:
    """Dropout would make the ratio of the first update differ from 1.

    Attention layers copy the share from the configuration when they are made, as a plain number.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for owner in (model.config, *model.modules()):
        for name in DROPOUTS:
            if isinstance(getattr(owner, name, None), float):
                setattr(owner, name, 0.0)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """All tokens that end a completion: those of the generation config and the tokenizer's."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return {token for token in [*ids, tokenizer.eos_token_id] if token is not None}


# --- text to tokens ---------------------------------------------------------------------------
def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The prompt's tokens, up to and including the opening of the assistant's turn."""
    encoded = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, text: str, *, truncated: bool = False
) -> list[int]:
    """The completion's tokens as a policy would have sampled them: with the end token, unless it
    was cut off at the length limit. Control tokens spelt out in the text stay plain text."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids) if truncated else [*ids, tokenizer.eos_token_id]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a completion, without its end token."""
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


# --- adapters and heads -----------------------------------------------------------------------
def lora_config(model: PreTrainedModel, rank: int, top: int | None = None) -> LoraConfig:
    """LoRA on every linear map of the top layers (None: of all), none on the vocabulary head.

    alpha = 2·rank. Raises RunError if the model has fewer layers than `top`, or no linear maps.
    """
    head = model.get_output_embeddings()
    targets = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not name.endswith("score")
    }
    if not targets:
        raise RunError(
            f"A {model.config.model_type} model has no linear maps that LoRA could be put on: choose full "
            "fine-tuning, or another model."
        )
    name, layers = layers_of(model.base_model)
    check_top(top, len(layers))
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=sorted(targets),
        layers_to_transform=None if top is None else list(range(len(layers) - top, len(layers))),
        layers_pattern=None if top is None else name,
    )


def check_top(top: int | None, n_layers: int) -> None:
    if top is not None and top > n_layers:
        raise RunError(f"Adapters on the top {top} layers: the model has only {n_layers}.")


def tunable_parameters(model: PreTrainedModel, top: int | None) -> list[nn.Parameter]:
    """With full fine-tuning: all layers or the top ones, and what follows them, as the last norm.

    Embeddings and vocabulary head stay as they are: often they are the same weights, and
    `token_logprobs` gives the head no gradient.
    """
    _, layers = layers_of(model.base_model)
    check_top(top, len(layers))
    first = next(layers[len(layers) - (top or len(layers))].parameters())
    parameters = list(model.base_model.parameters())  # in the order in which they are used
    place = next(place for place, each in enumerate(parameters) if each is first)
    return parameters[place:]


@contextmanager
def use_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Run the block with one named adapter active, or with none: the reference policy.

    peft changes what is trainable whenever it switches adapters. What learns is decided once, by
    whoever made the optimiser, so the flags are put back after each switch.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def put_back() -> None:
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)

    if name is not None:
        model.base_model.set_adapter(name)
        put_back()
        yield
    else:
        with model.disable_adapter():
            yield
        put_back()


class _AdaptedLinear(torch.autograd.Function):
    """x · (W + s·B·A)ᵀ, (…, in) -> (…, out), with the gradients of A (r, in) and B (out, r).

    The adapter's r numbers per token are added into the large product's own memory and kept for the
    backward pass: nothing of the size of W or of the output is made besides, and nothing twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.flatten(0, -2)  # (N, in)
        inner = flat @ a.T  # (N, r)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        y = F.linear(flat, weight, bias).addmm_(inner, b.T, alpha=scale)
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        gradient, to_x = gradients[0].flatten(0, -2), None  # (N, out)
        to_inner = (gradient @ b).mul_(ctx.scale)  # (N, r)
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(to_inner, a).view_as(x)
        to_a = to_inner.T @ x.flatten(0, -2)
        to_b = (gradient.T @ inner).mul_(ctx.scale)
        return to_x, None, None, to_a, to_b, None


@contextmanager
def merged_adapter(model: PeftModel, name: str) -> Iterator[None]:
    """`use_adapter` with one large product per layer where there were three and their sums. Gradients
    reach the adapter as they would.

    Where gradients are recorded, the adapter's part is added to the product. Elsewhere the adapter is
    added to the weights, once, when the layer is first used: it must not change in the block. Only
    in fp32: in bf16 the sum would be rounded.
    """
    adapted = [module for module in adapted_modules(model) if name in module.lora_A]
    with use_adapter(model, name):
        for module in adapted:
            module.forward = _merged_forward(module, name)  # hides the method of the class
        try:
            yield
        finally:
            for module in adapted:
                del module.forward


@contextmanager
def using_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Run the block with the adapter, by the faster of the two ways where that is exact."""
    is_merged = merges_adapters(model)
    with merged_adapter(model, name) if name and is_merged else use_adapter(model, name):
        yield


def merges_adapters(model: nn.Module) -> bool:
    """Whether adapters become one product with the weights: in bf16 the sum would be rounded."""
    return bool(next(model.parameters()).dtype == torch.float32)


def _merged_forward(module: LoraLayer, name: str) -> Callable[..., Tensor]:
    base = module.get_base_layer()
    a, b, scale = module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]

    @cache
    @torch.no_grad()
    def merged() -> Tensor:
        return torch.addmm(base.weight, b, a, alpha=scale)

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        if torch.is_grad_enabled() and a.requires_grad:
            return _AdaptedLinear.apply(x, base.weight, base.bias, a, b, scale)
        return F.linear(x, merged(), base.bias)

    return forward


def adapted_modules(module: nn.Module) -> list[LoraLayer]:
    return [part for part in module.modules() if isinstance(part, LoraLayer)]


def n_top_layers(model: nn.Module, adapter: str | None = None) -> int:
    """How many layers, counted from the top, hold the adapter of that name, or all adapters there are;
    without any, all that learns."""

    def n_adapted(part: nn.Module) -> int:
        names = [(None, *m.lora_A, *m.lora_embedding_A) for m in adapted_modules(part)]
        return sum(adapter in of_module for of_module in names)

    _, layers = layers_of(backbone_of(model))
    changing = [n_adapted(layer) for layer in layers]
    if sum(changing) < n_adapted(model):  # some lie outside: on the embeddings, say
        return len(layers)
    if not sum(changing):
        changing = [sum(p.requires_grad for p in layer.parameters()) for layer in layers]
    return len(layers) - next(number for number, n in enumerate(changing) if n)


def n_reusing_layers(model: nn.Module) -> int:
    """How many top layers hold all that changes and can run on the kept states of the trunk below; 0:
    the model has to run as a whole."""
    top = n_top_layers(model)
    is_whole = top == len(layers_of(backbone_of(model))[1])
    return 0 if is_whole or not is_trunk_reusable(model, top) else top


def adapter_parameters(model: PeftModel, name: str) -> list[nn.Parameter]:
    return [
        parameter
        for path, parameter in model.named_parameters()
        if ".lora_" in path and f".{name}." in path
    ]


def adapter_state(model: PeftModel, name: str) -> dict[str, Tensor]:
    """A copy of the adapter's weights, in the names peft saves them under."""
    state = get_peft_model_state_dict(model, adapter_name=name)
    return {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}


def save_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Write the adapter so that `PeftModel.from_pretrained(base, folder)` loads it."""
    save_file(adapter_state(model, name), folder / "adapter_model.safetensors")
    config = model.peft_config[name]
    config.inference_mode = True
    config.save_pretrained(str(folder))


class ScalarHead(nn.Module):
    """A number per hidden state, in fp32: the score of a reward model or the value of a critic."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        # N(0, 1/sqrt(d + 1)), bias 0 (Ziegler et al. 2019)
        nn.init.normal_(self.linear.weight, std=(hidden_size + 1) ** -0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) -> (…)."""
        return self.linear(hidden.float()).squeeze(-1)


class RewardStatistics(NamedTuple):
    """Mean and standard deviation of the raw score on the starting policy's own samples."""

    mean: float
    std: float


def save_reward_head(head: ScalarHead, statistics: RewardStatistics, folder: Path) -> None:
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()},
        folder / "head.safetensors",
    )
    write_json(folder / "reward.json", statistics._asdict())


def member_folders(folder: str | Path) -> list[Path]:
    """Where the members of a reward model lie: the first in the folder itself, the others of an
    ensemble in members/1, members/2, …"""
    others = (Path(folder) / "members").glob("[0-9]*")
    return [Path(folder), *sorted(others, key=lambda path: int(path.name))]


def load_reward_head(folder: str | Path) -> tuple[ScalarHead, RewardStatistics]:
    """A reward model's head and score statistics. Raises RunError if the folder holds none."""
    folder = Path(folder)
    for file in ("adapter_model.safetensors", "head.safetensors"):
        if not (folder / file).is_file():
            raise RunError(f"{folder} is not a reward model: {file} is missing.")
    statistics = load_statistics(folder)
    weights = load_file(folder / "head.safetensors")
    head = ScalarHead(weights["linear.weight"].shape[1])
    head.load_state_dict(weights)
    head.requires_grad_(False)
    return head, statistics


def load_statistics(folder: Path) -> RewardStatistics:
    if not (folder / "reward.json").is_file():
        raise RunError(f"{folder} is not a reward model: reward.json is missing.")
    return RewardStatistics(**read_json(folder / "reward.json"))


def load_reward_adapter(
    model: PeftModel, folder: str | Path, name: str = "reward"
) -> tuple[ScalarHead, RewardStatistics]:
    """Load a reward model's adapter under `name`, and give back its head and score statistics.

    Raises RunError if the folder holds no reward model, or one of another size.
    """
    head, statistics = load_reward_head(folder)
    size = model.get_base_model().config.get_text_config().hidden_size
    if (found := head.linear.in_features) != size:
        raise RunError(
            f"The reward model in {folder} has hidden size {found}, the policy has {size}: it was "
            "trained on another base. Train a reward model on this policy."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        model.load_adapter(str(folder), adapter_name=name)
    return head.to(next(model.parameters()).device), statistics
