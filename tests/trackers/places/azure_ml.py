"""Azure ML: a job's run, kept by a stand-in for the services on the net, which runs in this process."""

from __future__ import annotations

from pathlib import Path

from tests.trackers import places
from tests.trackers.azureml_service import JOB, AzureML, Journal, stop_token_threads


class Place(places.Place):
    name = "azure_ml"
    needs_service = True
    call_seconds = 5

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._service: AzureML | None = None

    def environment(self) -> dict[str, str]:
        self._service = AzureML()
        home = self.directory / "home"  # where the SDK keeps addresses
        home.mkdir()
        return self._service.environment() | {"HOME": str(home)}

    def close(self) -> None:
        if self._service is not None:
            self._service.stop()
        stop_token_threads()

    def num_runs(self, out: Path) -> int:
        return len(self._running.runs)

    def holds(self, out: Path) -> bool:
        """Return whether the job's run holds each point once; ending it is Azure's."""
        return self._running.points(JOB) == Journal.points_in(out) and self._running.events == {}

    @property
    def _running(self) -> AzureML:
        assert self._service is not None, "environment() starts it"
        return self._service
