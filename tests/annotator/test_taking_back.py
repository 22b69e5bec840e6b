"""A long import that does not come to its end: killed at any statement, all of it is there or nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from annotator import importing
from annotator.assignment import claim
from annotator.importing import import_jsonl
from annotator.models import Comment, Comparison, Prompt, User
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

    assert notes == ["1 comparison stays, because somebody has worked on what was there by then."]
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
