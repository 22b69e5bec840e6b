"""The run *index documents*: an embedding of each passage of a collection, for it to be found by meaning.

Embeddings are kept batch by batch in embeddings.f32, so a run that was stopped or killed goes on after the last
whole row. The new collection has its own copy of passages and encoder: it needs neither the old one nor the hub.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.training.artifacts import RunError, RunFolder, Stopped, write_json
from rlhf.training.dense import ENCODER, SETTINGS, Encoder
from rlhf.training.index_config import IndexConfig
from rlhf.training.retrieval import BM25, EMBEDDINGS, PASSAGES, Collection, PassageFile
from rlhf.training.retrieval_metrics import RELEVANT, measure, read_relevant

FLOAT_BYTES = 4


def run(config: IndexConfig, folder: RunFolder) -> dict[str, Any]:
    source = Path(config.collection)
    if not (source / PASSAGES).is_file():
        raise RunError(f"The collection {source} has no {PASSAGES}: was it moved or deleted?")
    folder.phase("loading the encoder")
    encoder = Encoder(config.encoder, config.max_tokens)
    folder.phase("embedding passages")
    began = time.monotonic()
    embeddings = embed_all(encoder, PassageFile(source / PASSAGES), config, folder)
    folder.phase("saving")
    with folder.writing_artifact() as artifact:
        copy_collection(source, artifact)
        encoder.save(artifact / ENCODER)
        save_file({"passages": embeddings}, artifact / EMBEDDINGS)
        names = ("query_prefix", "passage_prefix", "max_tokens", "encoder")
        write_json(artifact / SETTINGS, {name: getattr(config, name) for name in names})
    relevant = read_relevant(folder.path / "artifact" / RELEVANT)
    found = {"found": measure(Collection(folder.path / "artifact"), relevant)} if relevant else {}
    (folder.path / "embeddings.f32").unlink()
    return {
        "n_passages": len(embeddings),
        "dimensions": embeddings.shape[1],
        "seconds": round(time.monotonic() - began, 1),
        **found,
    }


def embed_all(
    encoder: Encoder, passages: PassageFile, config: IndexConfig, folder: RunFolder
) -> Tensor:
    """(N, D), of which those of a run before a stop are kept."""
    path = folder.path / "embeddings.f32"
    size = encoder.model.config.hidden_size
    began, total = time.monotonic(), len(passages)
    done = first = whole_rows(path, size)
    with path.open("ab") as file:
        while done < total:
            if folder.should_stop():
                raise Stopped
            batch = [passages[place] for place in range(done, min(done + config.batch_size, total))]
            texts = [f"{config.passage_prefix}{each.document}\n{each.text}" for each in batch]
            file.write(encoder.embed(texts).contiguous().numpy().tobytes())
            file.flush()
            done += len(batch)
            per_passage = (time.monotonic() - began) / (done - first)
            folder.progress(done, total, eta_seconds=per_passage * (total - done))
    values = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32)
    return values.reshape(-1, size)[:total]


def whole_rows(path: Path, size: int) -> int:
    """How many are there already; a half-written last one, of a killed run, is cut off."""
    if not path.exists():
        return 0
    rows = path.stat().st_size // (size * FLOAT_BYTES)
    os.truncate(path, rows * size * FLOAT_BYTES)
    return rows


def copy_collection(source: Path, target: Path) -> None:
    """What finds passages by their words, and what is known of them."""
    for name in (PASSAGES, RELEVANT):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    shutil.copytree(source / BM25, target / BM25)
