"""What the worker is asked to do about exports."""

from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from annotator.export_jobs import LOST, PATIENCE, ExportJob
from annotator.exporting import create_export
from annotator.exports.derived import path_of
from annotator.exports.filters import Filters
from annotator.exports.jobs import ask_for_file, ask_to_compare, ask_to_freeze, work_off
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = ProjectFactory()
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    return project


def test_the_worker_freezes_what_was_asked_for(project):
    user = UserFactory()
    job = ask_to_freeze(project, user, Filters(last_round=3), licence="CC0")

    work_off(job.pk)

    job.refresh_from_db()
    assert (job.error, job.export.created_by) == ("", user)
    assert job.export.manifest["filters"] == {"last_round": 3}
    assert job.export.manifest["licence"] == "CC0"


def test_the_worker_makes_a_file_and_compares(project):
    before, after = create_export(project), create_export(project)
    jobs = [ask_for_file(after, None, "kto.csv"), ask_to_compare(before, after, None)]

    for job in jobs:
        work_off(job.pk)

    names = sorted(path.name for path in path_of(after, "").iterdir())
    compared = f"compared-with-{before.pk}.json"
    made = (compared, "kto.csv", "kto.jsonl")
    assert names == [name for made_file in made for name in (made_file, f"{made_file}.sha256")]


def test_asking_twice_is_one_job_and_one_message(project, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        first, second = (ask_to_freeze(project, None, Filters()) for _ in range(2))

    assert first == second
    assert OrmQ.objects.count() == 1


def test_a_job_that_somebody_is_at_is_not_done_twice(project):
    job = ask_to_freeze(project, None, Filters())
    ExportJob.objects.update(started=timezone.now())

    work_off(job.pk)

    assert not project.exports.exists()


def test_what_cannot_be_is_a_sentence(project):
    job = ask_to_freeze(project, None, Filters(first_round=2))

    work_off(job.pk)

    job.refresh_from_db()
    assert job.error == "The filters leave out every vote: ask for fewer conditions."
    assert job.finished


def test_a_lost_job_is_asked_for_again(project):
    lost = ask_to_freeze(project, None, Filters())
    ExportJob.objects.update(started=timezone.now() - PATIENCE - timedelta(seconds=1))

    again = ask_to_freeze(project, None, Filters())

    assert again != lost
    lost.refresh_from_db()
    assert (lost.error, again.started) == (LOST, None)
