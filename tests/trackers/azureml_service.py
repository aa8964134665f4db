"""A stand-in for the services behind azureml-core, which the SDK's own client talks to: it keeps what it is sent."""

from __future__ import annotations

import base64
import datetime
import json
import math
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from loopwright.integrations import AzureMLCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from loopwright.trackers.naming import as_float, group_name, numbers
from tests.trackers.journals import ServiceJournal

JOB = "job1"
NAN = "nan"  # equal to itself
Points = Counter[tuple[str, int, int, Any]]  # name, step, time in milliseconds, value


def _make_token() -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"exp": int(time.time()) + 86400}]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "c2ln"]
    )


def stop_token_threads() -> None:
    """End the SDK's threads, which renew tokens and would go on for the whole of a process."""
    for name in ("azureml.core.authentication", "azureml.mlflow._common._authentication.azureml_token_authentication"):
        kind = getattr(sys.modules.get(name), "AzureMLTokenAuthentication", None)
        if kind is not None and kind._daemon is not None:
            kind._daemon.stop()
            kind._daemon = None


def _milliseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)


class AzureML:
    """A running service that has one job.

    Attributes:
        url: Its address.
        token: The job's.
        metrics: What each run holds, by its id: a list of (name, value as sent) in the order of its coming.
        runs: The services' description of each run, by its id.
        events: How each run began and ended.
        requests: Method and last parts of the path of each request.
        fault: A status that everything is answered with, or None.
        gate: Requests wait for it.
        refused: Names of metrics that are refused, each by itself.
        refuses_whole: Refuses a request for one such metric in it.
        error_code: What these refusals are called.
        is_ingesting: Whether what was sent isn't taken in yet: it can't be read back.
        loses_answers: Whether it takes numbers in, and doesn't say so.
    """

    token = _make_token()

    def __init__(self) -> None:
        self.metrics: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        self._waiting: list[tuple[str, str, dict[str, Any]]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[str]] = {}
        self.requests: list[str] = []
        self.fault: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.refused: set[str] = set()
        self.refuses_whole = False
        self.error_code = "UserError"
        self.is_ingesting = self.loses_answers = False
        self.add_run(JOB)
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                service.gate.wait()
                path = self.path.partition("?")[0]
                status, said = service.answer(self.command, path, json.loads(body) if body else None)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                if status == 202:
                    self.send_header("location", f"{service.url}/ingest")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, job: str = JOB) -> dict[str, str]:
        """Return the variables that a job has."""
        return {
            "AZUREML_RUN_ID": job,
            "AZUREML_ARM_SUBSCRIPTION": "sub",
            "AZUREML_ARM_RESOURCEGROUP": "rg",
            "AZUREML_ARM_WORKSPACE_NAME": f"ws-{self.port}",  # the SDK keeps a run for each
            "AZUREML_ARM_PROJECT_NAME": "exp",
            "AZUREML_EXPERIMENT_ID": "experiment-id",
            "AZUREML_WORKSPACE_ID": "workspace-id",
            "AZUREML_SERVICE_ENDPOINT": self.url,
            "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"{self.url}/discovery",
            "AZUREML_RUN_TOKEN": self.token,
        }

    def add_run(self, run_id: str, parent: str | None = None, name: str | None = None) -> dict[str, Any]:
        about = {"runId": run_id, "rootRunId": JOB, "parentRunId": parent, "name": name, "runNumber": 1}
        self.metrics[run_id] = []
        return self.runs.setdefault(run_id, about | {"properties": {}, "tags": {}, "dataContainerId": f"dcid.{run_id}"})

    def points(self, run_id: str = JOB) -> Points:
        """Return what the run holds, each as often as it is there."""
        found: Points = Counter()
        for name, value in self.metrics[run_id]:
            number = float(value["data"][name])
            moment = _milliseconds(datetime.datetime.fromisoformat(value["createdUtc"]))
            found[name, value["step"], moment, NAN if math.isnan(number) else number] += 1
        return found

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and answer."""
        self.requests.append(f"{method} {'/'.join(path.split('/')[-2:])}")
        if self.fault is not None:
            return self.fault, {"error": {"code": "ServiceError", "message": "out of order"}}
        if path == "/discovery":
            kinds = ("api", "experimentation", "history", "hyperdrive", "modelmanagement", "studio")
            return 200, dict.fromkeys(kinds, self.url)
        if path.endswith("/ingest") or path.endswith("/metricsingest/wait"):
            if not self.is_ingesting:
                self._take_in()
            return (202 if self.is_ingesting else 200), {}
        if "/runs/" not in path:
            return 200, {}
        run_id, *rest = path.split("/runs/")[1].split("/")
        return (200, self._change(run_id, body)) if method == "PATCH" else self._answer_for_run(run_id, rest, body)

    def _answer_for_run(self, run_id: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if run_id not in self.runs:
            return 404, {"error": {"code": "UserError", "message": f"no run {run_id}"}}
        if rest == ["batch"]:
            return self._receive(run_id, body)
        if rest == ["full"]:
            return self._read(run_id, body["metricName"])
        if rest == ["events"]:
            self.events.setdefault(run_id, []).append(body["name"].rpartition(".")[2])
        return 200, self.runs[run_id]

    def _change(self, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        about = self.runs.get(run_id) or self.add_run(run_id, body["parentRunId"], body.get("name"))
        about["tags"].update(body.get("tags") or {})
        return about

    def _receive(self, run_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        errors = []
        entries = body["values"]
        if self.refuses_whole and any(entry["name"] in self.refused for entry in entries):
            return 400, {"error": {"code": self.error_code, "message": "a bad request"}}
        assert len(entries) <= 50
        for entry in entries:
            assert entry["columns"] == {entry["name"]: "double"}
            if entry["name"] in self.refused:
                response = {"error": {"code": self.error_code, "message": "not that one"}}
                errors.append({"metric": entry, "errorResponse": response})
                continue
            self._waiting += [(run_id, entry["name"], value) for value in entry["value"]]
        if not self.is_ingesting:
            self._take_in()
        if self.loses_answers:
            return 500, {"error": {"code": "ServiceError", "message": "who knows"}}
        return (207, {"errors": errors}) if errors else (200, {})

    def _take_in(self) -> None:
        waiting, self._waiting = self._waiting, []
        for run_id, name, value in waiting:
            self.metrics[run_id].append((name, value))

    def _read(self, run_id: str, name: str) -> tuple[int, Any]:
        values = [value for held, value in self.metrics[run_id] if held == name]
        if not values:
            return 404, {"error": {"code": "UserError", "message": "no such metric"}}
        about = {"name": name, "columns": {name: "double"}, "properties": {"uxMetricType": "azureml.v1.scalar"}}
        return 200, {**about, "value": values, "continuationToken": None}


class Journal(ServiceJournal):
    """A journal of one run that reports to Azure ML."""

    tracker_class = AzureMLCallback
    age_seconds = 100.0

    def points(self) -> Points:
        """Return all that Azure ML has to hold."""
        return self.points_in(self.directory, self.run.id)

    @staticmethod
    def points_in(directory: Path, run_id: str | None = None) -> Points:
        """Return all that counts in a journal."""
        with JournalReader(directory) as reader:
            records = reader.records(run_id, kinds=[Kind.LOG, Kind.PREDICTION])
        return Counter(
            (group_name(name), record.step, _milliseconds(moment), NAN if value != value else as_float(value))
            for record in records
            # In microseconds, as it is sent: rounded once more than there, a time could be a millisecond off.
            for moment in [datetime.datetime.fromtimestamp(record.time, datetime.UTC)]
            for name, value in numbers(record.values)
        )
