"""A long import that does not come to its end: killed at any statement, all of it is there or nothing."""

import json
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import OperationalError, connection

from annotator import importing
from annotator.assignment import claim
from annotator.importing import import_jsonl
from annotator.models import Comment, Comparison, Prompt, StoredBatch, User
from annotator.withdrawing import withdraw
from tests.factories import ComparisonFactory, MembershipFactory, ProjectFactory, UserFactory
from tests.postgresql import find_initdb, private_cluster

KILLS = 12


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/db.sqlite3"
    elif (initdb := find_initdb()) is None:
        pytest.skip("PostgreSQL is not installed")
    else:
        with private_cluster(initdb, "-c fsync=off") as url:
            yield url


def test_an_import_that_is_killed_leaves_all_or_nothing(database, tmp_path):
    environment = {"DATABASE_URL": database, "PREFERENDUM_DATA_DIR": str(tmp_path / "data")}
    script = Path(__file__).with_name("import_under_fire.py")

    done = subprocess.run(
        [sys.executable, script, str(KILLS)], env=os.environ | environment, capture_output=True
    )

    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["killed"], found["half"], found["left"]) == (KILLS, 0, 0)
    assert (found["nothing"], found["all"]) == (KILLS - 1, 1)


# --- what people have worked on -------------------------------------------------------------------
@pytest.fixture
def project(db, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 2)
    return ProjectFactory()


def interrupt(project, meanwhile):
    """An import of six comparisons that ends after the fourth; `meanwhile` is done before that."""

    def on_stored(n_stored):
        if n_stored == 4:
            meanwhile()
            raise KeyboardInterrupt

    rows = [{"prompt": f"Question {n}?", "completions": ["a", "b"]} for n in range(6)]
    with pytest.raises(KeyboardInterrupt) as ended:
        import_jsonl(project, [json.dumps(row).encode() for row in rows], on_stored=on_stored)
    return getattr(ended.value, "__notes__", [])


def test_what_somebody_has_been_handed_stays(project):
    anna = MembershipFactory(project=project).user

    notes = interrupt(project, lambda: claim(project, anna))

    assert notes == [
        "What it had put in was deleted again, but for 1 comparison that somebody has worked on."
    ]
    assert (Comparison.objects.count(), Prompt.objects.count()) == (1, 1)


def test_what_somebody_has_commented_on_stays(project):
    reviewer = MembershipFactory(project=project).user

    def comment():
        Comment.objects.create(comparison=project.comparisons.first(), author=reviewer, text="Odd.")

    assert len(interrupt(project, comment)) == 1
    assert (Comparison.objects.count(), Prompt.objects.count()) == (1, 1)


def test_votes_on_what_was_there_give_their_places_back_unless_they_have(project):
    comparison = ComparisonFactory(project=project, overlap=1)
    texts = [entry.completion.text for entry in comparison.entries.all()]
    vote = {"annotator": "anna", "ranking": [[0], [1]]}
    asked = {"prompt": comparison.prompt.messages, "completions": texts}
    rows = [asked | {"judgments": [vote | {"annotator": name} for name in ("anna", "ben")]}]
    rows += [{"prompt": f"Question {n}?"} for n in range(4)]

    def withdraw_anna(n_stored):
        if n_stored == 4:
            withdraw(project, User.objects.get(username__endswith="/anna"), UserFactory())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_jsonl(project, [json.dumps(row).encode() for row in rows], on_stored=withdraw_anna)

    comparison.refresh_from_db()
    assert (comparison.taken, comparison.overlap, comparison.judgments.count()) == (0, 1, 0)


def test_a_key_that_a_rolled_back_batch_had_is_not_taken_from_others(project, monkeypatch):
    def note(journal, written):
        raise SystemExit  # before its transaction is committed

    monkeypatch.setattr(importing.Journal, "note", note)
    with pytest.raises(SystemExit):
        import_jsonl(project, [json.dumps({"prompt": f"{n}?"}).encode() for n in range(3)])
    monkeypatch.undo()
    import_jsonl(project, [b'{"prompt": "Another?"}'])

    importing.tidy_all()

    assert project.prompts.count() == 1


def test_without_anybody_nothing_stays(project):
    assert interrupt(project, lambda: None) == []
    assert not Prompt.objects.exists()


# --- what does not go well ------------------------------------------------------------------------
@contextmanager
def failing_after(n_batches):
    """A database that deletes nothing more once so many batches were taken back."""
    left = n_batches

    def fuse(execute, sql, params, many, context):
        nonlocal left
        if sql.startswith('DELETE FROM "annotator_prompt"'):
            left -= 1
            if left < 0:
                raise OperationalError("disk full")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fuse):
        yield


def test_what_could_not_be_taken_back_is_said_and_goes_later(project, caplog):
    with failing_after(1):
        notes = interrupt(project, lambda: None)

    assert notes == [
        "What it had put in could not all be deleted just now: the worker goes on within a minute, "
        "or the next import does."
    ]
    assert "could not all be taken back yet" in caplog.text
    assert (Comparison.objects.count(), StoredBatch.objects.count()) == (2, 1)  # of four, and two

    importing.tidy_all()

    assert (Comparison.objects.count(), StoredBatch.objects.count()) == (0, 0)


def test_the_next_import_goes_on_with_what_could_not_be_taken_back(project):
    with failing_after(0):
        interrupt(project, lambda: None)

    import_jsonl(project, [json.dumps({"prompt": f"{n}?"}).encode() for n in range(3)])

    assert (project.prompts.count(), project.comparisons.count()) == (3, 0)


@pytest.mark.django_db(transaction=True)
def test_of_two_imports_at_once_the_one_that_is_cancelled_takes_nothing_of_the_other(project):
    """They say the same in part."""
    rows = [{"prompt": f"Question {n}?", "completions": ["a", "b"]} for n in range(4, 10)]

    def import_others():
        try:
            return import_jsonl(project, [json.dumps(row).encode() for row in rows])
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as other:
        reports = []
        interrupt(project, lambda: reports.append(other.submit(import_others)))
        report = reports[0].result()

    assert (report.comparisons, report.duplicates) == (6, 0)
    asked = project.comparisons.values_list("prompt__messages__0__content", flat=True)
    assert sorted(asked) == [row["prompt"] for row in rows]


def test_memory_does_not_grow_with_what_is_taken_back(project, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 20)
    long = "x" * 5000
    rows = ({"prompt": f"{n}?", "completions": [long, long + "y"]} for n in range(240))
    lines = [json.dumps(row).encode() for row in rows]
    with failing_after(0), pytest.raises(SystemExit):
        import_jsonl(project, lines, on_stored=lambda n: n < 220 or sys.exit())

    tracemalloc.start()
    importing.tidy_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert not project.prompts.exists()
    assert peak < 1e6  # bytes; the import had put in 2.2 million, a fifth of a million a batch
