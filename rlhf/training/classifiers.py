"""Sequence classifiers: what a reward model learns in, and what one is kept as if it is no adapter.

A reward model lies on a language model without its vocabulary head, or on an encoder (BERT and its
relatives). transformers calls either with a head for one number a sequence classifier. Of a language
model the head is a linear map, read at the last token, and everything in reward_forward.py applies.
An encoder reads prompt and completion as a pair of texts, every token sees all others, and the way from
its states to the number is its own, so it is run as it is, one padded row per conversation, in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlhf.training.annotator_model import AnnotatorModel
from rlhf.training.artifacts import RunError
from rlhf.training.context import places_in
from rlhf.training.forward import collate, layers_of, score
from rlhf.training.models import (
    check_folders,
    check_top,
    default_device,
    default_dtype,
    disable_dropout,
    is_encoder,
)


class RewardHead(nn.Linear):
    """The score in fp32 whatever the backbone computes in, as ScalarHead does it in PPO. And what else
    is learned of how scores become votes: the parameter of ties, where they are an outcome of their
    own, the level below which people call all answers bad, where that is learnt from, and the
    annotators, where their votes are known one by one."""

    def __init__(
        self,
        hidden_size: int,
        *,
        bias: bool = False,
        is_trained: bool = False,
        has_ties: bool = False,
        has_level: bool = False,
        annotators: AnnotatorModel | None = None,
    ) -> None:
        super().__init__(hidden_size, 1, bias=bias)
        self.is_trained = is_trained  # it came with the base, and learning goes on from there
        if has_ties:
            self.tie = nn.Parameter(torch.zeros(()))
        if has_level:
            self.all_bad_level = nn.Parameter(torch.zeros(()))
        if annotators:
            self.annotators = annotators

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.float())


def score_head(model: nn.Module) -> Any:
    """The head that learns: peft keeps the one it started from beside it."""
    return next(
        part
        for name, part in model.named_modules()
        if isinstance(part, RewardHead) and ".original_module" not in name
    )


def score_layer(classifier: PreTrainedModel) -> str:
    """The name of the linear map that gives the number, outside of the backbone."""
    backbone = set(classifier.base_model.modules())
    names = [
        name
        for name, part in classifier.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == 1 and part not in backbone
    ]
    if len(names) != 1:
        raise RunError(
            f"the sequence classifier for {classifier.config.model_type} models does not end in one "
            "linear map: it cannot be the base of a reward model"
        )
    return names[0]


# --- bases ------------------------------------------------------------------------------------
class Base(NamedTuple):
    """What a reward model starts from."""

    model: PreTrainedModel  # a sequence classifier for one number
    has_head: bool = False  # that was trained before
    missing: frozenset[str] = frozenset()  # weights that its files lack, and that are new


def classifier_around(policy: PreTrainedModel) -> Base:
    """A sequence classifier around a policy's own backbone, which is not copied."""
    settings = copy.deepcopy(policy.config)
    if type(settings) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RunError(_no_classifier(settings.model_type))
    settings.num_labels = 1
    with torch.device("meta"):  # allocates nothing: all of it is replaced
        model = AutoModelForSequenceClassification.from_config(settings)
    setattr(model, model.base_model_prefix, policy.base_model)
    return Base(model)


def load_base(reference: dict[str, Any], dtype: torch.dtype | None = None) -> Base:
    """The sequence classifier of `{"base": folder, "adapters": [folder, …]}`, frozen, without dropout;
    an encoder in fp32. Weights that the folder lacks, as the head's usually are, are new and
    always the same. Raises RunError for missing files.
    """
    check_folders(reference)
    config = AutoConfig.from_pretrained(reference["base"], trust_remote_code=False)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RunError(_no_classifier(config.model_type))
    config.problem_type, config.num_labels = None, 1
    with _quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            reference["base"],
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head for several classes
            output_loading_info=True,
        )
    for adapter in reference["adapters"]:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    device = default_device()
    fast = torch.float32 if is_encoder(config) else default_dtype(device)
    model.to(device=device, dtype=dtype or fast)
    model.requires_grad_(False)
    disable_dropout(model)
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    missing = frozenset(report["missing_keys"] | mismatched)
    return Base(model.eval(), f"{score_layer(model)}.weight" not in missing, missing)


