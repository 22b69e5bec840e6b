"""The run *domain tuning*: a policy goes on being pre-trained, on running text.

Only the preparation of the data differs from supervised.py: text of one split is joined, an end token
after each document, and cut into blocks of equal length, in which every token counts.
"""

from __future__ import annotations

from rlhf.training.supervised import run

__all__ = ["run"]
