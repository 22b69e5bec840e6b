"""Who may use the API, for what, and how often."""

from datetime import timedelta

import pytest
from django.utils import timezone
from knox.models import AuthToken

from annotator.models import Role
from annotator.tokens import ApiToken, make_token, revoke
from tests.factories import MembershipFactory, ProjectFactory, UserFactory, api_client

pytestmark = pytest.mark.django_db

PROJECTS = "/api/v1/projects/"


@pytest.fixture
def anna():
    return MembershipFactory(project=ProjectFactory(slug="tea"), role=Role.ADMIN).user


def test_a_secret_is_kept_as_a_hash_only(anna):
    token, secret = make_token(anna, "nightly", ["read"], days=1)

    row = AuthToken.objects.get()
    assert secret.startswith(token.beginning)
    assert secret not in (row.digest, row.token_key, token.beginning)


def test_without_a_token_nothing_is_answered(client, anna):
    answer = client.get(PROJECTS)

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("secret", ["pref_none00000000000000", "pref_\xe9", "a b", "short"])
def test_a_token_that_was_never_made_does_not_work(client, anna, secret):
    answer = client.get(PROJECTS, headers={"Authorization": f"Bearer {secret}"})

    assert answer.status_code == 401


def test_an_expired_token_does_not_work_and_is_still_listed(anna):
    program = api_client(anna)
    AuthToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))
    ApiToken.objects.update(expires=timezone.now() - timedelta(seconds=1))

    assert program.get(PROJECTS).status_code == 401
    assert ApiToken.objects.get().state == "Expired"


def test_a_revoked_token_does_not_work_and_is_still_listed(anna):
    program = api_client(anna)

    assert revoke(anna, ApiToken.objects.get().pk)

    assert program.get(PROJECTS).status_code == 401
    assert ApiToken.objects.get().state == "Revoked"


def test_nobody_revokes_the_token_of_somebody_else(anna):
    token, _ = make_token(anna, "nightly", ["read"], days=1)

    assert not revoke(UserFactory(), token.pk)

    assert token.works


@pytest.mark.parametrize(
    ("scope", "method", "path", "expected"),
    [
        ("read", "get", "tea/prompts/", 200),
        ("annotate", "get", "tea/prompts/", 403),
        ("manage", "get", "tea/prompts/", 403),
        ("read", "post", "tea/prompts/", 403),
        ("annotate", "post", "tea/prompts/", 403),
        ("manage", "post", "tea/prompts/", 422),
        ("read", "post", "tea/assignments/next/", 403),
        ("annotate", "post", "tea/assignments/next/", 200),
        ("manage", "post", "tea/assignments/next/", 403),
    ],
)
def test_a_token_does_what_its_scopes_say(anna, scope, method, path, expected):
    program = api_client(anna, scope)

    answer = getattr(program, method)(PROJECTS + path, content_type="application/json")

    assert answer.status_code == expected
    if expected == 403:
        assert "lacks the scope" in answer.json()["detail"]


def test_a_session_needs_the_csrf_token_to_change_something(anna):
    from django.test import Client  # noqa: PLC0415

    browser = Client(enforce_csrf_checks=True)
    browser.force_login(anna)

    assert browser.get(PROJECTS).status_code == 200
    answer = browser.post(PROJECTS, {"name": "Coffee"}, content_type="application/json")

    assert answer.status_code == 403
    assert "CSRF" in answer.json()["detail"]


def test_each_token_has_a_rate_of_its_own(anna, settings):
    settings.API_RATE = "2/h"
    program, other = api_client(anna), api_client(anna)

    assert [program.get(PROJECTS).status_code for _ in range(3)] == [200, 200, 429]

    assert int(program.get(PROJECTS)["Retry-After"]) > 3000
    assert other.get(PROJECTS).status_code == 200


def test_who_made_a_token_sees_when_it_was_used(anna):
    program = api_client(anna)
    assert ApiToken.objects.get().used is None

    program.get(PROJECTS)

    assert ApiToken.objects.get().used is not None


def test_the_secret_is_shown_once(client, anna):
    client.force_login(anna)

    made = client.post("/tokens/", {"name": "nightly", "scopes": ["read"], "days": 30})
    again = client.get("/tokens/")

    assert made.context["secret"].startswith("pref_")
    assert made.context["secret"] in made.content.decode()
    assert made.context["secret"] not in again.content.decode()
    assert "nightly" in again.content.decode()


def test_tokens_of_others_are_not_listed(client, anna):
    make_token(UserFactory(), "secret plan", ["read"], days=1)
    client.force_login(anna)

    assert "secret plan" not in client.get("/tokens/").content.decode()
