"""Files sent by programs; the worker is done by hand."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from annotator.imports import jobs
from annotator.imports.models import Import
from annotator.models import Comparison, Judgment, Prompt, Role
from annotator.tasks import open_import
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, api_client

pytestmark = pytest.mark.django_db

IMPORTS = "/api/v1/projects/tea/imports/"
LINES = b'{"prompt": "Why?"}\n{"prompt": "Who?"}\n'
TABLE = b"task,good,poor\nWhy?,Because.,No idea.\n"
OF_TABLE = json.dumps({"prompt": "task", "chosen": "good", "rejected": "poor"})


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", overlap=2)


@pytest.fixture
def admin(project):
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def upload(program, content=LINES, name="prompts.jsonl", **fields):
    return program.post(IMPORTS, {"file": SimpleUploadedFile(name, content), **fields})


def imported(program, content=LINES, **fields):
    """What the API says when the worker has done it."""
    sent = upload(program, content, **fields)
    assert sent.status_code == 202, sent.json()
    jobs.work()
    return program.get(sent.json()["links"]["self"]).json()


def test_a_file_that_is_sent_waits_for_the_worker(admin):
    answer = upload(admin)

    sent = answer.json()
    assert (answer.status_code, sent["state"], sent["is_active"]) == (202, "queued", True)
    assert (sent["name"], sent["size"], sent["format"]) == ("prompts.jsonl", len(LINES), "jsonl")
    assert sent["links"]["cancel"].endswith(f"/imports/{sent['id']}/cancel/")
    assert sent["report"]["counts"] is None
    assert not Prompt.objects.exists()


def test_when_it_is_imported_the_report_says_what_is_new(project, admin):
    row = imported(admin)

    assert (row["state"], row["is_active"], row["links"]["cancel"]) == ("finished", False, None)
    assert (row["report"]["counts"]["prompts"], row["report"]["counts"]["duplicates"]) == (2, 0)
    assert project.prompts.count() == 2
    del row["sample"]  # which a list does without
    assert admin.get(IMPORTS).json()["results"] == [row]


def test_columns_overlap_and_judge_are_as_sent(admin):
    row = imported(admin, TABLE, mapping=OF_TABLE, overlap=3, judge="the-file")

    assert row["mapping"] == json.loads(OF_TABLE)
    assert Comparison.objects.get().overlap == 3
    assert Judgment.objects.get().annotator.username == "the-file"


def test_what_was_chosen_for_an_earlier_file_is_not_chosen_for_a_program(admin):
    imported(admin, TABLE, mapping=OF_TABLE, judge="the-file")

    row = imported(admin, TABLE)

    assert (row["state"], row["mapping"], row["judge"]) == ("refused", {}, "")


def test_a_check_imports_nothing(admin):
    row = imported(admin, is_check="true")

    assert (row["state"], row["report"]["counts"]["prompts"]) == ("checked", 2)
    assert not Prompt.objects.exists()


def test_bad_rows_are_named_and_nothing_is_imported(admin):
    row = imported(admin, LINES + b'{"prompt": 1}\n')

    assert row["state"] == "refused"
    (bad,) = row["report"]["bad"]
    assert (bad["place"], bad["column"], bad["value"]) == ("line 3", "prompt", "1")
    assert not Prompt.objects.exists()


def test_bad_rows_are_skipped_if_so_asked_and_listed(admin):
    row = imported(admin, LINES + b"{\n", skip_bad_rows="true")

    listed = admin.get(row["links"]["skipped"])

    assert (row["report"]["counts"]["prompts"], row["report"]["n_bad"]) == (2, 1)
    assert listed["Content-Type"] == "text/csv"
    _, line = listed.getvalue().decode().splitlines()
    assert line.startswith("line 3,")


def test_without_a_list_of_skipped_rows_there_is_none_to_get(admin):
    row = upload(admin).json()

    assert row["links"]["skipped"] is None
    assert admin.get(f"{IMPORTS}{row['id']}/skipped/").status_code == 404


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"%PDF-1.7", "The file is a PDF file; it must be JSON lines"),
        (b"\n \n", "It holds no rows."),
        (b"\x1f\x8b\x08", "The file is damaged"),
    ],
)
def test_what_cannot_be_opened_is_refused_at_once_and_not_kept(data_dir, admin, content, sentence):
    answer = upload(admin, content)

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(sentence)
    assert not Import.objects.exists()
    assert not list(data_dir.glob("imports/[0-9]*"))


def test_parquet_is_opened_by_the_worker_and_then_starts_by_itself(project, admin):
    packed = io.BytesIO()
    pq.write_table(pa.table({"question": ["Why?"]}), packed)
    mapping = json.dumps({"prompt": "question"})
    sent = upload(admin, packed.getvalue(), "a.parquet", mapping=mapping).json()
    assert sent["state"] == "opening"

    open_import(sent["id"])
    row = admin.get(sent["links"]["self"]).json()
    assert (row["state"], row["format"], row["columns"]) == ("queued", "parquet", ["question"])

    jobs.work()
    assert project.prompts.get().messages == [{"role": "user", "content": "Why?"}]


def test_a_dataset_on_the_hub_is_opened_by_the_worker(admin):
    body = {"hub_id": "trl-lib/tldr@test", "mapping": {"prompt": "question"}, "overlap": 4}

    answer = admin.post(IMPORTS, body, content_type="application/json")

    row = answer.json()
    assert (answer.status_code, row["state"], row["hub_id"]) == (202, "opening", body["hub_id"])
    assert (row["mapping"], row["overlap"]) == (body["mapping"], 4)


@pytest.mark.parametrize("action", ["queued", "opening"])
def test_what_has_not_begun_is_cancelled_at_once(admin, action):
    row = upload(admin).json()
    Import.objects.update(state=action)

    cancelled = admin.post(row["links"]["cancel"]).json()
    open_import(row["id"])
    jobs.work()

    assert (cancelled["state"], cancelled["is_active"]) == ("cancelled", False)
    assert Import.objects.get().state == "cancelled"
    assert not Prompt.objects.exists()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"mapping": "prompt=question"}, "#/mapping"),
        ({"mapping": '{"question": "prompt"}'}, "#/mapping"),
        ({"mapping": "[" * 100_000}, "#/mapping"),
        ({"overlap": "0"}, "#/overlap"),
        ({"judge": "anna"}, "#/judge"),
        ({"skip_bad_lines": "true"}, "#/skip_bad_lines"),
    ],
)
def test_a_choice_that_is_not_right_is_a_mistake_of_its_field(admin, fields, pointer):
    UserFactory(username="anna", password="secret")

    answer = upload(admin, **fields)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert not Import.objects.exists()


def test_neither_file_nor_dataset_is_a_mistake(admin):
    form = admin.post(IMPORTS, {})
    body = admin.post(IMPORTS, {"hub_id": "nothing"}, content_type="application/json")

    assert [error["pointer"] for error in form.json()["errors"]] == ["#/file"]
    assert [error["pointer"] for error in body.json()["errors"]] == ["#/hub_id"]


def test_text_can_be_sent_as_it_is(project, admin):
    body = {"text": LINES.decode()}

    sent = admin.post(IMPORTS, body, content_type="application/json").json()
    jobs.work()

    assert (sent["name"], sent["size"]) == ("Pasted text", len(LINES))
    assert project.prompts.count() == 2


def test_text_and_a_dataset_are_not_sent_together(admin):
    body = {"text": "{}", "hub_id": "trl-lib/tldr"}

    answer = admin.post(IMPORTS, body, content_type="application/json")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/hub_id"


def test_a_check_shows_the_first_rows_as_they_are_understood(admin):
    row = imported(
        admin, TABLE + b",Me.,You.\n", mapping=OF_TABLE, is_check=True, skip_bad_rows=True
    )

    good, bad = row["sample"]
    assert good == {
        "place": "row 2", "note": "", "problem": "",
        "prompt": [{"role": "user", "content": "Why?"}],
        "completions": [
            {"text": "Because.", "source": "import", "is_truncated": False, "mark": "Chosen"},
            {"text": "No idea.", "source": "import", "is_truncated": False, "mark": ""},
        ],
    }  # fmt: skip
    assert (bad["place"], bad["completions"], bool(bad["problem"])) == ("row 3", [], True)
    assert not Prompt.objects.exists()


def test_a_file_that_is_too_large_is_not_kept(settings, admin):
    settings.IMPORT_MAX_BYTES = 10
    answer = upload(admin)

    assert (answer.status_code, answer.json()["detail"][:8]) == (422, "The file")

    settings.IMPORT_MAX_BYTES = -(2**20)
    assert upload(admin).status_code == 413


def test_an_upload_works_for_whoever_is_signed_in_too(project, client):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)

    assert imported(client)["report"]["counts"]["prompts"] == 2


def test_imports_are_the_admins_alone(project, admin):
    row = upload(admin).json()
    reviewer = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)
    stranger = api_client(MembershipFactory(role=Role.ADMIN).user)

    for program in (reviewer, stranger):
        answers = [
            program.get(IMPORTS),
            program.get(row["links"]["self"]),
            program.get(f"{IMPORTS}{row['id']}/skipped/"),
            program.post(row["links"]["cancel"]),
            upload(program),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
    assert Import.objects.get().state == "queued"


def test_a_list_asks_the_database_as_often_for_three_as_for_one(admin, django_assert_num_queries):
    for n in (1, 3):
        while Import.objects.count() < n:
            upload(admin)
        with django_assert_num_queries(4):
            assert len(admin.get(IMPORTS).json()["results"]) == n


@pytest.mark.parametrize("depth", [850, 906, 960, 100_000])
def test_a_row_of_any_depth_gets_a_sentence(admin, depth):
    row = imported(admin, b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}\n")

    assert row["state"] == "refused"
    assert "nested too deeply" in row["report"]["bad"][0]["message"]
