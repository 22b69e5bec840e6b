"""From what happens to a row, and from a row to the address."""

import json
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from annotator import assignment as queue
from annotator.exporting import create_export
from annotator.models import Project
from annotator.protocols import Said
from annotator.webhooks import outbox
from annotator.webhooks.models import Delivery, DeliveryState, Event, Webhook
from tests.factories import AssignmentFactory, ComparisonFactory, UserFactory, make_judgment

pytestmark = pytest.mark.django_db

FIGURES = {"agreement": {"alpha_ordinal": {"value": 0.3, "low": 0.1, "high": 0.5, "n": 20}}}


def told():
    return [(row.event, json.loads(row.body)["data"]) for row in Delivery.objects.order_by("pk")]


# --- what is told -----------------------------------------------------------------------------
def test_a_verdict_is_told_with_what_it_says(project, hook):
    hook(Event.JUDGMENT_RECORDED)
    comparison = ComparisonFactory(project=Project.objects.get())

    judgment = make_judgment(comparison, UserFactory(), [1], [0])

    ((event, about),) = told()
    assert event == "judgment.recorded"
    assert about["project"] == "essays"
    assert about["judgment"] == judgment.pk
    assert about["comparison"] == comparison.pk
    assert about["ranking"] == judgment.ranking
    assert about["annotator"] == str(judgment.annotator_id)


def test_a_verdict_sent_twice_is_told_once(project, hook):
    hook(Event.JUDGMENT_RECORDED)
    assignment = AssignmentFactory(comparison__project=Project.objects.get())

    for _ in range(2):
        queue.record(assignment, "all_bad", payload_hash=assignment.payload_hash)

    assert len(told()) == 1


def test_a_correction_is_told_and_says_what_it_takes_the_place_of(project, hook):
    comparison = ComparisonFactory(project=project)
    judgment = make_judgment(comparison, UserFactory(), [1], [0])
    hook(Event.JUDGMENT_RECORDED)
    said = Said(
        verdict="ranking", ranking=judgment.ranking[::-1], strength=None, criteria={}, rationale="",
        reasons=[], flags={}, spans=[], rewrite="",
    )  # fmt: skip
    judgment = type(judgment).objects.get(pk=judgment.pk)

    queue.correct(judgment, said, payload_hash=judgment.assignment.payload_hash)

    ((_, about),) = told()
    assert about["supersedes"] == judgment.pk


@pytest.mark.parametrize(("n_hooks", "more"), [(0, 0), (1, 1), (3, 1)])
def test_a_verdict_costs_one_statement_more_only_where_somebody_wants_to_know(
    project, hook, django_assert_num_queries, n_hooks, more
):
    for _ in range(n_hooks):
        hook(Event.JUDGMENT_RECORDED)
    hook(Event.EXPORT_READY)
    assignment = AssignmentFactory(comparison__project=Project.objects.get())
    assignment.annotator.membership_in(assignment.project)

    with django_assert_num_queries(3 + 2 + more):  # two of them savepoints
        queue.record(assignment, "all_bad", payload_hash=assignment.payload_hash)
    assert Delivery.objects.count() == n_hooks


def test_what_is_undone_is_never_told(project, hook):
    hook(Event.EXPORT_READY)

    with transaction.atomic():
        outbox.tell(project, Event.EXPORT_READY, {"export": 1})
        transaction.set_rollback(True)

    assert told() == []


def test_an_export_is_told_with_its_hash(project, admin, hook):
    hook(Event.EXPORT_READY)
    make_judgment(ComparisonFactory(project=project), UserFactory(), [0], [1])

    export = create_export(project, admin)

    ((event, about),) = told()
    assert (event, about["export"], about["sha256"]) == ("export.ready", export.pk, export.sha256)


def test_agreement_is_told_once_until_it_has_been_higher(project, hook):
    hook(Event.AGREEMENT_FELL, below=0.4)
    hook(Event.AGREEMENT_FELL, below=0.2)
    high = {"agreement": {"alpha_ordinal": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 20}}}

    for figures in (FIGURES, FIGURES, high, FIGURES):
        outbox.tell_agreement(project, figures)

    assert [(event, about["below"]) for event, about in told()] == [("agreement.fell", 0.4)] * 2


