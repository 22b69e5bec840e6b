"""Finding passages by a sentence encoder: the cosine of embeddings.

    embeddings.safetensors   {"passages": (N, D)}, each of length 1
    encoder/                 the model that made them, with its tokenizer
    dense.json               its name, the prefixes, and how many tokens it reads

An embedding is the mean of the last layer's states over a text's tokens (Reimers and Gurevych 2019), which is
what most sentence encoders were trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from rlhf.training.artifacts import RunError, read_json
from rlhf.training.classifiers import n_positions
from rlhf.training.models import default_device
from rlhf.training.retrieval import EMBEDDINGS

ENCODER, SETTINGS = "encoder", "dense.json"


class Encoder:
    """A model that turns texts into directions."""

    def __init__(self, source: str | Path, max_tokens: int) -> None:
        """`source` is a folder, or the name of a model on the hub. Raises RunError if there is none."""
        self.device = default_device()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
            self.model = AutoModel.from_pretrained(
                str(source), trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise RunError(
                f"The sentence encoder {source} cannot be loaded: it is no folder with an encoder in safetensors, "
                f"and not to be had from the hub ({str(error).strip().splitlines()[0]})."
            ) from None
        self.model.to(self.device).eval().requires_grad_(False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.max_tokens = min(max_tokens, self.tokenizer.model_max_length, n_positions(self.model))

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """(N, D), each row of length 1, on the CPU."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)  # fmt: skip
        wanted = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        states = self.model(**wanted).last_hidden_state  # (N, T, D)
        return F.normalize(mean_pooled(states, wanted["attention_mask"]), dim=-1).cpu()

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def mean_pooled(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of (N, T, D) over the tokens that count in (N, T); a text without any is 0."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class Dense:
    """The passages of a collection by the cosine with a question. A `retrieval.Search`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = read_json(folder / SETTINGS)
        self.passages = load_file(folder / EMBEDDINGS)["passages"]  # (N, D)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.folder / ENCODER, self.settings["max_tokens"])

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        direction = self.encoder.embed([self.settings["query_prefix"] + query])[0]  # (D,)
        scores = self.passages @ direction
        best = scores.topk(min(k, len(scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
