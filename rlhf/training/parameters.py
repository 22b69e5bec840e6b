"""Which parameters of a policy move, and what holds them near where they started.

Every method is peft's own: LoRA (Hu et al. 2021) with DoRA (Liu et al. 2024) and rsLoRA (Kalajdzievski
2023), QLoRA (Dettmers et al. 2023), IA³ (Liu et al. 2022), prompt tuning (Lester et al. 2021), prefix
tuning (Li and Liang 2021). Full fine-tuning moves the layers' own weights, all or the top k, and leaves
embeddings and vocabulary head alone, as everywhere here. Whoever trains does

    model, tokenizer = load(config.model, settings)
    model = make_trainable(model, settings)
    trainer = MyTrainer(model=model, settings=settings, callbacks=callbacks(settings, …), …)
    save(trainer.model, tokenizer, folder, settings)

where MyTrainer is `class MyTrainer(Anchored, SFTTrainer)`. What starts at random comes from torch's
generator: seed it before `make_trainable`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
    prepare_model_for_kbit_training,
)
from peft.tuners.lora import LoraLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlhf.training.artifacts import RunError
from rlhf.training.forward import LOGITS_AT_ONCE, backbone_of, layers_of, vocabulary_head
from rlhf.training.models import (
    check_top,
    default_device,
    disable_dropout,
    load_policy,
    lora_config,
    save_adapter,
    tunable_parameters,
    use_adapter,
)
from rlhf.training.parameter_settings import ParameterSettings


# --- loading ----------------------------------------------------------------------------------
def load(
    reference: dict[str, Any], settings: ParameterSettings, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy that learning starts from, frozen; in fp32 for full fine-tuning, in NF4 for QLoRA.

    Raises RunError before anything is loaded if this machine cannot do it.
    """
    check_machine(settings)
    if settings.method == "full":
        dtype = torch.float32  # steps of 1e-5 would be rounded away in bf16
    return in_four_bits(reference) if settings.four_bit else load_policy(reference, dtype=dtype)


def in_four_bits(
    reference: dict[str, Any],
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy in NF4. bitsandbytes can do it without CUDA too, slowly: only tests ask it to."""
    with tempfile.TemporaryDirectory() as folder:
        source = reference["base"]
        model, tokenizer = load_policy(reference, torch.device("cpu"), torch.bfloat16)
        if reference["adapters"]:  # only weights that lie in files can be quantised
            model.save_pretrained(folder)
            source = folder
        del model
        model = AutoModelForCausalLM.from_pretrained(
            source,
            quantization_config=nf4(),
            device_map={"": default_device()},
            use_safetensors=True,
            trust_remote_code=False,
        )
    disable_dropout(model)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), tokenizer


def nf4() -> BitsAndBytesConfig:
    """The base in 4-bit NormalFloat with double quantisation, products in bf16, as in QLoRA."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def check_machine(settings: ParameterSettings) -> None:
    """Raises RunError for a base in 4 bit where there is no CUDA or no bitsandbytes."""
    if not settings.four_bit:
        return
    if not torch.cuda.is_available():
        raise RunError(
            "A base in 4 bit needs a GPU with CUDA, and this machine has none: switch four_bit off."
        )
    if find_spec("bitsandbytes") is None:
        raise RunError(
            "A base in 4 bit needs the package bitsandbytes: install it, or switch four_bit off."
        )


# --- what moves -------------------------------------------------------------------------------
def make_trainable(model: PreTrainedModel, settings: ParameterSettings) -> nn.Module:
    """The model with exactly that trainable which the settings say, everything else frozen.

    A PeftModel with the adapter `default`; with full fine-tuning the model itself. Raises RunError if
    the model has fewer layers than asked for, or peft does not know the method for it.
    """
    model.requires_grad_(False)
    if settings.method == "full":
        for parameter in tunable_parameters(model, settings.adapter_layers):
            parameter.requires_grad_(True)
        return model
    adapted = get_peft_model(model, peft_config(model, settings))
    if settings.method == "prefix":
        begin_with_words(adapted)
    return adapted


def peft_config(model: PreTrainedModel, settings: ParameterSettings) -> PeftConfig:
    """What peft is asked for. Raises ValueError for full fine-tuning."""
    if settings.method == "lora":
        config = lora_config(model, settings.lora_rank, settings.adapter_layers)
        config.use_dora, config.use_rslora = settings.dora, settings.rslora
        config.task_type = TaskType.CAUSAL_LM
        return config
    if settings.method == "ia3":
        return ia3_config(model, settings.adapter_layers)
    if settings.method == "prompt":
        return PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=settings.virtual_tokens,
            # Embeddings of drawn words: better than random numbers, Lester et al. 2021, figure 3.
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
    if settings.method == "prefix":
        return PrefixTuningConfig(
            task_type=TaskType.CAUSAL_LM, num_virtual_tokens=settings.virtual_tokens
        )
    raise ValueError(f"method={settings.method!r} is none of peft's")


@torch.no_grad()
def begin_with_words(model: PeftModel) -> None:
    """Let a prefix start as the keys and values that the model has of drawn words: with random numbers it
    would have to be learnt first how to leave the model as it was (Li and Liang 2021, figure 5)."""
    n_tokens = model.active_peft_config.num_virtual_tokens
    words = torch.randint(model.config.vocab_size, (1, n_tokens)).to(model.device)
    cache = backbone_of(model)(input_ids=words, use_cache=True).past_key_values
    initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)


