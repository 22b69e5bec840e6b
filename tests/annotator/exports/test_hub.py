"""What goes to the Hub, and what is said when it cannot be reached."""

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
    """As much of a hub as a push needs: it takes everything, and keeps nothing."""

    def do_POST(self):
        sent = self._sent()
        here = f"http://{self.headers['Host']}/datasets/me/essays"
        answer = {"url": here, "commitUrl": f"{here}/commit/1", "commitOid": "1", "warnings": []}
        if "preupload" in self.path:
            taken = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {
                "files": [{"path": file["path"], **taken} for file in json.loads(sent)["files"]]
            }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
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


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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
