"""Every page, looked at by axe: contrast, names, roles, order of headings."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.urls import URLPattern, get_resolver, reverse
from playwright.sync_api import expect

from rlhf.forms import FORMS
from tests.e2e.test_loop import import_tiny_model, make_project, sign_in

pytestmark = pytest.mark.e2e

# Of addresses with a number, what to look at where it is not 1 alone.
EXAMPLES = {
    "rlhf:new_run": [{"kind": kind} for kind in FORMS],
    "rlhf:trials": [{"pk": 101}],
    "rlhf:trial_report": [{"pk": 101, "number": 0}],
    "rlhf:screening": [{"pk": 102}],
    "rlhf:download_findings": [{"pk": 102}],
    "rlhf:demonstrations": [{"pk": 103}],
    "rlhf:candidate_answers": [
        {"query": f"?metric={metric}"} for metric in ("length", "forgetting", "task/arc/acc")
    ],
    "rlhf:prompt_comparison": [{"query": "?first=11&second=12"}],
    "rlhf:screening_line": [{"kind": "ppo"}],
    "rlhf:screen_now": [{"kind": "ppo"}],
    "rlhf:run": [{"pk": 1}, {"pk": 2}, {"pk": 3}, {"pk": 104}],
    "rlhf:rollouts": [{"pk": 2}],
    "rlhf:reward_report": [{"pk": 3}],
    "rlhf:run_charts": [{"pk": 2}],
    "annotator:comparison": [{"pk": 1}, {"pk": 8}],
    "annotator:own_judgment": [{"pk": 1}, {"pk": 4}],
    "annotator:one_import": [{"pk": 1}, {"pk": 2}],
    "annotator:guideline_version": [{"number": 1}, {"number": 2}],
    "annotator:download_export": [{"pk": 1, "name": "manifest.json"}],
    "annotator:download_derived": [{"pk": 1, "name": "kto.jsonl"}],
    "annotator:compare_exports": [{"pk": 1}, {"pk": 2}],
    "annotator:join": [{"token": "welcome"}],
    "annotator:audit_file": [{"ending": "csv"}],
    "rlhf:model_version": [{"pk": 1}, {"pk": 2}, {"pk": 10}, {"pk": 12}],
    "rlhf:endpoint": [{"pk": 2}],
    "rlhf:lineage": [{"kind": "version", "pk": 2}, {"kind": "export", "pk": 1}],
    "rlhf:lineage_json": [{"kind": "version", "pk": 2}],
    "rlhf_api:lineage": [{"kind": "version", "pk": 2}],
    "rlhf:file_check": [{"kind": "version", "pk": 1}],
    "rlhf:check_files": [{"kind": "version", "pk": 1}],
    "rlhf:download_model": [{"pk": 1, "part": "weights"}],
}

# What WCAG 2.2 AA asks for, and good practice. Targets are measured only if they are asked for.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
BY_WIDTH = ["target-size", "scrollable-region-focusable"]  # nothing else is worse on a phone
WIDTHS = [1280, 390]

# Looked at in full on a phone too: most of what there is, and what annotators work with.
NARROW = {
    "/", "/keys/", "/projects/loop/", "/projects/loop/chat/", "/projects/loop/compare/",
    "/projects/loop/comparisons/1/", "/projects/loop/gates/1/", "/projects/loop/guidelines/",
    "/projects/loop/history/", "/projects/loop/history/1/", "/projects/loop/progress/",
    "/projects/loop/quality/", "/projects/loop/runs/2/", "/projects/loop/runs/3/",
    "/projects/loop/settings/protocol/",
}  # fmt: skip

# Django's admin, which the list of addresses leaves out: each kind of page that it has.
ADMIN = {
    f"/django-admin/{page}"
    for page in (
        "", "annotator/auditentry/", "annotator/judgment/1/change/", "annotator/project/",
        "annotator/project/1/change/", "annotator/user/1/change/", "annotator/user/add/",
        "password_change/",
    )
}  # fmt: skip

# The only exceptions, by axe's name of the rule: on pages that others have made, and none of WCAG.
EXCEPTIONS = {
    # Swagger UI writes a <main> of its own into ours, and no element of another kind will do for it.
    "/api/v1/docs/": [
        "landmark-main-is-top-level",
        "landmark-no-duplicate-main",
        "landmark-unique",
    ],
    # Two columns of Django's table of members are for what can be done there, which is nothing.
    "/django-admin/annotator/project/1/change/": ["empty-table-header"],
}

# A file with a bad row, of which the first rows can be seen.
REFUSED = """
from annotator.imports import jobs
from annotator.models import Import, Project, User
text = '{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}\\n{"prompt": 1}'
import_ = jobs.receive(Project.objects.get(slug="loop"), User.objects.get(username="ada"), text=text)
bad = {"place": "line 2", "column": "prompt", "value": "1", "message": "It must be text."}
Import.objects.filter(pk=import_.pk).update(state="refused", report={"n_bad": 1, "bad": [bad]})
"""

# Votes, an export, guidelines that have changed; two answers and three to compare; formulas.
JUDGED = """
import json
from annotator.assignment import claim, correct, record
from annotator.ballots import read
from annotator.exporting import create_export
from annotator.exports.derived import derive
from annotator.guidelines import publish
from annotator.importing import import_jsonl
from annotator.models import Project, User
from annotator.protocols import protocol_of

