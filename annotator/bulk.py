"""What spares a database work while very many rows go in, batch by batch, without keeping others waiting.

SQLite keeps 2 MiB of pages by default, and copies what was written into its file every 4 MiB. The
keys of rows are hashes, so that each of a batch's rows changes other pages of an index: it would read
them again for every batch, and write them twice to the disk, while others wait to write. PostgreSQL
looks up what each row refers to by a plan that it makes once for the session, and that reads the whole
table if it was small then: a hundred thousand rows later that is nearly all of its work.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

CACHE_KIB = 32 * 2**10  # of SQLite's pages
BETWEEN_CHECKPOINTS = 10  # batches: some tens of MiB


@contextmanager
def many_batches() -> Iterator[None]:
    """Around the transactions. After it, all that they have stored is on the disk."""
    gc.freeze()  # else it goes through all that Django is made of, every some batches
    try:
        with _postgresql() if connection.vendor == "postgresql" else _sqlite():
            yield
    finally:
        gc.unfreeze()


@contextmanager
def _postgresql() -> Iterator[None]:
    _ask("DISCARD PLANS")  # those that were made when the tables were small
    yield
    # Whoever waits until this is on the disk, has waited for all that was written before.
    _ask("SELECT pg_logical_emit_message(true, 'import', 'stored')")


@contextmanager
def _sqlite() -> Iterator[None]:
    before = {name: _ask(f"PRAGMA {name}") for name in ("cache_size", "wal_autocheckpoint")}
    _ask(f"PRAGMA cache_size = -{CACHE_KIB}")
    _ask("PRAGMA wal_autocheckpoint = 0")
    try:
        yield
    finally:
        for name, value in before.items():
            _ask(f"PRAGMA {name} = {value}")


def begin_batch() -> None:
    """First in each transaction. PostgreSQL looks rows up by their keys, and waits for no disk."""
    if connection.vendor == "postgresql":
        _ask(
            "SELECT set_config('enable_seqscan', 'off', true), "
            "set_config('synchronous_commit', 'off', true)"
        )


def end_batch(n_batches: int) -> None:
    """After the transaction of the so manieth batch. SQLite copies without keeping others from writing."""
    is_due = connection.vendor == "sqlite" and n_batches % BETWEEN_CHECKPOINTS == 0
    if is_due and not connection.in_atomic_block:
        _ask("PRAGMA wal_checkpoint(PASSIVE)")


def _ask(statement: str) -> Any:
    """The first value of the answer, if there is one."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None
