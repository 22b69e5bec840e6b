"""Loading policies and reward models, and the one way in which text becomes tokens.

A policy is a frozen base with LoRA adapters merged into it. Masks come from lengths, never from
token ids: the embedded model's padding token is its end token (rlhf-notes A1).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.training.artifacts import RunError, read_json, write_json

Message = dict[str, str]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware is made for it; on a CPU fp32 is faster and exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


# --- policies ---------------------------------------------------------------------------------
def load_policy(
    reference: dict[str, Any],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of `{"base": folder, "adapters": [folder, …]}`, frozen, without dropout.

    Adapters are merged in fp32, oldest first, before the model is cast: "no adapter" then *is*
    that policy, so that it can serve as PPO's reference. Raises RunError for missing files.
    """
    device = device or default_device()
    for folder in [reference["base"], *reference["adapters"]]:
        if not Path(folder).is_dir():
            raise RunError(f"The model folder {folder} does not exist. Was it moved or deleted?")
    tokenizer = AutoTokenizer.from_pretrained(reference["base"])
    model = AutoModelForCausalLM.from_pretrained(reference["base"], dtype=torch.float32)
    for adapter in reference["adapters"]:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.to(device=device, dtype=dtype or default_dtype(device))
    model.requires_grad_(False)
    disable_dropout(model)
    return model.eval(), tokenizer


def disable_dropout(model: PreTrainedModel) -> None:
    """Dropout would make the ratio of the first update differ from 1 (rlhf-notes B5)."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name in ("attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)


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


class Batch(NamedTuple):
    """Prompts padded on the left and completions on the right, so that every completion starts in
    column P. L = P + T; True in a mask means "counts"."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L)
    position_ids: Tensor  # (B, L)
    completion_mask: Tensor  # (B, T)
    prompt_length: int  # P

    @property
    def last(self) -> Tensor:
        """Column of each row's last real token, (B,): the end token, or where it was cut off."""
        return self.prompt_length + self.completion_mask.sum(1) - 1

    def inputs(self) -> dict[str, Tensor]:
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def collate(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> Batch:
    """Pad one micro-batch to its own longest prompt and completion.

    Example: prompts [[5], [6, 7]], completions [[8, 2], [9]] -> input_ids [[0, 5, 8, 2],
    [6, 7, 9, 0]], completion_mask [[1, 1], [1, 0]].
    """
    p = max(len(ids) for ids in prompts)
    t = max(len(ids) for ids in completions)
    input_ids = torch.zeros(len(prompts), p + t, dtype=torch.long)
    attention_mask = torch.zeros(len(prompts), p + t, dtype=torch.long)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = p - len(prompt), p + len(completion)
        input_ids[row, start:end] = torch.tensor([*prompt, *completion])
        attention_mask[row, start:end] = 1
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
    return Batch(
        input_ids.to(device),
        attention_mask.to(device),
        position_ids.to(device),
        attention_mask[:, p:].bool().to(device),
        p,
    )


# --- forward passes ---------------------------------------------------------------------------
def completion_logprobs(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """Log-probability of each completion token, (B, T), fp32, under the active adapter.

    Logits are divided by the sampling temperature: these are the probabilities of the
    distribution that was sampled from (rlhf-notes B2). Padding positions hold 0.
    """
    t = batch.completion_mask.shape[1]
    logits = model(**batch.inputs(), use_cache=False, logits_to_keep=t + 1).logits[:, :-1]
    logprobs = gather_logprobs(logits, batch.input_ids[:, -t:], temperature)  # (B, T)
    return logprobs.masked_fill(~batch.completion_mask, 0.0)


def gather_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `ids`, without keeping the whole log-softmax.

    (…, V), (…) -> (…), fp32.
    """
    scaled = logits.float() / temperature
    return scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def hidden_states(model: PeftModel, batch: Batch) -> Tensor:
    """Last hidden states under the active adapter, (B, L, D), fp32, without the vocabulary head."""
    backbone = model.get_base_model().base_model
    return backbone(**batch.inputs(), use_cache=False).last_hidden_state.float()


# --- adapters and heads -----------------------------------------------------------------------
def lora_config(model: PreTrainedModel, rank: int) -> LoraConfig:
    """LoRA on every linear layer of the transformer, none on the vocabulary head. alpha = 2·rank."""
    head = model.get_output_embeddings()
    targets = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not name.endswith("score")
    }
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=sorted(targets))


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
        # N(0, 1/sqrt(d + 1)), bias 0 (rlhf-notes D2; Ziegler et al. 2019)
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


def load_reward_adapter(
    model: PeftModel, folder: str | Path, name: str = "reward", *, trainable: bool = False
) -> tuple[ScalarHead, RewardStatistics]:
    """Load a reward model's adapter under `name`, and give back its head and score statistics.

    Raises RunError if the folder holds no reward model, or one of another size.
    """
    folder = Path(folder)
    for file in ("adapter_model.safetensors", "head.safetensors", "reward.json"):
        if not (folder / file).is_file():
            raise RunError(f"{folder} is not a reward model: {file} is missing.")
    device = next(model.parameters()).device
    weights = load_file(folder / "head.safetensors")
    size = model.get_base_model().config.get_text_config().hidden_size
    if (found := weights["linear.weight"].shape[1]) != size:
        raise RunError(
            f"The reward model in {folder} has hidden size {found}, the policy has {size}: it was "
            "trained on another base. Train a reward model on this policy."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of every adapter after the first
        model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable)
    head = ScalarHead(size).to(device)
    head.load_state_dict(weights)
    head.requires_grad_(trainable)
    return head, RewardStatistics(**read_json(folder / "reward.json"))


@torch.no_grad()
def score(model: PeftModel, head: ScalarHead, batch: Batch, adapter: str = "reward") -> Tensor:
    """Raw scores, (B,), read at the last real token."""
    with use_adapter(model, adapter):
        hidden = hidden_states(model, batch)  # (B, L, D)
    return head(hidden[torch.arange(len(hidden)), batch.last])
