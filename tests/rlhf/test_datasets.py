"""Datasets: how rows are read, made, shown, and put into runs."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.urls import reverse

from annotator.exporting import create_export
from annotator.models import AuditEntry, Membership, Role
from rlhf import lineage
from rlhf.dataset_reading import BadRows, Source, read, sources_in
from rlhf.datasets import DatasetRefused, create_dataset
from rlhf.inputs import RunRefused
from rlhf.making_datasets import dataset_of_export, dataset_of_files
from rlhf.models import DatasetKind, ModelVersion, RunKind
from rlhf.runs import launch
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    api_client,
    make_judgment,
)
from tests.hostile import Bomb, code
from tests.rlhf.factories import PolicyFactory, RunFactory

pytestmark = pytest.mark.django_db

DEMONSTRATIONS, TEXT = DatasetKind.DEMONSTRATIONS, DatasetKind.TEXT
ROW = {"prompt": "Hi", "completion": "Hello."}
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def project():
    return ProjectFactory(slug="tea")


def written(folder, name, *rows):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return Source(name, path)


def rows_of(*sources, kind=DEMONSTRATIONS, split_of=lambda key: "train", **options):
    return list(read(sources, kind, split_of, **options))


def contents(row):
    return [message["content"] for message in row["messages"]]


def make(project, name="polite", rows=({"messages": MESSAGES, "split": "train"},), **fields):
    return create_dataset(project, name, fields.pop("kind", DEMONSTRATIONS), rows, origin="a test", **fields)  # fmt: skip


# --- conversations ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": MESSAGES}, ["Hi", "Hello."]),
        (ROW, ["Hi", "Hello."]),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, ["Hi", "Hello."]),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, ["Add.\n\n1, 2", "3"]),
        ({"instruction": "Say hi.", "input": "", "output": "Hi!"}, ["Say hi.", "Hi!"]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello."},
                ]
            },
            ["Hi", "Hello."],
        ),
    ],
)
def test_rows_of_other_tools_become_messages(tmp_path, record, expected):
    (row,) = rows_of(written(tmp_path, "a.jsonl", record))

    assert contents(row) == expected
    assert row["split"] == "train"


def test_packed_files_and_tables_are_read(tmp_path):
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(ROW).encode()))
    table = written(tmp_path, "c.csv", "prompt,completion\n", '"Hi, you","A, b."\n')

    rows = rows_of(Source("b.jsonl.gz", packed), table)

    assert [contents(row) for row in rows] == [["Hi", "Hello."], ["Hi, you", "A, b."]]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, 'line 2: "messages[0].role" must be'),
        ({"prompt": "Hi", "completion": " "}, 'line 2: "messages[1].content" is empty'),
        ({"messages": MESSAGES[1:]}, 'line 2: "messages" must have a message of the user'),
        ({"question": ["x"], "answer": "y"}, 'line 2: "question[0]" must be a message'),
        ({"colour": "red"}, 'line 2: the field "messages" is missing'),
        ({"messages": MESSAGES[:1]}, "line 2: there is no answer of the assistant in it"),
        ("{broken\n", "line 2: broken JSON"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, record, sentence):
    with pytest.raises(BadRows) as refused:
        rows_of(written(tmp_path, "a.jsonl", ROW, record, ROW))

    assert refused.value.problems[0].startswith(sentence)


def test_a_file_without_any_answer_is_refused_in_one_sentence(tmp_path):
    question = {"messages": MESSAGES[:1]}

    with pytest.raises(BadRows, match="There is no answer of the assistant in any row"):
        rows_of(written(tmp_path, "a.jsonl", *[question] * 30))


@pytest.mark.parametrize("text", ["hello", "", "\n"])
def test_a_file_without_rows_says_what_rows_are(tmp_path, text):
    (tmp_path / "mine.jsonl").write_text(text)

    with pytest.raises(BadRows, match="no row was found"):
        list(read(sources_in([tmp_path / "mine.jsonl"]), DatasetKind.DEMONSTRATIONS, str))


def test_of_many_bad_rows_the_first_ten_are_said(tmp_path):
    with pytest.raises(BadRows) as refused:
        rows_of(written(tmp_path, "a.jsonl", ROW, *[{"prompt": ""}] * 30))

    assert len(refused.value.problems) == 10
    assert str(refused.value).endswith("… and more")


def test_the_split_is_the_projects_own_but_an_exports_row_keeps_its(tmp_path, project):
    of_export = {**ROW, "split": "test", "prompt_key": "abc"}
    of_others = {**ROW, "split": "test"}

    rows = rows_of(written(tmp_path, "a.jsonl", of_export, of_others), split_of=project.split_of)

    from annotator.models import canonical_key  # noqa: PLC0415

    own = project.split_of(canonical_key(MESSAGES[:1]))
    assert [row["split"] for row in rows] == ["test", own]


# --- text -------------------------------------------------------------------------------------
def test_a_text_file_is_cut_at_blank_lines_into_sections_that_go_on(tmp_path):
    paragraph = "Tea is a drink. " * 200 + "\n\n"

    rows = rows_of(written(tmp_path, "tea.md", paragraph * 5), kind=TEXT)

    assert "".join(row["text"] for row in rows) == paragraph * 5
    assert [row.get("continues", False) for row in rows] == [True, True, False]


def test_of_ten_files_each_is_wholly_on_one_side(tmp_path):
    paragraph = "Tea is a drink. " * 300 + "\n\n"
    sources = [written(tmp_path, f"{n}.txt", f"{n} {paragraph}" * 3) for n in range(10)]
    keys = []

    rows_of(*sources, kind=TEXT, split_of=lambda key: keys.append(key) or "train")

    assert (len(keys), len(set(keys))) == (30, 10)


def test_rows_of_text_have_a_column(tmp_path):
    table = written(tmp_path, "a.csv", "id,body\n", "1,Tea.\n")

    assert rows_of(table, kind=TEXT, column="body") == [{"text": "Tea.", "split": "train"}]
    with pytest.raises(BadRows, match='the column "text" is missing; there are "id", "body"'):
        rows_of(table, kind=TEXT)


def test_text_that_is_none_is_refused(tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Tee für alle".encode("latin-1"))
    picture = tmp_path / "picture.md"
    picture.write_bytes(b"\x89PNG....")

    with pytest.raises(BadRows, match=r"latin\.txt: not UTF-8 after line 0: byte 0xfc"):
        rows_of(Source("latin.txt", latin), kind=TEXT)
    with pytest.raises(BadRows, match=r"picture\.md: the file is a picture"):
        rows_of(Source("picture.md", picture), kind=TEXT)


def test_a_folder_is_all_files_below_it_but_what_is_hidden_or_leads_outside(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "texts"
    written(folder, "b.txt", "b")
    written(folder / "a", "c.md", "c")
    written(folder, ".hidden.txt", "no")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")

    assert [source.name for source in sources_in([folder])] == ["a/c.md", "b.txt"]
    with pytest.raises(BadRows, match="There is no file or folder"):
        sources_in([tmp_path / "nowhere"])


PICTURE = {"type": "image", "url": "file:///etc/passwd"}


def test_pictures_in_a_conversation_are_refused_and_other_keys_left_out(tmp_path):
    seen = {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]}
    pictured = written(tmp_path, "a.jsonl", {"messages": [seen, MESSAGES[1]]})
    beside = written(tmp_path, "b.jsonl", {"messages": MESSAGES, "images": [PICTURE["url"]], "tools": [{}]})  # fmt: skip

    with pytest.raises(BadRows, match="must be text; only text can be compared"):
        rows_of(pictured)
    assert rows_of(beside) == [{"messages": MESSAGES, "split": "train"}]


def test_paths_and_addresses_in_a_row_stay_text_and_open_nothing(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    tricks = [str(secret), "../secret.txt", secret.as_uri(), "hf://datasets/some/rows"]
    rows = [
        {"prompt": trick, "completion": trick, "path": trick, "file": trick} for trick in tricks
    ]

    found = rows_of(written(tmp_path / "rows", "a.jsonl", *rows))

    assert [contents(row) for row in found] == [[trick, trick] for trick in tricks]
    assert {name for row in found for name in row} == {"messages", "split"}


# --- making -----------------------------------------------------------------------------------
def test_a_dataset_is_frozen_with_its_hash_and_counts(project, tmp_path):
    admin = UserFactory()
    source = written(tmp_path, "a.jsonl", *({**ROW, "prompt": f"Hi {n}"} for n in range(40)))

    made = dataset_of_files(project, "polite", DEMONSTRATIONS, [source], user=admin)

    rows = [json.loads(line) for line in made.data.read_text().splitlines()]
    held_out = sum(row["split"] == "test" for row in rows)
    assert (made.n_rows, made.details["held_out_rows"]) == (40, held_out)
    assert made.origin == "a.jsonl"
    assert AuditEntry.objects.get(kind="dataset").details == {"rows": 40, "origin": "a.jsonl"}


def test_nothing_is_kept_of_a_file_with_a_bad_row(project, tmp_path, settings):
    with pytest.raises(DatasetRefused, match="line 2: "):
        dataset_of_files(project, "x", DEMONSTRATIONS, [written(tmp_path, "a", ROW, {"a": 1})])

    assert not project.datasets.exists()
    assert list(settings.DATASETS_DIR.iterdir()) == []


def test_half_of_a_character_is_refused_and_nothing_is_left(project, settings):
    rows = [{"text": "whole"}, {"text": "half \ud83d"}]

    with pytest.raises(DatasetRefused, match="Row 2 holds half of a character"):
        create_dataset(project, "a", TEXT, rows, origin="a file")

    assert not any(settings.DATASETS_DIR.iterdir())


def test_a_name_is_taken_once(project):
    make(project)
    make(ProjectFactory())

    with pytest.raises(DatasetRefused, match="has a dataset “polite” already"):
        make(project)


@pytest.mark.parametrize("name", ["", " ", "x" * 121, "two\nlines"])
def test_a_name_is_one_line_that_is_not_endless(project, name):
    with pytest.raises(DatasetRefused, match="one line of 1 to 120 characters"):
        make(project, name)


@pytest.fixture
def export(project):
    """Of two comparisons: the first answer of both won, and at the second somebody rewrote one."""
    first, second = ComparisonFactory.create_batch(2, project=project)
    project.protocol |= {"rewrite": True}
    project.save()
    anna = UserFactory()
    make_judgment(first, anna, [0], [1])
    make_judgment(second, anna, [0], [1], rewrite="Better so.")
    return create_export(project, anna)


def test_an_export_gives_its_rewrites_and_best_answers(project, export):
    both = dataset_of_export(project, "both", export)
    rewrites = dataset_of_export(project, "rewrites", export, "rewrites")

    kinds = [json.loads(line)["kind"] for line in both.data.read_text().splitlines()]
    (row,) = map(json.loads, rewrites.data.read_text().splitlines())
    assert sorted(kinds) == ["best", "best", "rewrite"]
    assert contents(row)[-1] == "Better so."
    assert (both.export, both.origin) == (
        export,
        f"rewrites and best answers of export {export.pk}",
    )


# --- runs -------------------------------------------------------------------------------------
def launched(project, *datasets, kind=RunKind.SUPERVISED, **settings):
    policy = project.model_versions.first() or PolicyFactory(project=project)
    return launch(project, kind, settings, round_number=1, policy=policy, datasets=datasets)


def test_a_run_gets_its_datasets_with_their_hashes(project):
    polite, tales = make(project), make(project, "tales", kind=TEXT, rows=[{"text": "Tea."}])

    run = launched(project, polite, tales, weights={"tales": 0.5})

    assert run.config["datasets"] == [
        {"name": "polite", "folder": f"datasets/{polite.pk}"},
        {"name": "tales", "folder": f"datasets/{tales.pk}"},
    ]
    copy = run.folder / "datasets" / str(polite.pk) / "data.jsonl"
    assert copy.read_bytes() == polite.data.read_bytes()
    hashes = json.loads((run.folder / "hashes.json").read_text())
    assert hashes[f"datasets/{polite.pk}"] == polite.files
    assert list(polite.runs.all()) == [run]


@pytest.mark.parametrize("name", ["../../tea", "/etc/tea"])
def test_a_name_that_is_a_path_leads_nowhere(project, settings, name):
    dataset = make(project, name)

    run = launched(project, dataset)

    assert Path(dataset.path).parent == settings.DATASETS_DIR
    assert run.config["datasets"] == [{"name": name, "folder": f"datasets/{dataset.pk}"}]


@pytest.mark.parametrize(
    ("kind", "held", "sentence"),
    [
        (RunKind.DOMAIN, DEMONSTRATIONS, "domain tuning learns from running text"),
        (RunKind.SUPERVISED, TEXT, "There is no answer to learn to write"),
    ],
)
def test_a_run_that_could_learn_nothing_from_a_dataset_is_refused(project, kind, held, sentence):
    with pytest.raises(RunRefused, match=sentence):
        launched(project, make(project, kind=held), kind=kind)


def test_a_run_without_a_dataset_or_with_a_changed_one_is_refused(project):
    with pytest.raises(RunRefused, match="There is no dataset to learn from: make one first"):
        launched(project)
    with pytest.raises(RunRefused, match="is no dataset of this project"):
        launched(project, make(ProjectFactory()))
    changed = make(project)
    changed.data.write_text("{}\n")
    with pytest.raises(RunRefused, match="The dataset “polite” is not what was frozen"):
        launched(project, changed)
    changed.data.unlink()
    with pytest.raises(RunRefused, match="The files of the dataset “polite” are missing"):
        launched(project, changed)


# --- lineage ----------------------------------------------------------------------------------
def test_votes_are_carried_by_what_learnt_from_a_dataset_of_their_export(project, export):
    dataset = dataset_of_export(project, "polite", export)
    run = RunFactory(project=project, kind=RunKind.SUPERVISED, status="succeeded")
    run.datasets.add(dataset)
    version = ModelVersion.objects.create(project=project, name="tuned", kind="policy", run=run)
    anna = export.created_by

    roles = {edge.source: edge.role for edge in lineage.of_version(version).back.edges}

    assert lineage.carriers_of(project, anna).policies == [version]
    assert roles[f"dataset-{dataset.pk}"] == "learned from"
    assert roles[f"export-{export.pk}"] == "made from"
    forward = lineage.find(project, "dataset", dataset.pk).forward
    assert f"version-{version.pk}" in forward.nodes


# --- pages ------------------------------------------------------------------------------------
def url(name, *args):
    return reverse(f"rlhf:{name}", args=["tea", *args])


def sign_in(client, project, role):
    user = MembershipFactory(project=project, role=role).user
    client.force_login(user)
    return user


@pytest.fixture
def admin(client, project):
    return sign_in(client, project, Role.ADMIN)


def test_files_are_sent_and_the_first_rows_shown(client, admin, project):
    files = [
        SimpleUploadedFile(f"{n}.jsonl", json.dumps({**ROW, "prompt": f"{n}?"}).encode())
        for n in range(2)
    ]
    sent = {"name": "polite", "kind": "demonstrations", "file": files, "from": "files"}

    response = client.post(url("datasets"), sent, follow=True)

    dataset = project.datasets.get()
    assert response.redirect_chain[-1][0] == url("dataset", dataset.pk)
    page = response.content.decode()
    assert "0?" in page
    assert "Hello." in page
    assert dataset.origin == "0.jsonl, 1.jsonl"
    assert client.get(url("download_dataset", dataset.pk)).getvalue() == dataset.data.read_bytes()


def test_pasted_text_is_a_dataset_too(client, admin, project):
    sent = {
        "name": "tales",
        "kind": "text",
        "text": "Once upon a time.\r\nThe end.",
        "from": "files",
    }

    client.post(url("datasets"), sent)

    row = json.loads(project.datasets.get().data.read_text())
    assert row["text"] == "Once upon a time.\nThe end."


def test_what_is_wrong_comes_back_with_the_form(client, admin, project):
    sent = {"name": "x", "kind": "demonstrations", "text": '{"colour": "red"}', "from": "files"}

    bad, neither = (client.post(url("datasets"), each) for each in (sent, {**sent, "text": " "}))

    assert bad.status_code == neither.status_code == 422
    assert "line 1: the field &quot;messages&quot; is missing" in bad.content.decode()
    assert "Choose files, or paste something: one of the two." in neither.content.decode()


def test_the_votes_of_an_export_are_a_button_away(client, admin, project, export):
    sent = {"name": "votes", "export": export.pk, "taken": "best", "from": "export"}

    client.post(url("datasets"), sent)

    assert project.datasets.get().n_rows == 2


def test_reviewers_look_and_annotators_do_not(client, project):
    dataset = make(project)
    sign_in(client, project, Role.REVIEWER)
    assert client.get(url("datasets")).status_code == 200
    assert client.get(url("dataset", dataset.pk)).status_code == 200
    assert client.post(url("datasets"), {"name": "x"}).status_code == 404
    Membership.objects.update(role=Role.ANNOTATOR)
    for page in (url("datasets"), url("dataset", dataset.pk), url("fine_tune"), url("download_dataset", dataset.pk)):  # fmt: skip
        assert client.get(page).status_code == 404


def test_a_dataset_of_another_project_is_not_found(client, admin):
    assert client.get(url("dataset", make(ProjectFactory()).pk)).status_code == 404


def test_of_a_dataset_that_was_changed_no_rows_are_shown(client, admin, project):
    dataset = make(project)
    changed = dataset.data.read_text().replace("Hello.", "HELLO.")
    dataset.data.write_text(changed)

    page = client.get(url("dataset", dataset.pk)).content.decode()

    assert f"{dataset.data} has changed: its SHA-256 is" in page
    assert "HELLO." not in page


def test_a_dataset_whose_file_is_gone_says_so(client, admin, project):
    dataset = make(project)
    dataset.data.unlink()

    page = client.get(url("dataset", dataset.pk)).content.decode()

    assert "Its file is missing from" in page
    assert client.get(url("download_dataset", dataset.pk)).status_code == 302


def test_the_list_takes_as_many_queries_for_one_dataset_as_for_three(
    client, admin, project, django_assert_num_queries
):
    from django.db import connection  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    counts = []
    for names in (["one"], ["two", "three"]):
        for name in names:
            make(project, name, user=admin)
        with CaptureQueriesContext(connection) as queries:
            client.get(url("datasets"))
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_the_ways_to_fine_tune_say_what_is_missing(client, admin, project):
    page = client.get(url("fine_tune")).content.decode()
    assert "Supervised fine-tuning" in page
    assert url("routes") in page
    assert f'<a href="{url("datasets")}">a dataset of demonstrations</a>' in page

    make(project)

    page = client.get(url("fine_tune")).content.decode()
    assert "a dataset of demonstrations (there)" in page


def test_the_ways_that_train_nothing_come_first(client, admin, project):
    page = client.get(url("fine_tune"))

    titles = [card.route.title for card in page.context["cards"]]
    assert titles[:2] == ["Examples in the prompt", "Retrieval"]
    assert f'<a href="{url("prompt_lab")}">try those first</a>' in page.content.decode()
    assert f'<a href="{url("collections")}">documents</a>' in page.content.decode()


def test_the_form_begins_with_the_dataset_that_the_address_names(client, admin, project):
    PolicyFactory(project=project)
    old, _ = make(project, "old"), make(project, "new")

    form = client.get(f"{url('new_run', 'supervised')}?dataset={old.pk}").context["form"]

    assert form["datasets"].value() == [old.pk]


def test_weights_are_for_chosen_datasets(client, admin, project):
    policy, dataset = PolicyFactory(project=project), make(project)
    address = url("new_run", "supervised")
    sent = client.get(address).context["form"].as_sent().data | {"policy": policy.pk, "datasets": [dataset.pk]}  # fmt: skip

    other, broken = (
        client.post(address, sent | {"weights": lines}).content.decode()
        for lines in ("tales = 2", "polite: 2")
    )
    client.post(address, sent | {"weights": "polite = 2"})

    assert "“tales” is none of the datasets chosen above." in other
    assert "Line 1: write NAME = NUMBER" in broken
    assert project.runs.get().config["weights"] == {"polite": 2.0}


# --- commands and the API ---------------------------------------------------------------------
def test_a_folder_is_made_a_dataset_by_command(project, tmp_path, capsys):
    written(tmp_path / "texts", "a.txt", "Tea.")
    written(tmp_path / "texts", "b.md", "Coffee.")

    call_command("import_dataset", "tea", "drinks", str(tmp_path / "texts"), "--text")

    dataset = project.datasets.get()
    assert (dataset.kind, dataset.n_rows, dataset.created_by) == (TEXT, 2, None)
    assert "“drinks”: 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "x", "y"], "There is no project nowhere"),
        (["tea", "x"], "Name files and folders, or an export"),
        (["tea", "x", "--export", "7"], "The project tea has no export 7"),
        (["tea", "x", "/nowhere"], "There is no file or folder /nowhere"),
    ],
)
def test_a_command_that_cannot_work_says_why(project, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("import_dataset", *arguments)


@pytest.mark.parametrize("name", ["tea.py", "tea.pkl", "rows.jsonl", "rows.parquet", "rows.txt"])
def test_code_and_pickles_make_no_dataset_and_do_nothing(project, tmp_path, settings, name):
    marker, folder = tmp_path / "hostile-code-ran", tmp_path / "tea"
    written(folder, "a.jsonl", ROW)
    is_code = name.endswith(".py")
    content = code(marker).encode() if is_code else pickle.dumps(Bomb(marker))
    (folder / name).write_bytes(content)

    with pytest.raises(CommandError, match=rf"{name}.*\nNothing was kept\."):
        call_command("import_dataset", "tea", "x", str(folder))

    assert not project.datasets.exists()
    assert not list(settings.DATASETS_DIR.glob("*"))
    assert not marker.exists()


DATASETS = "/api/v1/projects/tea/datasets/"


def test_programs_make_datasets_and_launch_runs_with_them(project, export):
    client = api_client(MembershipFactory(project=project, role=Role.ADMIN).user)
    policy = PolicyFactory(project=project)
    file = SimpleUploadedFile("a.jsonl", json.dumps(ROW).encode())

    sent = client.post(DATASETS, {"name": "polite", "file": file})
    votes = client.post(DATASETS, {"name": "votes", "export": export.pk}, "application/json")
    bad = client.post(DATASETS, {"name": "bad", "file": SimpleUploadedFile("a.jsonl", b'{"a": 1}')})
    chosen = [sent.json()["id"], votes.json()["id"]]
    run = client.post(
        "/api/v1/projects/tea/runs/",
        {"kind": "supervised", "policy": policy.pk, "datasets": chosen},
        "application/json",
    )

    assert (sent.status_code, votes.status_code, run.status_code) == (201, 201, 201)
    assert bad.status_code == 422
    assert [each["name"] for each in run.json()["config"]["datasets"]] == ["votes", "polite"]
    assert [row["name"] for row in client.get(DATASETS).json()["results"]] == ["votes", "polite"]
    one = client.get(f"{DATASETS}{chosen[0]}/").json()
    assert one["sha256"] == project.datasets.get(name="polite").files["data.jsonl"]["sha256"]
    rows = client.get(f"{DATASETS}{chosen[0]}/data.jsonl").getvalue()
    assert json.loads(rows)["messages"] == MESSAGES
