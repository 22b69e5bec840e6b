"""What the API says of itself is true: schemathesis asks each address many things and reads the
answers.

This is about the whole of the API, so it knows both apps.
"""

import json

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from annotator import assignment as assigning
from annotator.export_jobs import ExportJob, JobKind
from annotator.exporting import create_export
from annotator.imports import jobs
from annotator.models import Role
from annotator.tokens import Scope, make_token
from rlhf.models import Metrics, QuarantinedRow, RunKind, Sample, Status
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)
from tests.rlhf.factories import (
    GateFactory,
    PolicyFactory,
    RoundFactory,
    RunFactory,
    make_dataset,
)
from tests.rlhf.model_server_stand_in import YES, model_server_that_says

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _connection_stays_open():
    """As with Django's own test client: what begins and ends a request would close the connection,
    and with it the transaction of the test."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def project(settings, tmp_path):
    """A project in which there is something of everything. Rates are not what is asked about."""
    settings.API_RATE = ""
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"
    project = ProjectFactory(slug="tea", overlap=3)
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])
    policy = PolicyFactory(project=project)
    RoundFactory(project=project, policy=policy)
    create_export(project)
    run = RunFactory(project=project, kind=RunKind.PPO, status=Status.FAILED, policy=policy)
    Metrics.objects.create(run=run, step=3, values={"kl/k1": None, "score/mean": 1.5})
    GateFactory(project=project, incumbent=policy, state="stopped")
    Sample.objects.create(run=run, step=3, index=0, prompt=[], completion="Because.")
    return project


@pytest.fixture
def numbers(project, admin):
    """Of a row that each address is about, by its tag, or by what it is called in the address."""
    screening = screened(project)
    return {
        "comparisons": project.comparisons.get().pk,
        "assignments": assigning.claim(project, admin).pk,
        "exports": project.exports.get().pk,
        "imports": checked_import(project, admin).pk,
        "runs": project.runs.get(kind=RunKind.PPO).pk,
        "models": project.rounds.get().policy.pk,
        "gates": project.gates.get().pk,
        "datasets": make_dataset(project).pk,
        "trials": searched(project.rounds.get().policy).pk,
        "jobs": ExportJob.objects.create(project=project, kind=JobKind.FREEZE).pk,
        "findings": screening.pk,
        "quarantine": screening.pk,
        "lineage": project.exports.get().pk,
    }


def searched(policy):
    """A search with one trial, which has made nothing."""
    trial = {
        "number": 0, "state": "pruned", "value": 0.5, "error": "", "reports": [], "seconds": 60.0,
        "values": {"epochs": 2},
    }  # fmt: skip
    config = {"tries": "reward_model", "space": {}, "settings": {}}
    run = RunFactory(
        kind=RunKind.SEARCH, project=policy.project, policy=policy, config=config,
        status=Status.SUCCEEDED,
    )  # fmt: skip
    table = {"metric": "eval_loss", "direction": "minimize", "trials": [trial], "importance": {}}
    (run.folder / "trials.json").write_text(json.dumps(table))
    return run


def screened(project):
    """A screening that has put a row into quarantine."""
    run = RunFactory(
        project=project, kind=RunKind.SCREEN, status=Status.SUCCEEDED,
        config={"screened": "project"}, result={"findings_sha256": "f00"},
    )  # fmt: skip
    QuarantinedRow.objects.create(run=run, key="prompt-1", code="email")
    return run


def checked_import(project, admin):
    """With a report, and a list of the rows that would be skipped."""
    text = '{"prompt": "Why?"}\n{\n'
    choices = {"skip_bad_rows": True, "is_check": True}
    import_ = jobs.receive(project, admin, text=text, choices=choices)
    jobs.work()
    return import_


@pytest.fixture
def admin(project):
    return MembershipFactory(project=project, role=Role.ADMIN).user


def ask(admin, numbers, subtests, max_examples):
    """Each operation, with what its description allows and with what it does not."""
    # Imported late: it takes seconds, in every process that collects tests.
    import schemathesis  # noqa: PLC0415
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    _, secret = make_token(admin, "schemathesis", Scope.values, days=1)
    headers = {"Authorization": f"Bearer {secret}"}
    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]
    patient = hypothesis_settings(
        max_examples=max_examples,
        derandomize=True,  # the same questions every time
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def ask_one(operation, mode):
        (tag,) = operation.tags
        parts = operation.path.split("/")
        called = next((part for part in reversed(parts) if part in numbers), tag)
        path = {"slug": "tea", "id": numbers.get(called), "kind": "export"}
        known = {p.name: path[p.name] for p in operation.path_parameters}
        assert None not in known.values(), f"there is no row for {operation.label}"

        @patient
        @given(case=operation.as_strategy(mode, path_parameters=known))
        def test(case):
            case.call_and_validate(headers=headers, checks=wanted)

        with subtests.test(f"{operation.label} {mode}"):
            test()

    described = schemathesis.openapi.from_wsgi("/api/v1/schema/", WSGIHandler())
    with model_server_that_says(*YES):
        for found in described.get_all_operations():
            operation = found.ok()
            ask_one(operation, schemathesis.GenerationMode.POSITIVE)
            if operation.body or operation.query:
                ask_one(operation, schemathesis.GenerationMode.NEGATIVE)


def test_every_address_answers_as_described(admin, numbers, subtests):
    ask(admin, numbers, subtests, max_examples=1)


@pytest.mark.slow
def test_every_address_answers_as_described_whatever_is_asked(admin, numbers, subtests):
    ask(admin, numbers, subtests, max_examples=60)
