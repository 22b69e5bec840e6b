"""Files that are not what they were are said so, and never used."""

import json
from pathlib import Path

import pytest
from django.urls import reverse

from annotator.audit import AuditEntry
from annotator.exporting import create_export
from annotator.models import Role
from rlhf import integrity, tasks
from rlhf.collecting import COLLECT
from rlhf.inputs import RunRefused
from rlhf.models import FileCheck, ModelVersion, RunKind, Status
from rlhf.runs import launch
from rlhf.training.hashes import HASHES, files_in, sha256_of
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    PromptFactory,
    UserFactory,
    make_judgment,
)
from tests.rlhf.chains import with_files
from tests.rlhf.factories import PolicyFactory, RunFactory

pytestmark = pytest.mark.django_db

SAMPLING = {"max_new_tokens": 8, "completions_per_prompt": 2}


@pytest.fixture
def project():
    project = ProjectFactory(slug="essays")
    PromptFactory(project=project)
    return project


@pytest.fixture
def policy(project):
    """An adapter on a base, both with recorded files."""
    base = PolicyFactory(project=project, name="base")
    policy = PolicyFactory(project=project, name="policy", parent=base)
    with_files(base, policy)
    return policy


@pytest.fixture
def export(project):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    return create_export(project)


def weights(version):
    return Path(version.path) / "model.safetensors"


def generate(policy):
    return launch(policy.project, RunKind.GENERATE, SAMPLING, round_number=1, policy=policy)


def learn(policy, export):
    settings = {"min_pairs": 1}
    return launch(
        policy.project, RunKind.REWARD_MODEL, settings, round_number=1, policy=policy, export=export
    )


# --- recorded -------------------------------------------------------------------------------------
def test_what_a_run_says_of_its_files_is_kept_with_the_version(project, policy):
    config = {"batch_size": 4, "epochs": 1}
    run = RunFactory(project=project, kind=RunKind.PPO, policy=policy, config=config)
    (run.folder / "artifact").mkdir()
    (run.folder / "artifact" / "adapter.safetensors").write_bytes(b"weights")
    run.result = {"steps": 3, "files": files_in(run.folder / "artifact")}

    made = ModelVersion.objects.get(pk=COLLECT[RunKind.PPO](run)["model_version"])

    assert made.files == {
        "adapter.safetensors": {"sha256": sha256_of(Path(made.path) / "adapter.safetensors"), "bytes": 7},
    }  # fmt: skip
    assert made.details == run.result == {"steps": 3}


# --- refused --------------------------------------------------------------------------------------
def test_a_run_takes_the_hashes_of_all_that_it_reads_along(policy, export):
    PromptFactory(project=policy.project, split="train")

    run = learn(policy, export)

    found = files_in(run.folder / "data")
    assert json.loads((run.folder / HASHES).read_text()) == {
        policy.parent.path: policy.parent.files,
        policy.path: policy.files,
        "data": {name: {"sha256": file["sha256"]} for name, file in found.items()},
    }
    assert {path.name for path in (run.folder / "data").iterdir()} == {
        "data.jsonl",
        "manifest.json",
        "votes.jsonl",
    }


@pytest.mark.parametrize("changed", ["policy", "base"])
def test_a_model_that_was_changed_is_not_launched(policy, changed):
    version = policy if changed == "policy" else policy.parent
    before, size = version.files["model.safetensors"]["sha256"], len(version.name)
    weights(version).write_bytes(b"x" * size)

    with pytest.raises(RunRefused) as refused:
        generate(policy)

    found = sha256_of(weights(version))
    assert str(refused.value) == (
        f"The files of policy are not what they were: {weights(version)} has changed: its SHA-256 "
        f"is {found}, and was {before}."
    )
    assert not policy.project.runs.exists()


def test_a_file_that_is_gone_is_named(policy):
    weights(policy).unlink()

    with pytest.raises(RunRefused, match=f"{weights(policy)} is missing: its SHA-256 was"):
        generate(policy)


def test_a_model_to_which_a_file_was_added_is_not_launched(policy):
    added = Path(policy.parent.path) / "chat_template.jinja"
    added.write_text("{{ messages }}")

    with pytest.raises(RunRefused) as refused:
        generate(policy)

    assert str(refused.value) == f"The files of policy are not what they were: {added} was added."


def test_a_model_to_which_a_file_was_added_is_not_downloaded(client, policy):
    client.force_login(MembershipFactory(project=policy.project, role=Role.ADMIN).user)
    (Path(policy.parent.path) / "model-2.safetensors").write_bytes(b"more")
    url = reverse("rlhf:download_model", args=["essays", policy.parent_id, "weights"])

    page = client.get(url, follow=True).content.decode()

    assert f"The files of base are not what they were: {policy.parent.path}" in page
    assert not AuditEntry.objects.filter(action="downloaded").exists()


def test_a_model_that_another_project_imported_is_checked_before_it_is_taken(project, settings):
    before = PolicyFactory(path=str(settings.MODELS_DIR / "tiny"))
    Path(before.path).mkdir(parents=True)
    with_files(before)

    run = launch(project, RunKind.IMPORT_MODEL, {"source": "tiny"}, round_number=1)

    assert json.loads((run.folder / HASHES).read_text()) == {before.path: before.files}


def test_of_large_files_a_launch_looks_at_the_size_only(policy, export, monkeypatch):
    monkeypatch.setattr("rlhf.inputs.HASHED_AT_LAUNCH", 2)
    weights(policy).write_bytes(b"POLICY")
    assert generate(policy).policy == policy  # its process will see

    weights(policy).write_bytes(b"longer than before")
    with pytest.raises(RunRefused, match="it has 18 bytes, and had 6"):
        learn(policy, export)


