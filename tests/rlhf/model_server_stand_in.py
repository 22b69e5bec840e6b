"""Speaks the model server's protocol on the real socket, and says what it is told to say."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from itertools import chain, repeat

from rlhf import model_server

YES = [
    {"index": 0, "text": "Yes"},
    {"index": 0, "text": ", please."},
    {"index": 0, "finish_reason": "stop"},
    {"usage": {"prompt_tokens": 7, "completion_tokens": 4}},
]


@contextmanager
def model_server_that_says(*lines, and_then=None):
    """The questions it was asked, as a list that grows. `and_then` is a line that it says again and
    again, until the client hangs up."""
    questions = []

    def attend(connection):
        with connection, connection.makefile("rb") as file, suppress(OSError):
            if question := file.readline():
                questions.append(json.loads(question))
                for line in chain(lines, repeat(and_then) if and_then else []):
                    connection.sendall(json.dumps(line).encode() + b"\n")
                    time.sleep(0.02 if line is and_then else 0)

    def let_in(listener):
        with suppress(OSError):  # the test is over
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

    with model_server.listening() as listener:
        threading.Thread(target=let_in, args=(listener,), daemon=True).start()
        yield questions
