from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotator.models import Membership, Role
from rlhf.models import Run, Status
from tests.factories import ProjectFactory, UserFactory
from tests.rlhf.factories import PolicyFactory, RewardModelFactory, RunFactory

pytestmark = pytest.mark.django_db


def ago(**duration):
    return timezone.now() - timedelta(**duration)


def test_reference_lists_adapters_from_the_base_up():
    base = PolicyFactory()
    first = PolicyFactory(project=base.project, parent=base)
    second = PolicyFactory(project=base.project, parent=first)

    assert second.reference() == {"base": base.path, "adapters": [first.path, second.path]}


def test_reference_starts_at_the_nearest_whole_model():
    base = PolicyFactory()
    whole = PolicyFactory(project=base.project, parent=base, details={"train": "full"})
    adapter = PolicyFactory(project=base.project, parent=whole, details={"train": "adapter"})

    assert whole.reference() == {"base": whole.path, "adapters": []}
    assert adapter.reference() == {"base": whole.path, "adapters": [adapter.path]}


def test_reference_of_a_reward_model_is_the_policy_it_was_trained_on():
    policy = PolicyFactory()

    reward_model = RewardModelFactory(project=policy.project, parent=policy)

    assert reward_model.reference() == {"base": policy.path, "adapters": []}


def test_only_one_run_of_a_kind_is_active_in_a_round():
    run = RunFactory()
    RunFactory(project=run.project, status=Status.FAILED)
    RunFactory(project=run.project, round_number=2)

    with pytest.raises(IntegrityError), transaction.atomic():
        RunFactory(project=run.project, status=Status.STOPPING)


@pytest.mark.parametrize(
    ("status", "seconds", "is_silent"),
    [("running", 60, False), ("running", 200, True), ("stopping", 200, True), ("lost", 200, False)],
)
def test_run_is_silent_when_its_process_has_said_nothing_for_minutes(status, seconds, is_silent):
    run = RunFactory(status=status, started=ago(hours=1), seen=ago(seconds=seconds))

    assert run.is_silent is is_silent


def test_queued_run_is_not_silent():
    assert RunFactory().is_silent is False


@pytest.mark.parametrize(
    ("supervised", "is_unwatched"), [(2, False), (20, True), (None, True)]
)  # fmt: skip
def test_run_is_unwatched_when_its_supervisor_is_gone(supervised, is_unwatched):
    moment = None if supervised is None else ago(seconds=supervised)

    run = RunFactory(status=Status.RUNNING, started=ago(hours=1), supervised=moment)

    assert run.is_unwatched is is_unwatched


def test_runs_are_visible_to_reviewers_and_admins_of_the_project_only():
    run = RunFactory()
    people = {role: UserFactory() for role in Role.values}
    for role, user in people.items():
        Membership.objects.create(project=run.project, user=user, role=role)
    outsider = UserFactory()
    Membership.objects.create(project=ProjectFactory(), user=outsider, role=Role.ADMIN)

    seen = {role: list(Run.objects.visible_to(user)) for role, user in people.items()}

    assert seen == {"annotator": [], "reviewer": [run], "admin": [run]}
    assert list(Run.objects.visible_to(outsider)) == []
