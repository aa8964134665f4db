"""A workspace's MLflow, as azureml-mlflow speaks to it: over TLS, with MLflow's own handlers and a database behind it.

The plugin takes no other address than `azureml://`, which it turns into `https://`: hence the certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.trackers.azureml_service import AzureML
from tests.trackers.mlflow_service import databases

_WORKSPACE = "subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


class Workspace:
    """A running workspace with one job.

    Attributes:
        client: Of the database behind it.
        job: The job's run in MLflow.
        tokens: What requests came with.
    """

    def __init__(self, directory: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.server import app, handlers

        database = databases().copy(directory / "workspace.db")
        handlers._tracking_store = None
        handlers._get_tracking_store(database, str(directory / "artifacts"))
        self.client = MlflowClient(tracking_uri=database)
        self.job = self.client.create_run("0").info.run_id
        self.tokens: set[str | None] = set()
        self.certificate = directory / "certificate.pem"
        _write_certificate(self.certificate)
        workspace = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                workspace.tokens.add(self.headers.get("authorization"))
                path = self.path[self.path.index("/api/2.0/") :]
                kind = {"content-type": self.headers.get("content-type") or ""}
                answer = app.test_client().open(path, method=self.command, data=body, headers=kind)
                self.send_response(answer.status_code)
                self.send_header("content-type", str(answer.content_type))
                self.send_header("content-length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        import mlflow
        from mlflow.server import handlers

        self._server.shutdown()
        self._server.server_close()
        handlers._tracking_store = None
        mlflow.set_tracking_uri(None)  # the handlers had set it to their database, for the whole process

    def environment(self) -> dict[str, str]:
        """Return the variables that a job has for MLflow."""
        return {
            "AZUREML_RUN_ID": self.job,
            "AZUREML_CURRENT_CLOUD": "AzureCloud",  # else the plugin asks its makers which clouds there are
            "MLFLOW_TRACKING_URI": f"azureml://127.0.0.1:{self._server.server_port}/mlflow/v1.0/{_WORKSPACE}",
            "MLFLOW_TRACKING_TOKEN": AzureML.token,
            "MLFLOW_RUN_ID": self.job,
            "MLFLOW_EXPERIMENT_ID": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "REQUESTS_CA_BUNDLE": str(self.certificate),
        }


def _write_certificate(file: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*kinds))
