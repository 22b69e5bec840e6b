"""What becomes of a file: taken in, opened, checked, imported, cancelled, lost and found, deleted."""

import csv
import gzip
import json
import pickle
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.utils import timezone
from django_q.models import OrmQ

from annotator import importing
from annotator.assignment import claim
from annotator.importing import import_jsonl
from annotator.imports import jobs
from annotator.imports.models import Import, State
from annotator.locks import alone
from annotator.models import Completion, Judgment, User
from annotator.tasks import open_import
from tests.annotator.imports.conftest import PAIR, imported, lines, upload

pytestmark = pytest.mark.django_db

CHOICE = {"prompt": "Hi!", "chosen": "Hello!", "rejected": "What?"}
BAD = {"prompt": 1}


@pytest.fixture
def received(project, admin):
    """Pasted text, as it was taken in."""

    def received(*rows):
        return jobs.receive(project, admin, text=lines(*rows))

    return received


def test_a_file_that_is_taken_in_is_opened_and_nothing_else(project, admin):
    packed = gzip.compress(lines(PAIR, CHOICE).encode())

    import_ = jobs.receive(project, admin, upload=upload(packed, "a.jsonl.gz"))

    assert (import_.state, import_.format, import_.name) == (State.READY, "jsonl", "a.jsonl.gz")
    assert import_.columns == ["prompt", "completions", "chosen", "rejected"]
    assert [row.record for row in import_.sample] == [PAIR, CHOICE]
    assert not project.prompts.exists()


def test_an_import_says_what_is_new(project, admin, received):
    import_ = imported(received(PAIR, PAIR), admin)

    assert import_.state == State.FINISHED
    assert import_.report["counts"] == {
        "prompts": 1, "completions": 2, "comparisons": 1, "judgments": 0, "duplicates": 1,
        "known_answers": 0, "held": 0,
    }  # fmt: skip
    assert project.comparisons.count() == 1


def test_a_check_imports_nothing_and_an_import_may_follow(project, admin, received):
    import_ = imported(received(PAIR), admin, is_check=True)

    assert (import_.state, import_.report["counts"]["comparisons"]) == (State.CHECKED, 1)
    assert not project.prompts.exists()

    assert imported(import_, admin).state == State.FINISHED
    assert project.comparisons.count() == 1


def test_a_bad_row_is_named_and_nothing_is_imported(project, admin, received):
    import_ = imported(received(PAIR, BAD), admin)

    assert import_.state == State.REFUSED
    (bad,) = import_.report["bad"]
    assert (bad["place"], bad["column"], bad["value"]) == ("line 2", "prompt", "1")
    assert not project.prompts.exists()


def test_bad_rows_can_be_skipped_and_are_listed(project, admin, received):
    import_ = received(PAIR, BAD)
    jobs.choose(import_, {"skip_bad_rows": True})

    imported(import_, admin)

    assert (import_.state, import_.report["n_bad"]) == (State.FINISHED, 1)
    with import_.skipped_file.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(row["place"], row["column"], row["value"]) for row in listed] == [
        ("line 2", "prompt", "1")
    ]


def test_known_choices_become_votes_of_a_user_who_cannot_sign_in(admin, received):
    import_ = received(CHOICE)
    jobs.choose(import_, {"judge": "the-file"})

    imported(import_, admin)

    assert Judgment.objects.get().annotator.username == "the-file"
    assert not User.objects.get(username="the-file").has_usable_password()


def test_columns_are_mapped_and_the_mapping_is_remembered_for_the_same_columns(project, admin):
    text = "task,good,poor\nWhy?,Because.,No idea.\n"
    first = jobs.receive(project, admin, text=text)
    mapping = {"prompt": "task", "chosen": "good", "rejected": "poor"}
    jobs.choose(first, {"mapping": mapping, "judge": "the-file"})
    imported(first, admin)

    again = jobs.receive(project, admin, text="good,poor,task\nYes.,No.,Is it?\n")
    other = jobs.receive(project, admin, text="a,b\n1,2\n")

    assert project.prompts.get().messages == [{"role": "user", "content": "Why?"}]
    assert (again.mapping, again.judge) == (mapping, "the-file")
    assert (other.mapping, other.judge) == ({}, "")


