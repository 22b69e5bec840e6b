"""What is written down about who did what, that it stays, and the page that shows it."""

import csv
import json
from datetime import timedelta
from importlib import import_module

import pytest
from django.db import DatabaseError, connection, transaction
from django.urls import reverse
from django.utils import timezone

from annotator import invitations
from annotator.audit import Action, AppendOnly, AuditEntry, changes, in_words, record
from annotator.exporting import create_export
from annotator.gold import make_gold
from annotator.guidelines import publish
from annotator.importing import import_jsonl
from annotator.models import Role
from annotator.reviewing import rule, take_back_ruling
from annotator.tokens import make_token, revoke
from annotator.webhooks import outbox
from annotator.withdrawing import withdraw
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    completion_ids,
    make_judgment,
    settings_as_sent,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays")


@pytest.fixture
def ada(project):
    return MembershipFactory(project=project, role=Role.ADMIN, user__username="ada").user


@pytest.fixture
def browser(client, ada):
    client.force_login(ada)
    return client


def entries(project):
    """Oldest first: who, did what, to what, with what details."""
    rows = AuditEntry.objects.filter(project=project).order_by("pk")
    return [(row.actor_name, row.action, row.object_name, row.details) for row in rows]


def url(name, *args):
    return reverse(f"annotator:{name}", args=["essays", *args])


# --- that it stays --------------------------------------------------------------------------------
def test_an_entry_is_not_changed_and_not_deleted(project, ada):
    entry = record(ada, Action.CHANGED, project, project=project, overlap=2)

    for attempt in (
        entry.save,
        entry.delete,
        AuditEntry.objects.all().delete,
        lambda: AuditEntry.objects.update(details={}),
        lambda: AuditEntry.objects.bulk_update([entry], ["details"]),
    ):
        with pytest.raises(AppendOnly):
            attempt()

    assert entries(project) == [("ada", "changed", project.name, {"overlap": 2})]


@pytest.mark.parametrize("statement", ["UPDATE {} SET details = '{{}}'", "DELETE FROM {}"])
def test_the_database_refuses_too(project, ada, statement):
    record(ada, Action.CHANGED, project, project=project, overlap=2)
    if connection.vendor == "sqlite":  # tests/conftest.py has taken it away
        migration = import_module("annotator.migrations.0011_audit_log")
        with connection.cursor() as cursor:
            cursor.execute(migration.SQLITE["delete"])

    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement.format("annotator_auditentry"))

    assert entries(project) == [("ada", "changed", project.name, {"overlap": 2})]


def test_an_entry_outlives_whoever_it_is_about():
    project, grace = ProjectFactory(name="Gone"), UserFactory(username="grace")
    record(grace, Action.CREATED, project, project=project)
    grace.delete()
    project.delete()

    entry = AuditEntry.objects.get()

    assert (entry.actor_name, entry.object_name) == ("grace", "Gone")


def test_what_is_rolled_back_was_not_done(project, ada):
    with transaction.atomic():
        publish(project, "Be kind.", ada)
        transaction.set_rollback(True)

    assert entries(project) == []


# --- what is written down -------------------------------------------------------------------------
def test_changes_are_what_differs():
    before, after = {"overlap": 1, "name": "A"}, {"overlap": 2, "name": "A"}

    assert changes(before, after) == {"overlap": {"from": 1, "to": 2}}
    assert list(in_words({**changes(before, after), "is_new": True})) == [
        "overlap: 1 → 2",
        "is new: yes",
    ]


