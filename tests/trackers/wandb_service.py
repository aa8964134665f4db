"""A stand-in for the W&B server on loopback, as far as runs and artifacts go, with faults that can be switched.

It keeps what a real one would: history lines by offset, the summary, the configuration, artifacts. What it doesn't know
is answered with `{}`, and listed in `unknown`.

    with WandbService() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        monkeypatch.setenv("WANDB_API_KEY", service.api_key)
        ...
        service.fault = "hang"      # accept, never answer; "error": answer 500
        service.forbidden = "file_stream"  # answer 403 to what ends so
        service.go_away()           # refuse connections, cut those that are open
        service.come_back()
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "E1", "name": "ent"}
PROJECT = {"__typename": "Project", "id": "P1", "internalId": "1", "name": "p", "entity": ENTITY}


@dataclass
class StoredRun:
    """What the service holds of a run."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # what UpsertBucket said of it, but for nulls
    exit_codes: list[int] = field(default_factory=list)
    is_preempting: bool = False


@dataclass
class StoredArtifact:
    """An artifact; whole once it is committed."""

    name: str
    kind: str
    aliases: list[str]
    metadata: dict[str, Any]
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    is_committed: bool = False


class WandbService:
    """The server; a context manager.

    Attributes:
        api_key: One that the SDK accepts.
        runs: What it holds, by run id.
        artifacts: What it holds of these.
        fault: None, "hang" or "error".
        forbidden: What requests end with, in their path or their operation, that are refused.
        asked: GraphQL operations, in order.
        unknown: Those of them that it had no answer to.
    """

    api_key = "0" * 40

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: list[StoredArtifact] = []
        self.fault: str | None = None
        self.forbidden: str | None = None
        self.asked: list[str] = []
        self.unknown: list[str] = []
        self._lock = threading.RLock()
        self._port = 0
        self._server: _Server | None = None
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        """Answer everything, at the same address as before."""
        self.fault = self.forbidden = None
        if self._server is None:
            self._server = _Server(self, self._port)
            self._port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

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
        self.fault = None
        self.go_away()

    # Its answers

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """Answer a GraphQL query; None where it is forbidden."""
        (name,) = re.findall(r"^\s*(?:query|mutation)\s+(\w+)", query)[:1] or ["?"]
        self.asked.append(name)
        if self.forbidden is not None and name.endswith(self.forbidden):
            return None
        known = getattr(self, "_answer_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(), None)
        if known is None:
            self.unknown.append(name)
            return {}
        with self._lock:
            return known(variables)  # type: ignore[no-any-return]

    def take_stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Take a part of the file stream: history by offset, the newest summary, and how the run ended."""
        with self._lock:
            run = self.runs[run_id]
            for name, part in (body.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    run.lines[part["offset"] :] = [json.loads(line) for line in part["content"]]
                elif name == "wandb-summary.json":
                    run.summary = json.loads(part["content"][-1])
            run.is_preempting |= bool(body.get("preempting"))
            if body.get("complete"):
                run.exit_codes.append(body["exitcode"])

    def take_file(self, path: str, content: bytes) -> None:
        """Take a file of an artifact."""
        with self._lock:
            number, _, name = path.removeprefix("/artifact/").partition("/")
            self.artifacts[int(number)].files[name] = content

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        return {
            "id": f"B-{name}",
            "name": name,
            "displayName": run.about.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": PROJECT,
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
        user = {"id": "U1", "entity": "ent", "username": "user", "email": None, "flags": "{}", "teams": {"edges": []}}
        return {"viewer": user}

    def _answer_server_features_query(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _answer_run_resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        return {"model": {**PROJECT, "bucket": self._bucket(name) if name in self.runs else None}}

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

    def _answer_create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/file/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "B1", "uploadHeaders": [], "files": files}}

    def _answer_artifact_type(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _answer_create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        made = StoredArtifact(
            name=asked["artifactCollectionName"],
            kind=asked["artifactTypeName"],
            aliases=[entry["alias"] for entry in asked["aliases"]],
            metadata=json.loads(asked["metadata"] or "{}"),
            digest=asked["digest"],
        )
        self.artifacts.append(made)
        artifact = {
            "id": str(len(self.artifacts) - 1),
            "state": "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _answer_create_artifact_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "F1", "uploadUrl": f"{self.url}/file/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "M1", "file": file}}}

    def _answer_create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _answer_commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[int(variables["artifactID"])]
        artifact.is_committed = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": artifact.digest}}}

    def _answer_artifact_by_id(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[int(variables["id"])]
        collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": PROJECT}
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": variables["id"],
                "artifactSequence": collection,
                "versionIndex": int(variables["id"]),
                "artifactType": {"name": artifact.kind},
                "description": None,
                "metadata": json.dumps(artifact.metadata),
                "ttlDurationSeconds": -1,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": None,
                "state": "COMMITTED",
                "size": 1,
                "digest": artifact.digest,
                "commitHash": "c",
                "fileCount": len(artifact.files),
                "createdAt": "2026-01-01T00:00:00Z",
                "updatedAt": None,
                "aliases": [],
            }
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, service: WandbService, port: int) -> None:
        self.service = service
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""

    def cut_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service = self.server.service
        while service.fault == "hang":
            threading.Event().wait(0.1)
        if service.fault == "error":
            self._send(500, {"error": "out of order"})
        elif service.forbidden is not None and self.path.endswith(service.forbidden):
            self._send(403, {"error": "forbidden"})
        elif self.path.startswith("/graphql"):
            asked = json.loads(body)
            answer = service.answer(asked["query"], asked.get("variables") or {})
            self._send(*((403, {"error": "forbidden"}) if answer is None else (200, {"data": answer})))
        else:
            if self.path.endswith("/file_stream"):
                service.take_stream(self.path.split("/")[-2], json.loads(body))
            elif self.path.startswith("/artifact/"):
                service.take_file(self.path, body)
            self._send(200, {})

    do_GET = do_POST = do_PUT = do_PATCH = _take  # noqa: N815 -- the names that http.server calls

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *details: Any) -> None:
        """Keep quiet."""
