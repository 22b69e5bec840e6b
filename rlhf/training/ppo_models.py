"""The models of a PPO run: one frozen base, the adapters on it, the heads beside it.

On the base lie the LoRA adapters `policy`, which learns, and `reward`, which does not; the base
without an adapter is the reference. A reward model of another base lies beside it (rewards.py). The critic is one more adapter that learns, or only a head on
the policy, or a whole second model. If all adapters lie on the top layers, what enters those
layers is kept from the rollout and only they are run again (forward.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.training.config import PPOConfig
from rlhf.training.forward import backbone_of, is_trunk_reusable, layers_of, top_layers
from rlhf.training.models import (
    ScalarHead,
    adapter_parameters,
    load_policy,
    load_reward_adapter,
    lora_config,
    merged_adapter,
    n_top_layers,
    stop_ids,
    use_adapter,
)
from rlhf.training.rewards import Source, load_sources


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

    @property
    def device(self) -> torch.device:
        return next(self.value_head.parameters()).device

    @property
    def is_exact(self) -> bool:
        """Decoding and teacher forcing round alike in fp32, but not in bf16."""
        return next(self.model.parameters()).dtype == torch.float32

    def using(self, name: str | None) -> AbstractContextManager[None]:
        """Run the block with this adapter, or with none. A critic of its own needs none."""
        if name == "value" and self.critic:
            return nullcontext()
        if name and self.is_exact:
            return merged_adapter(self.model, name)
        return use_adapter(self.model, name)

    def policy_parameters(self) -> list[nn.Parameter]:
        return adapter_parameters(self.model, "policy")

    def value_parameters(self) -> list[nn.Parameter]:
        critic = (
            self.critic.parameters() if self.critic else adapter_parameters(self.model, "value")
        )
        return [*critic, *self.value_head.parameters()]


def load_models(config: PPOConfig) -> Models:
    """The base with a fresh `policy` adapter, the reward model, and the critic made from it."""
    torch.manual_seed(config.seed)
    base, tokenizer = load_policy(config.model)
    stop = stop_ids(base, tokenizer)
    # LoRA's B starts at zero: the first policy is the reference, to the last bit.
    adapter = lora_config(base, config.lora_rank, config.adapter_layers)
    model = get_peft_model(base, adapter, adapter_name="policy")
    rewards = load_sources(model, config)
    shared = next((source.folder for source in rewards if source.adapter), None)
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
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    top = n_top_layers(model)
    n_layers = len(layers_of(backbone_of(model))[1])
    if not config.reuse_trunk or top == n_layers or not is_trunk_reusable(model, top):
        top = 0
    layers = top_layers(backbone_of(model), top) if top else backbone_of(model)
    models = Models(model, tokenizer, rewards, value_head, stop, top, layers, critic)
    model.requires_grad_(False)
    for parameter in [*models.policy_parameters(), *models.value_parameters()]:
        parameter.requires_grad_(True)
    return models


def load_critic(config: PPOConfig, reward_model: str | None) -> nn.Module:
    """A backbone of its own, in fp32 because all of it learns, that starts as the reward model's
    of this base, or as the policy's if there is none."""
    base, _ = load_policy(config.model, dtype=torch.float32)
    if reward_model:
        base = PeftModel.from_pretrained(base, reward_model).merge_and_unload()
    critic = base.base_model
    if config.gradient_checkpointing:
        critic.gradient_checkpointing_enable({"use_reentrant": False})
    return critic
