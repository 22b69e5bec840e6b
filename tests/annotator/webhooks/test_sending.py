"""One request: what is signed, and what becomes of answers of all kinds."""

import asyncio
import base64
import hashlib
import hmac
import socket
import time
from pathlib import Path

import pytest

from annotator.webhooks import addresses, sending
from annotator.webhooks.sending import Message, Outcome, new_secret, signature

MESSAGE = Message("msg_1", '{"type":"test","text":"größer"}')


SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


def send(url, *messages):
    return asyncio.run(sending.send(url, SECRET, messages or [MESSAGE], 1_700_000_000))


def test_signature_is_that_of_the_example_in_the_specification():
    secret = "whsec_plJ3nmyCDGBKInavdOK15jsl"
    body = '{"event_type":"ping","data":{"success":true}}'

    signed = signature(secret, "msg_loFOjxBNrRLzqYUf", 1731705121, body)

    assert signed == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_secrets_are_random_and_of_32_bytes():
    first, second = new_secret(), new_secret()

    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


def test_what_arrives_carries_id_time_and_a_signature_of_the_very_bytes(receiver):
    (outcome,) = send(receiver.url)

    ((headers, body),) = receiver.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(b"s" * 32, signed, hashlib.sha256)).decode()
    assert outcome == Outcome("", 204)
    assert body.decode() == MESSAGE.body
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_check_in_the_documentation_accepts_ours_and_nothing_else(receiver):
    documented = {}
    page = Path(__file__).parents[3] / "docs/webhooks.md"
    exec(page.read_text().split("```python\n")[1].split("```")[0], documented)
    asyncio.run(sending.send(receiver.url, SECRET, [MESSAGE], int(time.time())))
    ((headers, body),) = receiver.got

    is_ours = documented["is_ours"]

    assert is_ours(SECRET, headers, body)
    assert not is_ours(SECRET, headers, body + b" ")
    assert not is_ours(new_secret(), headers, body)
    assert not is_ours(SECRET, headers | {"webhook-timestamp": "1700000000"}, body)


def test_an_error_is_kept_with_the_beginning_of_the_answer(receiver):
    receiver.codes, receiver.answer = [500], b"\xff\x00" + b"x" * 5000

    (outcome,) = send(receiver.url)

    assert (outcome.error, outcome.code) == ("It answered 500.", 500)
    assert outcome.answer == "\ufffd\ufffd" + "x" * 998


def test_a_redirect_is_not_followed(receiver):
    receiver.codes, receiver.extra_headers = [302], {"location": receiver.url}

    (outcome,) = send(receiver.url)

    assert outcome.error.startswith("It answered 302, a redirect.")
    assert len(receiver.got) == 1


def test_silence_has_an_end(receiver, monkeypatch):
    monkeypatch.setattr(sending, "TIMEOUT_SECONDS", 0.1)
    receiver.is_stuck.set()

    (outcome,) = send(receiver.url)

    assert outcome == Outcome("There was no answer within 0.1 seconds.")


def test_nobody_listening_is_a_sentence(settings):
    settings.PRIVATE_WEBHOOKS = True
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))

        (outcome,) = send(f"http://127.0.0.1:{taken.getsockname()[1]}/")

    assert outcome.error.startswith("It could not be reached: ")


def test_after_a_failure_the_rest_is_left_for_later(receiver, monkeypatch):
    monkeypatch.setattr(sending, "AT_ONCE", 1)
    receiver.codes = [204, 500]

    outcomes = send(receiver.url, *[Message(f"msg_{n}", "{}") for n in range(4)])

    assert [outcome and outcome.code for outcome in outcomes] == [204, 500, None, None]


# --- where requests may go ------------------------------------------------------------------
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
        "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_addresses_of_no_public_network_are_known(address):
    assert not addresses.is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_allowed(address):
    assert addresses.is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]"])
def test_this_machine_is_refused_however_it_is_written(receiver, settings, host):
    settings.PRIVATE_WEBHOOKS = False

    (outcome,) = send(f"http://{host}:{receiver.server_port}/hook")

    assert "is no address of the public internet" in outcome.error
    assert receiver.got == []


def test_the_address_that_was_checked_is_the_one_that_is_called(receiver, monkeypatch):
    """A name server that answers otherwise the second time is not asked a second time."""
    answers = ["127.0.0.1", "10.0.0.1"]

    async def look_up(host, port):
        return [answers.pop(0)]

    monkeypatch.setattr(addresses, "_look_up", look_up)

    (outcome,) = send(f"http://rebinding.example:{receiver.server_port}/hook")

    ((headers, _),) = receiver.got
    assert (outcome.code, answers) == (204, ["10.0.0.1"])
    assert headers["Host"] == f"rebinding.example:{receiver.server_port}"


def test_an_address_of_several_that_cannot_be_reached_is_passed_over(receiver, monkeypatch):
    async def look_up(host, port):
        return ["::1", "127.0.0.1"]  # the receiver listens at the second only

    monkeypatch.setattr(addresses, "_look_up", look_up)

    (outcome,) = send(f"http://both.example:{receiver.server_port}/hook")

    assert outcome == Outcome("", 204)


def test_a_name_that_leads_nowhere_is_a_sentence():
    (outcome,) = send("https://no-such-name.invalid/hook")

    assert outcome.error == "It could not be reached: the name no-such-name.invalid leads nowhere"
