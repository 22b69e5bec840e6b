"""What the forms of runs say before the start."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from annotator.models import Role, Split
from rlhf.forms import FORMS
from rlhf.models import DatasetKind, ModelKind, Run, RunKind, Status
from rlhf.outlooks import Experience, experience_of, figures_of, order_of, outlook_of
from rlhf.price_models import Price
from rlhf.suites import run_after_training
from tests.factories import MembershipFactory, ProjectFactory, PromptFactory
from tests.rlhf.factories import EndpointFactory, PolicyFactory, RunFactory, make_dataset
from tests.rlhf.test_estimates import PROBE

pytestmark = pytest.mark.django_db
SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
MEASURED = {
    **PROBE._asdict(), "host": "calculator", "device": "CPU", "cores": 2, "measured": "2026-11-21",
}  # fmt: skip


@pytest.fixture
def policy():
    """With ten prompts of 21 tokens to answer."""
    project = ProjectFactory(slug="tea")
    for n in range(10):
        messages = [{"role": "user", "content": f"{n:04}"}]
        PromptFactory(project=project, split=Split.TRAIN, messages=messages)
    return PolicyFactory(project=project, probe=MEASURED)


@pytest.fixture
def admin(client, policy):
    client.force_login(MembershipFactory(project=policy.project, role=Role.ADMIN).user)
    return client


def sent(project, kind, **changes):
    form = FORMS[kind](project)
    return FORMS[kind](project, {**form.as_sent().data, **changes})


def ended(policy, minutes, **fields):
    now = timezone.now()
    values = {
        "kind": RunKind.GENERATE, "status": Status.SUCCEEDED, "policy": policy,
        "estimate": {"minutes": 10}, "started": now - timedelta(minutes=minutes), "finished": now,
    }  # fmt: skip
    return RunFactory(project=policy.project, **{**values, **fields})


def test_every_form_that_can_be_sent_has_an_estimate_or_says_why_not(policy):
    forms = {kind: form(policy.project) for kind, form in FORMS.items()}
    found = {
        kind: form.missing() or outlook_of(policy.project, form) for kind, form in forms.items()
    }

    assert found[RunKind.GENERATE]["estimate"].tokens_generated == 10 * 2 * 128
    assert (
        found[RunKind.DISTILL]["problem"] == "The estimate appears when the settings are complete."
    )
    assert found[RunKind.REWARD_MODEL] == ["Export"]
    unknown = [kind for kind, each in found.items() if "No run like this" in str(each)]
    assert unknown == [RunKind.IMPORT_MODEL, RunKind.PROBE, RunKind.SCREEN]


def test_mistakes_stand_where_the_estimate_would(policy):
    form = sent(policy.project, RunKind.GENERATE, completions_per_prompt="1", temperature="warm")

    assert outlook_of(policy.project, form)["mistakes"] == [
        "Answers per prompt: Ensure this value is greater than or equal to 2.",
        "Temperature: Enter a number.",
    ]


def test_what_cannot_work_is_said_instead_of_an_estimate(policy):
    form = sent(policy.project, RunKind.MERGE)

    problem = outlook_of(policy.project, form)["problem"]

    assert problem == f"{policy} is a whole model already: download it as it is."


def test_unmeasured_policies_can_be_measured_from_the_form(admin, policy):
    other = PolicyFactory(project=policy.project)
    form = sent(policy.project, RunKind.GENERATE, policy=other.pk)

    address = reverse("rlhf:estimate", args=["tea"]) + "?kind=generate"
    page = admin.post(address, form.data).content.decode()

    assert f"How fast {other} is has not been measured yet" in page
    assert f"{reverse('rlhf:new_run', args=['tea', 'probe'])}?policy={other.pk}" in page


def test_money_is_hours_and_what_endpoints_are_paid(policy):
    Price.objects.create(project=policy.project, per_hour=3.6)
    elsewhere = PolicyFactory(project=policy.project, kind=ModelKind.ENDPOINT)
    EndpointFactory(version=elsewhere, completion_price=100.0)

    here = outlook_of(policy.project, sent(policy.project, RunKind.GENERATE, policy=policy.pk))
    there = outlook_of(policy.project, sent(policy.project, RunKind.GENERATE, policy=elsewhere.pk))

    assert here["money"] == pytest.approx(here["estimate"].seconds / 1000)
    assert there["money"] == there["spent"] == pytest.approx(10 * 2 * 128 / 10_000)


def test_earlier_runs_say_how_far_estimates_are_off(policy):
    form = sent(policy.project, RunKind.GENERATE)
    assert form.is_valid()
    order = order_of(policy.project, form)
    assert experience_of(order) is None

    for number, minutes in enumerate((5, 20, 30), 1):
        ended(policy, minutes, round_number=number)
    ended(policy, 1, attempts=1)  # of which only the last attempt is known
    ended(PolicyFactory(project=policy.project), 1)  # which is of another size
    ended(policy, 1, estimate={})

    found = experience_of(order)
    assert (found.n, found.ratio) == (3, pytest.approx(2, rel=1e-3))
    assert isinstance(found, Experience)


def test_estimate_is_kept_and_shown_beside_what_the_run_took(admin, policy):
    Price.objects.create(project=policy.project, per_hour=60, currency="EUR")
    data = sent(policy.project, RunKind.GENERATE).data
    admin.post(reverse("rlhf:new_run", args=["tea", RunKind.GENERATE]), data)
    run = Run.objects.get()
    now = timezone.now()
    Run.objects.update(
        status=Status.SUCCEEDED, started=now - timedelta(minutes=4), finished=now,
        result={"peak_mib": 1234, "tokens": {"written": 777}, "n_completions": 20},
    )  # fmt: skip

    rows = {
        row.label: (row.estimated, row.actual)
        for row in admin.get(run.get_absolute_url()).context["comparisons"]
    }

    assert run.estimate["tokens_generated"] == 2560
    assert rows == {
        "Time": (60 * run.estimate["minutes"], 240.0),
        "Cost": (run.estimate["minutes"], 4.0),
        "Memory": (run.estimate["memory_mib"], 1234),
        "Read": (210, None),
        "Written": (2560, 777),
    }


def test_the_suite_that_follows_a_training_is_announced_with_its_time(admin, policy, settings):
    settings.SUITE_AFTER_TRAINING = True
    PromptFactory.create_batch(3, project=policy.project, split=Split.TEST)
    make_dataset(policy.project, kind=DatasetKind.DEMONSTRATIONS, rows=[{"messages": SAID}])
    form = sent(policy.project, RunKind.SUPERVISED)

    suite = outlook_of(policy.project, form)["suite"]
    page = admin.get(reverse("rlhf:new_run", args=["tea", "supervised"])).content.decode()

    assert suite["max_prompts"] == 50
    assert suite["seconds"] > 0
    assert "runs by itself, on 50 held-out prompts at most: about" in " ".join(page.split())


@pytest.fixture
def paid_judge(policy, settings):
    """Of the latest suite, which compared something with what is trained from now."""
    settings.SUITE_AFTER_TRAINING = True
    PromptFactory.create_batch(3, project=policy.project, split=Split.TEST)
    make_dataset(policy.project, kind=DatasetKind.DEMONSTRATIONS, rows=[{"messages": SAID}])
    judge = PolicyFactory(project=policy.project, kind=ModelKind.ENDPOINT, name="judge-1")
    EndpointFactory(version=judge, prompt_price=100.0)
    tuned = PolicyFactory(project=policy.project, parent=policy)
    ended(tuned, 1, kind=RunKind.SUITE, rival=policy, judge=judge, config={})
    return judge


def test_what_a_judge_elsewhere_costs_after_a_training_is_announced(admin, policy, paid_judge):
    form = sent(policy.project, RunKind.SUPERVISED, policy=policy.pk)

    suite = outlook_of(policy.project, form)["suite"]
    address = reverse("rlhf:estimate", args=["tea"]) + "?kind=supervised"
    page = " ".join(admin.post(address, form.data).content.decode().split())

    assert suite["money"] == suite["spent"] > 0
    assert (suite["elsewhere"], suite["problem"]) == (["judge-1"], "")
    assert "of it for endpoints. It asks judge-1 elsewhere." in page


def test_programs_are_told_of_the_suite_and_of_what_it_costs(policy, paid_judge):
    form = sent(policy.project, RunKind.SUPERVISED, policy=policy.pk)
    assert form.is_valid()

    assert figures_of(form)["suite"] == outlook_of(policy.project, form)["suite"]


def test_a_suite_that_will_not_start_says_so_before_the_training(admin, policy, paid_judge):
    gone = PolicyFactory(project=policy.project, name="gone", path="/nowhere", probe=MEASURED)
    Run.objects.filter(judge=paid_judge).update(judge=gone)
    form = sent(policy.project, RunKind.SUPERVISED, policy=policy.pk)

    suite = outlook_of(policy.project, form)["suite"]

    assert suite["problem"].startswith("The files of gone are missing")


def test_no_suite_follows_what_makes_no_policy_or_where_it_is_switched_off(policy, settings):
    settings.SUITE_AFTER_TRAINING = True
    probe = sent(policy.project, RunKind.PROBE)
    make_dataset(policy.project, kind=DatasetKind.DEMONSTRATIONS, rows=[{"messages": SAID}])
    run_after_training(policy.project, wanted=False)

    assert outlook_of(policy.project, probe)["suite"] is None
    assert outlook_of(policy.project, sent(policy.project, RunKind.SUPERVISED))["suite"] is None
