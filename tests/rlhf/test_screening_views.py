import json
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role
from rlhf.models import QuarantinedRow, Run, RunKind, Status
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory, api_client
from tests.rlhf.factories import ExportFactory, PolicyFactory, RunFactory, write_artifact

pytestmark = pytest.mark.django_db

HTMX = {"HX-Request": "true"}


def url(name, *args):
    return reverse(f"rlhf:{name}", args=["tea", *args])


def finding(n, code="email", **fields):
    return {
        "key": f"prompt-{n}", "kind": "prompt", "place": f"prompt {n}", "split": "train",
        "code": code, "start": 5, "end": 8, "before": "Mail ", "span": "<b>", "after": " now",
        "note": "", **fields,
    }  # fmt: skip


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


@pytest.fixture
def run(project):
    """A screening with two findings, of which one is in quarantine."""
    counts = {code: {"rows": 1, "findings": 1} for code in ("email", "toxic_words")}
    run = RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED,
        config={"screened": "project"},
        result={"n_rows": 9, "counts": counts, "severities": {}, "n_quarantined": 1},
    )  # fmt: skip
    write_artifact(
        run, "findings.jsonl", [finding(1), finding(2, "toxic_words", span="x\x00\ud83d")]
    )
    QuarantinedRow.objects.create(run=run, key="prompt-1", code="email")
    return run


def sign_in(client, project, role):
    user = MembershipFactory(project=project, role=role).user
    client.force_login(user)
    return user


@pytest.fixture
def reviewer(client, project):
    return sign_in(client, project, Role.REVIEWER)


def test_a_report_shows_what_was_found_and_escapes_it(client, run, reviewer):
    page = client.get(url("screening", run.pk)).content.decode()

    assert "Mail <mark>&lt;b&gt;</mark> now" in page
    assert "<mark>x\\x00\\ud83d</mark>" in page
    assert "9 texts were looked at" in page


def test_a_report_says_how_many_are_held_out(client, run, reviewer):
    run.result["counts"]["email"] |= {"rows": 7, "held_out": 3}
    run.save()

    page = client.get(url("screening", run.pk)).content.decode()

    assert '<td class="number">7<br><span class="muted">3 held out</span></td>' in page


def test_a_report_is_for_reviewers(client, project, run):
    sign_in(client, project, Role.ANNOTATOR)
    pages = [url("screening", run.pk), url("download_findings", run.pk)]

    assert [client.get(page).status_code for page in pages] == [404, 404]
    decided = client.post(
        url("decide_screening", run.pk), {"code": "email", "reason": "x", "to": "release"}
    )
    assert (decided.status_code, run.quarantined.get().is_released) == (404, False)


def test_a_report_needs_as_many_queries_for_many_findings(
    client, run, reviewer, django_assert_max_num_queries
):
    write = run.folder / "artifact" / "findings.jsonl"
    write.write_text("".join(json.dumps(finding(n)) + "\n" for n in range(30)))
    QuarantinedRow.objects.bulk_create(
        QuarantinedRow(run=run, key=f"prompt-{n}", code="email") for n in range(2, 30)
    )

    with django_assert_max_num_queries(10):
        page = client.get(url("screening", run.pk))

    assert (page.context["page"].paginator.count, len(page.context["findings"])) == (30, 20)


def test_a_reviewer_releases_a_row_with_a_reason(client, run, reviewer):
    sent = {"key": "prompt-1", "reason": "made up", "to": "release", "back": "code=email"}

    answer = client.post(url("decide_screening", run.pk), sent)

    row = run.quarantined.get()
    assert answer.url == url("screening", run.pk) + "?code=email"
    assert (row.is_released, row.reason, row.decided_by) == (True, "made up", reviewer)


def test_without_a_reason_nothing_is_released(client, run, reviewer):
    sent = {"code": "email", "reason": "", "to": "release"}

    page = client.post(url("decide_screening", run.pk), sent, follow=True).content.decode()

    assert "Say why" in page
    assert run.quarantined.get().is_released is False


def test_findings_are_downloaded_by_class(client, run, reviewer):
    lines = client.get(url("download_findings", run.pk), {"code": "email"}).getvalue().splitlines()

    assert [json.loads(line)["key"] for line in lines] == ["prompt-1"]
    entry = run.project.audit_entries.get()
    assert (entry.action, entry.details) == ("downloaded", {"findings": 1})


def test_an_older_report_points_to_the_newer_one(client, run, reviewer):
    newer = RunFactory(
        project=run.project, kind=RunKind.SCREEN, status=Status.SUCCEEDED, config=run.config
    )

    page = client.get(url("screening", run.pk)).content.decode()

    assert url("screening", newer.pk) in page
    assert "Decide" not in page


