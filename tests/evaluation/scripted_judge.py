"""A judge over HTTP on this machine, which answers as a test scripts it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Raw(bytes):
    """Sent as it is in the place of a response."""


CUT = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
GARBLED = Raw(b"BANANA 2000\r\n\r\n")


class Scripted(ThreadingHTTPServer):
    """`script`: function of (how many requests came before, the request's JSON) -> text, status code, raw bytes, or
    seconds of silence before a body that is no answer."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.headers = script, [], []
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
        made = self.server.script(number, body) if self.path == "/v1/chat/completions" else 404
        if isinstance(made, float):
            time.sleep(made)
            made = "too late"
        if isinstance(made, int):
            self.send_error(made)
            return
        if isinstance(made, Raw):
            self.wfile.write(made)
            return
        usage = {"prompt_tokens": 1_000, "completion_tokens": 10}
        answer = made if isinstance(made, bytes) else json.dumps(
            {"choices": [{"message": {"content": made}}], "usage": usage}
        ).encode()  # fmt: skip
        try:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            pass  # who asked has gone

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Starts a judge with a script; all stop when the test ends."""
    servers = []

    def start(script):
        server = Scripted(script)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
