"""An optional classifier of unsafe text: any sequence classifier of transformers, from a local folder.

Only safetensors are loaded, and no code of the folder's own is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf.training.artifacts import RunError
from rlhf.training.screen_config import ScreenConfig
from rlhf.training.screen_rows import Row

BATCH = 16  # texts
LONGEST = 512  # tokens; what comes later in a text is not read


def classify(rows: Iterator[Row], config: ScreenConfig) -> Iterator[tuple[Row, str]]:
    """Each row with what the classifier says against it, or with nothing."""
    model, tokenizer = _load(config)
    label = _number_of(config.classifier_label, model)
    has_several = model.config.problem_type == "multi_label_classification"
    while batch := list(islice(rows, BATCH)):
        texts = [row.text for row in batch]
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**inputs).logits  # (B, labels)
        shares = logits.sigmoid() if has_several else logits.softmax(-1)
        for row, p in zip(batch, shares[:, label].tolist(), strict=True):
            is_found = p >= config.classifier_threshold
            yield row, f"{config.classifier_label}: {p:.2f}" if is_found else ""


def _load(config: ScreenConfig) -> tuple[Any, Any]:
    folder = Path(config.classifier)
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder} with a classifier")
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RunError(f"the classifier in {folder} cannot be loaded: {error}") from error
    return model.eval(), tokenizer


def _number_of(label: str, model: Any) -> int:
    known = {str(name): int(number) for name, number in model.config.label2id.items()}
    if label not in known:
        raise RunError(f"the classifier has no label {label!r}: it has {', '.join(known)}")
    return known[label]
