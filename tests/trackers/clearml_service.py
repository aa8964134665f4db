"""A stand-in for a ClearML server, which the SDK's own client talks to: it keeps tasks, points and files."""

from __future__ import annotations

import email
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import jwt

ENDINGS = {"tasks.completed": "completed", "tasks.failed": "failed", "tasks.stopped": "stopped"}


class Cloud:
    """A running server.

    Attributes:
        url: Its address; files go to the same.
        tasks: Each task's fields, by id.
        events: Each task's points: (title, series, step) -> (time in ms, value), a newer one replacing an older, as in
            ClearML's server.
        repeated: How often a point came that was there.
        files: What was stored, by name.
        calls: How often each action was asked for.
        is_sick: Whether it refuses points.
        hang_seconds: How long it waits before an answer.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.events: dict[str, dict[tuple[str, str, int], tuple[int, float]]] = {}
        self.repeated: Counter[tuple[str, str, int]] = Counter()
        self.files: dict[str, bytes] = {}
        self.calls: Counter[str] = Counter()
        self.is_sick = False
        self.hang_seconds = 0.0
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                time.sleep(cloud.hang_seconds)
                action = self.path.partition("?")[0].strip("/").rpartition("/")[2]
                if action:
                    cloud.calls[action] += 1
                    status, data = cloud.answer(action, body)
                else:
                    status, data = 200, cloud.store(self.headers["content-type"], body)
                meta = {
                    "id": "0", "trx": "0", "endpoint": {"name": action, "requested_version": "2.20",
                    "actual_version": "2.20"}, "result_code": status, "result_subcode": 0, "result_msg": "",
                }  # fmt: skip
                said = json.dumps({"meta": meta, "data": data}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, action: str, body: bytes) -> tuple[int, Any]:
        """Return status and data."""
        if action == "events.add_batch":
            return (400, {}) if self.is_sick else self._take([json.loads(line) for line in body.splitlines()])
        given = json.loads(body or b"{}")
        if action == "auth.login":
            claims = {"api_version": "2.20", "server_version": "1.17.0", "exp": int(time.time()) + 86400}
            return 200, {"token": jwt.encode(claims, "x" * 32, "HS256")}
        if action == "projects.get_all":
            return 200, {"projects": []}
        if action == "projects.create":
            return 200, {"id": f"project:{given['name']}"}
        if action == "tasks.create":
            task_id = f"task{self.calls[action] - 1}"  # never that of one that was deleted
            fields = {"status": "created", "execution": {"artifacts": []}, "hyperparams": {}, "output": {}}
            self.tasks[task_id] = {"id": task_id, **fields, **given}
            return 200, {"id": task_id}
        if action == "tasks.get_all":
            return 200, {"tasks": [self.tasks[one] for one in given.get("id", self.tasks) if one in self.tasks]}
        if not action.startswith("tasks."):
            return 200, {}
        task = self.tasks.get(given.get("task", ""))
        return (400, {}) if task is None else (200, self._change(action, task, given))

    def _change(self, action: str, task: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        if action == "tasks.get_by_id":
            return {"task": task}
        if action == "tasks.started":
            task["status"] = "in_progress"
        elif action in ENDINGS:
            task["status"] = ENDINGS[action]
        elif action == "tasks.add_or_update_artifacts":
            kept = {one["key"]: one for one in (*task["execution"].get("artifacts", []), *given["artifacts"])}
            task["execution"]["artifacts"] = list(kept.values())
        elif action == "tasks.edit":
            task |= {name: value for name, value in given.items() if name not in {"task", "force"}}
        return {"updated": 1}

    def _take(self, events: list[dict[str, Any]]) -> tuple[int, Any]:
        if not all(event["task"] in self.tasks for event in events):
            return 400, {}
        for event in events:
            held = self.events.setdefault(event["task"], {})
            place = (event["metric"], event["variant"], event["iter"])
            self.repeated[place] += place in held
            held[place] = (event["timestamp"], event["value"])
        return 200, {"added": len(events), "errors": 0}

    def store(self, kind: str, body: bytes) -> dict[str, Any]:
        """Keep the files of an upload."""
        parts = email.message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + body)
        for part in parts.get_payload():
            name = unquote(str(part.get_param("name", header="content-disposition")))
            self.files[name] = part.get_payload(decode=True)
        return {}