def ia3_config(model: PreTrainedModel, top: int | None) -> IA3Config:
    """IA³ on keys, values and the feed-forward's inner activations, in the top layers or in all.

    peft knows by name which modules those are, for each family of models.
    """
    kind = model.config.model_type
    names = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind)
    inner = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind)
    if names is None or inner is None:
        raise RunError(f"peft does not know where to put IA³ into a {kind} model: use LoRA.")
    name, layers = layers_of(model.base_model)
    check_top(top, len(layers))
    chosen = range(len(layers) - (top or len(layers)), len(layers))

    def paths(endings: Sequence[str]) -> list[str]:
        return [
            path.removeprefix(f"{model.base_model_prefix}.")
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear)
            and path.rpartition(".")[2] in endings
            and any(f"{name}.{number}." in path for number in chosen)
        ]

    return IA3Config(
        task_type=TaskType.CAUSAL_LM, target_modules=paths(names), feedforward_modules=paths(inner)
    )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def count(model: nn.Module) -> dict[str, float]:
    """Example: {"trainable": 1000, "total": 100_000, "share": 0.01}; `total` is with adapters."""
    sizes = [(n_numbers(p), p.requires_grad) for p in model.parameters()]
    moving, total = sum(n for n, moves in sizes if moves), sum(n for n, _ in sizes)
    return {"trainable": moving, "total": total, "share": moving / total}