def _no_classifier(model_type: str) -> str:
    return (
        f"transformers has no sequence classifier for {model_type} models: they cannot be the base of "
        "a reward model"
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' advice to train a new head, which is what follows or is not needed."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Reader(NamedTuple):
    """How a base reads text."""

    tokenizer: PreTrainedTokenizerBase
    longest: int | None  # tokens that it takes at most; None: as many as there is memory for

    def at_most(self, tokens: int) -> int:
        return min(tokens, self.longest or tokens)


def load_reader(reference: dict[str, Any]) -> Reader:
    """How the model of `{"base": folder, …}` reads text. Raises RunError for missing files."""
    check_folders(reference)
    tokenizer = AutoTokenizer.from_pretrained(reference["base"], trust_remote_code=False)
    config = AutoConfig.from_pretrained(reference["base"], trust_remote_code=False)
    if not is_encoder(config):
        return Reader(tokenizer, places_in(config))
    positions = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    return Reader(tokenizer, min(tokenizer.model_max_length, positions))


def n_positions(model: PreTrainedModel) -> int:
    """How many tokens an encoder has positions for. RoBERTa counts from behind its padding token's."""
    positions = getattr(model.config, "max_position_embeddings", 2**30)
    for name, part in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            positions = part.num_embeddings
            if part.padding_idx is not None:
                positions -= part.padding_idx + 1
    return positions


def cut(prompt: list[int], completion: list[int], longest: int) -> tuple[list[int], list[int]]:
    """Both within so many tokens: the beginning of the completion, and of the prompt its first token,
    which opens the text, and its end.

    Example: prompt [1, 5, 6, 7, 2], completion [8, 3] and 5 tokens -> [1, 7, 2], [8, 3].
    """
    completion = completion[: longest - 2]
    room = longest - len(completion)
    if len(prompt) <= room:
        return prompt, completion
    return [prompt[0], *prompt[len(prompt) - room + 1 :]], completion


# --- what learns ------------------------------------------------------------------------------
def put_head(
    base: Base,
    *,
    has_ties: bool = False,
    has_level: bool = False,
    annotators: AnnotatorModel | None = None,
) -> PreTrainedModel:
    """The base's classifier with a RewardHead in place of its last linear map."""
    name = score_layer(base.model)
    last = base.model.get_submodule(name)
    head = RewardHead(
        last.in_features,
        bias=last.bias is not None,
        is_trained=base.has_head,
        has_ties=has_ties,
        has_level=has_level,
        annotators=annotators,
    )
    with torch.no_grad():
        if base.has_head:
            head.weight.copy_(last.weight)
        if last.bias is not None:
            head.bias.copy_(last.bias)  # 0 if it is new
    base.model.set_submodule(name, head.to(base.model.base_model.device))
    return base.model


def head_parts(classifier: PreTrainedModel) -> list[str]:
    """The names of what follows an encoder's layers, which is new or was made for another purpose: its
    pooler, and all between it and the number."""
    prefix, backbone = classifier.base_model_prefix, classifier.base_model
    _, layers = layers_of(backbone)
    parts = list(backbone.named_children())
    holder = next(place for place, (_, part) in enumerate(parts) if layers in part.modules())
    above = [(f"{prefix}.{name}", part) for name, part in parts[holder + 1 :]]
    beside = [(name, part) for name, part in classifier.named_children() if part is not backbone]
    return [name for name, part in above + beside if next(part.parameters(), None) is not None]


def encoder_lora(classifier: PreTrainedModel, rank: int, top: int | None) -> LoraConfig:
    """LoRA on every linear map of an encoder's top layers (None: of all), as `lora_config` does it; what
    follows them learns as a whole, and is kept in every checkpoint."""
    _, layers = layers_of(classifier.base_model)
    check_top(top, len(layers))
    learning = {
        part for layer in layers[len(layers) - (top or len(layers)) :] for part in layer.modules()
    }
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=[
            name
            for name, part in classifier.named_modules()
            if part in learning and isinstance(part, nn.Linear)
        ],
        modules_to_save=head_parts(classifier),
    )


# --- scores -----------------------------------------------------------------------------------
def encoder_scores(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Tensor:
    """Raw scores of conversations by an encoder, (B,), under the active adapter if there is one.

    Padding is masked. Where the encoder tells two texts apart by more than their place, the completion is
    the second one.
    """
    rows = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
    padding = model.config.pad_token_id or 0
    inputs = {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
    if getattr(model.config, "type_vocab_size", 0) > 1:
        types = [
            torch.tensor([0] * len(p) + [1] * len(c))
            for p, c in zip(prompts, completions, strict=True)
        ]
        inputs["token_type_ids"] = pad_sequence(types, batch_first=True)
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    return model(**on_device).logits.squeeze(-1).float()


def classifier_scores(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Tensor:
    """Raw scores of conversations by a whole classifier, (B,)."""
    if is_encoder(model.config):
        return encoder_scores(model, prompts, completions)
    batch = collate(prompts, completions, model.device)
    return score(model.base_model, model.get_submodule(score_layer(model)), batch).squeeze(-1)


@torch.no_grad()
def ignores_padding(model: PreTrainedModel) -> bool:
    """Whether an encoder scores a text as it would alone when a longer one stands beside it."""
    short, long = [1, 2, 3], [1, 2, 3, 4, 5, 6]
    try:
        alone = encoder_scores(model, [short], [[4]])
        beside = encoder_scores(model, [short, long], [[4], [7]])
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return torch.allclose(alone, beside[:1], atol=1e-4, rtol=1e-4)


# --- whole ones -------------------------------------------------------------------------------
def is_whole(folder: str | Path) -> bool:
    """Whether a reward model is a model by itself, and not an adapter on another one."""
    return (Path(folder) / "config.json").is_file()


def save_whole(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The classifier as transformers keeps it, adapters added to the weights, and its tokenizer. What was
    learnt of those who voted is left out."""
    whole = copy.deepcopy(model).merge_and_unload() if isinstance(model, PeftModel) else model
    head = score_layer(whole)
    weights = {
        name: tensor
        for name, tensor in whole.state_dict().items()
        if not name.startswith(f"{head}.") or name in (f"{head}.weight", f"{head}.bias")
    }
    whole.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
