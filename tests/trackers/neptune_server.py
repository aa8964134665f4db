"""What stands in for Neptune's server, which can't be had: the SDK's own mock of it, shared by a test's sessions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from neptune.common.exceptions import NeptuneConnectionLostException
from neptune.internal.backends.neptune_backend_mock import NeptuneBackendMock
from neptune.metadata_containers import metadata_container

from tests.trackers import readback


class Server(NeptuneBackendMock):
    """Keeps runs by their custom id, and points in the order of their steps, as Neptune says that it does.

    Attributes:
        is_down: Whether no operation arrives.
        points: By name and step.
        refused: Points whose step was not greater than the last one's.
        fields: The newest values.
        modes: The mode and token of each session.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.points: readback.Points = {}
        self.refused: list[tuple[str, float]] = []
        self.fields: dict[str, Any] = {}
        self.uploads: list[tuple[str, list[str]]] = []
        self.modes: list[tuple[str, str | None]] = []
        self._runs: dict[str | None, Any] = {}
        self._last_steps: dict[str, float] = {}

    def install(self, monkeypatch: Any) -> None:
        """Let the SDK find it wherever it looks for a server, also for one that answers."""

        def get_backend(mode: Any, api_token: str | None = None, proxies: Any = None) -> Server:
            self.modes.append((mode.value, api_token))
            return self

        monkeypatch.setattr(metadata_container, "get_backend", get_backend)
        monkeypatch.setattr("loopwright.trackers.neptune_session._knock", lambda address: None)

    @property
    def num_runs(self) -> int:
        return len(self._runs)

    def create_run(self, project_id: Any, git_info: Any = None, custom_run_id: Any = None, *others: Any, **more: Any):
        if custom_run_id not in self._runs:
            self._runs[custom_run_id] = super().create_run(project_id, git_info, custom_run_id)
        return dataclasses.replace(self._runs[custom_run_id])

    def execute_operations(self, container_id: Any, container_type: Any, operations: Any, operation_storage: Any):
        if self.is_down:
            raise NeptuneConnectionLostException(ConnectionError("injected"))
        for operation in operations:
            self._note(operation)
        return super().execute_operations(container_id, container_type, operations, operation_storage)

    def _note(self, operation: Any) -> None:
        path, kind = "/".join(operation.path), type(operation).__name__
        if kind == "LogFloats":
            for point in operation.values:
                if point.step <= self._last_steps.get(path, -1):
                    self.refused.append((path, point.step))
                    continue
                self._last_steps[path] = point.step
                name = path.removeprefix("finetuning/")
                self.points.setdefault((name, point.step), Counter())[point.value] += 1
        elif kind == "UploadFileSet":
            self.uploads.append((path, operation.file_globs))
        elif hasattr(operation, "value"):
            self.fields[path] = operation.value
