import json
import socket

import httpx
import jsonschema
import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.urls import reverse

from rlhf.chat_completions import Heading, chunks, first_problem, while_heard
from rlhf.chat_schema import CHUNK
from rlhf.endpoints import add_endpoint
from rlhf.model_server import ModelServerError
from rlhf.models import Endpoint
from tests.factories import MembershipFactory
from tests.rlhf.factories import PolicyFactory, RewardModelFactory
from tests.rlhf.model_server_stand_in import YES, model_server_that_says
from tests.rlhf.stand_in import StandIn

pytestmark = pytest.mark.django_db

HELLO = [{"role": "user", "content": "May I?"}]


@pytest.fixture(autouse=True)
def socket_of_the_test(settings, tmp_path):
    settings.MODEL_SERVER_SOCKET = tmp_path / "model_server.sock"


@pytest.fixture
def policy():
    return PolicyFactory(name="polite")


@pytest.fixture
def admin(client, policy):
    client.force_login(MembershipFactory(project=policy.project, role="admin").user)
    return client


def ask(client, version, messages=HELLO, **fields):
    url = reverse("rlhf:chat_completions", args=[version.pk])
    body = {"model": "any", "messages": messages, **fields}
    return client.post(url, json.dumps(body), content_type="application/json")


def test_an_answer_has_the_shape_that_openai_s_clients_read(admin, policy):
    with model_server_that_says(*YES):
        answer = ask(admin, policy).json()

    assert answer["object"] == "chat.completion"
    assert answer["model"] == "polite"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Yes, please.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


def test_the_model_server_is_asked_with_our_names_and_defaults(admin, policy):
    parts = [{"type": "text", "text": "May "}, {"type": "text", "text": "I?"}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
    ]

    with model_server_that_says(*YES) as questions:
        ask(admin, policy, messages, max_completion_tokens=9, stop="###", top_p=None)

    assert questions == [
        {
            "reference": policy.reference(),
            "hashes": {policy.path: policy.files} if policy.files else {},
            "messages": [{"role": "system", "content": "Be kind."}, *HELLO],
            "max_tokens": 9,
            "n": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": None,
            "stop": ["###"],
        }
    ]


def test_a_stream_is_what_clients_of_openai_read(admin, policy):
    url = reverse("rlhf:chat_completions", args=[policy.pk])
    web = httpx.Client(transport=httpx.WSGITransport(WSGIHandler()), base_url="http://localhost")
    session = {"sessionid": admin.cookies["sessionid"].value, "csrftoken": "x" * 32}
    body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}

    with model_server_that_says(*YES):
        web.cookies.update(session)
        answer = web.post(url, json=body, headers={"X-CSRFToken": "x" * 32})

    assert answer.headers["content-type"] == "text/event-stream"
    *events, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    chunks = [json.loads(event) for event in events]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas == [
        {"role": "assistant", "content": ""}, {"content": "Yes"}, {"content": ", please."}, {},
    ]  # fmt: skip
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 11)
    assert done == "[DONE]"


# --- as described ---------------------------------------------------------------------------------
@pytest.fixture
def described(client):
    """The operation in the API's own description."""
    paths = client.get("/api/v1/schema/").json()["paths"]
    return paths["/api/v1/models/{id}/chat/completions"]["post"]


def schema_of(part):
    return jsonschema.Draft202012Validator(part["content"]["application/json"]["schema"])


def test_answers_and_errors_are_as_the_description_says(admin, policy, described):
    with model_server_that_says(*YES):
        answer = ask(admin, policy)
    refused = ask(admin, policy, n=9)

    for response in (answer, refused):
        part = described["responses"][str(response.status_code)]
        assert list(schema_of(part).iter_errors(response.json())) == []
    assert (answer.status_code, refused.status_code) == (200, 400)


def test_parts_of_an_answer_are_as_the_description_says():
    lines = [{"index": 0, "text": "Yes"}, {"index": 0, "finish_reason": "stop"},
             {"usage": {"prompt_tokens": 7, "completion_tokens": 4}}]  # fmt: skip
    parts = chunks(Heading("chatcmpl-1", 1, "polite"), 1, lines, with_usage=True)

    validator = jsonschema.Draft202012Validator(CHUNK)

    assert [list(validator.iter_errors(part)) for part in parts] == [[]] * 4


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [({"n": None, "stop": "x", "user": "me"}, True), ({"n": 9}, False), ({"tools": [1]}, False)],
)
def test_a_request_is_taken_if_the_description_takes_it(admin, policy, described, fields, is_right):
    with model_server_that_says(*YES):
        status = ask(admin, policy, **fields).status_code

    body = {"messages": HELLO, **fields}
    assert (status == 200, schema_of(described["requestBody"]).is_valid(body)) == (is_right,) * 2


def test_both_addresses_and_their_streams_are_described(client, described):
    paths = client.get("/api/v1/schema/").json()["paths"]
    current = paths["/api/v1/projects/{slug}/current/chat/completions"]["post"]

    assert (described["operationId"], described["tags"]) == ("ask_model", ["models"])
    assert (current["operationId"], current["tags"]) == ("ask_current_policy", ["current"])
    assert "text/event-stream" in current["responses"]["200"]["content"]