def test_columns_of_what_a_tool_nests_are_mapped_by_their_paths(received, admin):
    result = {"type": "pairwise", "to_name": "pw", "value": {"selected": "left"}}
    annotations = [{"completed_by": who, "result": [result]} for who in (1, 2)]
    data = {"prompt": "Why?", "ours": "Because.", "theirs": "No idea."}
    import_ = received({"data": data, "annotations": annotations})
    assert import_.columns == ["data", "data.prompt", "data.ours", "data.theirs", "annotations"]

    jobs.choose(import_, {"mapping": {"completions": "data.theirs,data.ours"}})
    imported(import_, admin)

    assert chosen() == ["No idea.", "No idea."]


def test_annotations_of_one_task_in_several_rows_are_votes_on_one_comparison(received, admin):
    texts = {"prompt": "Why?", "answer1": "Because.", "answer2": "No idea."}
    row = {**texts, "pw": [{"selected": "left"}], "annotation_id": 4, "lead_time": 2.5}
    import_ = received(row | {"annotator": 1}, row | {"annotator": 2})

    imported(import_, admin)

    assert chosen() == ["Because.", "Because."]
    assert Judgment.objects.values("comparison").distinct().count() == 1


def chosen():
    return [
        Completion.objects.get(pk=judgment.ranking[0][0]).text
        for judgment in Judgment.objects.all()
    ]


def test_columns_are_guessed_where_rows_say_nothing_without(project, admin):
    text = "question,answer_a,answer_b\nWhy?,Because.,No idea.\n"

    assert jobs.receive(project, admin, text=text).mapping == {
        "prompt": "question", "completions": "answer_a,answer_b",
    }  # fmt: skip
    assert jobs.receive(project, admin, text=lines(PAIR)).mapping == {}


