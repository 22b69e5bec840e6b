"""Django's SQLite backend, in which whoever wants to write waits in a line.

SQLite itself has no line: who finds the write lock taken looks again after a sleep that becomes
longer each time, up to a tenth of a second, in which the lock may be free. With many annotators that
is most of a verdict's time. So transactions first wait for their turn: threads of one process for one
another, and one thread of each process for the other processes, by a lock on a file beside the
database, which the system gives back when its holder dies. The line only orders; correctness stays
with SQLite's own lock, which statements outside of transactions take without waiting here.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base

LOOK_EVERY = 0.001  # seconds, for the turn of another process

_threads: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
os.register_at_fork(after_in_child=_threads.clear)  # who held one is not here


class Turn:
    """One connection's place in the line. Waits no longer than SQLite would."""

    def __init__(self, database: Path, timeout: float) -> None:
        self.path = database.with_name(f"{database.name}-turn")
        self.timeout = timeout
        self.file: int | None = None
        self.thread: threading.Lock | None = None
        self.has_it = False

    def take(self) -> None:
        """Comes back when it is this connection's turn, or when it has waited long enough: then SQLite
        is asked, and says that the database is locked."""
        deadline = time.monotonic() + self.timeout
        thread = _threads[self.path]
        if not thread.acquire(timeout=self.timeout):
            return
        self.thread = thread
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o644)
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_EVERY)
            else:
                self.has_it = True
                return

    def give_back(self) -> None:
        """Nothing happens if it has none."""
        if self.has_it and self.file is not None:
            fcntl.flock(self.file, fcntl.LOCK_UN)
        self.has_it = False
        if self.thread is not None:
            thread, self.thread = self.thread, None
            thread.release()

    def close(self) -> None:
        self.give_back()
        if self.file is not None:
            os.close(self.file)
            self.file = None


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turn: Turn | None = None

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        if not self.is_in_memory_db():
            self.turn = Turn(Path(conn_params["database"]), conn_params.get("timeout", 5.0))
        return super().get_new_connection(conn_params)

    def _start_transaction_under_autocommit(self) -> None:
        if self.turn:
            self.turn.take()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._end_turn()
            raise

    def _commit(self) -> None:
        """If it fails, a rollback follows."""
        super()._commit()  # type: ignore[misc]
        self._end_turn()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            if self.turn:
                self.turn.close()

    def _end_turn(self) -> None:
        if self.turn:
            self.turn.give_back()
