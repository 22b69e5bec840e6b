"""Tiny models with random weights and learned positions: they have no place for a token beyond those."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from rlhf.training.tiny import build_tokenizer

SIZES = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
FAMILIES = {"opt": (OPTConfig, OPTForCausalLM), "gpt2": (GPT2Config, GPT2LMHeadModel)}


def build(folder, family, places=48):
    """In the tiny model's tokens. peft puts no LoRA on the layers of GPT-2, which are no linear ones to it."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    kind, model = FAMILIES[family]
    config = kind(
        vocab_size=len(tokenizer), max_position_embeddings=places, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SIZES[family],
    )  # fmt: skip
    model(config).save_pretrained(folder)
    return folder
