import io
import json
import tarfile
from pathlib import Path

import pytest
from django.urls import reverse

from annotator.models import Comparison
from rlhf.downloads import Changed, Entry, adapter_entries, tar_of, tar_size
from rlhf.evaluation import store_pairs
from rlhf.gate_models import Decision, GateState
from rlhf.model_cards import card_of, licence_in, source_of
from rlhf.models import RunKind, Status
from rlhf.training.hashes import files_in
from tests.factories import MembershipFactory, PromptFactory, UserFactory, make_judgment
from tests.rlhf.factories import (
    EvaluateRunFactory,
    ExportFactory,
    GateFactory,
    PolicyFactory,
    RewardModelFactory,
    RunFactory,
    write_artifact,
)

pytestmark = pytest.mark.django_db


# --- tar ----------------------------------------------------------------------------------------
def test_an_archive_has_the_size_that_was_said_and_opens(tmp_path):
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    entries = [Entry("README.md", b"# Hi"), Entry("a" * 150, tmp_path / "weights")]

    archive = b"".join(tar_of("näme", entries))

    assert len(archive) == tar_size("näme", entries)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        contents = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert contents == {"näme/README.md": b"# Hi", f"näme/{'a' * 150}": b"w" * 1000}


def test_a_file_that_shrinks_on_the_way_breaks_the_download_off(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 1000)
    pieces = tar_of("model", [Entry("weights", file)])
    next(pieces)

    file.write_bytes(b"")

    with pytest.raises(Changed):
        list(pieces)


