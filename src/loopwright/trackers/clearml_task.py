"""The SDK's task and client without what stalls or reaches into the process.

    _send           one try, where the SDK's own tries without end
    the folder      is said by the tracker, and its task.json is replaced whole: a kill can't tear it
    the id          of an offline task is the run's, so that a kill between making and remembering it does no harm
    offline         is each object's own affair, where the SDK has one switch for the process

The classes are made when they are first asked for: then the SDK is loaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from loopwright._support.files import write_text_atomically
from loopwright.errors import TrackerError

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 25.0


def offline_task(path: Path, task_id: str, names: Mapping[str, str]) -> Any:
    """Make a task in the folder `path`, or open the one that is there."""
    kinds = _kinds()
    session = kinds.OfflineClient(initialize_logging=False)
    is_there = (path / "task.json").is_file()
    named = {"task_id": task_id} if is_there else {"force_create": True}
    task = kinds.OfflineTask(
        path,
        task_id,
        session=session,
        project_name=names["project"],
        task_name=names["task"],
        log_to_backend=False,
        **named,
    )
    task._metrics_manager = kinds.OfflineMetrics(session=session, task=task, storage_uri=None, storage_uri_suffix=None)
    task.set_initial_iteration(0)
    return task


def online_task(client: Any, names: Mapping[str, str], task_id: str | None) -> Any:
    """Make a task on the server, or open `task_id`."""
    kind = _kinds().OnlineTask
    named: dict[str, Any] = {"project_name": names["project"], "task_name": names["task"], "force_create": True}
    if task_id is not None:
        named = {"task_id": task_id}
    task = kind(private=kind._Task__create_protection, session=client, log_to_backend=False, **named)
    task.set_initial_iteration(0)
    return task


def connect(**given: str | None) -> Any:
    """Log in to the server.

    Raises:
        TrackerError: it doesn't let us in.
    """
    try:
        return _kinds().OnlineClient(
            initialize_logging=False,
            config=_Config(),
            http_retries_config={"total": 1, "backoff_factor": 0.5},
            **given,
        )
    except Exception as error:
        raise TrackerError(f"ClearML's server doesn't let us in: {error}") from error


def is_ours(task: Any) -> bool:
    """Return whether a task was made here."""
    kinds = _kinds()
    return isinstance(task, (kinds.OfflineTask, kinds.OnlineTask))


class _Config:
    """The SDK's configuration, but that nothing is waited for without end."""

    def get(self, key: str, *default: Any, **named: Any) -> Any:
        from clearml.config import config_obj

        return False if key == "api.http.wait_on_maintenance_forever" else config_obj.get(key, *default, **named)

    def __getattr__(self, name: str) -> Any:
        from clearml.config import config_obj

        return getattr(config_obj, name)


@functools.cache
def _kinds() -> Any:
    from clearml import Task
    from clearml.backend_api import Session
    from clearml.backend_interface.metrics import Metrics

    class OfflineClient(Session):  # type: ignore[misc]
        _offline_mode = True

    class OfflineMetrics(Metrics):  # type: ignore[misc]
        _offline_mode = True

    class OnlineClient(Session):  # type: ignore[misc]
        _offline_mode = False
        _session_initial_timeout = _session_timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        _write_session_timeout = (_READ_SECONDS, _READ_SECONDS)

    class OfflineTask(Task):  # type: ignore[misc]
        _offline_mode = True

        def __init__(self, folder: Path, own_id: str, **named: Any) -> None:
            self.own_folder, self.own_id = folder, own_id  # asked for while the rest is being made
            super().__init__(private=Task._Task__create_protection, **named)

        def _auto_generate(self, **described: Any) -> str:
            self._edit(type=str(described["task_type"]))
            return self.own_id

        def get_offline_mode_folder(self) -> Path:
            return self.own_folder

        def _save_data_to_offline_dir(self, **changes: Any) -> None:
            for name, value in changes.items():
                setattr(self.data, name, value)
            described = {
                **self.data.to_dict(),
                "project_name": self.get_project_name(),
                "offline_folder": self.own_folder.as_posix(),
                "offline_output_models": [],
            }
            write_text_atomically(self.own_folder / self._offline_filename, json.dumps(described, sort_keys=True))

    class OnlineTask(Task):  # type: ignore[misc]
        _offline_mode = False

        @classmethod
        def _send(cls, session: Any, req: Any, ignore_errors: bool = False, **_: Any) -> Any:
            answer = session.send(req)
            if ignore_errors or (answer is not None and answer.ok()):
                return answer
            raise TrackerError(f"ClearML's server refuses {type(req).__name__}: {answer and answer.meta}")

    return SimpleNamespace(
        OfflineClient=OfflineClient,
        OfflineMetrics=OfflineMetrics,
        OnlineClient=OnlineClient,
        OfflineTask=OfflineTask,
        OnlineTask=OnlineTask,
    )
