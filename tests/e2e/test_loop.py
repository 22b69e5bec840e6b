"""The whole loop in a real browser, with real runs of the tiny model."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PASSWORD, RUN_SECONDS

pytestmark = pytest.mark.e2e

NOUNS = ("door", "lamp", "book", "cup", "garden", "box", "window", "chair", "tea", "bread", "car",
         "river", "house", "table", "letter", "bike", "phone", "soup", "coat", "key")  # fmt: skip


def sign_in(page):
    page.goto("/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def make_project(page):
    page.get_by_role("link", name="New project").click()
    page.get_by_label("Name").fill("Loop")
    page.get_by_role("button", name="Make the project").click()
    lines = [json.dumps({"prompt": f"How do I open the {noun}?"}) for noun in NOUNS]
    page.get_by_label("Or paste lines").fill("\n".join(lines))
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text(f"How do I open the {NOUNS[4]}?")).to_be_visible()
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("20 prompts")).to_be_visible()  # the worker did it


def start(page, kind, fields=None):
    """Fill in the form of a run and start it; the folded settings too."""
    page.goto(f"/projects/loop/runs/new/{kind}/")
    folded = page.get_by_text("More settings", exact=True)
    if folded.count():
        folded.click()
    for label, value in (fields or {}).items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"/runs/\d+/$"))


def run_to_success(page, kind, fields=None):
    start(page, kind, fields)
    badge = page.locator("#run_status .badge")
    expect(badge).to_have_text("Succeeded", timeout=RUN_SECONDS * 1000)


def import_tiny_model(page, folder):
    page.goto("/projects/loop/runs/new/import_model/")
    page.get_by_label("A folder or a GGUF file on this machine").check()
    page.get_by_label("Hub id or path").fill(str(folder))
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#run_status .badge")).to_have_text("Succeeded", timeout=120_000)


def judge_by_keyboard(page, times):
    """The shorter answer is better: press its key, and wait for the next comparison, if any."""
    page.goto("/projects/loop/compare/")
    for _ in range(times):
        comparison = page.locator("#comparison")
        assignment = comparison.get_attribute("data-assignment")
        if assignment is None:
            return
        left, right = (article.inner_text() for article in page.get_by_role("article").all())
        page.keyboard.press("1" if len(left) <= len(right) else "2")
        expect(comparison).not_to_have_attribute("data-assignment", assignment)
        expect(comparison).not_to_have_attribute("aria-busy", "true")  # a bounce is no verdict


SMALL_REWARD_MODEL = {"Epochs": "1", "Answers to calibrate on": "4", "Fewest pairs": "1"}
SMALL_PPO = {
    "Steps": "3",
    "Answers per step": "8",
    "Longest answer": "12",
    "Micro-batch tokens": "256",
}


def test_the_whole_loop_in_the_browser(app, page, tiny_folder):
    sign_in(page)
    make_project(page)
    import_tiny_model(page, tiny_folder)
    run_to_success(page, "generate", {"Longest answer": "24"})

    judge_by_keyboard(page, 10)
    expect(page.locator("#progress")).to_contain_text(re.compile(r"^\s*10\s+of"))

    page.goto("/projects/loop/exports/")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_text(re.compile("Export 1 is frozen"))).to_be_visible()

    run_to_success(page, "reward_model", SMALL_REWARD_MODEL)
    run_to_success(page, "ppo", SMALL_PPO)
    expect(page.locator(".chart-plot svg").first).to_be_visible()
    run_to_success(page, "evaluate", {"Longest answer": "24"})

    judge_by_keyboard(page, 40)  # all that is left, the pairs of both policies among it
    page.goto("/projects/loop/")
    win_rate = re.compile(r"\d+\s%\s+\(\d+\s%\sto\s\d+\s%\)\s+0\sties")
    expect(page.get_by_role("row", name=re.compile("^1 "))).to_contain_text(win_rate)
    expect(page.locator("[data-step=new_policy]")).to_contain_text("policy-r1")
    page.locator("#strip-evaluation", has_text="Start round 2").click()
    expect(page.get_by_role("heading", name="Round 2")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("^2 "))).to_be_visible()


@pytest.mark.slow
def test_a_killed_trainer_loses_nothing_and_ppo_goes_on(app, page, tiny_folder):
    sign_in(page)
    make_project(page)
    import_tiny_model(page, tiny_folder)
    run_to_success(page, "generate", {"Longest answer": "16"})
    judge_by_keyboard(page, 6)
    page.goto("/projects/loop/exports/")
    page.get_by_role("button", name="Export").click()
    run_to_success(page, "reward_model", SMALL_REWARD_MODEL)

    start(page, "ppo", {**SMALL_PPO, "Steps": "150"})
    folder = Path(
        app.environment["PREFERENDUM_DATA_DIR"], "runs", page.url.rstrip("/").split("/")[-1]
    )
    wait_for(lambda: list(folder.glob("checkpoint-*")))
    app.kill("trainer")  # who watches
    kill_run(folder)  # and the run itself, in the middle
    steps = newest_checkpoint(folder)
    app.start("trainer")

    expect(page.locator("#run_status .badge")).to_have_text(
        re.compile("Lost|Failed"), timeout=90_000
    )
    page.get_by_role("button", name="Resume").click()
    wait_for(lambda: newest_checkpoint(folder) > steps)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#run_status .badge")).to_have_text("Stopped", timeout=60_000)


def kill_run(folder):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in arguments:
            os.kill(int(path.parent.name), signal.SIGKILL)


def newest_checkpoint(folder):
    return max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def wait_for(condition, seconds=RUN_SECONDS):
    for _ in range(seconds * 5):
        if condition():
            return
        time.sleep(0.2)
    raise TimeoutError
