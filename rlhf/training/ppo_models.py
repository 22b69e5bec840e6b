"""The models of a PPO run: one frozen base, the adapters on it, the heads beside it.

On the base lie the LoRA adapters `policy`, which learns, and `reward`, which does not (several if
the reward model has members); the base without an adapter is the reference. A reward model of
another base lies beside it (rewards.py). The
critic is one more adapter that learns, or only a head on the policy, or a whole second model. With
full fine-tuning the policy is a model beside the base as well. If all that learns or scores lies on
the top layers, what enters those layers is kept from the rollout and only they are run again
(forward.py).

A role is "policy", "value", the name of a reward model's adapter, or None for the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.training.config import PPOConfig
from rlhf.training.forward import backbone_of, layers_of, top_layers
from rlhf.training.models import (
    ScalarHead,
    adapter_parameters,
    load_policy,
    load_reward_adapter,
    lora_config,
    merges_adapters,
    n_reusing_layers,
    n_top_layers,
    stop_ids,
    tunable_parameters,
    using_adapter,
)
from rlhf.training.rewards import Source, load_sources
from rlhf.training.savings import RUN_ALONE, TWO_TYPES, Savings, trunk_note


class Models(NamedTuple):
    """One base with its adapters, and what lies beside it."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    rewards: list[Source]  # whose weighted sum is the score
    value_head: ScalarHead
    stop: set[int]
    top: int  # layers that run on the kept states of the trunk below; 0: all layers, on tokens
    layers: nn.Module  # those layers: a part of `model`
    critic: nn.Module | None  # a whole model of its own
    own_policy: PreTrainedModel | None = None  # likewise, with full fine-tuning

    @property
    def device(self) -> torch.device:
        return next(self.value_head.parameters()).device

    @property
    def writer(self) -> nn.Module:
        """The causal language model that samples, when used as the policy."""
        return self.own_policy or self.model

    @property
    def dtype(self) -> torch.dtype:
        """In which the policy computes: that of its frozen weights."""
        return next(self.writer.parameters()).dtype

    @property
    def is_exact(self) -> bool:
        """Decoding and teacher forcing round alike in fp32, but not in bf16."""
        return self.dtype == torch.float32

    @contextmanager
    def using(self, role: str | None) -> Iterator[nn.Module]:
        """Run the block with the role's adapter on the base, if it is one; gives its layers."""
        if role == "value" and self.critic:
            yield self.critic
        elif role == "policy" and self.own_policy:
            backbone = backbone_of(self.own_policy)
            yield top_layers(backbone, self.top) if self.top else backbone
        else:
            with using_adapter(self.model, role):
                yield self.layers

    def reuses_trunk(self, role: str | None) -> bool:
        """Whether the role's layers want the trunk's states in place of tokens."""
        return self.top > 0 and not (role == "value" and self.critic)

    def train(self, mode: bool = True) -> None:
        """Dropout is 0; gradient checkpointing works in training mode only."""
        for model in (self.model, self.critic, self.own_policy):
            if model:
                model.train(mode)

    def policy_parameters(self) -> list[nn.Parameter]:
        if self.own_policy:
            return [
                parameter for parameter in self.own_policy.parameters() if parameter.requires_grad
            ]
        return adapter_parameters(self.model, "policy")

    def value_parameters(self) -> list[nn.Parameter]:
        critic = (
            self.critic.parameters() if self.critic else adapter_parameters(self.model, "value")
        )
        return [*critic, *self.value_head.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        """All that learns."""
        return [*self.policy_parameters(), *self.value_parameters()]


def load_models(config: PPOConfig) -> Models:
    """The base with a fresh `policy` adapter, the reward model, and the critic made from it. With
    full fine-tuning, a copy of the base learns in place of the adapter."""
    torch.manual_seed(config.seed)
    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    base, tokenizer = load_policy(config.model, dtype=dtype)
    stop = stop_ids(base, tokenizer)
    # LoRA's B starts at zero: the first policy is the reference, to the last bit.
    adapter = lora_config(base, config.lora_rank, config.adapter_layers)
    model = get_peft_model(base, adapter, adapter_name="policy")
    rewards = load_sources(model, config)
    shared = next((source.folder for source in rewards if source.members), None)
    # The critic sees what the reward model sees (Stiennon et al. 2020), but its head starts at 0:
    # the reward model has only ever judged whole answers, and before the last token its opinion
    # explains the returns worse than saying their mean, which is 0 by normalisation.
    value_head = ScalarHead(base.config.get_text_config().hidden_size).to(base.device)
    nn.init.zeros_(value_head.linear.weight)
    critic = None
    if config.critic == "adapter" and shared:
        load_reward_adapter(model, shared, "value")
    elif config.critic == "adapter":  # no reward model on this base: the policy's own features
        model.add_adapter("value", adapter)
    elif config.critic == "full":
        critic = load_critic(config, shared)
    top = n_reusing_layers(model) if config.reuse_trunk else 0
    own_policy = None
    if config.train == "full":
        # The adapter `policy` has said which layers are meant, and lies idle: peft wants one.
        # A trunk in bf16 gives states that layers in fp32 cannot share.
        top = top if base.dtype == torch.float32 else 0
        own_policy = load_own_policy(config, base, top)
    for part in (base, critic, own_policy):
        if part and config.gradient_checkpointing:
            part.gradient_checkpointing_enable({"use_reentrant": False})
    layers = top_layers(backbone_of(model), top) if top else backbone_of(model)
    model.requires_grad_(False)
    models = Models(model, tokenizer, rewards, value_head, stop, top, layers, critic, own_policy)
    if own_policy:
        for parameter in tunable_parameters(own_policy, config.adapter_layers):
            parameter.requires_grad_(True)
    for parameter in models.parameters():
        parameter.requires_grad_(True)
    return models


def load_own_policy(config: PPOConfig, base: PreTrainedModel, top: int) -> PreTrainedModel:
    """A second causal language model, in fp32 because it learns. What does not is the base's own
    where that can be: embeddings and vocabulary head in fp32, the trunk where it is reused."""
    policy, _ = load_policy(config.model, dtype=torch.float32)
    if base.dtype == torch.float32:
        policy.set_input_embeddings(base.get_input_embeddings())
        policy.set_output_embeddings(base.get_output_embeddings())
    if top:
        (_, own), (_, shared) = layers_of(policy.base_model), layers_of(base.base_model)
        for number in range(len(own) - top):
            own[number] = shared[number]
    return policy


def load_critic(config: PPOConfig, reward_model: str | None) -> nn.Module:
    """A backbone of its own, in fp32 because all of it learns, that starts as the reward model's
    of this base, or as the policy's if there is none."""
    base, _ = load_policy(config.model, dtype=torch.float32)
    if reward_model:
        base = PeftModel.from_pretrained(base, reward_model).merge_and_unload()
    return base.base_model


# --- what it spares -----------------------------------------------------------------------------
def savings_of(models: Models, config: PPOConfig) -> Savings:
    """What is in force of that which the configuration asks for."""
    n = len(layers_of(backbone_of(models.model))[1])
    asked = config.adapter_layers or n
    notes = []
    if config.reuse_trunk and asked < n and models.top != asked:
        notes.append(trunk_note(n, asked, models.top or n, _why_more_layers(models, asked, n)))
    return Savings(n, models.top, merges_adapters(models.model), notes)


def _why_more_layers(models: Models, asked: int, n: int) -> str:
    if models.own_policy and not models.top and not merges_adapters(models.model):
        return TWO_TYPES
    if not models.top and n_top_layers(models.model) < n:
        return RUN_ALONE
    lower = [
        source.name
        for source in models.rewards
        if any(n_top_layers(models.model, each.adapter) > asked for each in source.members)
    ]
    return f"the adapters of {' and '.join(lower)} reach further down"
