"""The whole product, as `make demo` starts it: web, worker and trainer, and a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PASSWORD = "correct horse battery"
RUN_SECONDS = 240  # for the slowest run, on a busy machine

expect.set_options(timeout=15_000)


class App:
    """A server of the test's own, on data of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.processes = {}
        self.environment = os.environ | {
            "PREFERENDUM_DATA_DIR": str(folder / "data"),
            "PREFERENDUM_DEBUG": "1",
            "PREFERENDUM_HTTPS": "0",
            "PREFERENDUM_SCREEN_FIRST": "0",
            "PREFERENDUM_SUITE_AFTER_TRAINING": "0",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def manage(self, *arguments):
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def start(self, name):
        commands = {
            "web": ["-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{self.port}",
                    "--threads", "4", "--workers", "1"],
            "worker": ["manage.py", "worker"],
            "trainer": ["manage.py", "trainer"],
        }  # fmt: skip
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, *commands[name]],
            cwd=ROOT,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def kill(self, name):
        """SIGKILL to the process and all its children at once, as a crash or honcho would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait_until_it_answers(self):
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/sign-in/", timeout=2)
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError((self.folder / "web.log").read_text())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def installed(tmp_path_factory, migrated):
    """The data folder of an installation in which nothing has happened yet."""
    app = App(tmp_path_factory.mktemp("installed"))
    (app.folder / "data").mkdir()
    shutil.copy(migrated, app.folder / "data" / "db.sqlite3")
    app.manage("createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.org")
    return app.folder / "data"


@pytest.fixture
def app(tmp_path, installed):
    app = App(tmp_path)
    shutil.copytree(installed, tmp_path / "data")
    for name in ("web", "worker", "trainer"):
        app.start(name)
    app.wait_until_it_answers()
    yield app
    for name in list(app.processes):
        app.kill(name)
    subprocess.run(["pkill", "-KILL", "-f", str(tmp_path)], check=False)  # runs outlive trainers


@pytest.fixture(scope="module")  # Playwright keeps a loop in this thread, and other tests run loops
def browser():
    if not Path(CHROMIUM).exists():
        pytest.fail(f"There is no {CHROMIUM}: apt-get install chromium, or set CHROMIUM.")
    with sync_playwright() as playwright:
        # Without these flags Chromium asks its maker's servers for this and that at every start.
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update",
                     "--disable-sync", "--no-first-run", "--disable-quic"]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, app, request):
    context = browser.new_context(base_url=app.url, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())  # "Stop this run?"
    yield page
    if getattr(request.node, "report_of_call", None) and request.node.report_of_call.failed:
        folder = ROOT / "test-results"
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"{request.node.name}.png", full_page=True)
    context.close()
    assert problems == []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.report_of_call = outcome.get_result()
