"""The model server's process: `python -m rlhf.training.serve LISTENER SETTINGS`.

It is started by `manage.py model_server`, which listens already: LISTENER is the number of that
socket, and SETTINGS a JSON object {"max_requests", "idle_seconds"}. Whoever connects writes one line,
and reads lines until the connection ends:

    ask      {"reference": {"base", "adapters"}, "messages": […], "n", "max_tokens", "temperature",
              "top_p", "seed", "stop", "hashes"}
    answer   {"index": 0, "text": "Hel"}, …, {"index": 0, "finish_reason": "stop" | "length"}, and last
              {"usage": {"prompt_tokens", "completion_tokens"}}
    or last  {"error": a sentence, "kind": "busy" | "request" | "too_long" | "model"}

Who ends the connection is not written for any longer. The process loads what it is asked for, and
ends when nobody has asked for a while: all memory is given back then. It has no database and no secret.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.training.__main__ import OUT_OF_MEMORY_WORDS, limit_threads, prepare_libraries
from rlhf.training.artifacts import RunError
from rlhf.training.hashes import find_problems, in_a_sentence

if TYPE_CHECKING:  # torch takes seconds to import; until then the door is open already
    from rlhf.training.serve_batch import Batch
    from rlhf.training.serve_models import Models

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 30.0  # with a client that does not read
LINE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Request:
    reference: dict[str, Any]
    messages: list[dict[str, str]]
    n: int = 1
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    hashes: dict[str, Any] = field(default_factory=dict)  # as in a run's hashes.json

    @classmethod
    def from_line(cls, line: bytes) -> Request:
        """Raises ValueError or TypeError if this is no request."""
        return cls(**json.loads(line))


@dataclass(eq=False)
class Ticket:
    """A request under way: what is written for it, and whether anybody still waits for it."""

    request: Request
    lines: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    is_gone: bool = False

    def send(self, line: dict[str, Any]) -> None:
        self.lines.put(line)

    def finish(self, **usage: int) -> None:
        self.send({"usage": usage})

    def fail(self, sentence: str, kind: str) -> None:
        self.send({"error": sentence, "kind": kind})


class Desk:
    """Where the threads that talk to clients and the one that computes meet."""

    def __init__(self, max_requests: int, idle_seconds: float) -> None:
        self.max_requests, self.idle_seconds = max_requests, idle_seconds
        self._tickets: list[Ticket] = []  # all that are under way
        self._waiting: list[Ticket] = []  # those that nobody has begun to write
        self._changed = threading.Condition()
        self._n_connections = 0
        self.is_closed = False
        self._used_last = time.monotonic()

    # --- the threads that talk to clients -------------------------------------------------------
    def enter(self, request: Request) -> Ticket | None:
        """A ticket; None if as many requests as allowed are under way."""
        with self._changed:
            if len(self._tickets) >= self.max_requests:
                return None
            ticket = Ticket(request)
            self._tickets.append(ticket)
            self._waiting.append(ticket)
            self._changed.notify_all()
            return ticket

    def leave(self, ticket: Ticket) -> None:
        with self._changed:
            ticket.is_gone = True
            self._tickets.remove(ticket)
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def accept(self, listener: socket.socket) -> socket.socket | None:
        """The next connection; None if there is none, or the process is about to end."""
        if not select.select([listener], [], [], POLL_SECONDS)[0]:
            return None
        with self._changed:
            if self.is_closed:
                return None
            connection, _ = listener.accept()
            self._n_connections += 1
            return connection

    def hang_up(self) -> None:
        with self._changed:
            self._n_connections -= 1
            self._used_last = time.monotonic()

    # --- the thread that computes ---------------------------------------------------------------
    def take_waiting(self, *, patient: bool) -> list[Ticket]:
        """All that wait; if there are none and it is patient, after a moment's rest."""
        with self._changed:
            if patient and not self._waiting:
                self._changed.wait(POLL_SECONDS)
            taken, self._waiting = self._waiting, []
            return taken

    def put_back(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            self._waiting = [t for t in tickets if not t.is_gone] + self._waiting

    def close_if_idle(self) -> bool:
        """Whether nobody has been here for a while. Nobody is let in any more then: who has connected
        and was not let in is found by the next process."""
        with self._changed:
            if self._n_connections or time.monotonic() - self._used_last < self.idle_seconds:
                return False
            self.is_closed = True
            return True


# --- talking to clients -----------------------------------------------------------------------
def open_door(listener: socket.socket, desk: Desk) -> None:
    """Let clients in, one thread each, until the process is about to end."""
    while not desk.is_closed:
        if connection := desk.accept(listener):
            threading.Thread(target=attend, args=(connection, desk), daemon=True).start()


def attend(connection: socket.socket, desk: Desk) -> None:
    """Read what one client asks, and pass on to it what is written."""
    try:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            connection.settimeout(PATIENCE_SECONDS)
            _answer(connection, lines.readline(LINE_BYTES), desk)
    finally:
        desk.hang_up()


def _answer(connection: socket.socket, line: bytes, desk: Desk) -> None:
    if not line:
        return
    try:
        request = Request.from_line(line)
    except (ValueError, TypeError) as error:
        _write(connection, {"error": f"This is no request: {error}", "kind": "request"})
        return
    ticket = desk.enter(request)
    if ticket is None:
        sentence = f"{desk.max_requests} requests are under way already: try again in a moment."
        _write(connection, {"error": sentence, "kind": "busy"})
        return
    try:
        _pass_on(ticket, connection)
    finally:
        desk.leave(ticket)


def _pass_on(ticket: Ticket, connection: socket.socket) -> None:
    while True:
        try:
            line = ticket.lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if has_hung_up(connection):
                return
            continue
        _write(connection, line)
        if "usage" in line or "error" in line:
            return


def _write(connection: socket.socket, line: dict[str, Any]) -> None:
    connection.sendall(json.dumps(line).encode() + b"\n")


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed: there is something to read, and it is nothing."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


# --- computing --------------------------------------------------------------------------------
def compute(desk: Desk) -> None:
    """Write what is asked for, until nobody has asked for a while.

    All batches take turns, one token each: a short answer does not wait for a long one, and two versions
    write side by side.
    """
    import torch  # noqa: PLC0415 (takes seconds; the door is open already)

    from rlhf.training.serve_models import Models  # noqa: PLC0415 (imports torch)

    models = Models()
    batches: list[Batch] = []
    with torch.no_grad():
        while batches or not desk.close_if_idle():
            tickets = desk.take_waiting(patient=not batches)
            batches += begin(tickets, models, batches, desk)
            for batch in batches:
                _step(batch)
            batches = [batch for batch in batches if batch.is_going]


def begin(
    tickets: Sequence[Ticket], models: Models, batches: Sequence[Batch], desk: Desk
) -> list[Batch]:
    """Load what these ask for, and read their messages. Who finds no room waits for those that write."""
    from rlhf.training.serve_batch import Batch, grouped  # noqa: PLC0415 (imports torch)
    from rlhf.training.serve_models import NoRoom, key_of  # noqa: PLC0415 (imports torch)

    begun: list[Batch] = []
    for group in grouped(tickets):
        reference = group[0].request.reference
        in_use = {key_of(batch.reference) for batch in [*batches, *begun]}
        try:
            check_files(group[0].request.hashes)
            base = models.base_of(reference, in_use)
            readable = _readable(group, base)
            if readable:
                begun.append(Batch(base, reference, *zip(*readable, strict=True)))
        except NoRoom as error:
            if in_use:
                desk.put_back(group)
            else:
                _fail(group, error)
        except Exception as error:  # whatever it is, the others go on
            _fail(group, error)
    return begun


def check_files(hashes: dict[str, Any]) -> None:
    """Raises RunError if a file is not what it was. Each is read for that once, when it is loaded."""
    problems = [
        problem
        for folder, files in hashes.items()
        for problem in find_problems(Path(folder), files)
    ]
    if problems:
        raise RunError(f"Its files are not what they were: {in_a_sentence(problems)}.")


def _readable(group: Sequence[Ticket], base: Any) -> list[tuple[Ticket, list[int]]]:
    """Those whose messages the model can read, with their tokens; the others are told why not."""
    from rlhf.training.serve_batch import TooLong, encode_messages  # noqa: PLC0415 (imports torch)

    readable = []
    for ticket in group:
        try:
            readable.append((ticket, encode_messages(base, ticket)))
        except RunError as error:
            ticket.fail(str(error), "too_long" if isinstance(error, TooLong) else "request")
    return readable


def _step(batch: Batch) -> None:
    try:
        batch.step()
    except Exception as error:  # whatever it is, the others go on
        _fail(list(batch.prompt_tokens), error)
        batch.give_up()


def _fail(tickets: Sequence[Ticket], error: Exception) -> None:
    if not isinstance(error, RunError):
        traceback.print_exc()
    for ticket in tickets:
        ticket.fail(in_words(error), "model")


def in_words(error: Exception) -> str:
    message = str(error).strip()
    if isinstance(error, MemoryError) or any(words in message for words in OUT_OF_MEMORY_WORDS):
        return "The model server is out of memory: ask for shorter or fewer answers."
    if isinstance(error, RunError):
        return message
    return f"The model server failed: {type(error).__name__}: {message.partition(chr(10))[0]}"


# --- the process ------------------------------------------------------------------------------
def end_with_parent() -> None:
    """End when standard input does: the parent holds its other end, and nothing is written to it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    number, settings = int(arguments[0]), json.loads(arguments[1])
    prepare_libraries()
    desk = Desk(settings["max_requests"], settings["idle_seconds"])
    listener = socket.socket(fileno=number)
    threading.Thread(target=end_with_parent, daemon=True).start()
    threading.Thread(target=open_door, args=(listener, desk), daemon=True).start()
    limit_threads()
    compute(desk)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
