"""Files as people send them, and the worker done by hand."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile

from annotator.imports import jobs
from annotator.models import Role
from tests.factories import MembershipFactory, ProjectFactory

PAIR = {"prompt": "Why?", "completions": ["Because.", "Ask me tomorrow."]}


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=1)


@pytest.fixture
def admin(project):
    return MembershipFactory(project=project, role=Role.ADMIN).user


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


def upload(content, name="a.jsonl"):
    """As `LimitedUpload` leaves it."""
    file = TemporaryUploadedFile(name, "application/octet-stream", len(content), None)
    file.write(content)
    file.flush()
    return file


def sent(content, name="a.jsonl"):
    """As a browser sends it."""
    return {"file": SimpleUploadedFile(name, content)}


def imported(import_, user, *, is_check=False):
    """Started by somebody, and done by the worker."""
    jobs.start(import_, user, is_check=is_check)
    jobs.work()
    import_.refresh_from_db()
    return import_
