"""What the layers compute: batches of conversations, hidden states, log-probabilities, scores.

A conversation is a prompt and its completion in one piece, padded on the right only. Under causal
attention no real token sees what is to its right, so there is no attention mask to get wrong, and
masks of what counts come from lengths: the embedded model's padding token is its end token.

Adapters that sit on the top k layers leave everything below alone: the hidden states that enter
layer L - k (the *trunk's* states) are the same for policy, reference, reward model and critic, and
stay the same while the policy learns. They are computed once and only the top layers run again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**22  # numbers; 16 MiB in fp32


# --- batches ----------------------------------------------------------------------------------
class Batch(NamedTuple):
    """B conversations of up to L tokens, with N completion tokens in all."""

    inputs: dict[str, Tensor]  # input_ids (B, L), or inputs_embeds (B, L, D): the trunk's states
    before: Tensor  # (B, L) True where the next token is one of the completion's: N times
    targets: Tensor  # (N,) the completions' tokens, row after row
    last: Tensor  # (B,) column of each row's last real token


def collate(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    device: torch.device,
    states: Sequence[Tensor] | None = None,
) -> Batch:
    """One micro-batch, padded to its own longest conversation.

    `states`, the trunk's states of each conversation (tokens, D), take the place of the tokens.

    Example: prompts [[5], [6, 7]], completions [[8, 2], [9]] -> input_ids [[5, 8, 2], [6, 7, 9]],
    before [[1, 1, 0], [0, 1, 0]], targets [8, 2, 9], last [2, 2].
    """
    starts = torch.tensor([len(ids) for ids in prompts]).unsqueeze(1)  # (B, 1)
    ends = starts + torch.tensor([len(ids) for ids in completions]).unsqueeze(1)
    column = torch.arange(int(ends.max())).unsqueeze(0)  # (1, L)
    if states is not None:
        inputs = {"inputs_embeds": pad_sequence(list(states), batch_first=True).to(device)}
    else:
        rows = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
        inputs = {"input_ids": pad_sequence(rows, batch_first=True).to(device)}
    return Batch(
        inputs,
        ((column >= starts - 1) & (column < ends - 1)).to(device),
        torch.tensor([token for ids in completions for token in ids], device=device),
        (ends.squeeze(1) - 1).to(device),
    )


def similar_lengths(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places in groups of similar length, each of up to `tokens` tokens with its padding, or of
    one: less padding, bounded memory.

    Example: lengths [3, 9, 2], 6 tokens -> [2, 0], [1].
    """
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[place] > tokens:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


# --- layers -----------------------------------------------------------------------------------
def backbone_of(model: nn.Module) -> PreTrainedModel:
    """The transformer without its vocabulary head; a PeftModel's with its adapters."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model


def vocabulary_head(model: nn.Module) -> nn.Linear:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.get_output_embeddings()


def layers_of(backbone: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of layers and the attribute that holds it; of an encoder it is one of a part's."""
    parts = chain(backbone.named_children(), backbone.named_modules())
    return next(
        (name.rpartition(".")[2], part) for name, part in parts if isinstance(part, nn.ModuleList)
    )


def top_layers(backbone: PreTrainedModel, k: int) -> PreTrainedModel:
    """The last k layers and the final norm, sharing all weights. Its input is `inputs_embeds`."""
    name, layers = layers_of(backbone)
    top = copy.copy(backbone)
    top._modules = {**backbone._modules, name: nn.ModuleList(layers[len(layers) - k :])}
    return top


class Watch:
    """What entered a layer in the latest forward pass, (B, L, D)."""

    states: Tensor


@contextmanager
def watching(layer: nn.Module | None) -> Iterator[Watch | None]:
    if layer is None:
        yield None
        return
    watch = Watch()

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.states = args[0] if args else kwargs["hidden_states"]

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield watch
    finally:
        handle.remove()


