"""A service on loopback for the generic tracker, with faults: it hangs, refuses, answers 500, dies and comes back."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service:
    """Keeps what it is sent, by run. A point that comes twice, the same to the last digit, is one point.

    Attributes:
        fault: None, "hang" or "500", at `fault_path` or everywhere.
        points: Run -> (name, step, time in ms) -> values seen.
        artifacts: Run -> names, each as often as it came.
        statuses: Run -> statuses it was closed with.
        pids: Processes that have talked to it.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.fault_path: str | None = None
        self.points: dict[str, dict[tuple[str, int, int], str]] = {}
        self.conflicts: list[Any] = []
        self.artifacts: dict[str, Counter[str]] = {}
        self.statuses: dict[str, list[str]] = {}
        self.parents: dict[str, str | None] = {}
        self.opened: Counter[str] = Counter()
        self.pids: set[int] = set()
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        """Listen, at the same port as before."""
        self.fault = self.fault_path = None
        if self._server is None:
            service = self

            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    service._answer(self)

                def log_message(self, *args: object) -> None:
                    pass

            self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
            self._server.daemon_threads = True
            self._port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go_away(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        content = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        where = request.path.strip("/")
        if self.fault is not None and self.fault_path in {None, where}:
            until = time.monotonic() + 120
            while self.fault == "hang" and time.monotonic() < until:
                time.sleep(0.05)
            request.send_error(500)
            return
        with self._lock:
            self._take(where, content)
        request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _take(self, where: str, content: dict[str, Any]) -> None:
        run = content["run"]
        self.pids.add(content["pid"])
        if where == "open":
            self.opened[run] += 1
            self.parents[run] = content["parent"]
        for name, step, moment, value in content.get("points", ()):
            held = self.points.setdefault(run, {}).setdefault((name, step, moment), value)
            if held != value:
                self.conflicts.append((name, step, moment, held, value))
        if where == "artifact":
            self.artifacts.setdefault(run, Counter())[content["name"]] += 1
        if where == "close":
            self.statuses.setdefault(run, []).append(content["status"])