# --- what is downloaded -------------------------------------------------------------------------
def make_adapter(version):
    """Give a version the files of an adapter."""
    folder = Path(version.path)
    config = {"r": 8, "base_model_name_or_path": "/var/secret/path"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(version.name.encode())
    (folder / "optimizer.pt").write_bytes(b"no business of anybody's")
    return version


@pytest.fixture
def base():
    imported = RunFactory(status=Status.SUCCEEDED, config={"source": "embedded"})
    return PolicyFactory(name="smol", project=imported.project, run=imported)


@pytest.fixture
def second(base):
    """The policy of round 2: an adapter on top of that of round 1."""
    first = make_adapter(PolicyFactory(name="r1", project=base.project, parent=base))
    return make_adapter(PolicyFactory(name="r2", project=base.project, parent=first))


def sign_in(client, project, role="admin"):
    client.force_login(MembershipFactory(project=project, role=role).user)


def get(client, version, part):
    return client.get(reverse("rlhf:download_model", args=[version.project.slug, version.pk, part]))


def contents_of(response):
    with tarfile.open(fileobj=io.BytesIO(b"".join(response.streaming_content))) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


def test_an_adapter_comes_with_its_card_and_the_adapters_below_it(client, second):
    sign_in(client, second.project)

    files = contents_of(get(client, second, "adapter"))

    assert set(files) == {
        "r2-adapter/README.md",
        "r2-adapter/adapter_config.json",
        "r2-adapter/adapter_model.safetensors",
        "r2-adapter/parents/1-r1/adapter_config.json",
        "r2-adapter/parents/1-r1/adapter_model.safetensors",
    }
    assert files["r2-adapter/adapter_model.safetensors"] == b"r2"
    config = json.loads(files["r2-adapter/adapter_config.json"])
    assert config == {"r": 8, "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def test_of_a_version_with_recorded_files_no_others_are_packed(second):
    folder = Path(second.path)
    second.files = files_in(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")

    names = [entry.name for entry in adapter_entries(second)]

    assert names == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "parents/1-r1/adapter_config.json",
        "parents/1-r1/adapter_model.safetensors",
    ]


def test_merged_weights_can_be_downloaded_and_deleted(client, second):
    sign_in(client, second.project)
    second.merged_folder.mkdir()
    (second.merged_folder / "config.json").write_text("{}")
    (second.merged_folder / "model.safetensors").write_bytes(b"sum")
    assert contents_of(get(client, second, "weights"))["r2-weights/model.safetensors"] == b"sum"

    client.post(reverse("rlhf:delete_merged", args=[second.project.slug, second.pk]))

    assert get(client, second, "weights").status_code == 404
    assert get(client, second, "adapter").status_code == 200


def test_while_it_is_being_merged_nothing_is_deleted(client, second):
    sign_in(client, second.project)
    second.merged_folder.mkdir()
    RunFactory(project=second.project, kind=RunKind.MERGE, policy=second, status=Status.RUNNING)

    client.post(reverse("rlhf:delete_merged", args=[second.project.slug, second.pk]))

    assert second.merged_folder.is_dir()


def test_weights_are_for_admins_of_the_project_and_cards_for_reviewers(client, second):
    statuses = []
    for role in ("reviewer", "annotator"):
        sign_in(client, second.project, role)
        card = client.get(reverse("rlhf:model_card", args=[second.project.slug, second.pk]))
        statuses.append((role, get(client, second, "adapter").status_code, card.status_code))

    assert statuses == [("reviewer", 404, 200), ("annotator", 404, 404)]


# --- the model card -----------------------------------------------------------------------------
def test_a_card_follows_a_policy_back_to_votes_and_base(base):
    project = base.project
    export = ExportFactory(
        project=project,
        sha256="ab" * 32,
        n_judgments=40,
        manifest={"counts": {"annotators": 3}, "guideline_versions": {"2": 40}},
    )
    learning = RunFactory(
        project=project,
        kind=RunKind.REWARD_MODEL,
        policy=base,
        export=export,
        config={"learning_rate": 0.0001, "model": {"base": "/var/secret/path"}},
        result={"accuracy": 0.75, "accuracy_low": 0.6, "accuracy_high": 0.9},
    )
    reward = RewardModelFactory(name="taste", project=project, parent=base, run=learning)
    ppo = RunFactory(
        project=project,
        kind=RunKind.PPO,
        policy=base,
        reward_model=reward,
        config={"steps": 20, "reward_model": "/var/secret/path"},
    )
    policy = make_adapter(PolicyFactory(name="po|lite", project=project, parent=base, run=ppo))

    card = card_of(policy)

    assert card.startswith('---\nlicense: "apache-2.0"\n')
    assert f"| {export.pk} | 1 | 40 | 3 | 2 (40 votes) | `{'ab' * 32}` |" in card
    assert "Right on 75 % of held-out votes (95 % interval 60 % to 90 %)." in card
    assert "| `steps` | `20` |" in card
    assert "| `learning_rate` | `0.0001` |" in card
    assert "1. smol: policy from HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "secret" not in card


def test_a_card_says_how_people_judged_it(second, base):
    run = EvaluateRunFactory(
        project=base.project, policy=second, rival=base, status=Status.SUCCEEDED
    )
    prompt = PromptFactory(project=base.project)
    pair = {
        "id": prompt.pk,
        "new": "Yes.",
        "old": "No.",
        "new_truncated": False,
        "old_truncated": False,
    }
    write_artifact(run, "pairs.jsonl", [pair])
    store_pairs(run)
    unjudged = card_of(second)

    make_judgment(Comparison.objects.get(), UserFactory(), [0], [1])

    assert "People have not judged it against another policy yet." in unjudged
    assert "| smol | single answers | 100 % | 21 % to 100 % | 1 | 1 |" in card_of(second)


def test_a_card_gives_a_gate_the_interval_that_holds_for_it(second, base):
    GateFactory(
        project=base.project, candidate=second, incumbent=base, state=GateState.DECIDED,
        decision=Decision.PROMOTE, found={"mean": 0.8, "low": 0.52, "high": 0.97, "n_votes": 12},
    )  # fmt: skip

    card = card_of(second)

    assert "| smol | Promoted | 80 % | 52 % to 97 % | 12 |" in card
    assert "People have not judged it" not in card


def test_a_licence_that_is_not_stated_is_not_made_up(base, tmp_path):
    copied = RunFactory(project=base.project, config={"source": "folder", "location": "/x/own"})
    own = PolicyFactory(name="own", project=base.project, run=copied)

    assert "which its files here do not state" in card_of(own)


def test_a_licence_that_was_written_in_later_is_not_stated(base):
    copied = RunFactory(project=base.project, config={"source": "folder", "location": "/x/own"})
    own = PolicyFactory(name="own", project=base.project, run=copied)
    readme = Path(own.path) / "README.md"
    readme.write_text("---\nlicense: mit\n---\n")
    own.files = files_in(Path(own.path))
    stated = source_of(own)

    readme.write_text("---\nlicense: cc0\n---\n")

    assert (stated, source_of(own)) == (("own", "mit"), ("own", None))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\ntags: []\nlicense: 'mit'\n---\n", "mit"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("# A model\nlicense: mit\n", None),
    ],
)
def test_a_licence_is_read_from_the_header_alone(tmp_path, text, licence):
    (tmp_path / "README.md").write_text(text)

    assert licence_in(tmp_path) == licence


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("reviewer", 404), (None, 404)])
def test_the_api_gives_the_same_files_to_admins_and_to_nobody_else(client, second, role, status):
    user = UserFactory() if role is None else None
    client.force_login(user or MembershipFactory(project=second.project, role=role).user)

    response = client.get(reverse("rlhf_api:model_files", args=[second.pk]), {"part": "adapter"})

    assert response.status_code == status
    if status == 200:
        assert contents_of(response)["r2-adapter/adapter_model.safetensors"] == b"r2"
