"""One opening of a ClearML task: hand points over, store files, and end it.

    records ──▶ events with the records' own times ──▶ offline: a line in the task's file, written before the call ends
                                                  └──▶ online: one request, answered before the call ends

The SDK's `Task.init` is not used. It hooks signals, exceptions and forks, starts threads, waits without end for a dead
server, and ends a task as "completed" whatever happened. The tasks here are the SDK's own class without all of that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loopwright._support.log import Logger, get_logger
from loopwright.errors import TrackerError
from loopwright.records import Record, Status
from loopwright.trackers import clearml_task as tasks
from loopwright.trackers.clearml_files import OfflineFolder, Place, Point, size_of

logger: Logger = get_logger(__name__)

_ANSWER_SECONDS = (5.0, 8.0)
_LEAVE_SECONDS = 10.0
_PING_SECONDS = 60.0  # a server takes a task for dead that says nothing for long
_MOST_EVENTS = 500
# A line of that size reaches the file in one write: it is there or not, also beside other writers.
_LINE_BYTES = 8000


class Event(NamedTuple):
    """A point and its value."""

    point: Point
    value: float


class Session:
    """A task from its opening to its end.

    Arguments:
        task: The SDK's task.
        is_programs: Whether the program, or an agent, began it: then it is not ended here.
    """

    def __init__(self, task: Any, *, is_programs: bool) -> None:
        self.task = task
        self.is_programs = is_programs
        self._is_current = False

    @property
    def where(self) -> dict[str, Any]:
        """What tells this task from others."""
        raise NotImplementedError

    @property
    def shown_at(self) -> str:
        """Where people find it."""
        raise NotImplementedError

    def look_back(self, place: Place) -> bool:
        """Find out what the task holds; return whether it is all that `place` says."""
        raise NotImplementedError

    def write(self, records: Sequence[tuple[Record, list[Event]]]) -> Place:
        """Hand over the records' events that aren't there; return how far it has come."""
        raise NotImplementedError

    def describe(self, parameters: Mapping[str, Any], model: Mapping[str, Any] | None = None) -> None:
        """Set parameters, by "section/name", and the model's configuration, and leave others as they are."""
        self.task.update_parameters(dict(parameters))
        if model:
            self.task._set_configuration(name="Model Configuration", config_dict=dict(model))

    def store(self, name: str, path: Path) -> None:
        """Store a file, or a folder's files, as an artifact; one of the same name is replaced."""
        task = self.task
        if task._storage_uri is None:  # without it the SDK asks the logger, which starts threads
            task._storage_uri = task._get_default_report_storage_uri()
        if not task.upload_artifact(name, path, preview=name, wait_on_upload=True):
            raise TrackerError(f"ClearML has not taken {path.name}")

    def keep_alive(self) -> None:
        """Say that the task is at work."""

    def make_current(self) -> None:
        """Let `Task.current_task()` of the program be this one."""
        from clearml import Task

        if Task._Task__main_task is None:
            Task._Task__main_task = self.task
            self._is_current = True

    def end(self, status: Status) -> None:
        """End the task, unless it is the program's."""
        raise NotImplementedError

    def leave(self) -> None:
        """Let go of it."""
        if not self._is_current:
            return
        from clearml import Task

        self._is_current = False
        if self.task._logger is not None:  # the program has logged by itself
            self.task.flush()
            self.task._reporter.wait_for_events(timeout=_LEAVE_SECONDS)
            self.task._reporter.stop()
        if Task._Task__main_task is self.task:
            Task._Task__main_task = None