def test_a_version_of_before_hashes_were_recorded_is_used_as_it_is(project):
    old = PolicyFactory(project=project)

    run = generate(old)

    assert not (run.folder / HASHES).exists()


def test_an_export_that_was_changed_is_not_learned_from(policy, export):
    data = export.folder / "data.jsonl"
    data.write_text(data.read_text().replace("Answer", "ANSWER"))

    with pytest.raises(RunRefused, match=f"Export {export.pk} is not what was frozen: "):
        learn(policy, export)


def test_an_export_whose_manifest_was_changed_is_not_learned_from(policy, export):
    path = export.folder / "manifest.json"
    path.write_text(json.dumps(export.manifest | {"licence": "CC0"}))

    with pytest.raises(RunRefused) as refused:
        learn(policy, export)

    assert str(refused.value) == (
        f"Export {export.pk} is not what was frozen: {path} has changed: the database has kept another "
        "one."
    )


def test_a_file_that_was_put_beside_an_export_is_not_learned_from(policy, export):
    PromptFactory(project=policy.project, split="train")
    (export.folder / "demonstrations.jsonl").write_text("{}\n")

    run = learn(policy, export)

    assert not (run.folder / "data" / "demonstrations.jsonl").exists()


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\xff{")])
def test_the_worker_looks_at_manifests_too(policy, export, damage):
    damage(export.folder / "manifest.json")
    check = FileCheck.objects.create(project=policy.project, key=f"export-{export.pk}")

    tasks.check_files(check.pk)

    check.refresh_from_db()
    (problem,) = check.problems
    assert problem.startswith(f"{export.folder / 'manifest.json'} ")


@pytest.mark.parametrize("name", ["data.jsonl", "manifest.json"])
def test_an_export_that_was_changed_is_not_downloaded(client, project, export, name):
    client.force_login(MembershipFactory(project=project, role=Role.REVIEWER).user)
    (export.folder / name).write_text("{}\n")
    url = reverse("annotator:download_export", args=["essays", export.pk, name])

    page = client.get(url, follow=True).content.decode()

    assert f"{name} of export {export.pk} has changed since it was frozen" in page
    assert not AuditEntry.objects.filter(action="downloaded").exists()


def test_what_wants_all_files_is_refused_changed_ones(policy):
    integrity.refuse_changed(policy)
    weights(policy.parent).write_bytes(b"BASE")

    with pytest.raises(integrity.FilesChanged, match="The files of policy are not what they were"):
        integrity.refuse_changed(policy)


# --- merged weights -------------------------------------------------------------------------------
@pytest.fixture
def merged(policy):
    """The file of the policy's merged weights, which a run has recorded."""
    policy.merged_folder.mkdir()
    (policy.merged_folder / "config.json").write_text("{}")
    path = policy.merged_folder / "model.safetensors"
    path.write_bytes(b"sum")
    fields = {"kind": RunKind.MERGE, "policy": policy, "status": Status.SUCCEEDED}
    files = files_in(policy.merged_folder)
    RunFactory(project=policy.project, result={"files": files}, **fields)
    return path


def test_merged_weights_that_were_changed_are_not_downloaded(client, policy, merged):
    client.force_login(MembershipFactory(project=policy.project, role=Role.ADMIN).user)
    merged.write_bytes(b"SUM")
    url = reverse("rlhf:download_model", args=["essays", policy.pk, "weights"])

    page = client.get(url, follow=True).content.decode()

    assert f"The files of policy are not what they were: {merged} has changed" in page
    assert not AuditEntry.objects.filter(action="downloaded").exists()


def test_the_last_run_says_what_merged_weights_are(policy, merged):
    merged.write_bytes(b"of another precision")
    result = {"files": files_in(policy.merged_folder)}
    fields = {"kind": RunKind.MERGE, "policy": policy, "status": Status.SUCCEEDED}
    RunFactory(project=policy.project, result=result, **fields)

    integrity.refuse_changed(policy, merged=True)

    assert integrity.merged_files(policy) == result["files"]


def test_the_worker_looks_at_merged_weights_too(client, page, merged):
    merged.unlink()

    assert f"{merged} is missing" in check_now(client, page)


# --- on demand ------------------------------------------------------------------------------------
@pytest.fixture
def page(client, project, policy):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    return [
        reverse(f"rlhf:{name}", args=["essays", "version", policy.pk])
        for name in ("lineage", "check_files")
    ]


def check_now(client, page):
    client.post(page[1])
    tasks.check_files(FileCheck.objects.get().pk)
    return client.get(page[0]).content.decode()


def test_the_worker_reads_all_files_of_a_lineage(client, page):
    assert "All 4 files with a known SHA-256" in check_now(client, page)


def test_what_has_changed_or_has_no_hashes_is_listed(client, page, policy):
    weights(policy).write_bytes(b"POLICY")
    ModelVersion.objects.filter(pk=policy.parent_id).update(files={})

    text = check_now(client, page)

    assert "1 file of 2 is not what it was" in text
    assert f"{weights(policy)} has changed" in text
    assert "not checked: base" in text


def test_a_check_that_is_under_way_is_not_asked_for_twice(client, page):
    client.post(page[1])
    asked = FileCheck.objects.get().asked
    client.post(page[1])

    assert FileCheck.objects.get().asked == asked
    assert [entry.action for entry in AuditEntry.objects.filter(kind="filecheck")] == ["checked"]
    assert "The worker reads all files" in client.get(page[0]).content.decode()
