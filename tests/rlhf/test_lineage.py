"""Which exports and models carry somebody's votes, and the page that says so."""

import pytest
from django.urls import reverse

from annotator.exporting import create_export
from annotator.models import Judgment, Role, Withdrawal
from rlhf.lineage import carriers_of
from rlhf.models import RunKind, Status
from tests.factories import (
    ComparisonFactory,
    MembershipFactory,
    ProjectFactory,
    UserFactory,
    make_judgment,
)
from tests.rlhf.factories import PolicyFactory, RewardModelFactory, RunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="essays", overlap=5)


@pytest.fixture
def anna(project):
    return MembershipFactory(project=project, user__username="anna").user


@pytest.fixture
def base(project):
    return PolicyFactory(project=project, name="base")


@pytest.fixture
def export(project):
    """An export with one vote of each of the users."""

    def export(*users):
        comparison = ComparisonFactory(project=project)
        for user in users:
            make_judgment(comparison, user, [0], [1])
        return create_export(project)

    return export


def done(project, kind, **fields):
    return RunFactory(project=project, kind=kind, status=Status.SUCCEEDED, **fields)


def reward_model(project, name, policy, export):
    run = done(project, RunKind.REWARD_MODEL, policy=policy, export=export)
    return RewardModelFactory(project=project, name=name, parent=policy, run=run)


def ppo(project, name, policy, reward_model=None, rewards=()):
    run = done(
        project,
        RunKind.PPO,
        policy=policy,
        reward_model=reward_model,
        config={"rewards": list(rewards)},
    )
    return PolicyFactory(project=project, name=name, parent=policy, run=run)


def url(annotator):
    return reverse("rlhf:withdrawal", args=["essays", annotator.pk])


def test_votes_are_followed_through_all_that_comes_from_them(project, anna, base, export):
    before = reward_model(project, "before", base, export(UserFactory()))
    clean = ppo(project, "clean", base, before)
    ours = export(anna)
    reward = reward_model(project, "reward", clean, ours)
    trained = ppo(project, "trained", clean, reward)
    ruled = ppo(project, "ruled", clean, None, [{"kind": "reward_model", "version": "reward"}])
    later = reward_model(project, "later", trained, None)
    ppo(project, "rules-only", clean, None, [{"kind": "length"}])

    found = carriers_of(project, anna)

    assert [(row.export, row.n_judgments) for row in found.exports] == [(ours, 1)]
    assert found.reward_models == [later, reward]
    assert found.policies == [ruled, trained]
    assert found.runs == []


def test_a_reward_model_that_starts_from_a_model_of_their_votes_carries_them(
    project, anna, base, export
):
    trained = ppo(project, "trained", base, reward_model(project, "reward", base, export(anna)))
    run = done(project, RunKind.REWARD_MODEL, policy=base, base=trained)
    version = RewardModelFactory(project=project, name="on-trained", parent=base, run=run)

    assert carriers_of(project, anna).reward_models[0] == version


def test_training_under_way_on_their_votes_is_named(project, anna, base, export):
    on_votes = RunFactory(
        project=project, kind=RunKind.REWARD_MODEL, policy=base, export=export(anna)
    )
    RunFactory(project=project, kind=RunKind.PPO, policy=base, config={})
    RunFactory(project=project, kind=RunKind.EVALUATE, policy=base, export=on_votes.export)

    assert carriers_of(project, anna).runs == [on_votes]


def test_who_is_in_no_export_is_carried_nowhere(project, anna, base, export):
    reward_model(project, "reward", base, export(UserFactory()))

    assert carriers_of(project, anna).is_empty


def test_exports_of_other_projects_do_not_count(project, anna, base):
    theirs = ComparisonFactory()
    make_judgment(theirs, anna, [0], [1])
    create_export(theirs.project)

    assert carriers_of(project, anna).is_empty


@pytest.mark.parametrize("rows", [1, 3])
def test_the_search_costs_the_same_for_one_model_and_three(
    project, anna, base, export, django_assert_num_queries, rows
):
    for n in range(rows):
        found = reward_model(project, f"reward-{n}", base, export(anna))
        ppo(project, f"policy-{n}", base, found)

    with django_assert_num_queries(5):
        carriers = carriers_of(project, anna)
        urls = [version.get_absolute_url() for version in carriers.policies]

    assert len(urls) == rows


# --- the page -------------------------------------------------------------------------------------
def test_the_page_says_before_what_will_happen_and_after_what_carries_the_votes(
    client, project, anna, base, export
):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    reward_model(project, "reward", base, export(anna))
    before = client.get(url(anna)).content.decode()
    assert "1 judgment in force" in before
    assert Judgment.objects.get().voided is None

    after = client.post(url(anna), follow=True).content.decode()

    assert "1 judgment voided" in after
    assert "in force" not in after
    assert "1 of 1 judgments" in after
    assert ">reward</a>" in after
    assert Judgment.objects.get().voided is not None


def test_the_page_links_to_each_export_and_model_that_carries_their_votes(
    client, project, anna, base, export
):
    first, second = export(anna), export(anna)
    reward = reward_model(project, "reward", base, second)
    trained = ppo(project, "trained", base, reward)
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)

    html = client.get(url(anna)).text

    exports = [reverse("annotator:export", args=["essays", made.pk]) for made in (first, second)]
    for address in [*exports, reward.get_absolute_url(), trained.get_absolute_url()]:
        assert html.count(f'href="{address}"') == 1


def test_a_withdrawal_under_way_is_gone_on_with(client, project, anna, export, monkeypatch):
    monkeypatch.setattr("annotator.assignment.verdicts.VOID_BATCH", 1)
    monkeypatch.setattr("annotator.withdrawing.VOIDED_AT_ONCE", 1)
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)
    export(anna)
    export(anna)

    sent = [{}, {"go_on": "yes"}, {"go_on": "yes"}]
    pages = [client.post(url(anna), each, follow=True).content.decode() for each in sent]

    assert ["Go on" in page for page in pages] == [True, False, False]
    assert Withdrawal.objects.get().n_judgments == 2


def test_somebody_elses_name_is_not_told(client, project):
    client.force_login(MembershipFactory(project=project, role=Role.ADMIN).user)

    assert client.get(url(UserFactory())).status_code == 404


@pytest.mark.parametrize("role", [None, Role.ANNOTATOR, Role.REVIEWER])
def test_only_admins_withdraw(client, project, anna, export, role):
    export(anna)
    user = MembershipFactory(project=project, role=role).user if role else UserFactory()
    client.force_login(user)

    assert (client.get(url(anna)).status_code, client.post(url(anna)).status_code) == (404, 404)
    assert Judgment.objects.get().voided is None


def test_an_admin_of_another_project_withdraws_nobody_here(client, project, anna, export):
    export(anna)
    other = MembershipFactory(role=Role.ADMIN)
    MembershipFactory(project=other.project, user=anna)
    client.force_login(other.user)

    client.post(reverse("rlhf:withdrawal", args=[other.project.slug, anna.pk]))

    assert Judgment.objects.get().voided is None
