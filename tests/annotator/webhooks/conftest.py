import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from annotator.models import Role
from annotator.webhooks import outbox
from annotator.webhooks.models import Delivery
from tests.factories import MembershipFactory, ProjectFactory


class Receiver(ThreadingHTTPServer):
    """A server on this machine that keeps what it gets, and answers as the test says."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.got = []  # (headers, body) of each request
        self.codes = []  # to answer one after the other; then 204
        self.answer = b""
        self.extra_headers = {}
        self.is_stuck = threading.Event()  # set: answers nothing, until it ends

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))
        if self.server.is_stuck.is_set():
            threading.Event().wait(2)
            return
        self.send_response(self.server.codes.pop(0) if self.server.codes else 204)
        for name, value in self.server.extra_headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def do_GET(self):
        raise AssertionError("a redirect was followed")

    def log_message(self, *args):
        pass


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver(settings):
    settings.PRIVATE_WEBHOOKS = True
    with running(Receiver()) as server:
        yield server


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", name="Essays", overlap=3)


@pytest.fixture
def admin(project):
    return MembershipFactory(project=project, role=Role.ADMIN).user


@pytest.fixture
def hook(project, admin):
    """Add an address that is told of these events."""

    def hook(*events, url="https://example.org/hook", below=None):
        return outbox.add(project, admin, url=url, events=list(events), agreement_below=below)[0]

    return hook


@pytest.fixture
def again():
    """Send what waits now, as if its time had come."""

    def again():
        Delivery.objects.filter(state="waiting").update(due="2026-01-01T00:00Z")
        return outbox.deliver_due()

    return again
