"""Tries, keys, pages and sentences, against a server that answers as the test says."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from preferendum import ApiError, Client, NotReachable, transport

PROBLEM = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "No.",
    "errors": [{"pointer": "#/overlap", "detail": "From 1 to 100."}],
}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.got = []  # (method, path, headers)
        self.answers = []  # (status, headers, content); None: hangs up


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers["content-length"] or 0))
        self.server.got.append((self.command, self.path, dict(self.headers)))
        answer = self.server.answers.pop(0)
        if answer is None:
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_PAUSE_SECONDS", 0.001)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(server):
    with Client(server.url, "pref_secret") as client:
        yield client


def test_the_token_and_the_address_are_those_of_the_api(server, client):
    server.answers = [(200, {}, {"slug": "essays"})]

    client.project("essays").details()

    ((method, path, headers),) = server.got
    assert (method, path) == ("GET", "/api/v1/projects/essays/")
    assert headers["Authorization"] == "Bearer pref_secret"


@pytest.mark.parametrize("trouble", [None, (503, {}, b""), (429, {"Retry-After": "0"}, PROBLEM)])
def test_what_was_lost_is_sent_again_with_the_same_key(server, client, trouble):
    server.answers = [trouble, trouble, (201, {}, {"slug": "essays"})]

    client.create_project("Essays")

    keys = [headers["Idempotency-Key"] for _, _, headers in server.got]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_request_that_is_being_carried_out_is_waited_for(server, client):
    server.answers = [(409, {"Retry-After": "0"}, PROBLEM), (201, {}, {"slug": "essays"})]

    assert client.create_project("Essays").slug == "essays"


@pytest.mark.parametrize("trouble", [None, (503, {}, b"")])
def test_what_must_not_be_done_twice_is_not_sent_twice(server, client, trouble):
    server.answers = [(200, {}, {"id": 7}), trouble]
    run = client.project("essays").run(7)

    with pytest.raises((NotReachable, ApiError)):
        run.resume()

    assert len(server.got) == 2


def test_nobody_there_is_said_after_some_tries(server, client):
    server.answers = [None] * transport.MOST_TRIES

    with pytest.raises(NotReachable, match=f"{server.url} could not be reached"):
        client.model(1)

    assert server.answers == []


def test_a_refusal_is_the_servers_sentence_and_is_not_repeated(server, client):
    server.answers = [(422, {}, PROBLEM)]

    with pytest.raises(ApiError) as raised:
        client.create_project("Essays", overlap=0)

    assert str(raised.value) == "No. #/overlap From 1 to 100."
    assert (raised.value.status, raised.value.errors) == (422, PROBLEM["errors"])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((404, {}, b"<h1>nginx</h1>"), "404: <h1>nginx</h1>"),
        ((301, {"Location": "https://b.example/"}, b""), "The server is elsewhere: https://b.exam"),
    ],
)
def test_what_is_no_answer_of_ours_is_said_too(server, client, answer, sentence):
    server.answers = [answer]

    with pytest.raises(ApiError) as raised:
        client.model(1)

    assert str(raised.value).startswith(sentence)


def test_pages_are_fetched_as_they_are_needed_whatever_the_server_calls_itself(server, client):
    first = {"next": "http://inside:8000/api/v1/?cursor=c%3D2", "results": [{"id": 3}, {"id": 2}]}
    server.answers = [(200, {}, first), (200, {}, {"next": None, "results": [{"id": 1}]})]

    rows = client.project("essays").prompts(split="test")
    assert next(rows) == {"id": 3}
    assert len(server.got) == 1

    assert [row["id"] for row in rows] == [2, 1]
    assert server.got[1][1] == (
        "/api/v1/projects/essays/prompts/?page_size=200&split=test&cursor=c%3D2"
    )


def test_pauses_grow_and_are_at_least_what_the_server_wants():
    assert 0.4 <= transport._pause(1) <= 0.6
    assert 3.2 <= transport._pause(4) <= 4.8
    assert transport._pause(1, "30") == 30.0
    assert transport._pause(1, "9999") == transport.LONGEST_PAUSE_SECONDS
