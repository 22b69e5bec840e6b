import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from annotator.models import AuditEntry, Role
from rlhf.costs import TRIED, Cost, charged_for, charged_to, costs_of, price_of, total
from rlhf.models import EndpointUse, Run, RunKind, Status
from rlhf.price_models import ModelPrice, Price
from rlhf.runs import resume
from tests.factories import MembershipFactory, ProjectFactory
from tests.rlhf.factories import EndpointFactory, PolicyFactory, RunFactory

pytestmark = pytest.mark.django_db

NOVEMBER = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def project():
    return ProjectFactory(slug="tea", name="Tea")


def ended_run(project, hours, started=NOVEMBER, **fields):
    finished = started + timedelta(hours=hours)
    return RunFactory(
        project=project,
        started=started,
        finished=finished,
        **{"status": Status.SUCCEEDED, **fields},
    )


def sign_in(client, project, role):
    client.force_login(MembershipFactory(project=project, role=role).user)


def test_hours_cost_what_an_hour_costs_by_month_and_kind(project):
    Price.objects.create(project=project, per_hour=3, currency="EUR")
    ended_run(project, 0.5)
    ended_run(project, 1.5, status=Status.FAILED)
    ended_run(project, 4, started=NOVEMBER - timedelta(days=30))
    RunFactory(project=project)  # which has not begun
    ended_run(ProjectFactory(), 100)

    assert costs_of(project, price_of(project)) == [
        Cost("2026-11", "Import model", runs=2, hours=2.0, money=6.0),
        Cost("2026-10", "Import model", runs=1, hours=4.0, money=12.0),
    ]


def test_what_endpoints_were_paid_is_counted_with_the_run_that_asked_them(project):
    Price.objects.create(project=project, per_hour=2)
    endpoint = EndpointFactory(version=PolicyFactory(project=project, kind="endpoint"))
    run = ended_run(project, 1, kind=RunKind.GENERATE)
    use = {"endpoint": endpoint, "created": NOVEMBER, "prompt_tokens": 10, "completion_tokens": 5}
    EndpointUse.objects.create(run=run, spent=0.25, **use)
    EndpointUse.objects.create(run=None, spent=0.5, **use)

    by_hand, generated = costs_of(project, price_of(project))

    assert by_hand == Cost("2026-11", TRIED, tokens=15, spent=0.5, money=0.5)
    assert generated == Cost(
        "2026-11", RunKind.GENERATE.label, runs=1, hours=1.0, tokens=15, spent=0.25, money=2.25
    )
    assert total([by_hand, generated]) == Cost("", "", 1, 1.0, 30, 0.75, 0.0, 2.75)


def test_the_page_counts_with_the_price_that_an_admin_sets(client, project):
    sign_in(client, project, Role.ADMIN)
    address = reverse("rlhf:costs", args=["tea"])
    empty = client.get(address).content.decode()
    ended_run(project, 2)

    client.post(address, {"per_hour": "1.25", "currency": "EUR"})

    page = client.get(address)
    assert "No run has ended yet" in empty
    assert page.context["total"] == Cost("", "", runs=1, hours=2.0, money=2.5)
    assert AuditEntry.objects.get(kind="price").details == {
        "per_hour": {"from": 0, "to": 1.25},
        "currency": {"from": "USD", "to": "EUR"},
    }


@pytest.mark.parametrize("per_hour", ["-1", "nan", "x", "1e400"])
def test_a_price_that_is_none_is_refused(client, project, per_hour):
    sign_in(client, project, Role.ADMIN)

    answer = client.post(
        reverse("rlhf:costs", args=["tea"]), {"per_hour": per_hour, "currency": "EUR"}
    )

    assert (answer.status_code, Price.objects.count()) == (422, 0)


@pytest.mark.parametrize(
    ("role", "seen", "set_"), [("annotator", 404, 404), ("reviewer", 200, 404)]
)
def test_only_reviewers_see_costs_and_only_admins_set_prices(client, project, role, seen, set_):
    sign_in(client, project, role)
    address = reverse("rlhf:costs", args=["tea"])

    assert client.get(address).status_code == seen
    assert client.post(address, {"per_hour": "9", "currency": "EUR"}).status_code == set_
    assert Price.objects.count() == 0


def test_the_number_of_queries_does_not_depend_on_how_many_runs_there_are(
    client, project, django_assert_num_queries
):
    sign_in(client, project, Role.REVIEWER)
    address = reverse("rlhf:costs", args=["tea"])
    ended_run(project, 1)
    client.get(address)

    for _ in range(2):
        ended_run(project, 1)
        with django_assert_num_queries(9):
            client.get(address)


