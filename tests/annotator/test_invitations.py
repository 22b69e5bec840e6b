from datetime import timedelta

import pytest
from django.contrib.auth import get_user
from django.urls import reverse
from django.utils import timezone

from annotator import invitations
from annotator.models import Invitation, Membership, Role, User, Withdrawal
from annotator.views.joining import UNKNOWN
from annotator.withdrawing import withdraw
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)

pytestmark = pytest.mark.django_db

ACCOUNT = {"username": "eve", "password1": "correct horse", "password2": "correct horse"}


@pytest.fixture
def admin():
    project = ProjectFactory(slug="essays", name="Essays")
    return MembershipFactory(project=project, role=Role.ADMIN).user


@pytest.fixture
def link(admin):
    """Make a link, and give back the page that it opens."""

    def link(**wanted):
        project = admin.memberships.get().project
        wanted = {"role": Role.ANNOTATOR, "days": 7, "max_uses": 1} | wanted
        return page_of(invitations.invite(project, admin, **wanted)[1])

    return link


def page_of(token):
    return reverse("annotator:join", args=[token])


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


def test_an_admin_sees_the_whole_link_once_and_the_database_never(client, admin):
    client.force_login(admin)

    shown = client.post(url("create_invitation"), {"role": "reviewer", "days": 3, "max_uses": 2})

    token = shown.context["link"].rstrip("/").rsplit("/", 1)[1]
    assert invitations.find(token) == Invitation.objects.get(role="reviewer", max_uses=2)
    assert token not in str(Invitation.objects.values())
    assert token not in client.get(url("invitations")).content.decode()


def test_a_newcomer_makes_an_account_and_is_a_member(client, link):
    response = client.post(link(role=Role.REVIEWER), ACCOUNT)

    assert response["Location"] == url("compare")
    assert get_user(client) == User.objects.get(username="eve")
    membership = Membership.objects.get(user__username="eve", project__slug="essays")
    assert (membership.role, membership.invitation) == ("reviewer", Invitation.objects.get(uses=1))


def test_who_has_an_account_joins_by_one_click(client, link):
    page, user = link(), UserFactory()
    client.force_login(user)
    assert not user.memberships.exists()

    client.post(page)

    assert user.memberships.get().role == Role.ANNOTATOR
    assert User.objects.count() == 2


def test_signing_in_leads_back_to_the_link(client, link):
    page, user = link(), UserFactory(password="correct horse")
    sign_in = f"{reverse('login')}?next={page}"
    assert f'href="{sign_in}"' in client.get(page).content.decode()

    response = client.post(
        sign_in, {"username": user.username, "password": "correct horse", "next": page}
    )

    assert response["Location"] == page


def test_a_member_who_opens_a_link_takes_no_use_and_keeps_the_role(client, admin, link):
    client.force_login(admin)

    assert client.get(link())["Location"] == url("compare")

    assert (Invitation.objects.get().uses, admin.memberships.get().role) == (0, Role.ADMIN)


def test_a_link_does_not_undo_a_withdrawal(client, admin, link):
    project, user = admin.memberships.get().project, UserFactory()
    judgment = make_judgment(ComparisonFactory(project=project), user)
    withdraw(project, user, admin)
    project.memberships.get(user=user).delete()
    client.force_login(user)

    html = client.post(link(), follow=True).content.decode()

    assert "Welcome back to Essays. Your earlier votes here were withdrawn" in html
    assert "You are not qualified for this queue" in html
    assert project.memberships.get(user=user).is_qualified is False
    judgment.refresh_from_db()
    assert judgment.voided is not None


def test_an_admin_who_adds_somebody_withdrawn_is_told(client, admin):
    project, user = admin.memberships.get().project, UserFactory(username="eve")
    withdraw(project, user, admin)
    client.force_login(admin)

    form = {"username": "eve", "role": "annotator"}
    html = client.post(url("add_member"), form, follow=True).content.decode()

    assert "eve is a member again. Their earlier votes were withdrawn, and stay void" in html
    assert "withdrawn before" in html
    assert project.memberships.get(user=user).is_qualified is False