def test_a_stream_that_breaks_off_says_so_and_is_not_done(admin, policy):
    with model_server_that_says(*YES[:2]):
        response = ask(admin, policy, stream=True)
        events = b"".join(response.streaming_content).decode()

    *_, last = events.strip().split("\n\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["message"] == "The model server ended in the middle of the answer: try again."
    assert "[DONE]" not in events


def test_when_all_places_are_taken_one_is_told_when_to_try_again(admin, policy):
    with model_server_that_says({"error": "3 requests are under way.", "kind": "busy"}):
        response = ask(admin, policy, stream=True)

    assert (response.status_code, response["Retry-After"]) == (503, "2")
    assert response.json()["error"] == {
        "message": "3 requests are under way.",
        "type": "server_error",
        "param": None,
        "code": "model_server_busy",
    }


def test_without_a_model_server_the_error_says_how_to_start_one(admin, policy):
    response = ask(admin, policy)

    assert response.status_code == 503
    assert "manage.py model_server" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": []}, "messages", "may not be empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "not a valid"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "nothing else"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content", "nothing else"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"n": "2"}, "n", "valid integer"),
        ({"stream": "no"}, "stream", "valid boolean"),
        ({"n": 99}, "n", "less than or equal to 8"),
        ({"stop": ["a"] * 5}, "stop", "up to 4"),
        ({"tools": [{"type": "function"}]}, "tools", "does not have it"),
        ({"temprature": 1}, "temprature", "no such setting"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(admin, policy, fields, param, words):
    response = ask(admin, policy, **fields)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


def test_settings_that_ask_for_nothing_are_no_mistake(admin, policy):
    with model_server_that_says(*YES):
        response = ask(admin, policy, tools=[], logprobs=False, user="ada", frequency_penalty=0.0)

    assert response.status_code == 200


def test_only_admins_of_its_project_may_ask_a_model(client, policy):
    reviewer = MembershipFactory(project=policy.project, role="reviewer").user
    other_admin = MembershipFactory(role="admin").user
    statuses = [ask(client, policy).status_code]
    for user in (reviewer, other_admin):
        client.force_login(user)
        statuses.append(ask(client, policy).status_code)

    assert statuses == [401, 404, 404]


def test_a_reward_model_writes_no_text(admin, policy):
    response = ask(admin, RewardModelFactory(project=policy.project, parent=policy))

    assert response.status_code == 400
    assert "which writes no text" in response.json()["error"]["message"]


def test_nothing_more_is_written_once_the_client_has_hung_up(rf):
    ours, theirs = socket.socketpair()
    request = rf.post("/")
    request.META["gunicorn.socket"] = ours
    lines = while_heard(request, iter(YES))
    heard = [next(lines), next(lines)]

    theirs.close()

    with ours, pytest.raises(ModelServerError, match="hung up"):
        next(lines)
    assert heard == YES[:2]


def test_the_first_of_several_problems_is_named_with_its_place():
    detail = {"messages": {1: {"role": ["Wrong."]}}, "n": ["Too many."]}

    assert first_problem(detail) == ("messages[1].role", "messages[1].role: Wrong.")


# --- policies elsewhere -----------------------------------------------------------------------
@pytest.fixture
def elsewhere(policy, admin):
    """Adds a policy of the same project that lives at a server's address."""

    def add(server, **limits):
        endpoint = Endpoint(address=server.address, model="toy", **limits)
        return add_endpoint(policy.project, "elsewhere", endpoint, server.key)

    return add


def test_a_policy_elsewhere_is_asked_with_its_key_and_its_names(admin, elsewhere):
    with StandIn(key="sk-1") as server:
        version = elsewhere(server, completion_price=1e6)
        answer = ask(admin, version, max_tokens=9, n=2, top_p=0.5, stop="###", seed=3).json()

    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert (answer["model"], len(texts)) == ("elsewhere", 2)
    assert texts[0].startswith("May I?")
    assert {(body["top_p"], body["max_tokens"], *body["stop"]) for body in server.asked} == {
        (0.5, 9, "###")
    }
    uses = version.endpoint.uses.all()
    spent = answer["usage"]["completion_tokens"]
    assert (sum(use.spent for use in uses), {use.run for use in uses}) == (spent, {None})


def test_a_policy_elsewhere_answers_a_stream_in_one_piece(admin, elsewhere):
    with StandIn() as server:
        response = ask(admin, elsewhere(server), stream=True)
        parts = b"".join(response).decode().split("\n\n")

    chunks = [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("content", "") != "" for delta in deltas] == [False, True, False]
    assert parts[-2] == "data: [DONE]"


@pytest.mark.parametrize(
    ("fault", "limits", "status", "sentence"),
    [
        ("401", {}, 500, "asks for a key"),
        ("too_long", {}, 400, "too long"),
        (None, {"limit": 1.0, "completion_price": 1e6}, 400, "This could cost"),
    ],
)
def test_what_a_policy_elsewhere_does_not_answer_is_a_sentence(
    admin, elsewhere, fault, limits, status, sentence
):
    with StandIn([fault]) as server:
        version = elsewhere(server, **limits)
        response = ask(admin, version)

    assert response.status_code == status
    assert sentence in response.json()["error"]["message"]
    assert version.endpoint.uses.filter(spent__gt=0).count() == 0


def test_whoever_asks_elsewhere_too_often_is_told_to_wait(admin, elsewhere):
    with StandIn() as server:
        version = elsewhere(server, requests_per_minute=1)
        answers = [ask(admin, version) for _ in "ab"]

    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1]["Retry-After"] == "2"
