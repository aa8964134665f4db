"""A stand-in for Comet's server, which the SDK's own client and `comet upload` talk to: it keeps experiments."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "not-a-real-key-of-comet"
_ALREADY_EXISTS, _NO_SUCH_EXPERIMENT, _BAD_KEY = 90999, 90210, 90212


@dataclass
class Experiment:
    """What is known of one experiment: each metric as it came, one entry for each time."""

    project: str | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    is_alive: list[bool] = field(default_factory=list)

    def points(self) -> dict[tuple[str, int], Counter[str]]:
        """Return (name, step) -> values, as text."""
        found: dict[tuple[str, int], Counter[str]] = {}
        for metric in self.metrics:
            words = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
            value = words.get(metric["metricValue"]) or repr(float(metric["metricValue"]))
            found.setdefault((metric["metricName"], metric["step"]), Counter())[value] += 1
        return found


class Server:
    """A running server.

    Attributes:
        url: For COMET_URL_OVERRIDE.
        experiments: By key.
        fault: None, "refuse" for status 500, "hang", or "deaf": takes metrics, and then answers with status 500.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.fault: str | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                status, said = server.answer(self.path, self.headers, body)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._is_over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/clientlib/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, address: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return status and answer."""
        path, asked = urlsplit(address).path, dict(parse_qsl(urlsplit(address).query))
        if self.fault == "hang":
            self._is_over.wait(60)
        if self.fault in {"refuse", "hang"}:
            return 500, {}
        if path.endswith("upload-asset") or path.endswith("/asset/upload"):
            key = asked.get("experimentKey") or asked["experimentId"]
            self.experiments[key].files[asked["fileName"]] = _file_in(headers, body)
            return 200, {"assetId": "1"}
        said = json.loads(body) if body else {}
        if path.endswith("/logger/add/run"):
            return self._add(said)
        if path.endswith("/logger/get/run"):
            is_there = said["previousExperiment"] in self.experiments
            return (200, _handshake(said["previousExperiment"])) if is_there else _no(_NO_SUCH_EXPERIMENT)
        return self._about_experiment(path, asked, said)

    def _add(self, said: Any) -> tuple[int, Any]:
        if said["apiKey"] != KEY:
            return _no(_BAD_KEY)
        key = said["experimentKey"]
        if key in self.experiments and not said["getOrCreateEnabled"]:
            return _no(_ALREADY_EXISTS)
        self.experiments.setdefault(key, Experiment(project=said["projectName"]))
        return 200, _handshake(key)

    def _about_experiment(self, path: str, asked: dict[str, str], said: Any) -> tuple[int, Any]:
        experiment = self.experiments.get(asked.get("experimentKey") or said.get("experimentKey"), Experiment())
        if path.endswith("/batch/logger/experiment/metric"):
            experiment.metrics += said["values"]
            return (500, {}) if self.fault == "deaf" else (200, {})
        if path.endswith("/batch/logger/experiment/parameter"):
            for one in said["values"]:
                experiment.parameters[one["parameterName"]] = one["parameterValue"]
        elif path.endswith("/write/experiment/log-other"):
            experiment.others[said["key"]] = said["value"]
        elif path.endswith("/status-report/update"):
            experiment.is_alive.append(said["is_alive"])
            return 200, {"is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 10_000}
        elif path.endswith("/experiment/metrics/summary"):
            return 200, {"values": [{"name": name} for name in {one["metricName"] for one in experiment.metrics}]}
        elif path.endswith("/experiment/metrics/get-metric"):
            return 200, {"metrics": [one for one in experiment.metrics if one["metricName"] == asked["metricName"]]}
        elif path.endswith("/isAlive/ver"):
            return 200, {"version": "4.0.0", "msg": "4.0.0"}
        return 200, {"time": time.time()}


def _no(code: int) -> tuple[int, Any]:
    return 400, {"sdk_error_code": code, "msg": "no"}


def _handshake(key: str) -> dict[str, Any]:
    return {"runId": f"run-{key}", "project_id": "project", "focusUrl": "http://comet.test/me/project/"}


def _file_in(headers: Any, body: bytes) -> bytes:
    whole = b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
    parts = message_from_bytes(whole).get_payload()
    return next(part.get_payload(decode=True) for part in parts if part.get_filename() is not None)
