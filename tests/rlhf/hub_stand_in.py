"""A small server that gives models as the Hugging Face hub does, for tests: one folder, by any name.

with HubStandIn(folder) as hub: …  # with HF_ENDPOINT=hub.address
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rlhf.training.hashes import sha256_of

COMMIT = "0123456789" * 4


class HubStandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        folder, path = self.server.folder, self.path.partition("?")[0]
        file = folder / path.rpartition("/")[2]
        if path.startswith("/api/models/"):
            files = sorted(folder.iterdir())
            tree = [
                {"type": "file", "path": each.name, "size": each.stat().st_size, "oid": COMMIT}
                for each in files
            ]
            model = {"id": "any", "sha": COMMIT, "siblings": [{"rfilename": e.name} for e in files]}
            return self.say(200, json.dumps(tree if "/tree/" in path else model).encode())
        if "/resolve/" not in path or not file.is_file():
            return self.say(404, b"", {"X-Error-Code": "EntryNotFound"})
        known = {"ETag": f'"{sha256_of(file)}"', "X-Repo-Commit": COMMIT}
        return self.say(200, file.read_bytes(), known)

    do_HEAD = do_GET

    def say(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
