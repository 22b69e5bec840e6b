"""Tiny encoders with random weights, of the families that people use: for tests."""

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rlhf.training.tiny import build_tokenizer

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # so that different texts get different scores without any training
}  # fmt: skip
FAMILIES = {
    "bert": (BertConfig, BertForMaskedLM, {}),
    "roberta": (RobertaConfig, RobertaForMaskedLM, {"type_vocab_size": 1, "pad_token_id": 0}),
    "deberta-v2": (DebertaV2Config, DebertaV2ForMaskedLM, {"relative_attention": True}),
    "electra": (ElectraConfig, ElectraForMaskedLM, {"embedding_size": 16}),
    "modernbert": (ModernBertConfig, ModernBertForMaskedLM, {"local_attention": 8}),
    "distilbert": (
        DistilBertConfig,
        DistilBertForMaskedLM,
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2},
    ),
}


def build_encoder(folder, family="bert", labels=None, tokens_between=1):
    """As one finds it on the Hub: trained to fill gaps, or, with `labels`, as a classifier of so many.

    Its tokenizer knows the tiny model's words, and no chat template.
    """
    tokenizer = pair_tokenizer(tokens_between)
    tokenizer.save_pretrained(folder)
    kind, model, changes = FAMILIES[family]
    special = {
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    own_names = (
        "max_position_embeddings",
        "initializer_range",
    )  # DistilBERT has others for the rest
    sizes = {name: SIZES[name] for name in (own_names if family == "distilbert" else SIZES)}
    torch.manual_seed(0)
    config = kind(vocab_size=len(tokenizer), **sizes | special | changes)
    if labels:
        config.num_labels = labels
        model = BertForSequenceClassification
    model(config).save_pretrained(folder)
    return folder


def pair_tokenizer(tokens_between=1):
    words = [word for word in build_tokenizer().get_vocab() if not word.startswith("<")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\S|\s"), "isolated")
    between = " ".join(["[SEP]"] * tokens_between)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {between} $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", clean_up_tokenization_spaces=False,
    )  # fmt: skip