def n_numbers(parameter: nn.Parameter) -> int:
    """bitsandbytes packs two weights into a byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)


# --- gradual unfreezing -----------------------------------------------------------------------
def callbacks(settings: ParameterSettings, n_layers: int, steps: int) -> list[TrainerCallback]:
    """What the trainer is to be given beside its own. `steps` are the optimiser steps of an epoch."""
    if settings.unfreeze_every is None:
        return []
    top = settings.adapter_layers or n_layers
    return [GradualUnfreezing(top, max(1, round(settings.unfreeze_every * steps)))]


def layers_moving(step: int, every: int, most: int) -> int:
    """How many layers, from the top, move in this step, counted from 0.

    Example: every 10 steps, 3 at most -> 1 in steps 0 to 9, 2 in 10 to 19, 3 from 20 on.
    """
    return min(1 + step // every, most)


class GradualUnfreezing(TrainerCallback):
    """One more layer moves every so many optimiser steps, from the top (ULMFiT, Howard and Ruder 2018).

    All of them are in the optimiser from the start: what has no gradient is left as it is. What lies
    outside of layers, as the last norm, always moves. A resumed run goes on by its step's number. In the
    end what never moved is left frozen, so that it is not counted.
    """

    def __init__(self, most: int, every: int) -> None:
        self.most, self.every = most, every
        self._moving: list[list[nn.Parameter]] = []  # by layer, those that move sooner or later

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        _, layers = layers_of(backbone_of(kwargs["model"]))
        self._moving = [[p for p in layer.parameters() if p.requires_grad] for layer in layers]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        first = len(self._moving) - layers_moving(state.global_step, self.every, self.most)
        for number, parameters in enumerate(self._moving):
            for parameter in parameters:
                parameter.requires_grad_(number >= first)


# --- a pull towards the start -----------------------------------------------------------------
class Anchored:
    """Put before a trainer of TRL, it adds the anchor of its settings to the training loss.

    `l2_sp` fits any trainer. `kl` needs token ids and what counts of them in the trainer's inputs, as
    SFT has them; DPO, KTO, RLOO and GRPO have a KL of their own.

    The loss that is reported in evaluations is without it. Where learning starts is taken when the
    trainer is made, before a checkpoint is loaded.
    """

    def __init__(self, *args: Any, settings: ParameterSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings
        model: nn.Module = self.model  # type: ignore[attr-defined]
        self._start: dict[str, Tensor] = {}
        is_anchored = settings.anchor_coefficient > 0
        if is_anchored and (settings.anchor == "l2_sp" or settings.method == "full"):
            self._start = {name: p.detach().clone() for name, p in trainable(model).items()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        is_on = self.settings.anchor != "none" and self.settings.anchor_coefficient > 0
        if not (is_on and model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        with keeping_states(self.accelerator.unwrap_model(model)) as states:  # type: ignore[attr-defined]
            found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        loss, *outputs = found if return_outputs else (found,)
        anchor = self.anchor_loss(model, inputs, states[0] if states else None)
        if num_items_in_batch is not None:  # the trainer then adds micro-batches up
            anchor = anchor / self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
        self._metrics["train"]["anchor"].append(anchor.item())  # type: ignore[attr-defined]
        loss = loss + anchor
        return (loss, *outputs) if return_outputs else loss

    def anchor_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], outputs: Tensor | None
    ) -> Tensor:
        """The coefficient times half the squared way from the start, or the KL per counted token.

        `outputs` are the last hidden states (B, L, D) of the model on these inputs; L2-SP needs none.
        """
        settings, model = self.settings, self.accelerator.unwrap_model(model)  # type: ignore[attr-defined]
        if settings.anchor == "l2_sp":
            return settings.anchor_coefficient * l2_sp(model, self._start)
        assert outputs is not None
        counts = counted(inputs)  # (B, L - 1)
        with torch.no_grad(), at_start(model, self._start):
            base = backbone_of(model)(**_inputs_of_layers(inputs), use_cache=False)
        width = counts.shape[1] + 1
        policy = outputs[:, -width:][:, :-1][counts]  # (N, D); virtual tokens come first
        base_states = base.last_hidden_state[:, :-1][counts]
        kl = token_kl(policy, base_states, vocabulary_head(model))
        return settings.anchor_coefficient * kl.sum() / max(1, len(kl))


@contextmanager
def keeping_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """The block's last hidden states that have gradients, as they come: no second pass for them."""
    states: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if output.last_hidden_state.requires_grad:
            states.append(output.last_hidden_state)

    handle = backbone_of(model).register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()


def l2_sp(model: nn.Module, start: Mapping[str, Tensor]) -> Tensor:
    """½·‖w - w⁰‖² of what moves (Li et al. 2018), a scalar in fp32.

    LoRA's factors start anywhere as long as their product is 0. What is held is the product, the change
    of the weights: ‖s·B·A‖² = s²·tr(BᵀB·AAᵀ), of r x r matrices.
    """
    parameters = dict(model.named_parameters())
    plain, total = dict(start), torch.zeros((), device=next(iter(parameters.values())).device)
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        for adapter, a in module.lora_A.items():
            a, b = a.weight.float(), module.lora_B[adapter].weight.float()  # (r, in), (out, r)
            total = total + module.scaling[adapter] ** 2 * ((b.T @ b) * (a @ a.T)).sum()
            for factor in ("lora_A", "lora_B"):
                plain.pop(f"{path}.{factor}.{adapter}.weight", None)
    for name, value in plain.items():
        total = total + (parameters[name].float() - value.float()).pow(2).sum()
    return total / 2


