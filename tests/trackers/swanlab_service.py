"""A stand-in for SwanLab's cloud, which the SDK's own client talks to: it keeps runs, and counts what comes twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Cloud:
    """A running server.

    Attributes:
        url: Its address.
        points: (name, step) -> value, of each run's id.
        repeated: How often a point came that was there.
        states: How each run ended.
        is_sick: Whether it refuses points.
    """

    def __init__(self) -> None:
        self.points: dict[str, dict[tuple[str, int], Any]] = {}
        self.repeated: Counter[tuple[str, int]] = Counter()
        self.states: dict[str, str] = {}
        self.is_sick = False
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                status, said = cloud.answer(self.command, self.path.partition("?")[0].removeprefix("/api"), body)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and answer."""
        parts = path.strip("/").split("/")
        if path == "/login/api_key":
            user = {"username": "me", "name": "me"}
            return 200, {"sid": "s", "expiredAt": "2099-01-01T00:00:00.000Z", "userInfo": user}
        if method == "POST" and parts[-1] == "experiment":
            is_new = body["cuid"] not in self.points
            self.points.setdefault(body["cuid"], {})
            about = {"cuid": body["cuid"], "slug": body["cuid"], "name": body["name"]}
            return 201 if is_new else 200, about | {"createdAt": "2026-01-01T00:00:00.000Z"}
        if path.startswith("/house/metrics/summaries"):
            return 200, {"scalar": self._summary(parts[-1]), "media": [], "log": []}
        if path == "/house/metrics":
            return (500, {}) if self.is_sick else (200, self._take(body))
        if parts[-1] == "state":
            self.states[parts[-2]] = body["state"]
        elif method == "GET" and parts[0] == "project" and len(parts) == 3:
            about = {"cuid": "project", "name": parts[2], "path": f"/me/{parts[2]}", "version": 1}
            return 200, about | {"group": {"username": "me"}, "_count": {"experiments": 0}}
        return 200, {}

    def _summary(self, run_id: str) -> list[dict[str, Any]]:
        newest: dict[str, int] = {}
        for name, step in self.points[run_id]:
            newest[name] = max(step, newest.get(name, -1))
        return [{"key": name, "step": step} for name, step in newest.items()]

    def _take(self, body: Any) -> dict[str, Any]:
        held = self.points[body["experimentId"]]
        for metric in body["metrics"] if body["type"] == "scalar" else []:
            place = (metric["key"], metric["index"])
            self.repeated[place] += place in held
            held.setdefault(place, metric["data"])
        return {}
