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
    named: dict[str, Any] = {"task_id": task_id} if (path / "task.json").is_file() else {"force_create": True}
    return _tasks().offline(
        path,
        task_id,
        metrics=_metrics().offline,
        session=_clients().offline(initialize_logging=False),
        project_name=names["project"],
        task_name=names["task"],
        **named,
    )


def online_task(client: Any, names: Mapping[str, str], task_id: str | None) -> Any:
    """Make a task on the server, or open `task_id`."""
    new: dict[str, Any] = {"force_create": True, "project_name": names.get("project"), "task_name": names.get("task")}
    named = new if task_id is None else {"task_id": task_id}
    return _tasks().online(metrics=_metrics().online, session=client, **named)


def connect(**given: str | None) -> Any:
    """Log in to the server.

    Raises:
        TrackerError: it doesn't let us in.
    """
    from clearml.backend_api import Session
    from clearml.backend_interface.base import InterfaceBase

    try:
        client = _clients().online(
            initialize_logging=False,
            config=_Config(),
            http_retries_config={"total": 1, "backoff_factor": 0.5},
            **given,
        )
    except Exception as error:
        raise TrackerError(f"ClearML's server doesn't let us in: {error}") from error
    # Counted on the derived class alone, and the SDK would log in once more to ask for the version that is known now.
    Session._sessions_created = max(1, Session._sessions_created)
    if not hasattr(InterfaceBase._default_session, "_TokenManager__token"):
        InterfaceBase._default_session = client  # uploads ask for it; one that was made offline has no token
    return client


def is_ours(task: Any) -> bool:
    """Return whether a task was made here."""
    return isinstance(task, _tasks().ours)


class _Config:
    """The SDK's configuration, but that nothing is waited for without end."""

    def get(self, key: str, *default: Any, **named: Any) -> Any:
        from clearml.config import config_obj

        return False if key == "api.http.wait_on_maintenance_forever" else config_obj.get(key, *default, **named)

    def __getattr__(self, name: str) -> Any:
        from clearml.config import config_obj

        return getattr(config_obj, name)


@functools.cache
def _clients() -> Any:
    from clearml.backend_api import Session

    class OfflineClient(Session):  # type: ignore[misc]
        _offline_mode = True

    class OnlineClient(Session):  # type: ignore[misc]
        _offline_mode = False
        _session_initial_timeout = _session_timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        _write_session_timeout = (_READ_SECONDS, _READ_SECONDS)

    return SimpleNamespace(offline=OfflineClient, online=OnlineClient)


class _OneTry:
    @classmethod
    def _send(cls, session: Any, req: Any, ignore_errors: bool = False, **_: Any) -> Any:
        answer = session.send(req)
        if ignore_errors or (answer is not None and answer.ok()):
            return answer
        raise TrackerError(f"ClearML's server refuses {type(req).__name__}: {answer and answer.meta}")


@functools.cache
def _metrics() -> Any:
    from clearml.backend_interface.metrics import Metrics

    class OfflineMetrics(Metrics):  # type: ignore[misc]
        _offline_mode = True

    class OnlineMetrics(_OneTry, Metrics):  # type: ignore[misc]
        _offline_mode = False

    return SimpleNamespace(offline=OfflineMetrics, online=OnlineMetrics)


@functools.cache
def _tasks() -> Any:
    from clearml import Task

    class OurTask(Task):  # type: ignore[misc]
        def __init__(self, metrics: Any, **named: Any) -> None:
            super().__init__(private=Task._Task__create_protection, log_to_backend=False, **named)
            self.set_initial_iteration(0)
            self._metrics_manager = metrics(session=self.session, task=self, storage_uri=None, storage_uri_suffix=None)

        def is_main_task(self) -> bool:
            """Return that it isn't: the reporter of a main one waits for a process that nobody starts."""
            return False

    class OnlineTask(_OneTry, OurTask):
        _offline_mode = False

    class OfflineTask(OurTask):
        _offline_mode = True

        def __init__(self, folder: Path, own_id: str, **named: Any) -> None:
            self.own_folder, self.own_id = folder, own_id  # asked for while the rest is being made
            super().__init__(**named)

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

    return SimpleNamespace(ours=OurTask, offline=OfflineTask, online=OnlineTask)
