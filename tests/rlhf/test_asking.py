"""What lives elsewhere is asked by OpenAI's clients as what is here is."""

import json

import pytest
from django.urls import reverse

from annotator.models import Role
from rlhf import endpoints
from rlhf.current import make_current
from rlhf.models import Endpoint, EndpointUse
from rlhf.playground import PlaygroundForm, versions_asked
from tests.factories import MembershipFactory, ProjectFactory
from tests.rlhf.factories import prompt_version
from tests.rlhf.stand_in import StandIn

pytestmark = pytest.mark.django_db

HELLO = [{"role": "user", "content": "May I?"}]
KEY = "sk-very-secret"


@pytest.fixture
def server():
    with StandIn(key=KEY) as server:
        yield server


@pytest.fixture
def version(server):
    endpoint = Endpoint(address=server.address, model="toy", completion_price=1e6)
    return endpoints.add_endpoint(ProjectFactory(slug="tea"), "big", endpoint, KEY)


@pytest.fixture
def admin(client, version):
    client.force_login(MembershipFactory(project=version.project, role=Role.ADMIN).user)
    return client


def ask(client, version, **fields):
    return post(client, reverse("rlhf:chat_completions", args=[version.pk]), **fields)


def post(client, address, **fields):
    body = json.dumps({"messages": HELLO, "max_tokens": 9, **fields})
    return client.post(address, body, content_type="application/json")


def test_the_current_policy_is_asked_where_it_lives(admin, version, server):
    make_current(version.project, version, user=None, reason="It is better.")

    address = reverse("rlhf:current_chat_completions", args=["tea"])
    answer = post(admin, address, seed=3, top_p=0.5, stop="###").json()

    assert answer["model"] == "big"
    assert answer["choices"][0]["message"]["content"] == "May I?, answer 3"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert {name: server.asked[0][name] for name in ("max_tokens", "top_p", "stop")} == {
        "max_tokens": 9, "top_p": 0.5, "stop": ["###"],
    }  # fmt: skip
    assert EndpointUse.objects.get().spent == endpoints.spent_on(version.endpoint) == 5


def test_several_answers_are_asked_for_one_by_one_where_one_comes_at_a_time(admin, version):
    events = b"".join(ask(admin, version, n=2, seed=1, stream=True).streaming_content).decode()

    assert ["answer 1" in events, "answer 2" in events, "[DONE]" in events] == [True] * 3
    assert [use.requests for use in EndpointUse.objects.all()] == [1, 1]


def test_a_prompt_version_of_it_is_sent_with_what_stands_around(admin, version, server):
    ask(admin, prompt_version(version))

    assert [message["content"] for message in server.asked[0]["messages"]] == [
        "Be brief.",
        "May I?",
    ]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("500", 500, None), ("429", 503, "model_server_busy"), ("filtered", 400, None),
     ("too_long", 400, "context_length_exceeded")],
)  # fmt: skip
def test_what_goes_wrong_there_is_said_here(admin, version, server, fault, status, code):
    server.faults = [fault]

    response = ask(admin, version)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"].startswith(f"toy at {server.address}: ")


def test_nothing_is_asked_that_could_cost_more_than_is_left(admin, version, server):
    Endpoint.objects.update(limit=8)

    response = ask(admin, version)

    assert response.status_code == 400
    assert (
        "This could cost 9, and 8 is left of the spending limit of big"
        in response.json()["error"]["message"]
    )
    assert server.asked == []


def test_the_playground_offers_it_and_says_that_it_is_elsewhere(version):
    form = PlaygroundForm(versions_asked(version.project), initial={"left": version})

    assert [label for _, label in form.fields["left"].choices] == ["big (elsewhere)"]