project, ada = Project.objects.get(), User.objects.get()
texts = ["So $x^2 < 2$.", "| a | b |\\n|---|---|\\n| 1 | 2 |", "```python\\nx = 1\\n```"]
system = {"role": "system", "content": "Be kind."}
lines = [
    {"prompt": [system, {"role": "user", "content": f"{n}?"}], "completions": texts[: 2 + n % 2]}
    for n in range(6)
]
import_jsonl(project, [json.dumps(line).encode() for line in lines])
for _ in range(3):
    held = claim(project, ada)
    ranking = [[pk] for pk in held.order]
    judgment = record(held, "ranking", ranking, payload_hash=held.payload_hash)
said = read({"choice": ["all_bad"]}, protocol_of(project), held.order)
correct(judgment, said, payload_hash=held.payload_hash)
derive(create_export(project, ada), "kto", "jsonl")
create_export(project, ada)
publish(project, "Be kind.", ada)
project.memberships.update(guidelines_read=1)
"""

# A vote of today, a ruling that is an example, a comment, a proposal, a link.
REVIEWED = """
from datetime import timedelta
from hashlib import sha256
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
link, _ = invitations.invite(project, ada, role="annotator", days=7, max_uses=1)
link.token_hash = sha256(b"welcome").hexdigest()
link.save()
"""

# A policy that others serve, and a webhook with a message that is on its way.
ELSEWHERE = """
from annotator.models import Project, User
from annotator.webhooks import outbox
from rlhf.endpoints import add_endpoint
from rlhf.models import Endpoint

project, ada = Project.objects.get(), User.objects.get(username="ada")
endpoint = Endpoint(address="http://127.0.0.1:1/v1", model="llama")
version = add_endpoint(project, "elsewhere", endpoint, "a key", ada)
assert version.pk == 2  # as EXAMPLES says
url = "https://example.org/hook"
hook, _ = outbox.add(project, ada, url=url, events=["run.finished"], agreement_below=None)
outbox.tell_test(hook)
"""

# A dataset, documents, a search with a trial, a screening with a finding, a distillation.
FINE_TUNED = """
import json
from annotator.models import Project, User
from rlhf.datasets import create_dataset
from rlhf.documents import create_collection, read_documents
from rlhf.models import DatasetKind, ModelVersion, Run
from pathlib import Path
from tempfile import mkdtemp

project, ada = Project.objects.get(), User.objects.get(username="ada")
policy = ModelVersion.objects.filter(kind="policy").first()
text = Path(mkdtemp()) / "tea.txt"
text.write_text("Tea is steeped for three minutes.")
create_collection(project, "tea", read_documents(text, "tea.txt"), user=ada)
CONFIGS = {
    "search": {"tries": "reward_model", "space": "epochs in 1, 2", "settings": {}},
    "screen": {"screened": "project"},
    "distill": {"rewards": []},
}
RESULTS = {
    "search": {"best_trial": 0, "metric": "eval_loss", "best_value": 0.5},
    "screen": {"n_rows": 9, "counts": {"email": {"rows": 1, "findings": 1}}, "severities": {}},
    "distill": {"n_rows": 1},
}
for pk, kind in enumerate(CONFIGS, 101):
    run = Run.objects.create(
        pk=pk, project=project, kind=kind, status="succeeded", policy=policy, created_by=ada,
        config=CONFIGS[kind], result=RESULTS[kind],
    )
    run.folder.mkdir(parents=True)
said = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "Steep it."}]
rows = [{"messages": said, "source": "teacher", "written_by": "big", "score": 1.0}]
create_dataset(
    project, "tea", DatasetKind.DEMONSTRATIONS, rows, origin="a test", user=ada,
    run=Run.objects.get(pk=103),
)
trial = {
    "number": 0, "state": "complete", "value": 0.5, "error": "", "reports": [], "seconds": 60.0,
    "values": {"epochs": 1},
}
table = {"metric": "eval_loss", "direction": "minimize", "trials": [trial], "importance": {}}
(Run.objects.get(pk=101).folder / "trials.json").write_text(json.dumps(table))
place = Run.objects.get(pk=101).folder / "trials" / "0"
place.mkdir(parents=True)
(place / "config.json").write_text(json.dumps({"config": {}}))
(place / "result.json").write_text(json.dumps(Run.objects.get(pk=3).result))  # with its report
finding = {
    "key": "prompt-1", "kind": "prompt", "place": "prompt 1", "split": "train", "code": "email",
    "start": 5, "end": 8, "before": "Mail ", "span": "a@b.c", "after": " now", "note": "",
}
artifact = Run.objects.get(pk=102).folder / "artifact"
artifact.mkdir()
(artifact / "findings.jsonl").write_text(json.dumps(finding))
"""

# Of two people, who agree on two in three, with figures of them.
VOTES = """
from annotator import assignment
from annotator.models import Comparison, Completion, Membership, Project, QualityReport, User
from annotator.quality import keeping

project = Project.objects.get()
for prompt in project.prompts.all()[:12]:
    answers = [
        Completion.objects.create(prompt=prompt, text=f"# {source}", source=source)
        for source in ("model-a", "model-b")
    ]
    Comparison.objects.create_from(answers, overlap=2)
for user in User.objects.bulk_create(User(username=name) for name in ("anna", "bert")):
    Membership.objects.create(project=project, user=user)
    while held := assignment.claim(project, user):
        ids = sorted(held.order)
        is_turned = user.username == "bert" and ids[0] % 3 == 0
        ranking = [[pk] for pk in (ids[::-1] if is_turned else ids)]
        assignment.record(held, "ranking", ranking, payload_hash=held.payload_hash)
QualityReport.objects.create(project=project)
keeping.compute_and_keep(project)
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


# A gate at which somebody has voted.
GATE = """
from django.utils import timezone
from annotator import assignment as queue
from annotator.models import Comparison, Completion, Project, User
from rlhf.current import keep_current
from rlhf.gate_models import Gate
from rlhf.models import GeneratedCompletion, ModelVersion, Run

project, ada = Project.objects.get(), User.objects.get(username="ada")
current = ModelVersion.objects.get(pk=1)
keep_current(project)
candidate = ModelVersion.objects.create(
    project=project, name="candidate", kind="policy", path=current.path
)
run = Run.objects.create(
    project=project, kind="evaluate", status="succeeded", config={}, policy=candidate, rival=current
)
gate = Gate.objects.create(
    project=project, candidate=candidate, incumbent=current, run=run, alpha=0.05, margin=0.1,
    budget=100, same_share=0.1, state="voting", opened=timezone.now(),
)
for origin, writer in ((run.origin, candidate), (gate.same_origin, current)):
    texts = (f"New {origin}", f"Old {origin}")
    pair = [Completion.objects.create(prompt=project.prompts.first(), text=text) for text in texts]
    for completion, version in zip(pair, (writer, current)):
        GeneratedCompletion.objects.create(
            completion=completion, model_version=version, run=run, sampling={}
        )
    Comparison.objects.create_from(
        pair, overlap=1, purpose="evaluation", origin=origin, priority=10
    )
    held = queue.claim(project, ada)
    ranking = [[pk] for pk in held.order]
    queue.record(held, "ranking", ranking, payload_hash=held.payload_hash)
"""

# Suites whose answers can be read, a reward model, adapters that can be combined, versions of a prompt.
CANDIDATES = """
import json
from django.conf import settings
from annotator.models import Project
from rlhf.models import ModelVersion, Run
from rlhf.prompting import Draft, create_prompt_version

project = Project.objects.get()
base, candidate = ModelVersion.objects.filter(kind="policy").order_by("pk")
figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
names = ("chrf", "length", "forgetting", "judge_win_rate", "task/arc/acc")
judge = {"kappa": figure, "accuracy": figure, "n_pairs": 5, "ties": 2, "unparsed": 3, "says_a": 0.9}
result = {
    "n_prompts": 1, "conditions": "same", "task_answers": ["arc/acc"], "judge": judge,
    "metrics": dict.fromkeys(names, figure),
}
answer = {
    "id": 1, "messages": [{"role": "user", "content": "Why?"}], "references": ["So."],
    "answer": "word " * 200, "truncated": True, "judge": "new",
    "values": {"length": 9.0, "refused": 1.0, "unsafe": 1.0},
}
text = {"text": "A river.", "nats": 6.0, "n_tokens": 3, "nats_before": 4.0}
task = {
    "task": "arc", "number": 4, "question": "Is it wet?", "wanted": "Yes", "said": "Perhaps",
    "values": {"arc/acc": 0.0},
}
for pk, policy in enumerate((base, candidate), 104):
    run = Run.objects.create(
        pk=pk, project=project, kind="suite", status="succeeded", policy=policy, config={},
        result=result, rival=base, judge=base,
    )
    (run.folder / "artifact").mkdir(parents=True)
    for name, row in (("answers", answer), ("texts", text), ("tasks", task)):
        (run.folder / "artifact" / f"{name}.jsonl").write_text(json.dumps(row))
for number in (1, 2):
    folder = settings.MODELS_DIR / f"adapter-{number}"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    ModelVersion.objects.create(
        project=project, name=folder.name, kind="policy", parent=base, path=str(folder)
    )
ModelVersion.objects.create(
    pk=10, project=project, name="reward", kind="reward", parent=base, path=base.path
)
for system in ("Be kind.", "Be very kind."):
    create_prompt_version(project, Draft(base, system, budget_tokens=100))  # 11 and 12
"""


