"""What goes to the Hub, and what is said when it cannot be reached."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
import yaml

from annotator.audit import AuditEntry
from annotator.exporting import create_export
from annotator.exports.hub import NotPushed, push, write_repository
from tests.factories import ComparisonFactory, ProjectFactory, UserFactory, make_judgment


@pytest.fixture
def export(db):
    project = ProjectFactory(name="Essays")
    for split in ("train", "test"):
        comparison = ComparisonFactory(project=project, prompt__split=split)
        make_judgment(comparison, UserFactory(), [0], [1])
    return create_export(project, licence="CC BY 4.0")


def test_a_repository_has_a_file_for_each_split_and_a_card_that_says_so(export, tmp_path):
    write_repository(export, "kto", tmp_path)

    card = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1]) == {
        "license": "other",
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}.parquet"} for split in ("train", "test")
                ],
            }
        ],
    }
    assert "Licence: CC BY 4.0" in card
    assert pq.read_table(tmp_path / "data/test.parquet")["label"].to_pylist() == [True, False]
    assert (tmp_path / "manifest.json").read_bytes() == (
        export.folder / "manifest.json"
    ).read_bytes()


def test_a_hub_that_cannot_be_reached_is_a_sentence(export):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"

        with pytest.raises(NotPushed, match=rf"There is no way to {address} from here: check"):
            push(export, "me/essays", endpoint=address)
    assert not AuditEntry.objects.filter(action="downloaded").exists()


def test_a_name_that_cannot_be_is_a_sentence(export):
    with pytest.raises(NotPushed, match="a b/c is no name of a repository"):
        push(export, "a b/c", endpoint="http://127.0.0.1:1")


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a push needs: text comes with the commit, tables go to a store of their own."""

    def do_POST(self):
        if self.server.fault and self.server.fault[0] in self.path:
            _, status, message = self.server.fault
            return self._answer({"error": message}, status, {"X-Error-Message": message})
        sent = self._sent()
        here = f"http://{self.headers['Host']}/datasets/me/essays"
        answer = {"url": here, "commitUrl": f"{here}/commit/1", "commitOid": "1", "warnings": []}
        if "preupload" in self.path:
            answer = {"files": [self._mode(file["path"]) for file in json.loads(sent)["files"]]}
        elif self.path.endswith("/info/lfs/objects/batch"):
            answer = {
                "transfer": "basic",
                "objects": list(map(self._place, json.loads(sent)["objects"])),
            }
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in sent.splitlines()])
        return self._answer(answer)

    def do_PUT(self):
        self.server.store[self.path.rpartition("/")[2]] = self._sent()
        self._answer({})

    def _mode(self, path):
        mode = "lfs" if path.endswith(".parquet") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _place(self, wanted):
        href = f"http://{self.headers['Host']}/store/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": href}}}

    def _commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.store[value["oid"]]

    def _answer(self, answer, status=200, headers=()):
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _sent(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        sent = b""
        while size := int(self.rfile.readline(), 16):  # in chunks
            sent += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return sent

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_DISABLE_XET", True
    )  # whose store is elsewhere
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fault, server.files, server.store = None, {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_what_the_hub_has_is_what_a_repository_holds(export, server, hub, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    write_repository(export, "kto", folder)

    push(export, "me/essays", "kto", endpoint=hub)

    ours = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    assert sorted(ours) == ["README.md", "data/test.parquet", "data/train.parquet", "manifest.json"]
    assert server.files == ours


@pytest.mark.parametrize(
    ("place", "status", "said", "sentence"),
    [
        ("/create", 401, "Invalid username or password.",
         "refused me/essays: Invalid username or password. Who pushes is whom `hf auth login` or "
         "HF_TOKEN says."),
        ("/create", 404, "There is no namespace me",
         "refused me/essays: There is no namespace me. Who pushes is whom `hf auth login` or "
         "HF_TOKEN says."),
        ("/create", 500, "Internal Error",
         "is out of order just now (Internal Error): repeat the command later."),
        ("/commit/", 403, "Forbidden: pass `create_pr=1`",
         "refused me/essays: Forbidden: pass `create_pr=1`. Who pushes is whom `hf auth login` or "
         "HF_TOKEN says."),
    ],
)  # fmt: skip
def test_a_fault_of_the_hub_is_one_sentence(export, server, hub, place, status, said, sentence):
    server.fault = (place, status, said)

    with pytest.raises(NotPushed) as error:
        push(export, "me/essays", "kto", endpoint=hub)

    assert str(error.value) == f"{hub} {sentence}"
    assert server.files == {}
    assert not AuditEntry.objects.filter(action="downloaded").exists()


def test_what_was_pushed_is_in_the_audit_log(export, hub):
    url = push(export, "me/essays", "kto", endpoint=hub)

    entry = AuditEntry.objects.get(action="downloaded")
    assert (entry.project_id, entry.object_id) == (export.project_id, str(export.pk))
    assert entry.details == {"shape": "kto", "pushed_to": url, "private": True}


def test_a_manifest_that_was_changed_is_not_pushed(export, tmp_path):
    (export.folder / "manifest.json").write_text("{}")

    with pytest.raises(NotPushed, match=rf"^manifest.json of export {export.pk} has changed since"):
        write_repository(export, "kto", tmp_path)


def test_a_manifest_that_is_gone_is_a_sentence(export, tmp_path):
    (export.folder / "manifest.json").unlink()

    with pytest.raises(NotPushed, match=rf"^manifest.json of export {export.pk} is missing"):
        write_repository(export, "kto", tmp_path)
