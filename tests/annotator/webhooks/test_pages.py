"""The admin's pages about webhooks."""

import pytest
from django.urls import reverse

from annotator.models import Role
from annotator.webhooks import outbox
from annotator.webhooks.models import Delivery, Event, Webhook
from tests.factories import MembershipFactory, ProjectFactory

pytestmark = pytest.mark.django_db

SENT = {"url": "https://example.org/hook", "events": ["judgment.recorded", "run.finished"]}
PAGES = ["webhook", "deliveries"]
ACTIONS = [
    "change_webhook", "replace_secret", "test_webhook", "pause_webhook", "resume_webhook",
    "remove_webhook",
]  # fmt: skip


def url(name, *arguments):
    return reverse(f"annotator:{name}", args=["essays", *arguments])


@pytest.fixture
def signed_in(client, admin):
    client.force_login(admin)
    return client


def test_an_admin_adds_an_address_and_sees_its_secret_once(signed_in):
    response = signed_in.post(url("create_webhook"), SENT)

    hook = Webhook.objects.get()
    secret = response.context["secret"]
    assert (hook.url, hook.events) == (SENT["url"], SENT["events"])
    assert secret in response.content.decode()
    assert secret not in signed_in.get(url("webhook", hook.pk)).content.decode()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"url": "example.org"}, "Enter a whole address, such as https://example.org/hook."),
        ({"url": "ftp://example.org/"}, "Enter a whole address"),
        ({"url": "http://"}, "Enter a whole address"),
        ({"url": "https://anna:geheim@example.org/"}, "No name and password in the address"),
        ({"url": "http://169.254.169.254/latest"}, "no address of the public internet"),
        ({"url": "http://[::1]/"}, "no address of the public internet"),
        ({"url": "https://example.org:99999/"}, "This is no address"),
        ({"events": []}, "Choose at least one event."),
        ({"events": ["agreement.fell"]}, "Below which value? Such as 0.3."),
        ({"events": ["agreement.fell"], "agreement_below": "7"}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_told_comes_back_with_a_sentence(signed_in, changed, words):
    response = signed_in.post(url("create_webhook"), SENT | changed)

    assert response.status_code == 422
    assert words in response.content.decode()
    assert not Webhook.objects.exists()


def test_a_project_has_so_many_and_no_more(signed_in, hook, monkeypatch):
    monkeypatch.setattr("annotator.views.webhooks.MOST", 1)
    hook()

    response = signed_in.post(url("create_webhook"), SENT)

    assert "A project has at most 1 webhooks: remove one first." in response.content.decode()


def test_address_and_events_can_be_changed(signed_in, hook):
    changed = hook(Event.JUDGMENT_RECORDED)
    sent = {"url": "https://example.org/2", "events": ["agreement.fell"], "agreement_below": "0.25"}

    response = signed_in.post(url("change_webhook", changed.pk), sent)

    changed.refresh_from_db()
    assert response["Location"] == url("webhook", changed.pk)
    assert (changed.url, changed.agreement_below) == (sent["url"], 0.25)
    assert "Agreement fell below 0.25" in signed_in.get(url("webhooks")).content.decode()


def test_a_test_is_sent_and_the_log_says_what_came_back(signed_in, hook, receiver):
    tested = hook(url=receiver.url)
    receiver.codes, receiver.answer = [500], b"<b>boom</b>"

    page = signed_in.post(url("test_webhook", tested.pk), follow=True).content.decode()
    assert "hx-get" in page  # it waits for what comes back
    outbox.deliver_due()

    page = signed_in.get(url("deliveries", tested.pk)).content.decode()
    assert "It answered 500." in page
    assert "&lt;b&gt;boom&lt;/b&gt;" in page
    assert "next try" in page


def test_what_failed_is_sent_again_by_a_button(signed_in, hook):
    delivery = outbox.tell_test(hook())
    Delivery.objects.update(state="failed", tries=8)

    signed_in.post(url("send_again", delivery.pk))

    delivery.refresh_from_db()
    assert (delivery.state, delivery.tries) == ("waiting", 0)


def test_a_paused_address_says_why_and_is_resumed(signed_in, hook):
    paused = hook()
    signed_in.post(url("pause_webhook", paused.pk))
    paused.refresh_from_db()
    assert paused.pause_reason in signed_in.get(url("webhook", paused.pk)).content.decode()
    signed_in.post(url("test_webhook", paused.pk))
    assert not Delivery.objects.exists()

    signed_in.post(url("resume_webhook", paused.pk))

    paused.refresh_from_db()
    assert (paused.paused, paused.pause_reason) == (None, "")


def test_a_new_secret_takes_the_place_of_the_old(signed_in, hook):
    before = hook()

    secret = signed_in.post(url("replace_secret", before.pk)).context["secret"]

    after = Webhook.objects.get()
    assert outbox.unseal(after.secret) == secret != outbox.unseal(before.secret)


def test_what_is_removed_is_not_there(signed_in, hook):
    removed = hook()

    signed_in.post(url("remove_webhook", removed.pk))

    assert signed_in.get(url("webhook", removed.pk)).status_code == 404
    assert "No address yet." in signed_in.get(url("webhooks")).content.decode()


@pytest.mark.parametrize("rows", [1, 3])
def test_pages_cost_the_same_for_one_row_and_three(
    signed_in, hook, django_assert_num_queries, rows
):
    for _ in range(rows):
        logged = hook()
    for _ in range(rows):
        outbox.tell_test(logged)

    with django_assert_num_queries(5):
        signed_in.get(url("webhooks"))
    with django_assert_num_queries(6):
        signed_in.get(url("webhook", logged.pk))


@pytest.mark.parametrize("role", [Role.REVIEWER, Role.ANNOTATOR])
def test_only_admins_see_and_do_any_of_it(client, project, hook, role):
    delivery = outbox.tell_test(hook())
    Delivery.objects.update(state="failed")
    client.force_login(MembershipFactory(project=project, role=role).user)
    pk = delivery.webhook_id

    answers = [client.get(url("webhooks")), *(client.get(url(name, pk)) for name in PAGES)]
    answers += [client.post(url(name, pk), SENT) for name in ACTIONS]
    answers += [client.post(url("create_webhook"), SENT), client.post(url("send_again", pk))]

    assert {answer.status_code for answer in answers} == {404}
    assert Delivery.objects.get().state == "failed"


def test_an_admin_of_another_project_reaches_none_of_it(client, hook):
    delivery = outbox.tell_test(hook())
    Delivery.objects.update(state="failed")
    client.force_login(MembershipFactory(project=ProjectFactory(slug="poems"), role="admin").user)

    def of_poems(name, pk):
        return reverse(f"annotator:{name}", args=["poems", pk])

    answers = [client.get(of_poems(name, delivery.webhook_id)) for name in PAGES]
    answers += [client.post(of_poems(name, delivery.webhook_id), SENT) for name in ACTIONS]
    answers += [client.post(of_poems("send_again", delivery.pk))]

    assert {answer.status_code for answer in answers} == {404}
    assert Delivery.objects.get().state == "failed"
