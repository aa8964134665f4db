"""A stand-in for DagsHub on loopback: what its client asks of a repository, in front of a real MLflow server.

It answers as the client's own source expects: who asks has to be known, a file that is there is replaced only on top of
the branch's last commit, and a branch is made from the default one.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from loopwright.delivery.follower import Follower
from loopwright.delivery.store import read_delivered
from loopwright.records import Kind
from loopwright.trackers.dagshub import DagsHubCallback
from loopwright.trackers.registry import make_tracker
from tests.trackers import mlflow_service

TOKEN = "s3cret"
_REPOSITORY = "/api/v1/repos/o/r"


class Journal(mlflow_service.Journal):
    """A journal for DagsHub."""

    tracker_class = DagsHubCallback

    def checkpoint(self, step: int, files: dict[str, bytes]) -> Path:
        """Write a checkpoint and record it."""
        path = self.directory / f"checkpoint-{step}"
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        self.note(Kind.CHECKPOINT, step, {"path": path.name})
        return path

    def deliver(self) -> str | None:
        """Deliver what is left; return what stands in the way."""
        follower = Follower(self.directory, make_tracker, trackers=["dagshub"])
        follower.run()
        return next((worker.error for worker in follower.workers.values()), None)

    @property
    def reference(self) -> dict[str, Any]:
        return read_delivered(self.directory, self.run.id, "dagshub").reference


class DagsHub:
    """The repository o/r, private, with a branch "main".

    Attributes:
        branches: Path -> content of all files, by branch.
        commits: Branch and message of each commit, in order.
        uploads: Branch and directory of each upload that was begun.
        refuses: Status with which the repository's part answers everything, where it is to.
        num_failures: How many uploads are answered with an error of the server's.
        gate: Where it is closed, an upload waits before it takes effect.
        asked: Path of each request, in order.
        user: Who has to ask, with the token for a password.
        mlflow: Address of the MLflow server behind it.
    """

    def __init__(self, mlflow: str = "") -> None:
        self.mlflow = mlflow
        self.user = TOKEN
        self.asked: list[str] = []
        self.branches: dict[str, dict[str, bytes]] = {"main": {}}
        self.commits: list[tuple[str, str]] = []
        self.uploads: list[tuple[str, str]] = []
        self.refuses: int | None = None
        self.num_failures = 0
        self.gate = threading.Event()
        self.gate.set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Answer, at the same port as before."""
        kind = type("Answering", (_Answering,), {"dagshub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), kind)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def tip(self, branch: str) -> str:
        """Return the id of the branch's last commit."""
        return hashlib.sha1(repr(sorted(self.branches[branch].items())).encode()).hexdigest()

    def commit(self, url_branch: str, directory: str, fields: dict[str, str], files: dict[str, bytes]) -> str | None:
        """Take an upload; return what is wrong with it."""
        branch = fields.get("new_branch_name") or url_branch
        held = dict(self.branches.get(branch, self.branches[url_branch]))
        wanted = {f"{directory}/{name}": content for name, content in files.items()}
        is_replacing = any(held.get(path, content) != content for path, content in wanted.items())
        if is_replacing and not fields.get("last_commit"):
            return "missing last_commit"
        if fields.get("last_commit") and fields["last_commit"] != self.tip(branch):
            return "invalid last_commit"
        if branch not in self.branches or held | wanted != held:
            self.branches[branch] = held | wanted
            self.commits.append((branch, fields["commit_summary"]))
        return None


class _Answering(BaseHTTPRequestHandler):
    """Answers one connection."""

    dagshub: DagsHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.dagshub.asked.append(path)
        if path.startswith("/o/r.mlflow/"):
            self._hand_on(body)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"message": "who are you?"})
        elif self.dagshub.refuses is not None:
            self._answer(self.dagshub.refuses, {"message": "no"})
        elif self.command == "PUT":
            self._take(path, body)
        else:
            self._tell(path)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _dispatch  # noqa: N815 -- names of http.server

    def _tell(self, path: str) -> None:
        branch = unquote(path.removeprefix(f"{_REPOSITORY}/branches/"))
        if path == _REPOSITORY:
            self._answer(200, _DESCRIPTION)
        elif branch in self.dagshub.branches:
            commit = {"id": self.dagshub.tip(branch), "message": "", "url": "", "timestamp": ""}
            self._answer(200, {"name": branch, "commit": commit})
        else:
            self._answer(404, {"message": "not found"})

    def _take(self, path: str, body: bytes) -> None:
        branch, _, directory = path.removeprefix(f"{_REPOSITORY}/content/").rpartition("/")
        branch, directory = unquote(branch), unquote(directory)
        self.dagshub.uploads.append((branch, directory))
        self.dagshub.gate.wait(60)
        fields, files = parse_form(self.headers["Content-Type"], body)
        if self.dagshub.num_failures > 0:
            self.dagshub.num_failures -= 1
            self._answer(500, {"error": "server error", "details": "out of order"})
        elif (wrong := self.dagshub.commit(branch, directory, fields, files)) is not None:
            self._answer(400, {"error": wrong, "details": wrong})
        else:
            self._answer(200, {})

    def _hand_on(self, body: bytes) -> None:
        """Ask MLflow."""
        expected = b64encode(f"{self.dagshub.user}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self._answer(401, {"message": "who are you?"})
            return
        place = urlsplit(self.dagshub.mlflow)
        headers = {name: text for name, text in self.headers.items() if name not in {"Host", "Authorization"}}
        upstream = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            upstream.request(self.command, self.path.removeprefix("/o/r.mlflow"), body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        self._send(answer.status, content, answer.headers.get("Content-Type", ""))

    def _answer(self, status: int, values: dict[str, Any]) -> None:
        self._send(status, json.dumps(values).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # who asked is gone
            self.close_connection = True


def parse_form(kind: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the fields and the files of a "multipart/form-data" body, by name."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    boundary = b"--" + kind.partition("boundary=")[2].encode()
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        name = re.search(rb'filename="([^"]*)"', head)
        if name is None:
            field = re.search(rb'name="([^"]*)"', head)
            assert field is not None
            fields[field[1].decode()] = content.decode()
        else:
            files[name[1].decode()] = content
    return fields, files


_DESCRIPTION = {
    "id": 1,
    "owner": {"id": 1, "login": "o", "full_name": "", "username": "o"},
    "name": "r",
    "full_name": "o/r",
    "description": "",
    "private": True,
    "fork": False,
    "empty": False,
    "mirror": False,
    "size": 0,
    "html_url": "",
    "clone_url": "",
    "stars_count": 0,
    "forks_count": 0,
    "watchers_count": 0,
    "open_issues_count": 0,
    "default_branch": "main",
    "created_at": "",
    "updated_at": "",
}