def counted(inputs: Mapping[str, Any]) -> Tensor:
    """Before which tokens the loss looks at the distribution, (B, L - 1)."""
    if "labels" in inputs:
        return inputs["labels"][:, 1:] != -100
    mask = inputs.get("completion_mask", inputs.get("attention_mask"))
    if mask is None:
        raise ValueError(f"inputs {sorted(inputs)} do not say which tokens count")
    return mask[:, 1:].bool()


LAYERS_READ = (
    "input_ids", "attention_mask", "position_ids", "seq_idx",
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
)  # fmt: skip


def _inputs_of_layers(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in LAYERS_READ if name in inputs}


@contextmanager
def at_start(model: nn.Module, start: Mapping[str, Tensor]) -> Iterator[None]:
    """The block computes what the policy was before: without its adapter, or with its old weights.

    Virtual tokens are put in by the PeftModel, around the backbone, which knows nothing of them.
    """
    if isinstance(model, PeftModel):
        learns_prompt = model.active_peft_config.is_prompt_learning
        with nullcontext() if learns_prompt else use_adapter(model, None):
            yield
        return
    parameters = dict(model.named_parameters())
    new = {name: parameters[name].data for name in start}
    for name, old in start.items():  # exchanged, not copied
        parameters[name].data = old
    try:
        yield
    finally:
        for name, data in new.items():
            parameters[name].data = data


def token_kl(policy: Tensor, base: Tensor, head: nn.Linear) -> Tensor:
    """KL(policy ‖ base) in nats of each next token, (N,), fp32, from hidden states (N, D) of both.

    At most LOGITS_AT_ONCE logits of each exist at a time. Gradients flow to `policy`; the head is frozen.
    """
    return _TokenKL.apply(policy, base, head)


class _TokenKL(torch.autograd.Function):
    """As in `forward.token_logprobs`: the gradient with regard to a hidden state is known as soon as the
    logits are, p·(log p/q - KL) · W, and D numbers are kept in its place."""

    @staticmethod
    def forward(ctx: Any, policy: Tensor, base: Tensor, head: nn.Linear) -> Tensor:
        weight, bias = head.weight, head.bias
        size = max(1, LOGITS_AT_ONCE // len(weight))
        found, gradients = [policy.new_zeros(0, dtype=torch.float32)], [policy[:0]]
        for ours, theirs in zip(policy.split(size), base.split(size), strict=True):
            log_p = F.linear(ours, weight, bias).float().log_softmax(-1)  # (n, V)
            ratio = log_p - F.linear(theirs, weight, bias).float().log_softmax(-1)
            p = log_p.exp()
            kl = (p * ratio).sum(-1)
            found.append(kl)
            gradients.append((p * (ratio - kl.unsqueeze(-1))).to(weight.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (to_policy,) = ctx.saved_tensors
        return gradients[0].unsqueeze(-1).to(to_policy.dtype) * to_policy, None, None


# --- saving -----------------------------------------------------------------------------------
def save(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    settings: ParameterSettings,
) -> dict[str, Any]:
    """Write the adapter, or the whole model with its tokenizer; what a version's details say of it.

    Example: {"train": "adapter", "method": "lora", "trainable": 921_600, "total": …, "share": 0.007}
    """
    if isinstance(model, PeftModel):
        save_adapter(model, "default", folder)
    else:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return {
        "train": "full" if settings.method == "full" else "adapter",
        "method": settings.method,
        **count(model),
        **({} if settings.unfreeze_every is None else {"unfrozen": _unfrozen(model, settings)}),
    }


def _unfrozen(model: nn.Module, settings: ParameterSettings) -> dict[str, int]:
    """How many layers a gradual unfreezing has come to, and of how many."""
    _, layers = layers_of(backbone_of(model))
    moving = sum(any(p.requires_grad for p in layer.parameters()) for layer in layers)
    return {"layers": moving, "of": settings.adapter_layers or len(layers)}