class OfflineSession(Session):
    """A task in a folder."""

    def __init__(self, task: Any, folder: OfflineFolder, *, is_programs: bool) -> None:
        super().__init__(task, is_programs=is_programs)
        self.folder = folder
        self._place = Place()
        self._held: set[Point] = set()  # those of an earlier session, from the place's start on

    @property
    def where(self) -> dict[str, Any]:
        """The folder, or the server's task."""
        return {"mode": "offline", "folder": str(self.folder.path)}

    @property
    def shown_at(self) -> str:
        """Where people find it."""
        return f"{self.folder.path} (`Task.import_offline_session` sends it)"

    def look_back(self, place: Place) -> bool:
        """Find out what the task holds; return whether it is all that `place` says."""
        has_all = self.folder.size() >= place.size
        self._place = place if has_all else Place()
        self.folder.mend(self._place.start)
        self._held = self.folder.points(self._place.start)
        return has_all

    def write(self, records: Sequence[tuple[Record, list[Event]]]) -> Place:
        """Hand over the events that aren't there."""
        events: list[Event] = []
        size = 0
        for record, found in records:
            if record.sequence <= self._place.sequence:
                continue
            new = [event for event in found if event.point not in self._held]
            self._held.difference_update(event.point for event in found)
            more = size_of(event.point for event in new)
            if events and size + more > _LINE_BYTES:
                self._write_line(events, record.sequence - 1)
                events, size = [], 0
            events += new
            size += more
        self._write_line(events, max(self._place.sequence, *(record.sequence for record, _ in records)))
        return self._place

    def _write_line(self, events: Sequence[Event], sequence: int) -> None:
        before = self._place.size
        if self.folder.size() < before:
            raise TrackerError(f"points have gone from {self.folder.metrics}")
        if events:
            try:
                self.task._metrics_manager.write_events(_scalars(events), async_enable=False)
            except OSError:
                self.folder.mend(before)
                raise
        self._move(sequence)

    def _move(self, sequence: int) -> None:
        size = self.folder.size()
        self._place = Place(sequence, size, self._place.start if self._held else size)

    def drop_points(self, step: int) -> Place:
        """Take points from `step` on back, where nobody else writes here; return how far the file is known then."""
        if not self.folder.is_shared:
            self.folder.drop_points(step)
        self._held.clear()  # all records before have come
        self._move(self._place.sequence)
        return self._place

    def end(self, status: Status) -> None:
        """End the task, unless it is the program's."""
        self.leave()
        if not self.is_programs:
            self.describe({"loopwright/status": status.value})
            self.folder.pack()


class OnlineSession(Session):
    """A task on a server. A point with the same name and step replaces the one before, so repetition does no harm."""

    def __init__(self, task: Any, *, is_programs: bool) -> None:
        super().__init__(task, is_programs=is_programs)
        self._pinged = time.monotonic()

    @property
    def where(self) -> dict[str, Any]:
        """The folder, or the server's task."""
        return {"mode": "online", "task": self.task.id}

    @property
    def shown_at(self) -> str:
        """Where people find it."""
        return str(self.task.get_output_log_web_page())

    def look_back(self, place: Place) -> bool:
        """Find out what the task holds; return whether it is all that `place` says."""
        return True

    def write(self, records: Sequence[tuple[Record, list[Event]]]) -> Place:
        """Hand over the events that aren't there."""
        from clearml.backend_api.services import events as api

        events = _scalars([event for _, found in records for event in found])
        for event in events:
            event.update(task=self.task.id)
        for start in range(0, len(events), _MOST_EVENTS):
            some = events[start : start + _MOST_EVENTS]
            requests = [api.AddRequest(event=event.get_api_event()) for event in some]
            answer = self.task.session.send(api.AddBatchRequest(requests=requests))
            if answer is None or not answer.ok():
                raise TrackerError(f"ClearML's server has not taken points: {answer and answer.meta}")
            if refused := getattr(answer.response, "errors", None):
                logger.warning("clearml: the server has refused %s of %d points", refused, len(some))
        return Place(max(record.sequence for record, _ in records))

    def keep_alive(self) -> None:
        """Say now and then that the task is at work."""
        from clearml.backend_api.services import tasks as api

        if not self.is_programs and time.monotonic() - self._pinged > _PING_SECONDS:
            self._pinged = time.monotonic()
            self.task.send(api.PingRequest(task=self.task.id))

    def end(self, status: Status) -> None:
        """End the task, unless it is the program's."""
        self.leave()
        if self.is_programs:
            return
        if status.is_success:
            self.task.mark_completed(ignore_errors=False, force=True)
        elif status is Status.FAILED:
            self.task.mark_failed(ignore_errors=False, force=True, status_reason="an exception ended the training")
        else:
            self.task.stopped(ignore_errors=False, force=True, status_reason=f"the training was {status.value}")