def test_nobody_is_qualified_before_their_withdrawal_is_finished(client, admin):
    project, user = admin.memberships.get().project, UserFactory(username="eve")
    membership = MembershipFactory(project=project, user=user, is_qualified=False)
    Withdrawal.objects.create(project=project, annotator=user)
    client.force_login(admin)

    form = {"role": "annotator", "is_qualified": "on"}
    html = client.post(url("change_member", membership.pk), form, follow=True).content.decode()

    assert "eve is still being withdrawn" in html
    assert Membership.objects.get(pk=membership.pk).is_qualified is False


def test_a_link_makes_as_many_accounts_as_it_has_uses(client, link):
    page = link(max_uses=2)
    for name in ("eve", "fay", "guy"):
        response = client.post(page, ACCOUNT | {"username": name})
        client.logout()

    assert response.status_code == 410
    assert "This link has been used up." in response.content.decode()
    assert set(
        User.objects.filter(memberships__invitation__isnull=False).values_list(
            "username", flat=True
        )
    ) == {"eve", "fay"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"expires": timezone.now() - timedelta(days=1)}, "This link has expired."),
        ({"revoked": timezone.now()}, "This link was revoked."),
        ({"uses": 1}, "This link has been used up."),
    ],
)
def test_a_link_that_works_no_more_says_why(client, link, change, sentence):
    page = link()
    Invitation.objects.update(**change)

    for response in (client.get(page), client.post(page, ACCOUNT)):
        assert response.status_code == 410
        assert sentence in response.content.decode()
    assert not User.objects.filter(username="eve").exists()


def test_a_link_that_is_used_up_in_the_last_moment_makes_no_account(admin, link):
    link()
    stale = Invitation.objects.select_related("project").get()
    Invitation.objects.update(uses=1)

    with pytest.raises(invitations.NotJoined, match="used up"):
        invitations.join(stale, UserFactory())

    assert Membership.objects.count() == 1


def test_an_unknown_link_is_not_found(client):
    response = client.get(page_of("guessed"))

    assert response.status_code == 404
    assert UNKNOWN in response.content.decode()


@pytest.mark.parametrize(
    "change",
    [
        {"password1": "12345678", "password2": "12345678"},
        {"password2": "something else"},
        {"username": "ADA"},
        {"username": "no spaces"},
    ],
)
def test_a_bad_account_is_refused_and_takes_no_use(client, link, change):
    UserFactory(username="ada")

    response = client.post(link(), ACCOUNT | change)

    assert response.status_code == 422
    assert Invitation.objects.get().uses == 0
    assert User.objects.count() == 2


def test_a_revoked_link_is_revoked_once(client, admin, link):
    page = link()
    client.force_login(admin)

    for _ in range(2):
        client.post(url("revoke_invitation", Invitation.objects.get().pk))
    client.logout()

    assert client.get(page).status_code == 410


@pytest.mark.parametrize("role", [None, Role.ANNOTATOR, Role.REVIEWER])
def test_only_admins_invite(client, admin, link, role):
    link()
    project = admin.memberships.get().project
    user = MembershipFactory(project=project, role=role).user if role else UserFactory()
    client.force_login(user)
    pk = Invitation.objects.get().pk

    answers = [
        client.get(url("invitations")),
        client.post(url("create_invitation"), {"role": "admin", "days": 7, "max_uses": 9}),
        client.post(url("revoke_invitation", pk)),
    ]

    assert [answer.status_code for answer in answers] == [404] * 3
    assert Invitation.objects.get().problem == ""


def test_an_admin_revokes_no_link_of_another_project(client, admin, link):
    link()
    other = MembershipFactory(role=Role.ADMIN)
    client.force_login(other.user)

    client.post(
        reverse(
            "annotator:revoke_invitation", args=[other.project.slug, Invitation.objects.get().pk]
        )
    )

    assert Invitation.objects.get().revoked is None


@pytest.mark.parametrize("rows", [1, 3])
def test_the_list_costs_the_same_for_one_link_and_three(
    client, admin, link, django_assert_num_queries, rows
):
    for _ in range(rows):
        link()
    client.force_login(admin)

    with django_assert_num_queries(5):
        client.get(url("invitations"))
