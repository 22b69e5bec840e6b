"""Runs that end are told to webhooks, in the transaction that ends them."""

import json

import pytest

from annotator.webhooks import outbox
from annotator.webhooks.models import Delivery, Event
from rlhf.models import RunKind, Status
from rlhf.runs import request_stop
from rlhf.supervision import _claim, _write
from tests.factories import ProjectFactory, UserFactory
from tests.rlhf.factories import RunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = ProjectFactory()
    outbox.add(
        project, UserFactory(), url="https://example.org/", events=[Event.RUN_FINISHED],
        agreement_below=None,
    )  # fmt: skip
    return project


def told():
    return [json.loads(row.body)["data"] for row in Delivery.objects.all()]


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.STOPPED, Status.LOST])
def test_a_run_that_ends_is_told_with_how(project, status):
    run = RunFactory(project=project, kind=RunKind.GENERATE, status=Status.QUEUED)
    _claim(run.pk)
    run.refresh_from_db()

    _write(run, status=status, error="Because.")

    (about,) = told()
    assert (about["run"], about["kind"], about["status"]) == (run.pk, "generate", status)
    assert about["error"] == "Because."


def test_a_run_that_goes_on_is_not_told(project):
    run = RunFactory(project=project, status=Status.QUEUED)
    _claim(run.pk)
    run.refresh_from_db()

    _write(run, status=Status.STOPPING)
    _write(run, step=3)

    assert told() == []


def test_a_run_that_never_began_is_told_once_when_it_is_stopped(project):
    run = RunFactory(project=project, status=Status.QUEUED)

    request_stop(run)
    request_stop(run)

    (about,) = told()
    assert (about["status"], about["started"]) == ("stopped", None)
