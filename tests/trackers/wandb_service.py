"""A stand-in for the W&B server on loopback, as far as runs and artifacts go, with faults that can be switched.

It keeps what a real one would: history lines by offset, the summary, the configuration, artifacts' manifests. What it
doesn't know is answered with `{}`, and listed in `unknown`.

    with WandbService() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        monkeypatch.setenv("WANDB_API_KEY", service.api_key)
        ...
        service.fault = "hang"      # accept, never answer; "error": answer 500
        service.go_away()           # refuse connections, cut those that are open
        service.come_back()
"""

from __future__ import annotations

import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StoredRun:
    """What the service holds of a run."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # what UpsertBucket said of it, but for nulls
    artifacts: list[StoredArtifact] = field(default_factory=list)
    exit_code: int | None = None
    is_preempting: bool = False

    def points(self) -> list[tuple[int, str, Any]]:
        """Return (global step, name, value) of everything in the history that isn't W&B's own or a marker."""
        hidden = {"train/global_step", "loopwright/record"}
        return [
            (line["train/global_step"], name, value)
            for line in self.lines
            for name, value in line.items()
            if not name.startswith("_") and name not in hidden
        ]


@dataclass
class StoredArtifact:
    """An artifact that was uploaded whole."""

    name: str
    kind: str
    aliases: list[str]
    metadata: dict[str, Any]
    digest: str
    is_committed: bool = False
    files: list[str] = field(default_factory=list)


class WandbService:
    """The server; a context manager.

    Attributes:
        url: Its address, the same after it was away.
        runs: What it holds, by run id.
        fault: None, "hang" or "error".
        unknown: GraphQL operations that it had no answer to.
    """

    api_key = "0" * 40

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.fault: str | None = None
        self.unknown: list[str] = []
        self.asked: list[str] = []
        self.artifacts: list[Any] = []
        self.blobs: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self._port = 0
        self._server: _Server | None = None
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        """Listen, at the same address as before."""
        self.fault = None
        if self._server is None:
            self._server = _Server(self, self._port)
            self._port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def go_away(self) -> None:
        """Refuse connections, and cut those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut_connections()

    def __enter__(self) -> WandbService:
        return self

    def __exit__(self, *details: object) -> None:
        self.fault = "gone"
        self.go_away()

    # What it knows

    def answer_query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = match.group(1) if match else query.strip()[:40]
        self.asked.append(name)
        answer = getattr(self, f"_answer_{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}", None)
        if answer is None:
            self.unknown.append(name)
            return {}
        with self.lock:
            return answer(variables)  # type: ignore[no-any-return]

    def take_stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Take a file stream's part: history by offset, the newest summary, and how the run ended."""
        with self.lock:
            run = self.runs[run_id]
            for name, part in (body.get("files") or {}).items():
                content = [json.loads(line) for line in part["content"]] if name.endswith(("jsonl", "json")) else []
                if name == "wandb-history.jsonl":
                    run.lines[part["offset"] :] = content
                elif name == "wandb-summary.json" and content:
                    run.summary = content[-1]
            run.is_preempting |= bool(body.get("preempting"))
            if body.get("complete"):
                run.exit_code = body["exitcode"]

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        project = {"id": "P1", "name": "p", "entity": {"id": "E1", "name": "ent"}}
        return {
            "id": f"B-{name}",
            "name": name,
            "displayName": run.about.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in run.lines[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "tags": run.about.get("tags") or [],
            "notes": run.about.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _answer_viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "U1", "entity": "ent", "username": "user", "email": None, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _answer_run_resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        bucket = self._bucket(name) if name in self.runs else None
        return {"model": {"id": "P1", "name": "p", "entity": {"id": "E1", "name": "ent"}, "bucket": bucket}}

    def _answer_upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, StoredRun())
        run.about |= {key: value for key, value in variables.items() if value is not None}
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        return {"upsertBucket": {"bucket": self._bucket(name), "inserted": is_new}}

    def _answer_rewind_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[variables["runName"]]
        run.lines = [line for line in run.lines if line["_step"] <= variables["metricValue"]]
        return {"rewindRun": {"rewoundRun": self._bucket(variables["runName"])}}

    def _answer_artifact_type(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _answer_server_features_query(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _answer_create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        self.artifacts.append(asked)
        made = {"id": f"A{len(self.artifacts)}", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _answer_create_artifact_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "F1", "uploadUrl": f"{self.url}/manifest/{variables['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "M1", "file": file}}}

    def _answer_create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in variables["input"]["artifactFiles"]:
            nodes.append(
                {
                    "node": {
                        "storagePath": file["name"],
                        "uploadUrl": f"{self.url}/artifact/{file['artifactID']}/{file['name']}",
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "artifact": {"id": file["artifactID"]},
                    }
                }
            )
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _answer_update_artifact_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        print(variables)
        file = {"id": "F1", "uploadUrl": f"{self.url}/manifest/A1", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": "M1", "file": file}}}

    def _answer_commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}

    def _answer_artifact_by_i_d(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = self.artifacts[int(variables["id"][1:]) - 1]
        project = {"__typename": "Project", "id": "P1", "internalId": "1", "name": "p", "entity": {"name": "ent"}}
        collection = {"__typename": "ArtifactSequence", "name": asked["artifactCollectionName"], "project": project}
        aliases = [
            {"__typename": "ArtifactAlias", "id": f"L{n}", "alias": e["alias"], "artifactCollection": collection}
            for n, e in enumerate(asked["aliases"])
        ]
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": variables["id"],
                "artifactSequence": collection,
                "versionIndex": 0,
                "artifactType": {"name": asked["artifactTypeName"]},
                "description": None,
                "metadata": asked["metadata"],
                "ttlDurationSeconds": -1,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": None,
                "state": "COMMITTED",
                "size": 1,
                "digest": asked["digest"],
                "commitHash": "c",
                "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00Z",
                "updatedAt": None,
                "aliases": aliases,
            }
        }

    def _answer_create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/up/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "B1", "uploadHeaders": [], "files": files}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, service: WandbService, port: int) -> None:
        self.service = service
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed

    def cut_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = self.server.service
        if service.fault == "hang":
            threading.Event().wait(3600)
        if service.fault == "error":
            self._send(500, {"error": "out of order"})
        elif self.path.startswith("/graphql"):
            asked = json.loads(body)
            self._send(200, {"data": service.answer_query(asked["query"], asked.get("variables") or {})})
        else:
            if self.path.endswith("/file_stream"):
                service.take_stream(self.path.split("/")[-2], json.loads(body))
            elif self.path.startswith("/up/"):
                service.blobs[self.path] = body
            self._send(200, {})

    do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815 -- http.server's names

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *details: Any) -> None:
        pass
