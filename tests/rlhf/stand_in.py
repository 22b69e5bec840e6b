"""A small server that speaks OpenAI's protocol, for tests: real HTTP, answers that one knows, faults.

    with StandIn(faults=["429", None, "500"]) as server: …

The first request meets the first fault, and so on; None is none, and what comes after is well. Run as
`python stand_in.py PORT` it can be looked at in a browser's pages too.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERRORS = {
    "400": (400, {"message": "messages: roles must alternate"}),
    "401": (401, {"message": "Incorrect API key provided: secret-key", "code": "invalid_api_key"}),
    "404": (404, {"message": "The model `toy` does not exist", "code": "model_not_found"}),
    "429": (429, {"message": "Slow down"}),
    "500": (500, {"message": "CUDA error"}),
    "quota": (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}),
    "filtered": (400, {"message": "Refused by policy", "code": "content_filter"}),
    "too_long": (400, {"message": "Too long", "code": "context_length_exceeded"}),
}


class StandIn(ThreadingHTTPServer):
    """Answers "PROMPT, answer SEED". `asked` has the body of every question, in the order they came."""

    daemon_threads = True

    def __init__(self, faults=(), *, key="", usage=True, takes=(), choice=None, port=0):
        """`takes`: "n" if it gives several answers, "seed" if it knows that parameter, or
        "max_completion_tokens" if it wants no other name. `choice` replaces parts of each choice."""
        super().__init__(("127.0.0.1", port), Handler)
        self.faults, self.key, self.usage, self.takes = list(faults), key, usage, takes
        self.choice = choice or {}
        self.asked, self.headers = [], []
        self.most_at_once = self.at_once = 0
        self.seconds = 0.0  # that each answer takes
        self.gate = threading.Event()  # which a fault "wait" waits for
        self.lock = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """Who has asked did not wait for the answer."""

    def reference(self, **limits):
        """What a run's configuration says of it."""
        return {"endpoint": 7, "address": self.address, "model": "toy", **limits}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path != "/v1/models":
            return self.say(404, {"error": {"message": f"no {self.path}"}})
        return self.say(200, {"object": "list", "data": [{"id": "toy"}, {"id": "another"}]})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            fault = server.faults.pop(0) if server.faults else None
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.seconds)
            self.answer(body, fault)
        finally:
            with server.lock:
                server.at_once -= 1

    def answer(self, body, fault):
        server = self.server
        if self.path != "/v1/chat/completions":
            return self.say(404, {"error": {"message": f"no {self.path}"}})
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self.say(401, {"error": {"message": "Incorrect API key provided"}})
        if fault == "wait":
            server.gate.wait()
        elif fault == "dropped":
            return self.drop(b"")
        elif fault == "truncated":
            return self.drop(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"choices": [')
        elif fault == "garbage":
            return self.say(200, b"<html>502 Bad Gateway</html>")
        elif fault == "empty":
            return self.say(200, {"choices": []})
        elif fault == "redirect":
            return self.say(302, b"", {"Location": "http://127.0.0.1:9/"})
        elif fault in ERRORS:
            status, error = ERRORS[fault]
            return self.say(status, {"error": error}, {"Retry-After": "0"})
        elif fault:
            raise ValueError(f"no fault {fault!r}")
        if "max_completion_tokens" in server.takes and "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return self.say(400, {"error": {"message": message}})
        if "n" not in server.takes and body.get("n", 1) > 1 and "strict" in server.takes:
            return self.say(422, {"detail": "n must be 1"})
        return self.say(200, self.completion(body))

    def completion(self, body):
        server = self.server
        prompt = body["messages"][-1]["content"]
        n = body.get("n", 1) if "n" in server.takes else 1
        choices = [
            {
                "index": index,
                "finish_reason": server.choice.get("finish_reason", "stop"),
                "message": {
                    "role": "assistant",
                    "content": f"{prompt}, answer {body.get('seed', 0) + index}",
                    **server.choice.get("message", {}),
                },
            }
            for index in range(n)
        ]
        usage = {"prompt_tokens": 10, "completion_tokens": 5 * n, "total_tokens": 10 + 5 * n}
        return {"id": "1", "choices": choices, **({"usage": usage} if server.usage else {})}

    def say(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drop(self, content):
        """Hang up in the middle."""
        self.wfile.write(content)
        self.close_connection = True


if __name__ == "__main__":
    StandIn(takes=["n"], port=int(sys.argv[1])).serve_forever()