def named_patterns(patterns, namespace=""):
    """(name, the parts of the address to fill in) of all addresses but those of Django's admin."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            if pattern.name:  # else it is what answers where there is nothing
                yield f"{namespace}{pattern.name}", set(pattern.pattern.converters)
        elif pattern.namespace != "admin":
            inner = f"{pattern.namespace}:" if pattern.namespace else namespace
            for name, parts in named_patterns(pattern.url_patterns, inner):
                yield name, parts | set(pattern.pattern.converters)


def addresses():
    for name, parts in named_patterns(get_resolver().url_patterns):
        for example in EXAMPLES.get(name, [{"pk": 1, "number": 1}]):
            values = {"slug": "loop", **example}
            assert parts <= set(values), f"say in EXAMPLES what to look at of {name}"
            address = reverse(name, kwargs={part: values[part] for part in parts})
            yield address + example.get("query", "")


def is_page(response):
    """A whole page: no fragment, no file, and nothing that one can only send something to."""
    if response.status in (302, 405) or "text/html" not in response.headers.get("content-type", ""):
        return False
    return response.status != 200 or "<!doctype html>" in response.text().lower()


# In two frames the page hears of its new size or colours. Of a list that is folded, the first is opened.
SETTLE = """async () => {
    for (const folded of document.querySelectorAll("main details:not(details ~ details)"))
        folded.open = true;
    for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    for (const change of document.getAnimations())
        if (change instanceof CSSTransition) change.finish();
}"""


def violations(page, rules=TAGS, widths=WIDTHS, exceptions=()):
    """As sentences, each with the place on the page."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    height = page.viewport_size["height"]
    options = {
        "runOnly": rules,
        "rules": {rule: {"enabled": False} for rule in exceptions},
        "resultTypes": ["violations"],
    }
    found = {}
    for width in widths:
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate(SETTLE)
        for rule in page.evaluate("options => axe.run(options)", options)["violations"]:
            found |= {f"{rule['help']}: {node['target'][0]}": width for node in rule["nodes"]}
    page.set_viewport_size({"width": WIDTHS[0], "height": height})
    return [f"{sentence} at {width} pixels" for sentence, width in found.items()]


def look_at(page, address):
    """The status, what axe finds in light colours, and what it finds of dark ones."""
    page.emulate_media(color_scheme="light")
    status = page.goto(address).status
    if address == "/api/v1/docs/":
        expect(page.locator(".opblock").first).to_be_visible()  # its own script writes it
    exceptions = EXCEPTIONS.get(address, [])
    light = violations(page, widths=WIDTHS[:1], exceptions=exceptions)
    light += violations(page, TAGS if address in NARROW else BY_WIDTH, WIDTHS[1:], exceptions)
    page.emulate_media(color_scheme="dark")
    return status, light, violations(page, ["color-contrast"], WIDTHS[:1])


def test_no_page_is_hard_to_use_with_a_screen_reader_or_poor_sight(app, page, tiny_folder):
    page.goto("/sign-in/")
    assert violations(page) == []
    sign_in(page)
    make_project(page)
    import_tiny_model(page, tiny_folder)
    app.manage(
        "shell",
        "-c",
        "\n".join(
            [
                REFUSED,
                REVIEWED,
                JUDGED,
                VOTES,
                PPO_RUN,
                REWARD_MODEL_RUN,
                ELSEWHERE,
                GATE,
                FINE_TUNED,
                CANDIDATES,
            ]
        ),
    )

    found = {}
    for address in sorted({*addresses(), *ADMIN}):
        # While axe works, the server may close a connection that the next request is sent on.
        if is_page(page.request.get(address, max_redirects=0, max_retries=3)):
            found[address] = look_at(page, address)

    assert found == {address: (200, [], []) for address in found}
    assert set(found) >= NARROW | ADMIN
    page.context.clear_cookies()
    assert (page.goto("/join/welcome/").status, violations(page)) == (200, [])
