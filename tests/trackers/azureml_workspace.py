"""A workspace's MLflow, as azureml-mlflow speaks to it: over TLS, with MLflow's own handlers and a database behind it.

The plugin takes no other address than `azureml://`, which it turns into `https://`: hence the certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path

from tests.trackers.azureml_service import AzureML
from tests.trackers.mlflow_handlers import Handlers

_WORKSPACE = "subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


class Workspace(Handlers):
    """A running workspace with one job.

    Attributes:
        job: The job's run in MLflow.
        tokens: What requests came with.
    """

    def __init__(self, directory: Path) -> None:
        self.tokens: set[str | None] = set()
        self.certificate = directory / "certificate.pem"
        _write_certificate(self.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        super().__init__(directory, context)
        self.job = self.client.create_run("0").info.run_id

    def hear(self, headers: Mapping[str, str]) -> None:
        self.tokens.add(headers.get("authorization"))

    def environment(self) -> dict[str, str]:
        """Return the variables that a job has for MLflow."""
        return {
            "AZUREML_RUN_ID": self.job,
            "AZUREML_CURRENT_CLOUD": "AzureCloud",  # else the plugin asks its makers which clouds there are
            "MLFLOW_TRACKING_URI": f"azureml://127.0.0.1:{self.port}/mlflow/v1.0/{_WORKSPACE}",
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
