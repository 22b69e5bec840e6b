"""Django's admin shows rows without letting anybody break them."""

import pytest
from django.urls import reverse

from annotator.models import Assignment, Comparison, Completion, Export, Judgment, Project, Prompt
from tests.factories import ComparisonFactory, MembershipFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db

READ_ONLY = [Assignment, Comparison, Completion, Export, Judgment, Project, Prompt]


@pytest.fixture
def root(client):
    client.force_login(UserFactory(is_superuser=True, is_staff=True))
    return client


@pytest.mark.parametrize("model", READ_ONLY)
@pytest.mark.parametrize("n", [1, 3])
def test_lists_ask_equally_many_questions(root, model, n, django_assert_num_queries):
    for comparison in ComparisonFactory.create_batch(n):
        make_judgment(comparison, UserFactory(), [0], [1])

    with django_assert_num_queries(4):
        response = root.get(reverse(f"admin:annotator_{model._meta.model_name}_changelist"))

    assert response.status_code == 200


@pytest.mark.parametrize("model", READ_ONLY)
def test_rows_cannot_be_added_or_deleted(root, model):
    response = root.get(reverse(f"admin:annotator_{model._meta.model_name}_add"))

    assert response.status_code == 403


def test_a_judgment_can_be_read_but_not_changed(root):
    judgment = make_judgment(ComparisonFactory(), UserFactory(), [0], [1])
    url = reverse("admin:annotator_judgment_change", args=[judgment.pk])

    assert root.get(url).status_code == 200
    assert root.post(url, {"verdict": "all_bad"}).status_code == 403
    assert Judgment.objects.get().verdict == "ranking"


def test_a_project_and_its_members_can_be_read_but_not_changed(root):
    """Pages do that, and write it down."""
    membership = MembershipFactory(user__username="anna", project__name="Essays")
    url = reverse("admin:annotator_project_change", args=[membership.project_id])

    page, refused = root.get(url), root.post(url, {"name": "Other"})

    assert "anna" in page.content.decode()
    assert 'name="memberships-0-role"' not in page.content.decode()
    assert (refused.status_code, Project.objects.get().name) == (403, "Essays")


def test_people_are_added_with_a_password(root):
    response = root.get(reverse("admin:annotator_user_add"))

    assert response.status_code == 200
