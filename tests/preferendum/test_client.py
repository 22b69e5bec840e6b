"""The client against the real server."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from django.utils import timezone
from pytest_django.live_server_helper import LiveServer

from annotator.exports import jobs as export_jobs
from annotator.imports import jobs
from annotator.models import Assignment, Judgment
from annotator.models import Project as ProjectRow
from annotator.tokens import make_token
from preferendum import (
    ApiError,
    Client,
    ExportEnded,
    ExportJob,
    Import,
    ImportEnded,
    PreferendumError,
    Run,
    RunEnded,
)
from rlhf.models import Run as RunRow
from rlhf.models import Status
from tests.factories import PromptFactory, UserFactory
from tests.rlhf.factories import GateFactory, PolicyFactory, RewardModelFactory, RoundFactory

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def live_server(transactional_db, data_dir, settings):
    """For one test: the usual one is started before our settings switch HTTPS off."""
    server = LiveServer("127.0.0.1")
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    yield server
    server.stop()


@pytest.fixture
def token():
    user = UserFactory(username="anna", is_superuser=True)
    return make_token(user, "test", ["read", "annotate", "manage"], 1)[1]


@pytest.fixture
def client(live_server, token):
    with Client(live_server.url, token) as client:
        yield client


@pytest.fixture
def project(client):
    return client.create_project("Essays", overlap=1)


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """What the worker does, done when a program looks how far it is."""
    look = Import.refresh

    def refresh(import_):
        jobs.work()
        return look(import_)

    monkeypatch.setattr(Import, "refresh", refresh)


def pairs(n):
    return [
        {"prompt": f"Question {i}?", "chosen": "Short.", "rejected": "Long, long."}
        for i in range(n)
    ]


def test_rows_go_in_once_are_judged_and_come_out_as_a_dataset(
    client, project, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("preferendum.client.IMPORT_BYTES", 200)  # several files

    report = project.import_rows(Dataset.from_list(pairs(5)))
    again = project.import_rows(pairs(5))
    for assignment in project.assignments():
        assignment.prefer(assignment.answers.index("Short."))

    export = project.export()
    rows = export.dataset()
    assert (report.prompts, report.comparisons, again.comparisons, again.duplicates) == (5, 5, 0, 5)
    assert len(rows) == export.n_rows == 5
    assert {row["chosen"][0]["content"] for row in rows} == {"Short."}
    assert export.manifest()["sha256"] == export.sha256
    assert [each.id for each in project.exports()] == [export.id]
    assert len(list(project.judgments())) == 5
    assert [each.slug for each in client.projects()] == ["essays"]


def test_a_file_is_imported_as_it_is_said_and_the_skipped_rows_come_back(project, tmp_path):
    (tmp_path / "a.csv").write_text("task,good,poor\nWhy?,Because.,No idea.\n,Yes.,No.\n")
    mapping = {"prompt": "task", "chosen": "good", "rejected": "poor"}
    options = {"mapping": mapping, "overlap": 3, "skip_bad_rows": True}

    checked = project.import_file(tmp_path / "a.csv", is_check=True, **options)
    report = project.import_file(tmp_path / "a.csv", **options)

    newest, oldest = project.imports()
    skipped = newest.download_skipped(tmp_path / "skipped.csv").read_text()
    assert (checked.comparisons, oldest.state) == (1, "checked")
    assert (report.comparisons, report.n_bad, report.bad[0]["place"]) == (1, 1, "row 3")
    assert skipped.splitlines()[1].startswith("row 3,")
    assert [row["overlap"] for row in project.comparisons()] == [3]


def test_who_waits_for_an_import_hears_what_is_wrong_with_it_and_that_it_takes_long(
    project, tmp_path, monkeypatch
):
    with pytest.raises(ImportEnded, match='line 2: the field "prompt" is missing'):
        project.import_rows([{"prompt": "Why?"}, {"question": "Hi!"}])
    (tmp_path / "a.jsonl").write_bytes(b"%PDF-1.7")
    with pytest.raises(ApiError, match="The file is a PDF file"):
        project.import_file(tmp_path / "a.jsonl")
    assert project.next().reason == "nothing_imported"

    monkeypatch.setattr(jobs, "work", lambda: None)  # the worker is busy
    with pytest.raises(TimeoutError, match=r"Import\(.*, rows-1.jsonl.gz, queued\)"):
        project.import_rows(pairs(1), timeout=0)
    waiting = next(project.imports()).cancel()
    with pytest.raises(ImportEnded, match="it is cancelled"):
        waiting.wait()


def test_a_dataset_on_the_hub_is_loaded_by_the_server(project):
    with pytest.raises(TimeoutError, match="opening"):
        project.import_hub("trl-lib/tldr@test", mapping={"prompt": "question"}, timeout=0)

    sent = next(project.imports())
    assert (sent.fields["hub_id"], sent.fields["mapping"]) == (
        "trl-lib/tldr@test", {"prompt": "question"},
    )  # fmt: skip


def test_every_verdict_can_be_said_and_the_last_one_taken_back(project):
    ProjectRow.objects.update(protocol={"allow_unrankable": True})
    project.import_rows({"prompt": f"Hi {n}!", "completions": ["a", "b", "c"]} for n in range(6))
    says = [
        lambda each: each.rank([[0, 2], 1]),
        lambda each: each.prefer(1),
        lambda each: each.tie(),
        lambda each: each.all_bad(),
        lambda each: each.unrankable(),
        lambda each: each.skip(),
    ]

    assignments = project.assignments()
    said = [say(next(assignments)) for say in says]

    assert [(row["verdict"], row["ranking"]) for row in said] == [
        ("ranking", [[0, 2], [1]]),
        ("ranking", [[1], [0, 2]]),
        ("ranking", [[0, 1, 2]]),
        ("all_bad", []),
        ("unrankable", []),
        ("skipped", []),
    ]
    again = project.undo(said[-1]["id"]).assignment
    assert again.prompt == Judgment.objects.get(pk=said[-1]["id"]).comparison.prompt.messages


def test_an_assignment_of_which_nothing_is_said_does_not_come_round_for_ever(project):
    project.import_rows(pairs(1))
    assignments = project.assignments()
    next(assignments)

    with pytest.raises(PreferendumError, match="Nothing was said of assignment"):
        next(assignments)

    assert Assignment.objects.count() == 1


def test_what_the_server_refuses_is_its_sentence(client, project, live_server):
    with pytest.raises(ApiError, match=r"has no comparisons yet"):
        project.export()
    with pytest.raises(ApiError) as unknown:
        client.project("nothing").details()
    with pytest.raises(ApiError) as stranger:
        next(Client(live_server.url, "pref_0123456789abcdef").projects())

    assert (unknown.value.status, stranger.value.status) == (404, 401)
    assert project.next().reason == "nothing_imported"


def test_a_download_goes_on_where_it_broke_off_and_is_checked(project, tmp_path):
    project.import_rows(pairs(3))
    for assignment in project.assignments():
        assignment.rank([0, 1])
    export = project.export()
    whole = export.download(tmp_path / "whole.jsonl").read_bytes()

    (tmp_path / "data.jsonl.part").write_bytes(whole[:100])
    assert export.download(tmp_path / "data.jsonl").read_bytes() == whole

    (tmp_path / "other.jsonl.part").write_bytes(b"x" * 100)
    with pytest.raises(PreferendumError, match="its hash is another one"):
        export.download(tmp_path / "other.jsonl")


def test_exports_are_made_by_the_worker_waited_for_given_in_other_shapes_and_compared(
    project, tmp_path, monkeypatch
):
    project.import_rows(pairs(30), judge="file")
    monkeypatch.setattr(export_jobs, "AT_ONCE", 0)
    look = ExportJob.refresh

    def refresh(job):
        export_jobs.work_off(job.id)
        return look(job)

    monkeypatch.setattr(ExportJob, "refresh", refresh)

    before, after = project.export(licence="CC0"), project.export(last_round=1)

    csv = after.download_as("kto.csv", tmp_path / "kto.csv").read_text()
    assert before.manifest()["licence"] == "CC0"
    assert csv.startswith("prompt,completion,label,")
    assert after.compare(before)["same"] == project.count_export(last_round=1)["kept_votes"] == 30
    with pytest.raises(ExportEnded, match="The filters leave out every vote"):
        project.export(first_round=2)


def test_runs_are_launched_watched_stopped_and_resumed(project):
    run = project.launch("import_model")
    assert (run.kind, run.status, run.is_active) == ("import_model", "queued", True)
    with pytest.raises(TimeoutError):
        run.wait(timeout=0)

    run.stop()

    assert [(each.id, each.status) for each in project.runs(status="stopped")] == [
        (run.id, "stopped")
    ]
    with pytest.raises(RunEnded, match=r"Run \d+ \(import_model\) has stopped"):
        project.run(run.id).wait()
    assert run.resume().status == "queued"
    assert list(run.metrics()) == list(run.samples(step=1)) == []
    assert project.costs()["total"]["runs"] == 0  # nobody has begun it


def test_what_a_run_would_take_is_asked_before(project):
    policy = PolicyFactory(project=ProjectRow.objects.get())

    found = project.estimate("probe", policy=policy.pk)

    assert found["minutes"] is None
    assert found["reason"].startswith("No run like this has come to its end yet")
    assert list(project.runs()) == []


def succeed(run):
    """What the trainer does in hours: the run has succeeded, and made a model."""
    row = RunRow.objects.get(pk=run.id)
    make = RewardModelFactory if row.kind == "reward_model" else PolicyFactory
    version = make(project=row.project, run=row)
    if row.kind == "ppo":
        (Path(version.path) / "adapter_config.json").write_text("{}")
        (Path(version.path) / "adapter_model.safetensors").write_bytes(b"weights")
        version.parent = row.policy
        version.save()
    if row.kind == "import_model":
        RoundFactory(project=row.project, policy=version)
    RunRow.objects.filter(pk=row.pk).update(status=Status.SUCCEEDED, finished=timezone.now())
    return run.refresh()


def test_the_lines_of_the_readme_lead_from_a_dataset_to_a_policy(
    live_server, token, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(Run, "wait", succeed)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(30)))
    section = README.read_text().split("## From a program")[1]
    lines = re.search(r"```python\n(.*?)```", section, re.S)[1]
    assert len([line for line in lines.splitlines() if line]) == 10
    names = {"TOKEN": token}

    exec(lines.replace("http://127.0.0.1:8000", live_server.url), names)

    ppo, reward_model, imported = names["project"].runs()
    assert (ppo.kind, reward_model.kind, imported.kind) == ("ppo", "reward_model", "import_model")
    assert reward_model.fields["export"] == next(names["project"].exports()).id
    assert names["trained"].kind == "policy"
    (adapter,) = tmp_path.glob("policy/*/adapter_model.safetensors")
    assert adapter.read_bytes() == b"weights"
    assert adapter.with_name("README.md").is_file()
    assert Judgment.objects.filter(verdict="ranking").count() == 30
    names["project"].transport.http.close()


def test_a_gate_is_opened_followed_and_overruled_and_what_it_promoted_rolled_back(project):
    row = ProjectRow.objects.get()
    old = RoundFactory(project=row).policy
    PromptFactory.create_batch(20, project=row, split="test")
    new = PolicyFactory(project=row)

    gate = project.open_gate(new.pk, budget=10, same_share=0.1)
    with pytest.raises(TimeoutError, match="evaluate, queued"):
        gate.wait(timeout=0)
    assert (gate.state, project.gate(gate.id).run().kind) == ("preparing", "evaluate")
    with pytest.raises(ApiError, match="It is promoted already"):
        gate.overrule("promote", "It is kinder.").overrule("promote", "Twice.")

    assert [(each.id, each.decision) for each in project.gates()] == [(gate.id, "promote")]
    assert (gate.wait().decision, project.current().id) == ("promote", new.pk)
    assert project.roll_back(reason="It is rude.").id == old.pk
    assert [each["version"] for each in project.promotions()] == [old.pk, new.pk, old.pk]


def test_who_overrules_a_gate_that_has_changed_since_is_told(project):
    row = ProjectRow.objects.get()
    gate = project.gate(GateFactory(project=row, state="voting").pk)
    again = project.gate(gate.id)
    gate.overrule("promote", "It is kinder.")

    with pytest.raises(ApiError, match="it was promoted"):
        again.overrule("reject", "It is rude.")

    assert again.refresh().overrule("reject", "It is rude.").decision == "reject"


def test_a_gate_whose_answers_cannot_be_written_is_not_waited_for_for_ever(project):
    row = ProjectRow.objects.get()
    gate = project.gate(GateFactory(project=row, run__status=Status.FAILED).pk)

    with pytest.raises(RunEnded, match="has failed"):
        gate.wait()
    assert (gate.stop().state, gate.wait().decision) == ("stopped", "")
    with pytest.raises(PreferendumError, match="no earlier current policy"):
        project.roll_back()


def test_datasets_are_made_of_rows_and_files_and_learnt_from(project, tmp_path):
    PolicyFactory(project=ProjectRow.objects.get())
    (tmp_path / "tales.txt").write_text("Once upon a time.")

    polite = project.create_dataset("polite", [{"prompt": "Hi", "completion": "Hello."}])
    tales = project.create_dataset("tales", tmp_path / "tales.txt", kind="text")
    run = project.launch("supervised", datasets=[polite["id"], tales["id"]])

    assert [row["name"] for row in project.datasets(kind="text")] == ["tales"]
    assert {each["name"] for each in run.fields["config"]["datasets"]} == {"polite", "tales"}
