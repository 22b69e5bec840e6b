"""Rows checked, screened and brought into one form, before any of them is stored. Without Django.

It takes as long as storing them, and all of it is Python: those of a long file go, some hundred at a time,
to processes of their own. Pipes feed them, so that they end when whoever feeds them does, however it ends.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import msgspec

from annotator.formats.entries import Entry, FieldError, excerpt, printable
from annotator.formats.reading import Row
from annotator.formats.shapes import entry_of
from annotator.screening import reason_to_hold

ROOT = Path(__file__).resolve().parent.parent
FEW = 2000  # rows that are checked at once, before it pays to start a process
BATCH = 200  # rows
BATCH_BYTES = 2**20  # or fewer rows, if they are large
MOST_PROCESSES = 4  # whoever reads the file cannot keep more of them busy

ENCODER = msgspec.json.Encoder()  # of the file between checking and storing


class LineError(NamedTuple):
    line: int
    message: str
    place: str = ""  # where rows are not lines
    column: str = ""
    value: str = ""  # its beginning

    def __str__(self) -> str:
        return f"{self.place or f'line {self.line}'}: {self.message}"


class Good(NamedTuple):
    line: bytes  # an Entry as JSON, with what screening finds in it
    ignored: list[str]  # names of fields that mean nothing here


class Rules(NamedTuple):
    """What rows are checked by."""

    mapping: Mapping[str, str] | None = (
        None  # columns for fields of ours that the file calls otherwise
    )
    screening: list[str] = []  # of `screening.CHECKS`
    near_identical_percent: int = 100

    def check(self, row: Row) -> Good | LineError:
        try:
            entry = _entry(row, self.mapping)
        except ValueError as error:
            return _line_error(row, error)
        held = entry._replace(hold=self._reason_to_hold(entry), ignored=[])
        return Good(ENCODER.encode(held) + b"\n", entry.ignored)

    def _reason_to_hold(self, entry: Entry) -> str:
        if entry.expected is not None:
            return ""
        texts = [(answer.text, answer.is_truncated) for answer in entry.answers]
        return reason_to_hold(texts, self.screening, self.near_identical_percent)


def _entry(row: Row, mapping: Mapping[str, str] | None) -> Entry:
    if isinstance(row.record, ValueError):
        raise row.record
    return entry_of(row.record, mapping)


def _line_error(row: Row, error: ValueError) -> LineError:
    column = error.column if isinstance(error, FieldError) else ""
    value = ""
    if isinstance(row.record, dict) and column in row.record:
        given = row.record[column]
        value = printable(given, 200) if isinstance(given, str) else excerpt(given, 200)
    return LineError(row.number, printable(str(error)), row.place, printable(column), value)


# --- many rows --------------------------------------------------------------------------------
def check_all(
    rows: Iterator[Row], rules: Rules, n_processes: int | None = None
) -> Generator[Good | LineError, None, None]:
    """In the order of the rows. By so many processes beside this one; by none, no row is read before it
    is its turn. Without a number: one for each core, if there are several.

    Raises what reading the rows does, and ChildProcessError if one of the processes is killed.
    """
    if n_processes is None:
        n_cores = os.cpu_count() or 1
        n_processes = min(n_cores, MOST_PROCESSES) if n_cores > 1 else 0
    yield from map(rules.check, islice(rows, FEW) if n_processes else rows)
    yield from _side_by_side(_batches(rows), rules, n_processes)


def _batches(rows: Iterator[Row]) -> Iterator[list[bytes]]:
    """Rows as they are sent to another process."""
    batch: list[bytes] = []
    n_bytes = 0
    for row in rows:
        batch.append(_packed(row))
        n_bytes += len(batch[-1])
        if len(batch) >= BATCH or n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _packed(row: Row) -> bytes:
    try:
        return pickle.dumps(row)
    except RecursionError:
        return pickle.dumps(row._replace(record=ValueError("the row is nested too deeply")))


def _side_by_side(
    batches: Iterator[list[bytes]], rules: Rules, n_processes: int
) -> Iterator[Good | LineError]:
    first = next(batches, None)
    if first is None:
        return
    idle: SimpleQueue[_Process] = SimpleQueue()
    checked: deque[Future[list[Good | LineError]]] = deque()
    with ExitStack() as stack:
        for _ in range(n_processes):
            idle.put(process := _Process())
            stack.callback(process.end)
            process.begin(rules)
        threads = ThreadPoolExecutor(n_processes)  # each waits for a process
        stack.callback(threads.shutdown, cancel_futures=True)
        for batch in chain([first], batches):
            checked.append(threads.submit(_check_by_one, idle, batch))
            if len(checked) > 2 * n_processes:
                yield from checked.popleft().result()
        while checked:
            yield from checked.popleft().result()


def _check_by_one(idle: SimpleQueue[_Process], batch: list[bytes]) -> list[Good | LineError]:
    process = idle.get()
    try:
        return process.check(batch)
    finally:
        idle.put(process)


class _Process:
    """Runs `main`, below."""

    def __init__(self) -> None:
        # In a session of its own: Ctrl-C is for whoever feeds it.
        command = [sys.executable, "-m", "annotator.checking"]
        self.child: Popen[bytes] = Popen(  # noqa: S603
            command, stdin=PIPE, stdout=PIPE, cwd=ROOT, start_new_session=True
        )

    def begin(self, rules: Rules) -> None:
        with _killed():
            self._send(rules)

    def check(self, batch: list[bytes]) -> list[Good | LineError]:
        """Raises what the process did, and ChildProcessError if it is gone."""
        assert self.child.stdout is not None
        with _killed():
            self._send(batch)
            found: list[Good | LineError] | Exception = pickle.load(self.child.stdout)  # noqa: S301
        if isinstance(found, Exception):
            raise found
        return found

    def _send(self, what: Any) -> None:
        assert self.child.stdin is not None
        pickle.dump(what, self.child.stdin)
        self.child.stdin.flush()

    def end(self) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass  # it has ended
        self.child.stdout.close()
        self.child.wait()


@contextmanager
def _killed() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        raise ChildProcessError(
            "A process that checked rows has been killed: perhaps there was too little memory."
        ) from None


def main() -> None:
    """Check what comes in until nothing more does."""
    gc.freeze()  # what is imported stays: it need not be looked at for garbage
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):  # whoever fed this is gone
        rules = pickle.load(source)  # noqa: S301 (from the process that has started this one)
        while True:
            batch = pickle.load(source)  # noqa: S301
            pickle.dump(_checked(rules, batch), sink)
            sink.flush()


def _checked(rules: Rules, batch: list[bytes]) -> list[Good | LineError] | Exception:
    try:
        return [rules.check(pickle.loads(row)) for row in batch]  # noqa: S301
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
