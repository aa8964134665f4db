"""MLflow's own handlers before a database, served from this process: a tracking server that is there at once.

`mlflow server` takes 13 to 40 s to start.
"""

from __future__ import annotations

import ssl
import threading
import warnings
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.trackers.mlflow_service import databases


class Handlers:
    """A running server; one in a process at a time, for which MLflow keeps one store.

    Arguments:
        directory: Where its database and artifacts are.
        context: For TLS, where it is to speak that.

    Attributes:
        uri: The database behind it.
        client: Of that.
        port: Where it listens, on loopback.
    """

    def __init__(self, directory: Path, context: ssl.SSLContext | None = None) -> None:
        import mlflow
        from mlflow import MlflowClient
        from mlflow.server import handlers

        with warnings.catch_warnings():
            # A request imports it, and would fail: it warns of a module of Starlette's, which is an error in tests.
            warnings.simplefilter("ignore")
            import mlflow.server.fastapi_app

        self.uri = databases().copy(directory / "handlers.db")
        self.client = MlflowClient(tracking_uri=self.uri)
        handlers._tracking_store = None
        handlers._get_tracking_store(self.uri, str(directory / "artifacts"))
        mlflow.set_tracking_uri(None)  # they have set it to their database, for the whole process
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (_Answering,), {"handlers": self}))
        self.port = self._server.server_port
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def hear(self, headers: Mapping[str, str]) -> None:
        """Take note of a request."""

    def stop(self) -> None:
        from mlflow.server import handlers

        self._server.shutdown()
        self._server.server_close()
        handlers._tracking_store = None


class _Answering(BaseHTTPRequestHandler):
    """Answers one connection."""

    handlers: Handlers

    def answer(self) -> None:
        from mlflow.server import app

        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.handlers.hear(self.headers)
        path = self.path[self.path.index("/api/") :]
        kind = {"content-type": self.headers.get("content-type") or ""}
        answer = app.test_client().open(path, method=self.command, data=body, headers=kind)
        self.send_response(answer.status_code)
        self.send_header("content-type", str(answer.content_type))
        self.send_header("content-length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 -- names of http.server

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