@torch.no_grad()
def is_trunk_reusable(model: nn.Module, k: int) -> bool:
    """Whether the last k layers, run from the trunk's states, repeat this model's whole forward.

    So it is for Llama and its many relatives. It is not where a model adds something to its
    inputs whichever way they come, or mixes kinds of attention by the layer's number.
    """
    backbone = backbone_of(model)
    kinds = getattr(backbone.config, "layer_types", None) or []
    if kinds[: min(k, len(kinds))] != kinds[len(kinds) - k :]:  # they go by the layer's number
        return False
    ids = torch.arange(8, device=backbone.device).unsqueeze(0)
    with watching(layers_of(backbone)[1][-k]) as watch:
        whole = backbone(input_ids=ids, use_cache=False).last_hidden_state
    assert watch is not None
    try:
        top = top_layers(backbone, k)(inputs_embeds=watch.states, use_cache=False)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return is_alike(top.last_hidden_state, whole)


def is_alike(found: Tensor, expected: Tensor) -> bool:
    """Whether last states, (…, D), differ by rounding alone.

    Told by how far they are apart, of their length: what is wrong moves them by a tenth and more,
    rounding by 1e-4 (SmolLM2 in fp32, of which single numbers reach 55) or a few hundredths (bf16).
    """
    furthest = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max()
    return bool(furthest <= (1e-3 if expected.dtype == torch.float32 else 0.1))


def hidden_states(layers: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states, (B, L, D), of a whole backbone or of its top layers."""
    return layers(**batch.inputs, use_cache=False).last_hidden_state


# --- log-probabilities ------------------------------------------------------------------------
class _TokenLogprobs(torch.autograd.Function):
    """As soon as a token's logits are known, so is the gradient of its log-probability with
    regard to its hidden state: (onehot - softmax) · W / temperature, D numbers. They are kept for
    the backward pass in place of V logits, and nothing is computed twice. The difference is taken in
    fp32: for a token that is nearly certain, bf16 would leave only rounding of it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        logprobs, entropies, gradients = [], [], []
        size = max(1, LOGITS_AT_ONCE // len(weight))
        for states, ids in zip(hidden.split(size), targets.split(size), strict=True):
            logits = F.linear(states, weight, bias).float().div_(temperature)  # (n, V)
            norm = logits.logsumexp(-1)
            chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            probabilities = (logits - norm.unsqueeze(-1)).exp_()
            logprobs.append(chosen - norm)
            entropies.append(norm - (probabilities * logits).sum(-1))
            if wants_gradient:
                difference = probabilities.neg_()
                difference[torch.arange(len(ids), device=ids.device), ids] += 1
                gradients.append((difference.to(weight.dtype) @ weight).div_(temperature))
        if wants_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (to_hidden,) = ctx.saved_tensors
        to_hidden = gradients[0].unsqueeze(-1).to(to_hidden.dtype) * to_hidden
        return to_hidden, None, None, None, None


def token_logprobs(
    hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log softmax(head(hidden) / temperature) at the targets, and the entropies: (N,), (N,), fp32.

    hidden is (N, D). The probabilities are of the distribution that was sampled from. At most
    LOGITS_AT_ONCE logits exist at a time. Gradients flow to `hidden` through the
    log-probabilities; the head is frozen.
    """
    return _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, temperature)


def completion_logprobs(
    layers: nn.Module, head: nn.Linear, batch: Batch, temperature: float
) -> Tensor:
    """Log-probability of each completion token, (N,), fp32, under the active adapter."""
    hidden = hidden_states(layers, batch)[batch.before]  # (N, D)
    return token_logprobs(hidden, head, batch.targets, temperature)[0]


@torch.no_grad()
def token_kls(
    own: tuple[Tensor, nn.Linear], other: tuple[Tensor, nn.Linear], temperature: float
) -> Tensor:
    """KL(own ‖ other) of the distributions of each next token, (N,), fp32, from hidden states (N, D) and the
    head that reads them.

    It is summed over the whole vocabulary, not estimated from the token that was drawn. At most
    LOGITS_AT_ONCE logits of each exist at a time.
    """
    found = []
    size = max(1, LOGITS_AT_ONCE // len(own[1].weight))
    for states in zip(own[0].split(size), other[0].split(size), strict=True):
        p, q = (
            head(rows).float().div_(temperature).log_softmax(-1)
            for rows, head in zip(states, (own[1], other[1]), strict=True)
        )
        found.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(found)


def score(layers: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """Raw scores under the active adapter, (B,), read at the last real token."""
    hidden = hidden_states(layers, batch)  # (B, L, D)
    return head(hidden[torch.arange(len(hidden)), batch.last])
