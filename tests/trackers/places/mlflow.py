"""MLflow: a database, read by its own client."""

from __future__ import annotations

from pathlib import Path

from tests.trackers import places, readback
from tests.trackers.mlflow_service import databases


class Place(places.Place):
    name = "mlflow"
    stores_checkpoints = True

    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": databases().copy(self.directory / "mlflow.db"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "HF_MLFLOW_LOG_ARTIFACTS": "true",
        }

    def num_runs(self, out: Path) -> int:
        return len(readback.mlflow_runs(self._uri))

    def holds(self, out: Path) -> bool:
        return readback.mlflow(self._uri) == readback.journal_by_millisecond(out)

    @property
    def _uri(self) -> str:
        return f"sqlite:///{self.directory}/mlflow.db"
