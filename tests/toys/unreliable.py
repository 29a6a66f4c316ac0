"""A proxy in front of a server. It passes requests on, or fails in one of the ways in which servers fail."""

import base64
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GONE, FROZEN, LOGIN, LATE, SLOW = "gone", "frozen", "login", "late", "slow"
LATE_S, PIECE, PIECE_S = 2.0, 16, 0.5
KEPT = ("content-type", "accept", "mlflow-")


class Proxy(ThreadingHTTPServer):
    """`mode`: empty passes on; "gone" hangs up, "frozen" never answers, "login" is a page; else a status.

    With "late" the server does what is asked, and its answer comes after two seconds; with "slow" the answer comes at
    32 bytes in a second. `logins`: if there are any, the status for each login that is known, 0 to pass on; the others
    get 401. A login is `user:password`, or a token.
    """

    daemon_threads = True

    def __init__(self, behind: str, logins: Mapping[str, int] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.mode, self.logins = behind, "", logins or {}
        self.thawed = threading.Event()
        self.refused = threading.Event()
        """Set when a request was not passed on."""

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mode = self.server.mode or self._refusal()
        if mode and mode not in (LATE, SLOW):
            self._fail(mode)
        else:
            self._pass_on(body)

    def _refusal(self) -> str:
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        login = base64.b64decode(given).decode() if kind == "Basic" else given
        status = self.server.logins.get(login, 401) if self.server.logins else 0
        return str(status or "")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _fail(self, mode: str) -> None:
        self.close_connection = True
        self.server.refused.set()
        if mode == GONE:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif mode == FROZEN:
            self.server.thawed.wait()
        elif mode == LOGIN:
            self._send(200, b"<html>please log in</html>", "text/html")
        else:
            self._send(int(mode), b"<html>no</html>", "text/html")

    def _pass_on(self, body: bytes) -> None:
        kept = {name: value for name, value in self.headers.items() if name.lower().startswith(KEPT)}
        request = urllib.request.Request(f"{self.server.behind}{self.path}", body or None, kept, method=self.command)
        try:
            with urllib.request.urlopen(request) as answer:
                self._send(answer.status, answer.read(), answer.headers["Content-Type"])
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read(), error.headers["Content-Type"])

    def _send(self, status: int, body: bytes, kind: str) -> None:
        if self.server.mode == LATE:
            time.sleep(LATE_S)
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        slow = self.server.mode == SLOW
        for start in range(0, len(body), PIECE if slow else max(1, len(body))):
            self.wfile.write(body[start : start + PIECE] if slow else body)
            time.sleep(PIECE_S * slow)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def proxy(behind: str, logins: Mapping[str, int] | None = None) -> Iterator[Proxy]:
    """A proxy in front of the server at the address `behind`."""
    server = Proxy(behind, logins)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.thawed.set()
        server.shutdown()
        server.server_close()
