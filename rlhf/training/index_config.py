"""What an index run is told: which collection of documents, and which encoder finds its passages."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.training.config_base import Config, _require


@dataclass(frozen=True)
class IndexConfig(Config):
    collection: str  # folder of a frozen collection
    encoder: str  # a folder, or the name of a model on the hub
    query_prefix: str = ""  # some encoders were trained with one, as "query: " (E5)
    passage_prefix: str = ""
    max_tokens: int = 256  # of a passage or a question; the rest is not read
    batch_size: int = 32  # passages computed together

    def __post_init__(self) -> None:
        _require(bool(self.encoder.strip()), "encoder is empty: a folder or a name on the hub")
        _require(self.max_tokens >= 1, f"max_tokens={self.max_tokens} must be at least 1")
        _require(self.batch_size >= 1, f"batch_size={self.batch_size} must be at least 1")
