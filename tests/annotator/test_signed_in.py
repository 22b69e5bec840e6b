"""Sessions and users that are found by SQL made once are those that Django would find."""

from datetime import timedelta

import pytest
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.utils import timezone

from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


def test_who_is_signed_in_stays_so(client):
    user = UserFactory()
    client.force_login(user)

    assert client.get("/").wsgi_request.user == user


def test_a_session_that_is_over_is_nobodys(client):
    client.force_login(UserFactory())
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))

    assert SESSION_KEY not in client.get("/").wsgi_request.session


def test_who_may_no_longer_sign_in_is_signed_out(client):
    user = UserFactory()
    client.force_login(user)
    user.is_active = False
    user.save()

    assert client.get("/").wsgi_request.user.is_anonymous
