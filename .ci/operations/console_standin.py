"""A server that has the console's page and made-up answers in the place of a worker's."""

import json
import re
import threading
import urllib.request
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "src" / "telemetry" / "console"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def from_sources(path):
    """The file at `path` as the sources have it, with the policy that a worker would send."""
    file = SOURCES / ("index.html" if path == "/" else path.removeprefix("/console/"))
    policy = re.search(r'const POLICY: &str = "(.*?)";', (SOURCES / "mod.rs").read_text(), re.DOTALL)[1]
    headers = {"Content-Type": f"{KINDS[file.suffix]}; charset=utf-8", "Content-Security-Policy": re.sub(r"\\\s+", "", policy)}
    return headers, file.read_bytes()


def from_worker(address):
    """The same from a running worker; what it gave once is kept for when it is dead."""

    @cache
    def get(path):
        with urllib.request.urlopen(f"{address}{path}", timeout=10) as response:
            drop = ("transfer-encoding", "content-length", "connection", "date")
            return {name: value for name, value in response.headers.items() if name.lower() not in drop}, response.read()

    return get


class Standin(ThreadingHTTPServer):
    """Answers as `state` says: JSON, `(code, JSON or text)`, or nothing for None."""

    daemon_threads = True

    def __init__(self, page):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page, self.state = page, None
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A browser that goes away in the middle is no error."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        if not path.startswith("/api/"):
            try:
                headers, body = self.server.page(path)
            except (OSError, KeyError):
                return self.send_error(404)
            return self.answer(200, headers, body)
        said = getattr(self.server.state, path.removeprefix("/api/"))
        if said is None:
            self.close_connection = True
            return self.connection.close()
        code, body = said if isinstance(said, tuple) else (200, said)
        text = body if isinstance(body, str) else json.dumps(body)
        return self.answer(code, {"Content-Type": "text/plain" if isinstance(body, str) else "application/json"}, text.encode())

    def answer(self, code, headers, body):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