def test_names_of_columns_that_cannot_be_stored_are_made_printable(project, admin):
    odd = {"task": "Why?", "good": "Because.", "poor": "No.", "a\0": 1, "b\ud83d": 2, "a␀": 3}
    import_ = jobs.receive(project, admin, text=json.dumps(odd) + "\n")
    mapping = {"prompt": "task", "chosen": "good", "rejected": "poor"}

    jobs.choose(import_, {"mapping": mapping})
    imported(import_, admin)
    import_.refresh_from_db()

    assert import_.columns == ["task", "good", "poor", "a␀", "b\\ud83d"]
    assert (import_.state, import_.error) == (State.FINISHED, "")
    assert project.prompts.get().messages == [{"role": "user", "content": "Why?"}]
    assert import_.report["ignored"] == ["a␀", "b\\ud83d"]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_parquet_is_opened_by_the_worker(project, admin, tmp_path, packed):
    pq.write_table(pa.table({"prompt": ["Why?"], "day": [timezone.now()]}), tmp_path / "a.parquet")
    content = packed((tmp_path / "a.parquet").read_bytes())

    import_ = jobs.receive(project, admin, upload=upload(content, "a.parquet"))
    assert import_.state == State.OPENING

    open_import(import_.pk)
    import_.refresh_from_db()
    assert (import_.state, import_.format, import_.columns) == (
        State.READY, "parquet", ["prompt", "day"],
    )  # fmt: skip
    assert imported(import_, admin).report["ignored"] == ["day"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"%PDF-1.7", "The file is a PDF file; it must be JSON lines"),
        (b"\n \n", "It holds no rows."),
        (b"\x1f\x8b\x08", "The file is damaged"),
        (pickle.dumps([CHOICE]), "The file is not text"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_a_sentence(project, admin, content, sentence):
    import_ = jobs.receive(project, admin, upload=upload(content))

    assert (import_.state, import_.is_startable) == (State.REFUSED, False)
    assert import_.error.startswith(sentence)


def test_what_cannot_even_be_read_is_given_up_with_a_sentence(received):
    import_ = received(PAIR)
    import_.file.unlink()
    Import.objects.update(state=State.OPENING)

    open_import(import_.pk)

    import_.refresh_from_db()
    assert (import_.state, import_.error) == (State.FAILED, jobs.CRASHED)


def test_a_file_that_kills_who_opens_it_again_and_again_is_given_up(received):
    import_ = received(PAIR)
    Import.objects.update(state=State.OPENING, attempts=jobs.MAX_ATTEMPTS)

    open_import(import_.pk)

    import_.refresh_from_db()
    assert (import_.state, import_.error) == (State.FAILED, jobs.KILLED)


# --- twice, at once, in the middle ----------------------------------------------------------------
def test_two_clicks_start_one_job(admin, received, django_capture_on_commit_callbacks):
    import_ = received(PAIR)
    with django_capture_on_commit_callbacks(execute=True):
        jobs.start(import_, admin, is_check=False)
        jobs.start(Import.objects.get(), admin, is_check=True)

    (message,) = OrmQ.objects.all()
    assert message.func() == "annotator.tasks.work_on_imports"
    assert not Import.objects.get().is_check


def test_a_message_that_comes_twice_changes_nothing(project, admin, received):
    import_ = imported(received(PAIR), admin)

    jobs.work()

    import_.refresh_from_db()
    assert (import_.attempts, project.comparisons.count()) == (1, 1)


def test_while_one_import_is_being_done_the_next_one_waits(admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)

    with alone(jobs._imports_folder() / "lock"):
        jobs.work()
        import_.refresh_from_db()
        assert import_.state == State.QUEUED

    jobs.work()
    import_.refresh_from_db()
    assert import_.state == State.FINISHED


def test_what_still_waits_at_the_end_of_an_import_is_sent_for(
    admin, received, django_capture_on_commit_callbacks
):
    for row in (PAIR, CHOICE):
        jobs.start(received(row), admin, is_check=False)

    with django_capture_on_commit_callbacks(execute=True):
        jobs.work()

    assert list(Import.objects.values_list("state", flat=True)) == [State.QUEUED, State.FINISHED]
    assert OrmQ.objects.count() == 1


def test_an_import_whose_worker_was_killed_is_begun_anew(project, admin, received):
    import_ = received({"prompt": "Why?"}, PAIR)
    import_jsonl(project, [b'{"prompt": "Why?"}'])  # as far as it had come
    Import.objects.update(state=State.RUNNING, attempts=1)

    jobs.work()

    import_.refresh_from_db()
    assert (import_.state, import_.attempts) == (State.FINISHED, 2)
    assert (import_.outcome, project.comparisons.count()) == ("1 comparison", 1)


def test_an_import_that_kills_its_worker_again_and_again_is_given_up(admin, received):
    import_ = received(PAIR)
    Import.objects.update(state=State.RUNNING, attempts=jobs.MAX_ATTEMPTS)

    jobs.work()

    import_.refresh_from_db()
    assert (import_.state, import_.is_startable) == (State.FAILED, True)
    assert import_.error.startswith("Its worker was killed 3 times.")


def test_what_waits_or_was_lost_is_sent_for_every_minute(
    admin, received, django_capture_on_commit_callbacks
):
    for state in (State.QUEUED, State.RUNNING, State.OPENING, State.READY):
        Import.objects.filter(pk=received(PAIR).pk).update(state=state)

    with django_capture_on_commit_callbacks(execute=True):
        jobs.tend()

    assert sorted(message.func().rpartition(".")[2] for message in OrmQ.objects.all()) == [
        "open_import", "work_on_imports",
    ]  # fmt: skip


# --- cancelling -----------------------------------------------------------------------------------
def test_an_import_that_waits_is_cancelled_at_once(project, admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)

    jobs.cancel(import_)
    jobs.work()

    import_.refresh_from_db()
    assert (import_.state, import_.is_startable) == (State.CANCELLED, True)
    assert not project.prompts.exists()


def test_an_import_that_runs_is_cancelled_and_keeps_nothing(project, admin, received):
    import_ = received(*[{"prompt": f"Question {n}?"} for n in range(300)])
    Import.objects.update(state=State.RUNNING, attempts=1)

    jobs.cancel(import_)
    jobs.work()

    import_.refresh_from_db()
    assert import_.state == State.CANCELLED
    assert not project.prompts.exists()


def test_an_import_that_is_cancelled_while_it_stores_keeps_nothing(
    project, admin, received, monkeypatch
):
    import_ = received(*[{"prompt": f"Question {n}?"} for n in range(5)])
    monkeypatch.setattr(importing, "BATCH", 2)
    monkeypatch.setattr(importing.time, "sleep", lambda seconds: import_.ask_to_cancel())

    imported(import_, admin)

    assert (import_.state, import_.outcome) == (State.CANCELLED, "")
    assert import_.what_remains == "Nothing was imported."
    assert project.prompts.count() == 0

    monkeypatch.undo()
    imported(import_, admin)

    assert (import_.state, import_.outcome) == (State.FINISHED, "5 prompts")


def test_an_import_that_is_cancelled_says_what_stays(project, admin, received, monkeypatch):
    def look_at_one(seconds):
        claim(project, admin)
        import_.ask_to_cancel()

    import_ = received(*[{**PAIR, "prompt": f"Question {n}?"} for n in range(5)])
    monkeypatch.setattr(importing, "BATCH", 2)
    monkeypatch.setattr(importing.time, "sleep", look_at_one)

    imported(import_, admin)

    assert import_.what_remains == (
        "What it had put in was deleted again, but for 1 comparison that somebody has worked on."
    )
    assert (project.comparisons.count(), project.prompts.count()) == (1, 1)


def test_what_was_cancelled_can_be_begun_again(project, admin, received):
    import_ = received(PAIR)
    Import.objects.update(state=State.CANCELLED)
    import_.ask_to_cancel()  # left behind
    import_.refresh_from_db()

    assert imported(import_, admin).state == State.FINISHED
    assert project.comparisons.count() == 1


def test_progress_is_that_of_the_bytes_then_that_of_the_rows(received):
    import_ = received(*[{"prompt": f"Question {n}?"} for n in range(300)])
    with import_.file.open("rb") as file:
        file.seek(1000)
        jobs._Watch(import_, file).checked(40)
    assert import_.progress == ("reading", 1000, import_.size, "bytes")

    jobs._Watch(import_, None).stored(300)
    assert import_.progress == ("storing", 300, 300, "rows")


# --- deleting -------------------------------------------------------------------------------------
def test_files_are_deleted_after_a_week_and_the_row_stays(project, admin, received):
    old, new = imported(received(PAIR), admin), received(CHOICE)
    Import.objects.filter(pk=old.pk).update(created=timezone.now() - timedelta(days=8))

    jobs.delete_old()

    assert (old.has_files, new.has_files) == (False, True)
    assert set(project.imports.all()) == {old, new}


def test_a_file_of_which_nothing_came_leaves_no_row(project, received):
    import_ = received(PAIR)

    assert jobs.delete_files(import_)
    assert not project.imports.exists()
    assert not import_.folder.exists()


def test_without_its_file_an_import_is_not_begun(admin, received):
    import_ = imported(received({"prompt": 1}), admin)
    jobs.delete_files(import_)

    jobs.start(import_, admin, is_check=False)

    assert import_.state == State.REFUSED


def test_no_file_is_deleted_while_it_is_read(admin, received):
    import_ = received(PAIR)
    jobs.start(import_, admin, is_check=False)

    assert not jobs.delete_files(import_)
    assert import_.has_files


def test_a_folder_without_a_row_is_deleted(data_dir):
    (data_dir / "imports" / "77").mkdir(parents=True)

    jobs.delete_old()

    assert not (data_dir / "imports" / "77").exists()
