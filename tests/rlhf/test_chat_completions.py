import json
import socket

import httpx
import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.urls import reverse

from rlhf.chat_completions import first_problem, while_heard
from rlhf.model_server import ModelServerError
from tests.factories import MembershipFactory
from tests.rlhf.factories import PolicyFactory, RewardModelFactory
from tests.rlhf.model_server_stand_in import YES, model_server_that_says

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
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
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
    assert "only policies that are here" in response.json()["error"]["message"]


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
