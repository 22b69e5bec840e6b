import pytest
from django.urls import reverse

from annotator.keys import ACTIONS, key_map_of
from annotator.models import User
from tests.factories import UserFactory


def test_only_what_differs_is_kept():
    own = {"1": "F", "2": "", "s": "s", "Enter": " ö ", "csrfmiddlewaretoken": "x"}

    assert key_map_of(own) == {"1": "f", "Enter": "ö"}


def test_two_actions_may_swap_their_keys():
    assert key_map_of({"1": "2", "2": "1"}) == {"1": "2", "2": "1"}


@pytest.mark.parametrize("own", [{"s": "u"}, {"s": "f", "u": "F"}])
def test_a_key_of_two_actions_is_refused(own):
    with pytest.raises(ValueError, match="would be the key of “Skip” and of “Undo”"):
        key_map_of(own)


def test_a_key_is_one_sign():
    with pytest.raises(ValueError, match="Skip: “ab” is not one letter, digit or sign"):
        key_map_of({"s": "ab"})


@pytest.mark.django_db
def test_keys_are_saved_refused_and_reset(client):
    user = UserFactory()
    client.force_login(user)
    page = reverse("annotator:keys")

    client.post(page, {"1": "f", "s": "x"})
    refused = client.post(page, {"1": "f", "s": "x"})
    assert "“X” would be the key of “All bad” and of “Skip”" in refused.content.decode()
    assert (refused.status_code, User.objects.get(pk=user.pk).key_map) == (422, {})

    client.post(page, {"1": "f"})
    assert User.objects.get(pk=user.pk).key_map == {"1": "f"}

    client.post(page, {"1": "f", "reset": "1"})
    assert User.objects.get(pk=user.pk).key_map == {}


@pytest.mark.django_db
def test_the_page_lists_every_action(client):
    client.force_login(UserFactory())

    rows = client.get(reverse("annotator:keys")).context["rows"]

    assert [usual for usual, *_ in rows] == list(ACTIONS)
