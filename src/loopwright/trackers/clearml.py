"""Report to ClearML: a task on a server, or offline in a folder that `Task.import_offline_session` sends later.

Which task it is, the first of these that there is:

    the program's own ─▶ the agent's (CLEARML_TASK_ID) ─▶ the one remembered ─▶ a new one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import set_variables
from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers import clearml_session as sessions
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.clearml_files import SINGLE_VALUE_STEP, Place, Point
from loopwright.trackers.clearml_session import Event, OfflineSession, Session
from loopwright.trackers.description import origin
from loopwright.trackers.naming import as_float, group_name, numbers

logger: Logger = get_logger(__name__)

_HOSTS = ("CLEARML_API_HOST", "CLEARML_WEB_HOST", "CLEARML_FILES_HOST", "CLEARML_CONFIG_FILE")
# Shown by transformers beside the curves.
_SINGLE_VALUES = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
)
_LARGEST = 3.4028234e38  # the server's numbers are of single precision


class ClearMLCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to ClearML.

    Environment:
        CLEARML_PROJECT: The project, by default "HuggingFace Transformers".
        CLEARML_TASK: The task's name, by default "Trainer".
        CLEARML_LOG_MODEL: Whether to store checkpoints as artifacts, by default not.
        CLEARML_OFFLINE_MODE: Yes keeps the run in a folder; no insists on a server. By default it is a server where the
            SDK finds credentials.
        CLEARML_CACHE_DIR: Offline sessions are in its folder `offline`; by default in `<output_dir>/clearml/offline`.
        CLEARML_API_ACCESS_KEY, CLEARML_API_SECRET_KEY: The credentials; else those in `clearml.conf`. Never recorded.
        CLEARML_API_HOST, CLEARML_WEB_HOST, CLEARML_FILES_HOST, CLEARML_CONFIG_FILE: Where the server is.
        CLEARML_TASK_ID: The task of a ClearML agent.
    """

    name: ClassVar[str] = "clearml"
    sdk_modules: ClassVar[tuple[str, ...]] = ("clearml",)
    variables: ClassVar[tuple[str, ...]] = (
        "CLEARML_PROJECT",
        "CLEARML_TASK",
        "CLEARML_LOG_MODEL",
        "CLEARML_OFFLINE_MODE",
        "CLEARML_CACHE_DIR",
        "CLEARML_TASK_ID",
        *_HOSTS,
    )
    ambient_module: ClassVar[str | None] = "clearml"
    stays_here: ClassVar[tuple[str, ...]] = ("_session",)

    _session: Session | None = None

    def __init__(self) -> None:
        require_installed("clearml", extra="clearml", purpose="ClearMLCallback")

    @property
    def _clearml(self) -> Any:
        """The SDK, by the name that subclasses of transformers' callback use."""
        import clearml

        return clearml

    @property
    def _clearml_task(self) -> Any:
        """The open task, by the name that they use."""
        return None if self._session is None else self._session.task

    def why_off(self) -> str | None:
        """Return None; say here, to the user, which variable can't be understood."""
        self._asked_offline()
        self.wants_checkpoints()
        return None

    def wants_checkpoints(self) -> bool:
        """Return what CLEARML_LOG_MODEL says."""
        return self.flag("CLEARML_LOG_MODEL")

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin the task, or go on with it or with the program's."""
        self.abandon()
        run, reference = self._run_to_show(), self.standing.reference
        is_here = self._live is not None
        program = sessions.programs_task() if is_here else None
        session = self._begin(run) if program is None else sessions.begin_of_program(program)
        self._session = session
        if is_here and program is None:
            session.make_current()
        is_same = all(reference.get(name) == text for name, text in session.where.items())
        place = Place(*reference.get("place", ())) if is_same else Place()
        has_all = session.look_back(place) and "place" in reference
        self.settle_at(session.where, has_lost=not has_all)
        self.standing.remember({"place": list(place)})
        self.show_at(session.shown_at)
        self._describe(session, run)

    def _begin(self, run: Run) -> Session:
        given = {name: text for name in _HOSTS if (text := self.variable(name)) is not None}
        set_variables(given)
        task_name = self.variable("CLEARML_TASK") or "Trainer"
        if run.trial_name is not None:
            task_name += f"-{run.trial_name}"
        names = {"project": self.variable("CLEARML_PROJECT") or "HuggingFace Transformers", "task": task_name}
        folder, task_id = self._folder(run), f"offline-{run.id}{self._suffix()}"
        if self._is_offline(folder / task_id):
            return sessions.begin_offline(folder / task_id, names, task_id, is_shared=self._live is not None)
        agents = self.variable("CLEARML_TASK_ID") if run.parent_id is None and run.trial_name is None else None
        return sessions.begin_online(names, agents or self.standing.reference.get("task"), is_agents=agents is not None)

    def _suffix(self) -> str:
        """Return what tells a second tracker of the same run from the first."""
        return self.sink_name.removeprefix(self.name)

    def _folder(self, run: Run) -> Path:
        if (before := self.standing.reference.get("folder")) is not None:
            return Path(before).parent
        cache = self.variable("CLEARML_CACHE_DIR")
        base = Path(run.output_dir, "clearml") if cache is None else Path(cache).expanduser().absolute()
        return base / "offline"

    def _asked_offline(self) -> bool | None:
        text = self.variable("CLEARML_OFFLINE_MODE")
        if text is None:
            return None
        try:
            return float(text) > 0  # the SDK takes a version of the server's interface too
        except ValueError:
            return self.flag("CLEARML_OFFLINE_MODE")

    def _is_offline(self, path: Path) -> bool:
        """Return whether the run is kept in a folder; say once what becomes of it."""
        asked, before = self._asked_offline(), self.standing.reference.get("mode")
        if asked is True or (asked is None and before == "offline"):
            return True  # the rest of the run shall be where its beginning is
        if sessions.credentials_are_known():
            return False
        if asked is False or before == "online":
            raise TrackerError(
                "no credentials for ClearML: set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or run clearml-init"
            )
        later = f"clearml.Task.import_offline_session({str(path)!r}) sends it; before the next one, run clearml-init"
        warn_once(logger, f"clearml: no credentials, so the run is offline ({later})")
        return True

    def _describe(self, session: Session, run: Run) -> None:
        trial = run.trial_parameters or {}
        shown = {f"Transformers/{name}": value for name, value in {**run.arguments, **trial}.items()}
        model = {name: value for name, value in run.parameters.items() if name not in {*run.arguments, *trial}}
        session.describe({**shown, **origin(run)}, model)

    def _opened(self) -> Session:
        if self._session is None:
            raise TrackerError("ClearMLCallback is not open")
        return self._session

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Hand over numbers; texts stay in the journal."""
        place = self._opened().write([(record, _events(record)) for record in records])
        self.standing.remember({"place": list(place)})

    def confirmed(self) -> int:
        """Return the last record: `write` ends when the file holds it, or the server has answered."""
        self._opened().keep_alive()
        return self._written

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store a checkpoint, or other files, as an artifact of its name."""
        self._opened().store(path.name, path)

    def rewind(self, step: int) -> None:
        """Take points from `step` on back where they are in our own folder; else newer ones replace them."""
        session = self._opened()
        session.describe({"loopwright/rewound_to_step": step})
        if isinstance(session, OfflineSession):
            self.standing.remember({"place": list(session.drop_points(step))})

    def close(self, status: Status) -> None:
        """End the task, unless it is the program's own."""
        if self._session is not None:
            self._session.end(status)
        self._session = None

    def abandon(self) -> None:
        """Let go of the task; another session goes on with it."""
        session, self._session = self._session, None
        if session is not None:
            session.leave()


def _events(record: Record) -> list[Event]:
    time = round(record.time * 1000)
    is_last = not _SINGLE_VALUES.isdisjoint(record.values)
    found: list[Event] = []
    for name, number in numbers(record.values):
        value = as_float(number)
        metric, _, variant = group_name(name).partition("/")
        step = record.step
        if name in _SINGLE_VALUES or (is_last and name == "epoch"):
            metric, variant, step = "Summary", name, SINGLE_VALUE_STEP
        if abs(value) <= _LARGEST:
            found.append(Event(Point(metric, variant, step, time), value))
        else:  # the SDK would make 0 of it
            point = Point("not finite", f"{metric}/{variant} {_word(value)}", record.step, time)
            found.append(Event(point, 1.0))
    return found


def _word(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return "above 3.4e38" if value > 0 else "below -3.4e38"