def test_a_report_whose_folder_was_cleared_away_says_so(client, run, reviewer):
    (run.folder / "artifact" / "findings.jsonl").unlink()

    assert "folder has been cleared away" in client.get(url("screening", run.pk)).content.decode()


# --- before a training run --------------------------------------------------------------------
@pytest.fixture
def admin(client, project):
    PolicyFactory(project=project)
    PromptFactory(project=project)
    return sign_in(client, project, Role.ADMIN)


def test_the_form_of_a_training_run_says_what_is_not_screened(client, project, admin):
    export = ExportFactory(project=project)

    page = client.get(url("new_run", RunKind.REWARD_MODEL)).content.decode()

    assert f"Export {export.pk}:\n        \n          not screened." in page
    assert f'name="screened" value="export-{export.pk}"' in page


def test_the_form_of_other_runs_says_nothing_of_it(client, project, admin):
    page = client.get(url("new_run", RunKind.GENERATE)).content.decode()

    assert "screening_line" not in page


def test_the_line_follows_the_export_that_is_chosen(client, project, admin, run):
    old, _ = ExportFactory.create_batch(2, project=project)
    run.config = {"screened": f"export-{old.pk}"}
    run.save()

    line = client.get(url("screening_line", "reward_model"), {"export": old.pk}).content.decode()

    assert url("screening", run.pk) in line
    assert "1 in quarantine and left out" in line
    assert "Screen now" not in line


def test_screen_now_starts_one_screening_however_often_it_is_clicked(client, project, admin):
    sent = {"screened": "project"}

    answers = [
        client.post(url("screen_now", RunKind.PPO), sent, headers=HTMX).content.decode()
        for _ in range(2)
    ]

    run = Run.objects.get()
    assert (run.kind, run.config["screened"]) == (RunKind.SCREEN, "project")
    assert all(run.get_absolute_url() in answer for answer in answers)


def test_screen_now_of_something_unknown_is_refused(client, project, admin):
    answer = client.post(url("screen_now", RunKind.PPO), {"screened": "export-7"}, headers=HTMX)

    assert "That cannot be screened" in answer.content.decode()
    assert not Run.objects.exists()


def test_the_form_of_a_screening_begins_with_what_the_address_names(client, project, admin):
    export = ExportFactory(project=project)

    page = client.get(url("new_run", RunKind.SCREEN), {"screened": f"export-{export.pk}"})

    assert page.context["form"]["screened"].value() == f"export-{export.pk}"


# --- the command and the API ------------------------------------------------------------------
def test_the_command_screens_and_prints_the_result(project, toy, capsys):
    PromptFactory(project=project)

    call_command("screen", "tea", "--json")

    result = json.loads(capsys.readouterr().out)
    assert (result["run"], result["n_rows"], result["n_quarantined"]) == (
        Run.objects.get().pk,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["coffee"], "There is no project coffee"), (["tea"], "no prompts yet"),
     (["tea", "--export", "7"], "has no “export-7” to screen")],
)  # fmt: skip
def test_the_command_says_what_cannot_be_screened(project, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("screen", *arguments)


def test_the_api_lists_and_releases(project, run):
    program = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)
    address = f"/api/v1/projects/tea/runs/{run.pk}/quarantine/"
    sent = {"to": "release", "reason": "ours", "code": "email"}

    answer = program.post(address, sent, content_type="application/json")

    assert answer.json() == {"changed": 1}
    (row,) = program.get(address).json()["results"]
    assert (row["key"], row["is_released"], row["reason"]) == ("prompt-1", True, "ours")


def test_a_screening_says_that_prompts_have_come_since(client, project, run, reviewer):
    PromptFactory(project=project, created=timezone.now() + timedelta(hours=1))
    program = api_client(reviewer)

    page = client.get(url("screening", run.pk)).content.decode()
    answer = program.get(f"/api/v1/projects/tea/runs/{run.pk}/").json()

    assert "out of date: the prompts have changed since." in page
    assert answer["outdated"] == "the prompts have changed since"


def test_the_api_gives_the_findings(project, run):
    program = api_client(MembershipFactory(project=project, role=Role.REVIEWER).user)

    answer = program.get(f"/api/v1/projects/tea/runs/{run.pk}/findings/?state=noted")

    assert [json.loads(line)["code"] for line in answer.getvalue().splitlines()] == ["toxic_words"]


def test_the_api_starts_a_screening(project):
    PromptFactory(project=project)
    program = api_client(MembershipFactory(project=project, role=Role.ADMIN).user)

    answer = program.post(
        "/api/v1/projects/tea/runs/", {"kind": "screen", "checks": ["personal"]},
        content_type="application/json",
    )  # fmt: skip

    assert answer.status_code == 201, answer.json()
    assert answer.json()["config"]["checks"] == ["personal"]
