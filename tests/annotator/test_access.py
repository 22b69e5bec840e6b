import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import Http404

from annotator.access import get_access, role_in
from annotator.models import Role
from tests.factories import MembershipFactory, ProjectFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def ask(rf):
    """What `get_access` says to a user who asks for a project."""

    def ask(user, project, at_least=Role.ANNOTATOR):
        request = rf.get("/")
        request.user = user
        return get_access(request, project.slug, at_least)

    return ask


@pytest.mark.parametrize("role", Role)
def test_a_member_has_the_role_of_the_membership(ask, role):
    membership = MembershipFactory(role=role)

    access = ask(membership.user, membership.project)

    assert access == (membership.project, role)
    assert access.is_reviewer == (role != Role.ANNOTATOR)
    assert access.is_admin == (role == Role.ADMIN)


@pytest.mark.parametrize(
    ("role", "at_least"),
    [
        (Role.ANNOTATOR, Role.REVIEWER),
        (Role.ANNOTATOR, Role.ADMIN),
        (Role.REVIEWER, Role.ADMIN),
    ],
)
def test_too_low_a_role_finds_nothing(ask, role, at_least):
    membership = MembershipFactory(role=role)

    with pytest.raises(Http404):
        ask(membership.user, membership.project, at_least)


def test_an_admin_of_another_project_finds_nothing(ask):
    project = ProjectFactory()

    with pytest.raises(Http404):
        ask(MembershipFactory(role=Role.ADMIN).user, project)


def test_nobody_finds_nothing(ask):
    with pytest.raises(Http404):
        ask(AnonymousUser(), ProjectFactory())


def test_what_is_hidden_and_what_does_not_exist_look_the_same(ask):
    hidden = ProjectFactory()
    missing = ProjectFactory.build(slug="missing")
    messages = []
    for project in (hidden, missing):
        with pytest.raises(Http404) as error:
            ask(UserFactory(), project)
        messages.append(str(error.value))

    assert messages[0] == messages[1]


def test_a_superuser_is_admin_everywhere(ask):
    root = UserFactory(is_superuser=True)
    project = ProjectFactory()

    assert ask(root, project, Role.ADMIN) == (project, Role.ADMIN)


def test_an_outsider_has_no_role():
    assert role_in(ProjectFactory(), UserFactory()) is None
