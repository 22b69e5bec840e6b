import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rlhf.training import ask
from rlhf.training.artifacts import SHARING, RunError, RunFolder, Stopped, write_json
from rlhf.training.config import ENDPOINTS, GenerateConfig
from tests.rlhf.stand_in import StandIn


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(ask, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(ask, "POLL_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def grant(monkeypatch):
    def grant(**access):
        monkeypatch.setenv(ENDPOINTS, json.dumps({"7": access}))

    return grant


def write_prompts(folder, n):
    rows = [{"id": k, "messages": [{"role": "user", "content": f"Hi {k}"}]} for k in range(n)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder.path / "prompts.jsonl").write_text(text)


def config(server, n=1, *, limits=None, **fields):
    reference = server.reference(**{"requests_at_once": 1, **(limits or {})})
    return GenerateConfig(reference, completions_per_prompt=n, max_new_tokens=10, **fields)


def generate(server, folder, n_prompts=2, n=1, **fields):
    if not (folder.path / "prompts.jsonl").exists():
        write_prompts(folder, n_prompts)
    return ask.run(config(server, n, **fields), folder)


def completions(folder):
    lines = (folder.path / "artifact" / "completions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def prompts_asked(server):
    return [body["messages"][-1]["content"] for body in server.asked]


def test_all_prompts_are_answered_with_what_it_cost(folder):
    with StandIn() as server:
        limits = {"prompt_price": 1e6, "completion_price": 2e6}
        result = generate(server, folder, n=2, limits=limits)

    assert [(row["id"], row["index"], row["n_tokens"]) for row in completions(folder)] == [
        (0, 0, 5), (0, 1, 5), (1, 0, 5), (1, 1, 5),
    ]  # fmt: skip
    assert (result["n_prompts"], result["n_completions"]) == (2, 4)
    assert result["asked"][0] | {"faults": {}} == {
        "side": "", "requests": 4, "prompt_tokens": 40, "completion_tokens": 20, "estimated": 0,
        "refused": 0, "empty": 0, "spent": 80.0, "has_price": True, "faults": {},
    }  # fmt: skip


def test_several_answers_come_with_one_request_where_the_server_can(folder):
    with StandIn(takes=["n"]) as server:
        generate(server, folder, n_prompts=1, n=3)

    assert [body["n"] for body in server.asked] == [3]
    assert len({row["completion"] for row in completions(folder)}) == 3


@pytest.mark.parametrize("takes", [[], ["strict"]], ids=["ignores n", "refuses n"])
def test_each_answer_is_asked_for_where_it_gives_one_at_a_time(folder, takes):
    with StandIn(takes=takes) as server:
        generate(server, folder, n_prompts=2, n=3)

    assert len(completions(folder)) == 6
    assert [body.get("n", 1) for body in server.asked].count(3) == 1  # it is believed at once
    assert len({row["completion"] for row in completions(folder)}) == 6


def test_a_parameter_that_it_does_not_know_goes_by_its_newer_name(folder):
    with StandIn(takes=["max_completion_tokens"]) as server:
        generate(server, folder)

    assert len(completions(folder)) == 2
    assert [body.get("max_completion_tokens") for body in server.asked] == [None, 10, 10]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("429", "too_many_requests"), ("500", "server_errors"), ("dropped", "broken_off"),
        ("truncated", "broken_off"), ("garbage", "garbled"), ("empty", "garbled"),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again_and_counted(folder, fault, name):
    with StandIn([fault, fault]) as server:
        result = generate(server, folder)

    assert [row["completion"].split(",")[0] for row in completions(folder)] == ["Hi 0", "Hi 1"]
    assert result["asked"][0]["faults"] == {name: 2}
    assert prompts_asked(server) == ["Hi 0", "Hi 0", "Hi 0", "Hi 1"]


def test_an_answer_that_takes_too_long_is_asked_for_again(folder):
    with StandIn(["wait"]) as server:
        result = generate(server, folder, limits={"timeout_seconds": 1.0})

    assert result["asked"][0]["faults"] == {"timeouts": 1}
    assert len(completions(folder)) == 2


def test_a_server_that_is_away_ends_the_run_and_a_resume_goes_on(folder, monkeypatch):
    monkeypatch.setattr(ask, "TRIES", 2)
    with StandIn([None, *["500"] * 6]) as server:
        with pytest.raises(RunError, match=r"3 prompts one after the other got no answer.*CUDA"):
            generate(server, folder, n_prompts=5)

        result = generate(server, folder)

    assert prompts_asked(server).count("Hi 0") == 1
    assert (result["n_completions"], result["left_out"]) == (5, {"too_long": 0})


def test_whoever_has_to_wait_for_a_turn_has_not_failed(folder, monkeypatch):
    monkeypatch.setattr(ask, "TRIES", 1)
    with StandIn(["429"] * 5) as server:
        result = generate(server, folder)

    assert (result["n_completions"], result["asked"][0]["faults"]) == (2, {"too_many_requests": 5})


def test_nobody_at_the_address_is_a_sentence(folder, monkeypatch):
    monkeypatch.setattr(ask, "TRIES", 1)
    with StandIn() as server:
        pass

    with pytest.raises(RunError, match=r"Nothing answers at http.*is it running"):
        generate(server, folder, n_prompts=3)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("401", "does not accept the key .401.: Incorrect API key provided: … What"),
        ("404", "no model toy .404."),
        ("quota", "wants money .429.: You exceeded"),
        ("redirect", "sends elsewhere .302."),
    ],
)
def test_what_will_not_pass_ends_the_run_at_once(folder, grant, fault, sentence):
    grant(key="secret-key")

    with StandIn([fault]) as server, pytest.raises(RunError, match=sentence):
        generate(server, folder)

    assert len(server.asked) == 1


def test_prompts_that_it_will_not_answer_are_left_out_and_counted(folder):
    with StandIn([None, "filtered", "too_long", "400"]) as server:
        result = generate(server, folder, n_prompts=5)

    assert result["left_out"] == {"too_long": 1, "filtered": 1, "rejected": 1}
    assert [row["id"] for row in completions(folder)] == [0, 4]


def test_an_endpoint_that_rejects_everything_says_why(folder):
    with (
        StandIn(["400"] * 9) as server,
        pytest.raises(RunError, match=r"rejected the first 3 prompts.*roles must alternate"),
    ):
        generate(server, folder, n_prompts=9)


def test_a_filtered_choice_leaves_the_prompt_out(folder):
    with (
        StandIn(choice={"finish_reason": "content_filter"}) as server,
        pytest.raises(RunError, match=r"gave no answer.*filtered: 2 prompts"),
    ):
        generate(server, folder, n=2)

    assert len(server.asked) == 2


def test_what_is_cut_off_refused_or_empty_is_kept_and_said(folder):
    with StandIn(choice={"finish_reason": "length", "message": {"content": ""}}) as server:
        result = generate(server, folder, n_prompts=1)
        assert (completions(folder)[0]["truncated"], result["asked"][0]["empty"]) == (True, 1)

        server.choice = {"message": {"content": None, "refusal": "I will not."}}
        (folder.path / "asked-7.jsonl").unlink()
        result = generate(server, folder)
        assert completions(folder)[0]["completion"] == "I will not."
        assert result["asked"][0]["refused"] == 1


def test_tokens_are_estimated_where_it_does_not_count_them(folder):
    with StandIn(usage=False) as server:
        result = generate(server, folder, n_prompts=1, seed=0)

    assert completions(folder)[0]["completion"] == "Hi 0, answer 0"  # 14 characters
    asked = result["asked"][0]
    assert (asked["prompt_tokens"], asked["completion_tokens"], asked["estimated"]) == (5, 4, 1)


def test_nothing_is_asked_that_could_cost_more_than_the_limit(folder, grant):
    grant(budget=100.0)
    limits = {"completion_price": 1e6, "requests_at_once": 4}

    with StandIn() as server:
        result = generate(server, folder, n_prompts=50, limits=limits)

    # Up to 10 each while asked, 5 when answered: the nineteenth ends at 95, and 10 more are too many.
    assert result["asked"][0]["spent"] == 95.0
    assert result["note"].startswith("The spending limit was reached: 95 of 100 is spent")
    assert (result["n_completions"], result["left_out"]["spending_limit"]) == (19, 31)


def test_an_answer_that_was_lost_may_have_been_paid(folder, grant):
    grant(budget=20.0)

    with StandIn(["truncated"]) as server:
        result = generate(server, folder, n_prompts=3, limits={"completion_price": 1e6})

    assert result["asked"][0]["spent"] == 15.0  # ten for the lost one, five for its repetition


def test_so_many_at_once_and_no_more(folder):
    with StandIn() as server:
        server.seconds = 0.05
        generate(server, folder, n_prompts=9, limits={"requests_at_once": 3})

    assert server.most_at_once == 3


def test_turns_keep_their_distance():
    pace = ask.Pace(per_minute=30)

    assert [pace.turn(now) for now in (100.0, 100.0, 101.0, 200.0)] == [0.0, 2.0, 3.0, 0.0]

    pace.hold(260.0)
    assert pace.turn(202.0) == 58.0


def test_a_rate_is_shared_with_others_as_the_supervisor_says(folder):
    write_json(folder.path / SHARING, {"7": 3})
    pace = ask.Pace(per_minute=30)

    pace.share(folder.sharers(7))

    assert [pace.turn(100.0) for _ in "abc"] == [0.0, 6.0, 12.0]
    assert folder.sharers(8) == 1


def test_a_request_to_stop_keeps_what_is_under_way(folder):
    with StandIn([None, "wait"]) as server:
        write_prompts(folder, 5)
        stop_when = lambda: len(server.asked) == 2 and (server.gate.set() or True)  # noqa: E731
        folder.should_stop = stop_when
        with pytest.raises(Stopped):
            generate(server, folder)

        folder.should_stop = lambda: False
        generate(server, folder)

    assert prompts_asked(server) == [f"Hi {k}" for k in range(5)]


def test_a_killed_run_goes_on_where_it_was_and_asks_nothing_twice(folder):
    """The real process, with the key in its environment alone, and without torch."""
    write_prompts(folder, 6)
    with StandIn([None, None, None, "wait"], key="secret-key") as server:
        content = {"kind": "generate", "config": config(server).to_dict()}
        (folder.path / "config.json").write_text(json.dumps(content))
        first = start(folder)
        while len(server.asked) < 4:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait()
        with (folder.path / "asked-7.jsonl").open("a") as file:
            file.write('{"prompt": 4, "answ')  # as if killed while it wrote

        code = start(folder).wait()

    assert code == 0
    assert prompts_asked(server) == ["Hi 0", "Hi 1", "Hi 2", "Hi 3", "Hi 3", "Hi 4", "Hi 5"]
    assert [row["id"] for row in completions(folder)] == list(range(6))
    written = [path.read_text() for path in folder.path.rglob("*") if path.is_file()]
    assert not any("secret-key" in text for text in written)


def start(folder):
    script = (
        "import sys; from rlhf.training.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    granted = json.dumps({"7": {"key": "secret-key"}})
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)],
        env={**os.environ, ENDPOINTS: granted, "PYTHONPATH": os.getcwd()},
    )
