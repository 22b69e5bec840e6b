"""Speaks the model server's protocol on the real socket, and says what it is told to say."""

import json
import threading
from contextlib import contextmanager

from rlhf import model_server

YES = [
    {"index": 0, "text": "Yes"},
    {"index": 0, "text": ", please."},
    {"index": 0, "finish_reason": "stop"},
    {"usage": {"prompt_tokens": 7, "completion_tokens": 4}},
]


@contextmanager
def model_server_that_says(*lines):
    """The questions it was asked, as a list that grows."""
    questions = []

    def attend(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            with connection, connection.makefile("rwb") as file:
                if question := file.readline():
                    questions.append(json.loads(question))
                    file.writelines(json.dumps(line).encode() + b"\n" for line in lines)

    with model_server.listening() as listener:
        threading.Thread(target=attend, args=(listener,), daemon=True).start()
        yield questions
