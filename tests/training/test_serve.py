"""The model server's process, here as a thread: real sockets, and the tiny model."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from rlhf.training.artifacts import RunError
from rlhf.training.hashes import files_in
from rlhf.training.models import encode, load_policy, lora_config, save_adapter
from rlhf.training.serve import Desk, check_files, compute, open_door
from rlhf.training.serve_batch import keep_top, next_tokens
from rlhf.training.serve_models import Base, Models, NoRoom

DOOR = [{"role": "user", "content": "How do I open the door?"}]
CUP = [{"role": "user", "content": "What is a red cup? Tell me about the old garden."}]


@pytest.fixture(scope="module")
def adapter(tiny_reference, tmp_path_factory):
    """A second version of the tiny model, that says other things."""
    folder = tmp_path_factory.mktemp("adapter")
    base, _ = load_policy(tiny_reference)
    torch.manual_seed(3)
    model = get_peft_model(base, lora_config(base, 4), adapter_name="policy")
    for path, parameter in model.named_parameters():
        if ".lora_B." in path:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, "policy", folder)
    return str(folder)


class Server:
    def __init__(self, folder):
        self.path = str(folder / "socket")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.desk = Desk(max_requests=3, idle_seconds=600)
        self.door = threading.Thread(target=open_door, args=(self.listener, self.desk))
        self.thread = threading.Thread(target=compute, args=(self.desk,))

    def start(self):
        self.door.start()
        self.thread.start()

    def connect(self, reference, messages=DOOR, **settings):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        question = {"reference": reference, "messages": messages, "max_tokens": 12, **settings}
        connection.sendall(json.dumps(question).encode() + b"\n")
        return connection

    def ask(self, *question, **settings):
        with self.connect(*question, **settings) as connection:
            return lines_of(connection)


def lines_of(connection):
    return [json.loads(line) for line in connection.makefile("rb")]


def text_of(lines, index=0):
    return "".join(line["text"] for line in lines if "text" in line and line["index"] == index)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.desk.idle_seconds = 0
    for thread in (server.thread, server.door):
        if thread.ident:
            thread.join()
    server.listener.close()


def test_the_likeliest_answer_is_the_one_that_transformers_finds(server, tiny_reference):
    model, tokenizer = load_policy(tiny_reference)
    ids = torch.tensor([encode(tokenizer, DOOR)])
    found = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]

    server.start()
    lines = server.ask(tiny_reference, temperature=0)

    assert text_of(lines) == tokenizer.decode(found, skip_special_tokens=True)
    assert lines[-1] == {"usage": {"prompt_tokens": ids.shape[1], "completion_tokens": len(found)}}


def test_who_asks_together_gets_what_each_would_get_alone(server, tiny_reference, adapter):
    changed = {**tiny_reference, "adapters": [adapter]}
    questions = [(tiny_reference, DOOR, 1), (tiny_reference, CUP, 2), (changed, DOOR, 3)]
    together = [server.connect(*each, temperature=2.0, seed=seed) for *each, seed in questions]

    server.start()
    texts = [text_of(lines_of(connection)) for connection in together]

    alone = [server.ask(*each, temperature=2.0, seed=seed) for *each, seed in questions]
    assert [text_of(lines) for lines in alone] == texts
    assert len(set(texts)) == 3
    for connection in together:
        connection.close()


def test_one_request_may_have_several_answers(server, tiny_reference):
    server.start()

    lines = server.ask(tiny_reference, temperature=2.0, seed=1, n=3)

    assert len({text_of(lines, index) for index in range(3)}) == 3
    assert sorted(line["index"] for line in lines if "finish_reason" in line) == [0, 1, 2]


def test_who_comes_when_all_places_are_taken_is_told_so(server, tiny_reference):
    server.desk.max_requests = 1
    first = server.connect(tiny_reference)
    server.door.start()
    wait_until(lambda: server.desk._tickets)

    refused = server.ask(tiny_reference)

    assert [line["kind"] for line in refused] == ["busy"]
    server.thread.start()
    assert "usage" in lines_of(first)[-1]
    first.close()


def test_nothing_is_written_for_who_has_hung_up(server, tiny_reference):
    server.start()
    connection = server.connect(tiny_reference, max_tokens=10**9, stop=[], temperature=2.0)
    connection.recv(10)

    connection.close()

    wait_until(lambda: not server.desk._tickets)


def test_messages_that_leave_no_room_for_an_answer_are_refused(server, tiny_reference):
    server.start()

    lines = server.ask(tiny_reference, [{"role": "user", "content": "door " * 2000}])

    assert [line["kind"] for line in lines] == ["too_long"]
    assert "the model reads 1024" in lines[0]["error"]


def test_a_missing_folder_is_named_and_the_next_request_is_answered(server, tiny_reference):
    server.start()

    lines = server.ask({"base": "/nowhere", "adapters": []})

    assert "/nowhere does not exist" in lines[0]["error"]
    assert "usage" in server.ask(tiny_reference)[-1]


def test_a_file_that_is_not_what_it_was_is_named_and_not_used(server, tiny_reference):
    folder = tiny_reference["base"]
    files = files_in(Path(folder))
    weights = {"sha256": "0" * 64, "bytes": files["model.safetensors"]["bytes"]}
    server.start()

    well = server.ask(tiny_reference, hashes={folder: files})
    (changed,) = server.ask(tiny_reference, hashes={folder: {"model.safetensors": weights}})

    assert "usage" in well[-1]
    assert changed["kind"] == "model"
    assert "model.safetensors has changed: its SHA-256 is" in changed["error"]


def test_a_file_that_was_added_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    files = files_in(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")

    with pytest.raises(RunError, match=r"chat_template\.jinja was added"):
        check_files({str(tmp_path): files})


def test_when_nobody_asks_for_a_while_it_ends_and_lets_nobody_in(server, tiny_reference):
    server.desk.idle_seconds = 0.1
    server.start()
    server.thread.join(timeout=60)

    late = server.connect(tiny_reference)

    assert server.desk.accept(server.listener) is None
    late.close()


# --- models in memory ---------------------------------------------------------------------------
@torch.no_grad()
def test_versions_of_one_base_share_it_and_stay_what_they_are(tiny_reference, adapter):
    ids = torch.tensor([[5, 6, 7, 8]])
    base, _ = load_policy(tiny_reference)
    merged, _ = load_policy({**tiny_reference, "adapters": [adapter]})
    shared = Base(*load_policy(tiny_reference))

    with_adapter = shared.use([adapter])(ids).logits
    without = shared.use([])(ids).logits

    torch.testing.assert_close(with_adapter, merged(ids).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(without, base(ids).logits, atol=0, rtol=0)
    assert not torch.allclose(with_adapter, without, atol=0.1)


def test_the_base_that_was_used_longest_ago_makes_room(tiny_folder, tmp_path):
    other, third = tmp_path / "other", tmp_path / "third"
    for link in (other, third):
        link.symlink_to(tiny_folder)
    models = Models(free_bytes=lambda: 10**9 if len(models._bases) < 2 else 0)
    for folder in (tiny_folder, other, tiny_folder, third):
        models.base_of({"base": str(folder), "adapters": []})

    assert list(models._bases) == [str(tiny_folder), str(third)]


def test_a_model_that_does_not_fit_beside_those_in_use_is_refused(tiny_reference):
    models = Models(free_bytes=lambda: 0)

    with pytest.raises(NoRoom, match="0 MiB are free"):
        models.base_of(tiny_reference)


# --- sampling -----------------------------------------------------------------------------------
def test_top_p_keeps_the_likeliest_that_make_it_up_and_one_at_least():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])

    kept = keep_top(probabilities, torch.tensor([[0.6], [0.0], [1.0]]))

    expected = [[0.0, 0.5, 0.3], [0.0, 0.5, 0.0], [0.2, 0.5, 0.3]]
    torch.testing.assert_close(kept, torch.tensor(expected))


def test_each_row_is_sampled_at_its_own_temperature():
    logits = torch.tensor([[1.0, 2.0, 0.0]] * 3)
    temperature = torch.tensor([[0.0], [1.0], [1.0]])

    token = next_tokens(logits, temperature, torch.ones(3, 1), torch.tensor([[0.0], [0.0], [0.99]]))

    assert token.flatten().tolist() == [1, 0, 2]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