def test_agreement_that_is_undefined_is_not_low(project, hook):
    hook(Event.AGREEMENT_FELL, below=0.4)

    outbox.tell_agreement(project, {"agreement": {"alpha_ordinal": {"value": None}}})

    assert told() == []


def test_who_does_not_want_it_or_is_paused_or_removed_is_not_told(project, hook):
    hook(Event.RUN_FINISHED)
    outbox.pause(hook(Event.EXPORT_READY), "For the night.")
    outbox.remove(hook(Event.EXPORT_READY))

    outbox.tell(project, Event.EXPORT_READY, {})

    assert told() == []


@pytest.mark.parametrize("end", [lambda hook: outbox.pause(hook, "Enough."), outbox.remove])
def test_the_project_knows_who_is_told_of_judgments(project, hook, end):
    first, _ = hook(Event.JUDGMENT_RECORDED), hook(Event.RUN_FINISHED)
    assert Project.objects.get().judgment_webhooks == [first.pk]

    end(first)

    assert Project.objects.get().judgment_webhooks == []


def test_a_project_that_was_saved_from_an_older_copy_is_put_right(project, hook):
    older = Project.objects.get()
    first = hook(Event.JUDGMENT_RECORDED)
    older.save()
    assert Project.objects.get().judgment_webhooks == []

    outbox.tidy()

    assert Project.objects.get().judgment_webhooks == [first.pk]


def test_the_secret_is_not_in_the_database(project, admin):
    hook, secret = outbox.add(
        project, admin, url="https://example.org/", events=[], agreement_below=None
    )

    assert secret.startswith("whsec_")
    assert secret[6:] not in str(Webhook.objects.filter(pk=hook.pk).values())


# --- how it is sent ---------------------------------------------------------------------------
def test_what_waits_is_sent_once(project, hook, receiver):
    outbox.tell_test(hook(url=receiver.url))

    assert [outbox.deliver_due(), outbox.deliver_due()] == [1, 0]

    ((headers, body),) = receiver.got
    delivery = Delivery.objects.get()
    assert json.loads(body)["type"] == "test"
    assert headers["webhook-id"] == f"msg_{delivery.message_id.hex}"
    assert (delivery.state, delivery.tries, delivery.code) == (DeliveryState.DELIVERED, 1, 204)


def test_a_failure_is_tried_again_with_the_same_id_and_a_newer_time(project, hook, receiver, again):
    outbox.tell_test(hook(url=receiver.url))
    receiver.codes, receiver.answer = [503], b"back soon"
    outbox.deliver_due()
    delivery = Delivery.objects.get()
    assert (delivery.error, delivery.answer) == ("It answered 503.", "back soon")
    assert timedelta(0) < delivery.due - timezone.now() < timedelta(seconds=6)
    assert outbox.deliver_due() == 0

    again()

    (first, _), (second, _) = receiver.got
    assert first["webhook-id"] == second["webhook-id"]
    delivery.refresh_from_db()
    assert (delivery.state, delivery.tries, delivery.error) == ("delivered", 2, "")


def test_after_eight_tries_it_has_failed(project, hook, receiver, again):
    outbox.tell_test(hook(url=receiver.url))
    receiver.codes = [500] * 20

    assert [again() for _ in range(9)] == [1] * 8 + [0]

    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.tries) == (DeliveryState.FAILED, 8)


def test_pauses_grow_to_about_a_day_and_have_a_jitter():
    middle = [outbox.pause_after(tries, 0.5) for tries in range(1, outbox.MOST_TRIES)]

    assert middle == sorted(middle) == outbox.PAUSES
    assert timedelta(hours=23) < sum(middle, timedelta()) < timedelta(hours=25)
    assert outbox.pause_after(1, 0.0) == timedelta(seconds=4)
    assert outbox.pause_after(1, 1.0) == timedelta(seconds=6)