def test_functions_write_down_what_they_do(project, ada):
    anna = MembershipFactory(project=project, user__username="anna").user
    comparison = ComparisonFactory(project=project)
    import_jsonl(project, [b'{"prompt": "Why is the sky blue?"}'], user=ada)
    publish(project, "Be kind.", ada)
    link, _ = invitations.invite(project, ada, role="annotator", days=7, max_uses=1)
    invitations.join(link, UserFactory(username="joan"))
    invitations.revoke(project, link.pk, ada)
    rule(comparison, ada, "all_bad", explanation="Both are rude.")
    take_back_ruling(comparison, ada)
    known = make_gold(comparison, [[pk] for pk in completion_ids(comparison)], "", ada)
    make_judgment(comparison, anna, [0], [1])
    export = create_export(project, ada)
    withdraw(project, anna, ada)

    name = project.name
    imported = {"prompts": 1}
    assert [entry[:3] for entry in entries(project)] == [
        ("ada", "imported", name),
        ("ada", "changed", name),
        ("ada", "created", str(link)),
        ("joan", "joined", f"joan in {name} (annotator)"),
        ("ada", "revoked", str(link)),
        ("ada", "ruled", str(comparison)),
        ("ada", "took_back", str(comparison)),
        ("ada", "created", str(known)),
        ("ada", "created", str(export)),
        ("ada", "withdrew", "anna"),
    ]
    details = [entry[3] for entry in entries(project)]
    assert imported.items() <= details[0].items()
    assert details[1] == {"guideline_version": {"from": 1, "to": 2}}
    assert details[8] == {"pairs": 1, "judgments": 1}


def test_what_was_changed_before_is_not_written_down_again(project, ada):
    link, _ = invitations.invite(project, ada, role="annotator", days=7, max_uses=1)
    invitations.revoke(project, link.pk, ada)
    invitations.revoke(project, link.pk, ada)
    publish(project, project.guidelines, ada)
    withdraw(project, ada, ada)
    withdraw(project, ada, ada)

    assert [entry[1] for entry in entries(project)] == ["created", "revoked", "withdrew"]


def test_a_verdict_leaves_no_entry(project):
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    assert entries(project) == []


def test_settings_are_written_down_with_what_they_were(browser, project):
    sent = {**settings_as_sent(), "name": project.name, "overlap": 3, "guidelines": "Secret text."}
    browser.post(url("edit_project"), sent)

    assert entries(project) == [
        ("ada", "changed", project.name, {"overlap": {"from": 1, "to": 3}}),
        ("ada", "changed", project.name, {"guideline_version": {"from": 1, "to": 2}}),
    ]


def test_members_are_added_changed_and_removed_in_the_log(browser, project):
    browser.post(url("add_member"), {"username": "anna", "role": "annotator"})
    anna = project.memberships.get(user__username="anna")
    browser.post(url("change_member", anna.pk), {"role": "reviewer", "is_qualified": "on"})
    browser.post(url("change_member", anna.pk), {"role": "reviewer", "is_qualified": "on"})
    browser.post(url("member", anna.pk), {"quota_total": 5, "qualification": "pending"})
    browser.post(url("remove_member", anna.pk))

    assert [(entry[1], entry[3]) for entry in entries(project)] == [
        ("added", {"role": "annotator", "is_new_account": True}),
        ("changed", {"role": {"from": "annotator", "to": "reviewer"}}),
        ("changed", {"quota_total": {"from": None, "to": 5}}),
        ("removed", {}),
    ]


def test_a_pause_a_hold_and_a_download_are_in_the_log(browser, project, ada):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, UserFactory(), [0], [1])
    export = create_export(project)
    browser.post(url("pause_project"), {"note": "Lunch."})
    browser.post(url("resume_project"))
    browser.post(url("resume_project"))
    browser.post(url("hold_comparison", comparison.pk), {"reason": "Rude."})
    browser.post(url("ask_comparison", comparison.pk))
    browser.get(url("download_export", export.pk, "data.jsonl"))

    done = [(who, action, what) for who, action, what, _ in entries(project)]
    assert done == [
        ("", "created", str(export)),
        ("ada", "paused", project.name),
        ("ada", "resumed", project.name),
        ("ada", "held", str(comparison)),
        ("ada", "released", str(comparison)),
        ("ada", "downloaded", str(export)),
    ]


