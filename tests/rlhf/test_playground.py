import pytest
from django.urls import reverse

from rlhf import model_server
from rlhf.playground import pair_to_compare
from tests.factories import MembershipFactory, ProjectFactory
from tests.rlhf.factories import EndpointFactory, PolicyFactory, RewardModelFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def socket_of_the_test(settings, tmp_path):
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"


@pytest.fixture
def admin(client):
    membership = MembershipFactory(role="admin")
    client.force_login(membership.user)
    client.project = membership.project
    return client


def get_page(client, project, query=""):
    return client.get(reverse("rlhf:playground", args=[project.slug]) + query)


def test_it_begins_with_the_newest_policy_and_what_it_comes_from():
    project = ProjectFactory()
    base = PolicyFactory(project=project)
    first = PolicyFactory(project=project, parent=base)
    second = PolicyFactory(project=project, parent=first)

    assert pair_to_compare(project) == (first, second)
    assert pair_to_compare(project, str(first.pk)) == (base, first)
    assert pair_to_compare(project, str(base.pk)) == (base, None)
    assert pair_to_compare(project, "\u00b2") == (first, second)
    assert pair_to_compare(ProjectFactory()) == (None, None)


def test_it_begins_with_what_costs_nothing():
    policy = PolicyFactory()
    elsewhere = EndpointFactory(version__project=policy.project).version

    assert pair_to_compare(policy.project) == (policy, None)
    assert pair_to_compare(policy.project, str(elsewhere.pk)) == (policy, elsewhere)


def test_each_policy_is_offered_with_its_address_and_no_reward_model_is(admin):
    policy = PolicyFactory(project=admin.project, name="polite")
    RewardModelFactory(project=admin.project, parent=policy)
    PolicyFactory(name="of somebody else")

    form = get_page(admin, admin.project).context["form"]

    address = reverse("rlhf:chat_completions", args=[policy.pk])
    offered = [(str(value), label) for value, label in form.fields["left"].choices]
    assert offered == [(address, "polite")]
    assert form["left"].value() == address


def test_a_policy_elsewhere_stands_beside_the_newest_that_is_here(admin):
    here = PolicyFactory(project=admin.project)
    elsewhere = EndpointFactory(version__project=admin.project).version

    page = get_page(admin, admin.project, f"?model={elsewhere.pk}")

    form = page.context["form"]
    assert (form.initial["left"], form.initial["right"]) == (here, elsewhere)
    assert "A policy elsewhere answers in one piece" in page.content.decode()
    assert pair_to_compare(admin.project) == (here, None)


def test_a_sentence_says_that_no_model_server_runs(admin):
    PolicyFactory(project=admin.project)
    without = get_page(admin, admin.project).content.decode()

    with model_server.listening():
        assert "No model server runs" not in get_page(admin, admin.project).content.decode()

    assert "No model server runs" in without


def test_without_policies_it_leads_to_the_import(admin):
    page = get_page(admin, admin.project).content.decode()

    assert "No policy to ask yet" in page
    assert reverse("rlhf:new_run", args=[admin.project.slug, "import_model"]) in page


def test_it_is_for_admins(client):
    membership = MembershipFactory(role="reviewer")
    client.force_login(membership.user)

    assert get_page(client, membership.project).status_code == 404


def test_more_policies_need_no_more_queries(admin, django_assert_num_queries):
    base = PolicyFactory(project=admin.project)
    PolicyFactory(project=admin.project, parent=base)
    with django_assert_num_queries(9):
        get_page(admin, admin.project)
    PolicyFactory.create_batch(2, project=admin.project, parent=base)

    with django_assert_num_queries(9):
        get_page(admin, admin.project)
