"""DagsHub: a stand-in on loopback, and MLflow's own handlers behind it, both in this process."""

from __future__ import annotations

from pathlib import Path

from loopwright.journal.reader import JournalReader
from loopwright.records import Kind
from tests.trackers import places, readback
from tests.trackers.dagshub_service import TOKEN, DagsHub
from tests.trackers.mlflow_handlers import Handlers


class Place(places.Place):
    name = "dagshub"
    needs_service = True
    stores_checkpoints = True
    call_seconds = 5

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._services: tuple[DagsHub, Handlers] | None = None

    def environment(self) -> dict[str, str]:
        mlflow = Handlers(self.directory)
        dagshub = DagsHub(f"http://127.0.0.1:{mlflow.port}")
        self._services = dagshub, mlflow
        return {
            "DAGSHUB_CLIENT_HOST": dagshub.url,
            "DAGSHUB_CLIENT_TOKENS_CACHE": str(self.directory / "tokens"),
            "DAGSHUB_USER_TOKEN": TOKEN,
            "HF_DAGSHUB_LOG_ARTIFACTS": "true",
            "HOME": str(self.directory / "home"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": f"{dagshub.url}/o/r.mlflow",
        }

    def close(self) -> None:
        for service in self._services or ():
            service.stop()

    def num_runs(self, out: Path) -> int:
        _, mlflow = self.running
        return len(readback.mlflow_runs(mlflow.uri))

    def holds(self, out: Path) -> bool:
        """Return whether MLflow holds the journal's points, and the repository its checkpoints and no other file."""
        dagshub, mlflow = self.running
        return readback.mlflow(mlflow.uri) == readback.journal_by_millisecond(out) and (
            dagshub.branches == {"main": _as_uploaded(out)}
        )

    @property
    def running(self) -> tuple[DagsHub, Handlers]:
        """The stand-in, and what is behind it."""
        assert self._services is not None, "environment() starts them"
        return self._services


def _as_uploaded(out: Path) -> dict[str, bytes]:
    """Return path -> content of all files of the journal's checkpoints, as the repository is to hold them."""
    with JournalReader(out) as reader:
        paths = [out / record.values["path"] for record in reader.records(kinds=[Kind.CHECKPOINT])]
    files = [(path, file) for path in paths for file in path.rglob("*") if file.is_file()]
    assert files
    return {f"artifacts/{path.name}/{file.relative_to(path)}": file.read_bytes() for path, file in files}