# --- the page -------------------------------------------------------------------------------------
@pytest.fixture
def logged(project, ada):
    """Three entries: by ada, by the system, and an old one by =bob."""
    bob = UserFactory(username="=bob")
    old = record(bob, Action.LAUNCHED, project, project=project, note="=1+1")
    record(None, Action.CREATED, ProjectFactory(), project=project)
    record(ada, Action.CHANGED, project, project=project)
    record(ada, Action.CHANGED, project, project=ProjectFactory())
    return old


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["changed", "created", "launched"]),
        ({"who": "bo"}, ["launched"]),
        ({"who": "the system"}, ["created"]),
        ({"action": "changed"}, ["changed"]),
        ({"kind": "project", "number": "PK"}, ["changed", "launched"]),
        ({"since": "tomorrow"}, []),
        ({"since": "today", "until": "today"}, ["changed", "created", "launched"]),
    ],
)
def test_the_log_is_filtered(browser, project, logged, query, found):
    today = timezone.localdate()
    days = {"today": str(today), "tomorrow": str(today + timedelta(days=1)), "PK": str(project.pk)}
    query = {name: days.get(value, value) for name, value in query.items()}

    page = browser.get(url("audit"), query)
    lines = browser.get(url("audit_file", "jsonl"), query).getvalue().decode().splitlines()

    assert [entry.action for entry, _ in page.context["entries"]] == found
    assert [json.loads(line)["action"] for line in lines] == found


def test_a_question_that_makes_no_sense_is_said_so(browser, project, logged):
    page = browser.get(url("audit"), {"since": "yesterday"})

    assert (page.status_code, page.context["entries"]) == (422, [])
    assert browser.get(url("audit_file", "csv"), {"since": "yesterday"}).status_code == 404
    assert browser.get(url("audit_file", "exe")).status_code == 404


def test_no_cell_of_the_csv_is_a_formula(browser, logged):
    text = browser.get(url("audit_file", "csv"), {"who": "bob"}).getvalue().decode()

    header, row = csv.reader(text.splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["actor"] == "'=bob"
    assert json.loads(cells["details"]) == {"note": "=1+1"}


@pytest.mark.parametrize("rows", [1, 3])
def test_the_page_costs_the_same_for_one_entry_and_three(
    browser, project, ada, django_assert_num_queries, rows
):
    for _ in range(rows):
        record(ada, Action.CHANGED, project, project=project)

    with django_assert_num_queries(6):
        page = browser.get(url("audit"))

    assert len(page.context["entries"]) == rows


@pytest.mark.parametrize("role", [None, Role.ANNOTATOR, Role.REVIEWER])
def test_only_admins_read_it(client, project, logged, role):
    user = MembershipFactory(project=project, role=role).user if role else UserFactory()
    client.force_login(user)

    assert client.get(url("audit")).status_code == 404
    assert client.get(url("audit_file", "csv")).status_code == 404


# --- where data may go ----------------------------------------------------------------------------
def test_who_is_told_of_a_project_is_in_its_log_without_what_is_secret(project, ada):
    url = "https://hooks.example.org/T0/secret"
    hook, _ = outbox.add(project, ada, url=url, events=["export.ready"], agreement_below=None)
    outbox.change(hook, ada, url=url, events=["run.finished"], agreement_below=None)
    outbox.replace_secret(hook, ada)
    outbox.pause(hook, "It answers 410 (gone).")
    outbox.remove(hook, ada)

    entries = AuditEntry.objects.filter(project=project, kind="webhook").order_by("pk")
    assert [(entry.action, entry.actor_name, entry.object_name) for entry in entries] == [
        ("added", "ada", "hooks.example.org"),
        ("changed", "ada", "hooks.example.org"),
        ("changed", "ada", "hooks.example.org"),
        ("paused", "", "hooks.example.org"),
        ("removed", "ada", "hooks.example.org"),
    ]
    assert entries[1].details == {"events": {"from": ["export.ready"], "to": ["run.finished"]}}
    assert "T0" not in str(list(entries.values()))


def test_tokens_are_made_and_revoked_in_a_log_of_no_project(ada):
    token, secret = make_token(ada, "laptop", ["read"], days=7)
    assert (revoke(ada, token.pk), revoke(ada, token.pk)) == (True, False)

    entries = AuditEntry.objects.filter(kind="apitoken").order_by("pk")
    assert [(entry.action, entry.project, entry.object_name) for entry in entries] == [
        ("created", None, "laptop of ada"),
        ("revoked", None, "laptop of ada"),
    ]
    assert secret[:12] not in str(list(entries.values()))
