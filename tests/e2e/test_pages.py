"""Every page, looked at by axe: contrast, names, roles, order of headings."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.e2e.test_loop import import_tiny_model, make_project, sign_in

pytestmark = pytest.mark.e2e

PAGES = (
    "", "compare/", "guidelines/", "guidelines/proposals/", "comparisons/", "comparisons/1/",
    "progress/", "progress/live/", "agreement/", "exports/", "runs/",
    "runs/new/ppo/", "runs/new/probe/", "runs/1/", "runs/2/", "runs/2/answers/",
    "runs/3/", "runs/3/report/", "models/", "import/", "members/", "members/invitations/",
    "settings/", "annotators/1/withdraw/",
)  # fmt: skip

# A vote of today, a ruling that is an example, a comment, a proposal, a link.
REVIEWED = """
from datetime import timedelta
from django.utils import timezone
from annotator import assignment as queue, invitations
from annotator.models import (
    Comment, Comparison, Completion, GuidelineProposal, Judgment, Project, User, Verdict,
)
from annotator.reviewing import rule

ada, project = User.objects.get(), Project.objects.get()
prompt = project.prompts.first()
completions = [Completion.objects.create(prompt=prompt, text=text) for text in ("Yes.", "No.")]
comparison = Comparison.objects.create_from(completions, overlap=2)
shown = queue.claim(project, ada)
ranking = [[pk] for pk in shown.order]
queue.record(shown, Verdict.RANKING, ranking, payload_hash=shown.payload_hash)
Judgment.objects.update(created=timezone.now() - timedelta(minutes=5))
rule(comparison, ada, Verdict.RANKING, ranking, explanation="It is true.", is_example=True)
Comment.objects.create(comparison=comparison, author=ada, text="Well.")
GuidelineProposal.objects.create(project=project, author=ada, text="Be kind.")
invitations.invite(project, ada, role="annotator", days=7, max_uses=1)
"""

# One that has ended, with an alarm and two answers.
PPO_RUN = """
import json
from rlhf.alarms import as_json, find_alarms
from rlhf.models import Metrics, ModelVersion, Run
from rlhf.training.config import PPOConfig

policy = ModelVersion.objects.get()
reports = [(1, {"kl/k1": 1.0}), (2, {"kl/k1": 60.0})]
run = Run.objects.create(
    project=policy.project, kind="ppo", status="succeeded", policy=policy,
    config=PPOConfig({}, "reward").to_dict(), alarms=as_json(find_alarms(reports)),
    result={"score_first": 0.0, "score_last": 1.0, "kl": 60.0, "peak_mib": 900},
    estimate={"minutes": 1, "memory_mib": 1, "tokens_generated": 1, "tokens_trained": 1},
)
for step, values in reports:
    Metrics.objects.create(run=run, step=step, values=values)
(run.folder / "rollouts").mkdir(parents=True)
for step in (1, 2):
    line = {"id": 1, "completion": "word " * 200, "score": step, "kl": 60.0, "repetition": 0.9}
    (run.folder / "rollouts" / f"step-0000{step}.jsonl").write_text(json.dumps(line))
"""

# One that has been measured on held-out pairs.
REWARD_MODEL_RUN = """
import json
from rlhf.models import ModelVersion, Run
from rlhf.training.config import RewardModelConfig
from rlhf.training.data import read_pairs
from rlhf.training.reward_report import Scored, duplicates, judged_pair, report

policy = ModelVersion.objects.get()
run = Run.objects.create(
    project=policy.project, kind="reward_model", status="succeeded", policy=policy,
    config=RewardModelConfig({}).to_dict(),
)
message = [{"role": "assistant", "content": "word " * 200}]
row = {
    "prompt": [{"role": "user", "content": "Why?"}], "chosen": message, "rejected": message,
    "split": "test", "n_judgments": 2,
    "votes": [{"annotator": name, "prefers": "chosen", "first": "chosen"} for name in "ab"],
}
(run.folder / "data").mkdir(parents=True)
file = run.folder / "data" / "data.jsonl"
lines = [row | {"prompt": [{"role": "user", "content": f"{n}?"}]} for n in range(40)]
file.write_text("".join(json.dumps(line) + "\\n" for line in [row | {"split": "train"}, *lines]))
pairs = read_pairs(file)
judged = [
    judged_pair(place, pair, Scored(place / 9 - 1, place), Scored(0.0, 5))
    for place, pair in enumerate(pairs[1:])
]
curve = [
    {"share": share, "n_votes": int(80 * share), "n_pairs": int(40 * share), "accuracy": share / 2,
     "accuracy_low": share / 3, "accuracy_high": share}
    for share in (0.5, 1.0)
]
run.result = {"report": report(judged) | {"duplicates": duplicates(pairs)}, "learning_curve": curve}
run.save()
"""


def test_no_page_is_hard_to_use_with_a_screen_reader_or_poor_sight(app, page, tiny_folder):
    sign_in(page)
    make_project(page)
    import_tiny_model(page, tiny_folder)
    app.manage("shell", "-c", REVIEWED)
    app.manage("shell", "-c", PPO_RUN)
    app.manage("shell", "-c", REWARD_MODEL_RUN)

    found = {}
    for path in PAGES:
        status = page.goto(f"/projects/loop/{path}").status
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            violations = Axe().run(page).response["violations"]
            found[path, scheme] = (status, [violation["id"] for violation in violations])

    assert found == {(path, scheme): (200, []) for path in PAGES for scheme in ("light", "dark")}
