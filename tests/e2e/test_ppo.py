"""The form of PPO, whose estimate follows what one types, and the marks of alarms on its charts."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.e2e.test_loop import make_project, sign_in
from tests.e2e.test_pages import PPO_RUN
from tests.rlhf.test_estimates import PROBE

pytestmark = pytest.mark.e2e

# A policy whose speed is known, and a reward model on it: rows are all that the form needs.
MODELS = f"""
import tempfile
from annotator.models import Project
from rlhf.models import ModelVersion

project, folder = Project.objects.get(), tempfile.gettempdir()
policy = ModelVersion.objects.create(
    project=project, name="base", kind="policy", path=folder,
    probe={json.dumps({**PROBE._asdict(), "device": "CPU", "cores": 2, "host": "here"})},
)
ModelVersion.objects.create(
    project=project, name="reward", kind="reward", parent=policy, path=folder
)
"""


def test_ppo_is_set_up_with_an_estimate_and_watched_with_its_alarms(app, page):
    sign_in(page)
    make_project(page)
    app.manage("shell", "-c", MODELS)
    page.goto("/projects/loop/runs/new/ppo/")
    estimate, steps = page.locator("#estimate"), page.get_by_label("Steps", exact=True)
    expect(estimate).to_contain_text(re.compile(r"Learned from\s*82,000"))  # 20 · 32 · 64 · 2

    def type_on(route):  # before the answer about one step has come
        steps.fill("10")
        route.continue_()

    page.route(re.compile("/runs/estimate/"), type_on, times=1)
    steps.fill("1")
    expect(estimate).to_contain_text(re.compile(r"Learned from\s*41,000"))
    expect(steps).to_be_focused()

    page.get_by_role("link", name="Quick look").click()
    expect(page.get_by_text("Kept as you had set it: Steps.")).to_be_visible()
    expect(steps).to_have_value("10")
    expect(page.get_by_label("Critic")).to_have_value("head")
    expect(page.get_by_label("Critic")).to_be_visible()
    expect(estimate).to_contain_text(re.compile(r"Learned from\s*7,700"))  # 10 · 16 · 48 · 1

    app.manage("shell", "-c", PPO_RUN.replace("objects.get()", "objects.get(name='base')"))
    page.goto("/projects/loop/runs/1/")
    kl = page.locator("figure.chart").filter(has_text="KL from the reference")
    expect(kl.locator(".scatterlayer .point")).to_have_count(1)
    expect(kl.get_by_role("listitem")).to_contain_text("Red: KL above 50 nats")
    entropy = page.locator("figure.chart").filter(has=page.get_by_text("Entropy", exact=True))
    expect(entropy).to_contain_text("not reported by this run")