# --- tokens of models here --------------------------------------------------------------------
def test_tokens_of_an_imported_model_and_of_what_was_trained_from_it_have_its_price(project):
    base = PolicyFactory(project=project)
    trained = PolicyFactory(project=project, parent=base)
    ModelPrice.objects.create(version=base, per_million=4)
    tokens = {"written": 200_000, "learned": 50_000}
    fields = {"kind": RunKind.PPO, "result": {"tokens": tokens}}
    ended_run(project, 1, policy=trained, **fields)
    ended_run(project, 1, policy=PolicyFactory(project=project), **fields)

    (found,) = costs_of(project, price_of(project))

    assert (found.charged, found.money) == (1.0, 1.0)
    assert (found.written, found.learned) == (400_000, 100_000)
    assert charged_for(trained, 250_000) == 1.0


@pytest.mark.parametrize("base_price", [2, 0])
def test_a_reward_model_on_another_base_pays_the_price_of_each_for_what_it_did(project, base_price):
    policy, base = (PolicyFactory(project=project) for _ in range(2))
    for version, price in ((policy, 4), (base, base_price)):
        ModelPrice.objects.create(version=version, per_million=price)
    tokens = {"written": 1_000_000, "learned": 3_000_000}
    fields = {"kind": RunKind.REWARD_MODEL, "result": {"tokens": tokens}}
    run = ended_run(project, 1, policy=policy, base=base, **fields)

    (found,) = costs_of(project, price_of(project))

    assert found.charged == charged_to(run) == 4 + 3 * base_price


def test_a_run_that_was_resumed_counts_with_all_its_starts(project):
    Price.objects.create(project=project, per_hour=3)
    run = ended_run(project, 2, status=Status.STOPPED, created_by=None)
    resume(run)
    run.refresh_from_db()

    Run.objects.update(started=NOVEMBER, finished=NOVEMBER + timedelta(hours=1))

    (found,) = costs_of(project, price_of(project))
    assert run.result == {"earlier_seconds": 7200.0}
    assert (found.hours, found.money) == (3.0, 9.0)


def test_price_of_tokens_is_set_on_the_page_of_the_imported_model(client, project):
    sign_in(client, project, Role.ADMIN)
    base = PolicyFactory(project=project)
    trained = PolicyFactory(project=project, parent=base)
    addresses = [reverse("rlhf:price_model", args=["tea", each.pk]) for each in (base, trained)]

    refused = client.post(addresses[0], {"per_million": "-1"}, follow=True).content.decode()
    client.post(addresses[0], {"per_million": "2.5"})

    assert "The price was not set: Ensure this value is greater than or equal to 0." in refused
    assert ModelPrice.objects.get().per_million == 2.5
    assert client.post(addresses[1], {"per_million": "9"}).status_code == 404
    page = client.get(trained.get_absolute_url()).content.decode()
    assert f'2.5 <span class="muted">USD a million, as <a href="{base.get_absolute_url()}">' in page
    assert AuditEntry.objects.get(object_id=base.pk).details == {
        "price_per_million": {"from": 0, "to": 2.5}
    }


def test_only_admins_set_the_price_of_tokens(client, project):
    sign_in(client, project, Role.REVIEWER)
    address = reverse("rlhf:price_model", args=["tea", PolicyFactory(project=project).pk])

    assert client.post(address, {"per_million": "9"}).status_code == 404
    assert ModelPrice.objects.count() == 0


# --- for programs -----------------------------------------------------------------------------
BILL = {
    "currency": "EUR",
    "per_hour": 3.0,
    "rows": [
        {"runs": 1, "hours": 2.0, "tokens": 0, "spent": 0.0, "charged": 0.0, "written": 0, "learned": 0, "money": 6.0,
         "month": "2026-11", "kind": "Import model"},
    ],
    "total": {"runs": 1, "hours": 2.0, "tokens": 0, "spent": 0.0, "charged": 0.0, "written": 0, "learned": 0, "money": 6.0},
}  # fmt: skip


@pytest.fixture
def bill(project):
    Price.objects.create(project=project, per_hour=3, currency="EUR")
    ended_run(project, 2)


def test_command_prints_the_totals_of_the_page(bill, capsys):
    call_command("costs", "tea")
    in_words = capsys.readouterr().out
    call_command("costs", "tea", "--json")

    assert json.loads(capsys.readouterr().out) == BILL
    assert in_words == (
        "2026-11  Import model: 1 run, 2 hours, 0 tokens of endpoints for 0 EUR, 0 tokens written "
        "and 0 learned from by models for 0 EUR, 6 EUR in all\n"
        "All: 1 run, 2 hours, 0 tokens of endpoints for 0 EUR, 0 tokens written and 0 learned from by models "
        "for 0 EUR, 6 EUR in all\n"
    )
    with pytest.raises(CommandError, match="no project 'coffee'"):
        call_command("costs", "coffee")


@pytest.mark.parametrize(("role", "status"), [("annotator", 404), ("reviewer", 200)])
def test_api_gives_reviewers_the_totals_of_the_page(client, project, bill, role, status):
    sign_in(client, project, role)

    answer = client.get(reverse("rlhf_api:costs", args=["tea"]))

    assert answer.status_code == status
    assert (answer.json() == BILL) == (status == 200)
