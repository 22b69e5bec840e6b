"""Asking the worker for figures, and reading what it left."""

from datetime import timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from annotator import assignment
from annotator.models import QualityReport
from annotator.quality import keeping
from annotator.tasks import compute_quality
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(overlap=3)


def test_figures_asked_for_twice_are_computed_once(project, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        keeping.ask(project)
        keeping.ask(project)

    (message,) = OrmQ.objects.all()
    assert (message.func(), message.args()) == (
        "annotator.tasks.compute_quality",
        (project.pk,),
    )


def test_a_task_that_was_lost_is_asked_for_again(project, django_capture_on_commit_callbacks):
    keeping.ask(project)
    QualityReport.objects.update(asked=timezone.now() - keeping.PATIENCE - timedelta(seconds=1))

    with django_capture_on_commit_callbacks(execute=True):
        keeping.ask(project)

    assert OrmQ.objects.count() == 1


def test_the_worker_keeps_what_it_computes(project):
    comparison = ComparisonFactory(project=project)
    said = [make_judgment(comparison, UserFactory(), [0], [1]) for _ in range(2)]
    keeping.ask(project)

    compute_quality(project.pk)

    report = keeping.report_of(project)
    assert (report.asked, report.newest_judgment) == (None, said[1].pk)
    assert report.figures["n_votes"] == 2
    assert keeping.consensus_of(comparison)["majority"] == {
        "ranking": said[0].ranking,
        "support": 1.0,
    }


def test_figures_are_stale_once_something_is_said_or_taken_back(project):
    user = UserFactory()
    make_judgment(ComparisonFactory(project=project), user, [0], [1])
    keeping.ask(project)
    for change in (
        lambda: make_judgment(ComparisonFactory(project=project), user, [0], [1]),
        lambda: assignment.undo_last(project, user),
    ):
        compute_quality(project.pk)
        assert not keeping.is_stale(keeping.report_of(project))

        change()

        assert keeping.is_stale(keeping.report_of(project))


def test_a_failure_is_kept_as_a_sentence(project):
    comparison = ComparisonFactory(project=project)
    make_judgment(comparison, UserFactory(), [0], [1])
    project.judgments.update(ranking="nonsense")
    keeping.ask(project)

    with pytest.raises(ValueError, match="invalid literal"):
        compute_quality(project.pk)

    report = keeping.report_of(project)
    assert (report.asked, report.figures) == (None, {})
    assert report.error == "The figures could not be computed: see the log of the worker."


def test_there_is_no_consensus_of_what_was_not_computed(project):
    comparison = ComparisonFactory(project=project)

    assert keeping.consensus_of(comparison) is None


def test_a_project_that_is_gone_has_no_figures(project):
    project.delete()

    compute_quality(project.pk)

    assert not QualityReport.objects.exists()