def test_an_address_that_only_fails_for_days_is_paused_with_a_sentence(
    project, hook, receiver, again
):
    failing = hook(Event.JUDGMENT_RECORDED, url=receiver.url)
    outbox.tell_test(failing)
    receiver.codes = [500, 500]
    again()
    since = timezone.now() - outbox.GIVE_UP_AFTER
    Webhook.objects.update(failing_since=since)

    again()

    failing.refresh_from_db()
    assert failing.pause_reason == (
        f"Every try since {timezone.localtime(since):%Y-%m-%d %H:%M} has failed. "
        "The last one: It answered 500."
    )
    assert Project.objects.get().judgment_webhooks == []
    assert Delivery.objects.get().state == DeliveryState.WAITING


def test_one_good_answer_and_the_days_are_counted_anew(project, hook, receiver, again):
    failing = hook(url=receiver.url)
    outbox.tell_test(failing)
    receiver.codes = [500]
    again()
    failing.refresh_from_db()
    assert failing.failing_since is not None

    again()

    failing.refresh_from_db()
    assert failing.failing_since is None


def test_an_address_that_is_gone_is_paused_at_once_and_goes_on_when_resumed(
    project, hook, receiver
):
    gone = hook(url=receiver.url)
    outbox.tell_test(gone)
    receiver.codes = [410]
    outbox.deliver_due()
    gone.refresh_from_db()
    assert gone.pause_reason == "The address answered 410: it wants no more messages."

    outbox.resume(gone)

    assert outbox.deliver_due() == 1
    assert Delivery.objects.get().state == DeliveryState.DELIVERED


def test_an_address_that_fails_is_asked_with_one_message_and_holds_up_no_other(
    project, hook, receiver
):
    dead, well = hook(url="http://127.0.0.1:1/"), hook(url=receiver.url)
    Webhook.objects.filter(pk=dead.pk).update(failing_since=timezone.now())
    for _ in range(3):
        outbox.tell_test(dead)
        outbox.tell_test(well)

    outbox.deliver_due()

    assert len(receiver.got) == 3
    assert sorted(dead.deliveries.values_list("tries", flat=True)) == [0, 0, 1]


def test_what_somebody_else_is_sending_is_left_alone_until_they_are_taken_for_dead(
    project, hook, receiver
):
    delivery = outbox.tell_test(hook(url=receiver.url))
    outbox._take(delivery.webhook, timezone.now())

    assert outbox.deliver_due() == 0

    Delivery.objects.update(due=timezone.now() - timedelta(seconds=1))
    assert outbox.deliver_due() == 1


def test_what_has_ended_can_be_sent_again_and_what_waits_cannot(project, hook, receiver):
    delivery = outbox.tell_test(hook(url=receiver.url))
    assert not outbox.send_again(delivery)
    outbox.deliver_due()

    assert outbox.send_again(delivery)

    outbox.deliver_due()
    (first, _), (second, _) = receiver.got
    assert first["webhook-id"] == second["webhook-id"]


def test_a_secret_of_another_key_pauses_and_says_so(project, hook, receiver, settings):
    delivery = outbox.tell_test(hook(url=receiver.url))
    settings.SECRET_KEY = "another key, as long as Django wants them to be, 0123456789"

    assert outbox.deliver_due() == 0

    hook = Webhook.objects.get(pk=delivery.webhook_id)
    assert "another PREFERENDUM_SECRET_KEY" in hook.pause_reason
    assert receiver.got == []


def test_the_log_forgets_what_ended_long_ago_and_what_belongs_to_nobody(project, hook):
    old, new, orphan = (outbox.tell_test(hook()) for _ in range(3))
    ended = timezone.now() - timedelta(days=outbox.KEPT_DAYS + 1)
    Delivery.objects.filter(pk=old.pk).update(finished=ended)
    outbox.remove(orphan.webhook)

    outbox.tidy()

    assert list(Delivery.objects.all()) == [new]
