"""A POST with an Idempotency-Key has one effect, however often it comes."""

from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from annotator.idempotency import KEPT, LOST_AFTER, IdempotentRequest
from annotator.models import Project, Role
from tests.factories import MembershipFactory, ProjectFactory, api_client

pytestmark = pytest.mark.django_db

PROJECTS = "/api/v1/projects/"


@pytest.fixture
def admin():
    project = ProjectFactory(slug="tea")
    return api_client(MembershipFactory(project=project, role=Role.ADMIN).user)


def post(program, name, key="k1"):
    headers = {"Idempotency-Key": key}
    return program.post(PROJECTS, {"name": name}, content_type="application/json", headers=headers)


def made(name):
    return Project.objects.filter(name=name).count()


def test_the_same_key_gets_the_same_answer(admin):
    first, second = post(admin, "Oolong"), post(admin, "Oolong")

    assert second.json() == first.json()
    assert (second.status_code, second["Idempotency-Replayed"]) == (201, "true")
    assert made("Oolong") == 1


def test_without_a_key_it_is_done_again(admin):
    for _ in range(2):
        admin.post(PROJECTS, {"name": "Oolong"}, content_type="application/json")

    assert made("Oolong") == 2


def test_a_key_is_refused_with_another_content(admin):
    post(admin, "Oolong")

    answer = post(admin, "Assam")

    assert answer.status_code == 422
    assert "draw a new one" in answer.json()["errors"][0]["detail"]
    assert made("Assam") == 0


def test_while_the_first_is_under_way_the_second_is_told_to_wait(admin):
    post(admin, "Oolong")
    IdempotentRequest.objects.update(status=None)

    answer = post(admin, "Oolong")

    assert (answer.status_code, answer["Retry-After"]) == (409, "1")
    assert made("Oolong") == 1


def test_what_a_process_left_unanswered_is_done_by_a_later_one(admin):
    post(admin, "Oolong")
    long_ago = timezone.now() - LOST_AFTER - timedelta(seconds=1)
    IdempotentRequest.objects.update(status=None, created=long_ago)

    assert post(admin, "Oolong").status_code == 201


def test_a_key_can_be_used_again_after_a_day(admin):
    post(admin, "Oolong")
    IdempotentRequest.objects.update(created=timezone.now() - KEPT - timedelta(seconds=1))

    assert post(admin, "Assam").status_code == 201
    assert IdempotentRequest.objects.count() == 1


def test_what_was_refused_has_used_no_key(admin):
    assert post(admin, "").status_code == 422

    assert post(admin, "Oolong").status_code == 201


def test_people_have_keys_of_their_own(admin):
    other = api_client(MembershipFactory(role=Role.ADMIN).user)

    assert (post(admin, "Oolong").status_code, post(other, "Assam").status_code) == (201, 201)


@pytest.mark.parametrize("key", ["", "a b", "é", "k" * 256])
def test_a_key_that_is_none_is_refused(admin, key):
    assert post(admin, "Oolong", key=key.encode("utf-8").decode("latin-1")).status_code == 422


def test_an_upload_is_known_by_its_file(admin):
    def upload(text):
        file = SimpleUploadedFile("prompts.jsonl", text)
        headers = {"Idempotency-Key": "k1"}
        return admin.post(f"{PROJECTS}tea/imports/", {"file": file}, headers=headers)

    first, second = upload(b'{"prompt": "Why?"}'), upload(b'{"prompt": "Why?"}')
    other = upload(b'{"prompt": "Who?"}')

    assert first.json()["name"] == "prompts.jsonl"
    assert second.json() == first.json()
    assert other.status_code == 422
