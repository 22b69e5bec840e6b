"""Milliseconds from the press of a key to the next comparison's text on the screen, in a real browser.

    python bench/key_to_text.py [--comparisons 10000] [--presses 100]

The Procfile's web process, on a new SQLite file with the demo's questions and answers, serves one
annotator in Chromium on the same machine. Measured in the page: from the event of the key, `1` and
`2` in turn, to the frame after the one in which the next comparison has been painted, so that up to
two frames of 16.7 ms are waiting for the screen. Each press is made when the page takes one again.
Prints one JSON line. CHROMIUM says where the browser is.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: its files have names of the standard library

import argparse
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PASSWORD = "correct horse battery"  # noqa: S105 (of this file's own database)
WARM_UP = 5  # presses that are not counted
# Puts the milliseconds of each press into `measured`.
MEASURE = """() => {
  window.measured = [];
  let pressed;
  addEventListener("keydown", (event) => { pressed = event.timeStamp; }, { capture: true });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (!event.detail.requestConfig.path.endsWith("/judge/")) return;  // how much is left, now and then
    requestAnimationFrame(() => requestAnimationFrame((now) => measured.push(now - pressed)));
  });
}"""
READY = """(n) => measured.length === n
  && document.querySelector("#comparison").getAttribute("aria-busy") === null"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=10_000)
    parser.add_argument("--presses", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, arguments.comparisons)
        with web_server() as url, browser_page() as page:
            milliseconds = press(page, url, arguments.presses)
    print(
        json.dumps(
            {
                "bench": "key_to_text",
                "comparisons": arguments.comparisons,
                "presses": len(milliseconds),
                "median_ms": round(statistics.median(milliseconds), 1),
                "p95_ms": round(statistics.quantiles(milliseconds, n=20)[-1], 1),
            }
        )
    )


def prepare(folder: str, n: int) -> None:
    """A database with one annotator and n comparisons, and the static files."""
    os.environ |= {
        "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PREFERENDUM_DATA_DIR": folder,
        "PREFERENDUM_HTTPS": "0",
        "PREFERENDUM_LOG_LEVEL": "ERROR",
    }

    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)

    from annotator.importing import import_jsonl
    from annotator.models import Membership, Project, User

    random.seed(0)
    project = Project.objects.create(name="Bench", slug="bench")
    annotator = User.objects.create_user("ann", password=PASSWORD)
    Membership.objects.create(project=project, user=annotator)
    demo = (ROOT / "rlhf/demo/comparisons.jsonl").read_text().splitlines()
    entries = itertools.islice(itertools.cycle(map(json.loads, demo)), n)
    import_jsonl(project, (numbered(entry, place) for place, entry in enumerate(entries)))


def numbered(entry: dict, n: int) -> bytes:
    """The same question is a new one, so that it is a comparison of its own."""
    *before, last = entry["prompt"]
    prompt = [*before, last | {"content": f"{n}. {last['content']}"}]
    return json.dumps({"prompt": prompt, "completions": entry["completions"]}).encode()


@contextmanager
def web_server():
    """The address of the Procfile's web process on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    environment = {
        "PREFERENDUM_BIND": f"127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    server = subprocess.Popen(procfile["web"], shell=True, cwd=ROOT, env=os.environ | environment)  # noqa: S602
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the web process does not answer")


@contextmanager
def browser_page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def press(page: Page, url: str, presses: int) -> list[float]:
    page.goto(f"{url}/sign-in/?next=/projects/bench/compare/")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#verdict")
    page.evaluate(MEASURE)
    for n in range(1, WARM_UP + presses + 1):
        page.keyboard.press(random.choice("12"))
        page.wait_for_function(READY, arg=n)
    return page.evaluate("measured")[WARM_UP:]


if __name__ == "__main__":
    main()
