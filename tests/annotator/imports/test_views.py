"""The pages of an import, as an admin goes through them and as others do not see them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from annotator.imports import jobs
from annotator.imports.models import Import, State
from annotator.models import Role
from tests.annotator.imports.conftest import PAIR, imported, lines, sent
from tests.factories import ComparisonFactory, MembershipFactory, UserFactory

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def client(client, admin):
    client.force_login(admin)
    return client


@pytest.fixture
def received(project, admin):
    def received(*rows, **choices):
        import_ = jobs.receive(project, admin, text=lines(*rows))
        jobs.choose(import_, choices)
        return import_

    return received


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def test_from_a_file_to_what_came_of_it(client, project):
    response = client.post(url("import_file"), sent(lines(PAIR).encode()), follow=True)
    html = response.content.decode()
    assert "Ask me tomorrow." in html
    assert not project.prompts.exists()

    address = url("start_import", project.imports.get().pk)
    html = client.post(address, {"action": "import"}, follow=True).content.decode()
    assert 'hx-trigger="every 1s"' in html
    jobs.work()

    html = client.get(url("one_import", project.imports.get().pk)).content.decode()
    assert "1 prompt,\n    2 answers,\n    1 comparison." in html
    assert 'hx-trigger="every 1s"' not in html
    assert project.comparisons.count() == 1


def test_an_import_belongs_to_the_current_round(client, project, admin, received):
    there = ComparisonFactory(project=project, round_number=2)

    imported(received(PAIR), admin)

    assert project.comparisons.exclude(pk=there.pk).get().round_number == 2


def test_a_refused_form_keeps_what_was_pasted(client, project):
    response = client.post(url("import_file"), {"text": "{}", "hub_id": "a/b"})

    assert response.status_code == 422
    assert response.context["form"]["text"].value() == "{}"
    assert not project.imports.exists()


def test_a_bad_row_is_named_with_its_place_and_what_would_be_right(client, admin, received):
    import_ = imported(received(PAIR, {"prompt": 1}), admin)

    html = client.get(url("one_import", import_.pk)).content.decode()

    assert "Nothing was imported." in html
    assert '<td class="nowrap">line 2</td><td>prompt</td>' in html
    assert "must be text or a list of messages" in html
    assert ">Import</button>" in html  # to begin again, with bad rows skipped


def test_all_skipped_rows_are_downloaded(client, admin, received):
    import_ = imported(received(PAIR, {"prompt": 1}, skip_bad_rows=True), admin)

    response = client.get(url("skipped_rows", import_.pk))

    text = b"".join(response.streaming_content).decode()
    assert text.splitlines()[0] == "place,column,value,problem"
    assert text.splitlines()[1].startswith("line 2,prompt,1,")


def test_a_preview_shows_what_is_chosen_and_what_is_wrong(client, received):
    import_ = received({"prompt": "Hi", "chosen": "<b>Hello!</b>", "rejected": "What."}, {"q": "?"})

    html = client.get(url("one_import", import_.pk)).content.decode()

    assert "&lt;b&gt;Hello!&lt;/b&gt;" in html
    assert '<span class="badge" data-status="succeeded">Chosen</span>' in html
    assert "Line 2" in html
    assert "the field &quot;prompt&quot; is missing" in html


def test_choosing_a_column_shows_the_rows_anew(client, received):
    import_ = received({"question": "Why?"})
    address = url("start_import", import_.pk)

    html = client.post(address, {"column-prompt": "question"}, headers=HTMX).content.decode()

    assert html.lstrip().startswith('<section id="import-preview"')
    assert "is missing" not in html
    import_.refresh_from_db()
    assert (import_.mapping, import_.state) == ({"prompt": "question"}, State.READY)


def test_choices_that_cannot_be_start_nothing(client, received):
    import_ = received(PAIR)
    person = UserFactory(username="eve", password="secret")

    response = client.post(
        url("start_import", import_.pk),
        {"action": "import", "judge": person.username, "overlap": 0},
    )

    assert response.status_code == 422
    assert set(response.context["form"].errors) == {"judge", "overlap"}
    import_.refresh_from_db()
    assert import_.state == State.READY


def test_the_back_button_does_not_start_a_second_import(client, project, admin, received):
    import_ = imported(received(PAIR), admin)

    response = client.post(url("start_import", import_.pk), {"action": "import"})

    assert response["Location"] == url("one_import", import_.pk)
    import_.refresh_from_db()
    assert import_.state == State.FINISHED


def test_the_status_of_an_import_that_has_ended_brings_the_page(client, admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)
    address = url("import_status", import_.pk)

    assert "HX-Refresh" not in client.get(address)
    jobs.work()
    assert client.get(address)["HX-Refresh"] == "true"


def test_an_import_that_nobody_takes_up_asks_for_the_worker(client, admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)
    Import.objects.update(queued=timezone.now() - timedelta(minutes=1))

    html = client.get(url("import_status", import_.pk)).content.decode()

    assert "It is busy, or not running." in html


def test_cancelling_and_deleting(client, project, admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)

    html = client.post(url("cancel_import", import_.pk), follow=True).content.decode()
    assert "Cancelled" in html

    client.post(url("delete_import_file", import_.pk))
    html = client.get(url("one_import", import_.pk)).content.decode()
    assert "deleted" in html
    assert ">Import</button>" not in html


def test_too_large_a_file_is_told_the_limit_and_leaves_nothing(client, project, settings, data_dir):
    settings.IMPORT_MAX_BYTES = 2**20

    response = client.post(url("import_file"), sent(b" " * (2 * 2**20)))

    assert response.context["form"].errors["file"] == [
        "The file has 2 MiB; the limit here is 1. "
        "The command `manage.py import_comparisons` has none."
    ]
    assert not project.imports.exists()
    assert not list(data_dir.glob("*.upload*"))


def test_a_disk_without_room_is_said_before_anything_is_written(client, monkeypatch):
    monkeypatch.setattr("annotator.imports.uploads.SPARE", 2**80)

    response = client.post(url("import_file"), sent(b"{}"))

    (error,) = response.context["form"].errors["file"]
    assert error.startswith("The server's disk has no room for this file: 0 MiB are left.")


def test_a_disk_that_cannot_be_written_is_no_crash(client, settings, data_dir):
    settings.FILE_UPLOAD_TEMP_DIR = data_dir / "gone"

    response = client.post(url("import_file"), sent(b"{}"))

    assert response.context["form"].errors["file"] == [
        "The server could not keep the file: No such file or directory."
    ]


def test_too_much_to_paste_is_told_to_be_a_file(client, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    response = client.post(url("import_file"), {"text": "x" * 2000})

    assert response.status_code == 422
    assert response.context["form"].errors["text"] == [
        "This is too much to paste: send it as a file."
    ]


def test_a_file_from_another_site_is_refused(project, admin):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)

    assert client.post(url("import_file"), {"text": lines(PAIR)}).status_code == 403
    assert not project.imports.exists()


def test_the_list_says_who_sent_what_and_what_came_of_it(
    client, admin, received, django_assert_num_queries
):
    imported(received(PAIR), admin)
    with django_assert_num_queries(7):
        client.get(url("import_file"))
    imported(received({"prompt": 1}), admin)
    received({"prompt": "Why not?"})

    with django_assert_num_queries(7):
        page = client.get(url("import_file")).context["page"]

    assert [(row.state, row.outcome, row.created_by) for row in page] == [
        (State.READY, "", admin),
        (State.REFUSED, "1 bad row", admin),
        (State.FINISHED, "1 comparison, 1 prompt", admin),
    ]


PAGES = ["one_import", "import_status", "skipped_rows"]
ACTIONS = ["start_import", "cancel_import", "delete_import_file"]


@pytest.mark.parametrize("name", [*PAGES, *ACTIONS])
def test_files_are_for_the_admins_of_their_project(client, project, admin, received, name):
    import_ = imported(received({"prompt": 1}), admin)
    for user in (
        UserFactory(),
        MembershipFactory(project=project, role=Role.REVIEWER).user,
        MembershipFactory(role=Role.ADMIN).user,
    ):
        client.force_login(user)
        ask = client.get if name in PAGES else client.post
        assert ask(url(name, import_.pk)).status_code == 404

    import_.refresh_from_db()
    assert (import_.state, import_.has_files) == (State.REFUSED, True)