def _scalars(events: Iterable[Event]) -> list[Any]:
    from clearml.backend_interface.metrics.events import ScalarEvent

    return [
        ScalarEvent(event.point.metric, event.point.variant, event.value, event.point.step, timestamp=event.point.time)
        for event in events
    ]


# Begin


def programs_task() -> Any:
    """Return the task that the program itself has begun, or None; imports nothing."""
    if "clearml" not in sys.modules:
        return None
    from clearml import Task

    task = Task.current_task()
    return None if task is None or tasks.is_ours(task) else task


def begin_of_program(task: Any) -> Session:
    """Return a session with the program's own task."""
    if task.is_offline():
        folder = OfflineFolder(Path(task.get_offline_mode_folder()), is_shared=True)
        task._get_metrics_manager(storage_uri=None)
        return OfflineSession(task, folder, is_programs=True)
    theirs = task.session
    client = tasks.connect(api_key=theirs.access_key, secret_key=theirs.secret_key, host=theirs.host)
    return OnlineSession(tasks.online_task(client, {}, task.id), is_programs=True)


def begin_offline(path: Path, names: Mapping[str, str], task_id: str, *, is_shared: bool) -> Session:
    """Begin a task in the folder `path`, or go on with the one that is there."""
    from clearml.backend_api import Session as ClearMLSession

    folder = OfflineFolder(path, is_shared=is_shared)
    folder.restore()
    path.mkdir(parents=True, exist_ok=True)
    if ClearMLSession._sessions_created == 0:  # else it logs in, to ask which version the server has
        ClearMLSession._offline_mode = True
    return OfflineSession(tasks.offline_task(path, task_id, names), folder, is_programs=False)


def begin_online(names: Mapping[str, str], task_id: str | None, *, is_agents: bool) -> Session:
    """Begin a task on the server, or go on with `task_id`, where it is still there."""
    require_answer()
    client = tasks.connect()
    if task_id is not None and not _is_on_server(client, task_id):
        task_id = None
    task = tasks.online_task(client, names, task_id)
    if not is_agents:
        task.started(ignore_errors=False, force=True)
    return OnlineSession(task, is_programs=is_agents)


def _is_on_server(client: Any, task_id: str) -> bool:
    from clearml.backend_api.services import tasks as api

    answer = client.send(api.GetAllRequest(id=[task_id], only_fields=["id"]))
    if answer is None or not answer.ok():
        raise TrackerError(f"ClearML's server doesn't say whether it has the task: {answer and answer.meta}")
    return bool(answer.response.tasks)


def credentials_are_known() -> bool:
    """Return whether the SDK finds a key; it asks nobody."""
    from clearml.backend_api import Session as ClearMLSession
    from clearml.backend_api.session.defs import ENV_ACCESS_KEY, ENV_AUTH_TOKEN, ENV_SECRET_KEY
    from clearml.config import config_obj

    access = ENV_ACCESS_KEY.get() or config_obj.get("api.credentials.access_key", None) or ClearMLSession.default_key
    secret = ENV_SECRET_KEY.get() or config_obj.get("api.credentials.secret_key", None) or ClearMLSession.default_secret
    return bool(ENV_AUTH_TOKEN.get() or (access and secret))


def require_answer() -> None:
    """See that somebody answers: the SDK tries without end.

    Raises:
        TrackerError: nobody does.
    """
    import requests
    from clearml.backend_api import Session as ClearMLSession
    from clearml.backend_api.session.defs import ENV_HOST_VERIFY_CERT
    from clearml.config import config_obj

    address = ClearMLSession.get_api_server_host()
    verify = ENV_HOST_VERIFY_CERT.get(default=config_obj.get("api.verify_certificate", True))
    try:
        requests.get(f"{address}/debug.ping", timeout=_ANSWER_SECONDS, verify=str(verify).lower() not in {"0", "false"})
    except requests.RequestException as error:
        raise TrackerError(f"nothing answers at {address}: {type(error).__name__}") from error
